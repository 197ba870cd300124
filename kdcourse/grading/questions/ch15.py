"""Exercise 15, image recognition: multiply-adds, one view for two networks, decoupled loss, and honest measurement."""

import torch
from torch import Generator, Tensor, nn, randn, tensor

from ..spec import Choice, Function, Number, Order, Probe, Question, Switch
from .sides import cold_sides


def _convolution_probes(generator: Generator) -> list[Probe]:
    """From a plain case one thing at a time, so that a counterexample can say what goes wrong; then all together."""
    plain = {"channels_in": 4, "channels_out": 4, "kernel": 3, "stride": 1, "padding": 1, "groups": 1, "size": 7}
    changes = (
        {}, {"groups": 4}, {"stride": 2}, {"padding": 0}, {"kernel": 1, "padding": 0}, {"size": 8, "stride": 2},
        {"channels_in": 3, "channels_out": 16, "kernel": 5, "stride": 2, "padding": 2, "size": 32},
        {"channels_in": 6, "channels_out": 12, "groups": 6, "kernel": 3, "stride": 2, "padding": 0, "size": 15},
        {"channels_in": 12, "channels_out": 9, "groups": 3, "kernel": 2, "stride": 3, "padding": 2, "size": 10},
        {"channels_in": 10, "channels_out": 6, "groups": 2, "kernel": 5, "stride": 4, "padding": 1, "size": 14},
    )  # fmt: skip
    return [Probe(plain | change) for change in changes]


def _multiply_adds(
    channels_in: int, channels_out: int, kernel: int, stride: int, padding: int, groups: int, size: int,
    on: frozenset[str] = frozenset(),
) -> int:  # fmt: skip
    border = 0 if "no_padding" in on else padding if "one_border" in on else 2 * padding
    way, step = size + border - kernel, 1 if "no_stride" in on else stride
    side = (-(-way // step) if "rounded_up" in on else way // step) + ("no_plus_one" not in on)
    places = size**2 if "input_size" in on else 1 if "weights_only" in on else side**2
    seen = channels_in if "no_groups" in on else channels_in // groups
    each = seen * (kernel if "one_axis" in on else kernel**2) + ("bias" in on)
    filters = channels_out // groups if "groups_twice" in on else channels_out
    return places * filters * each * (2 if "doubled" in on else 1)


_SIDE = "side = (size + 2 * padding - kernel) // stride + 1, and side² places."
_PLACES = ("no_stride", "no_padding", "one_border", "no_plus_one", "rounded_up")

_CONVOLUTION_SWITCHES = {
    "no_groups": Switch(
        "the groups are left out: each filter is counted as if it saw all channels",
        "As many groups as channels: how many channels does one filter see?",
        "channels_in // groups.",
        ("groups_twice",),
    ),
    "groups_twice": Switch(
        "the groups are divided by twice; there are as many filters as before",
        "How many channels come out of a convolution with 4 groups?",
        "channels_in // groups for each of channels_out filters.",
    ),
    "no_stride": Switch(
        "the stride is left out: the output is counted as if it were as large as at stride 1",
        "At stride 2, how many places does a filter visit along one side?",
        _SIDE,
        ("rounded_up",),
    ),
    "no_padding": Switch(
        "the padding is left out: a filter visits places at the border, too",
        "A 3x3 filter with a padding of 1: how large is the output of an 8x8 image?",
        _SIDE,
        ("one_border",),
    ),
    "one_border": Switch(
        "the padding is added once; it is on both sides",
        "A 3x3 filter with a padding of 1: how large is the output of an 8x8 image?",
        _SIDE,
    ),
    "no_plus_one": Switch(
        "one place too few along each side: the first one counts, too",
        "A 3x3 filter on a 3x3 image without padding: how many places?",
        _SIDE,
    ),
    "rounded_up": Switch(
        "the side is rounded up; where the filter would stick out it is not applied",
        "A 2x2 filter at stride 2 on an image with sides of 5: where is its last place?",
        _SIDE,
    ),
    "input_size": Switch(
        "the places of the input are counted; the work is done at those of the output",
        "Does your count change when the stride does?",
        _SIDE,
        (*_PLACES, "weights_only"),
    ),
    "weights_only": Switch(
        "these are the weights: each of them is used at every place of the output",
        "Does your count change when the image has twice the side?",
        _SIDE,
        _PLACES,
    ),
    "one_axis": Switch(
        "the kernel counts along one side only",
        "How many weights has a 3x3 filter for each channel?",
        "kernel².",
    ),
    "bias": Switch(
        "the bias is counted; it is to be left out",
        "How many multiplications does a bias need?",
        "Only products of a weight and an input.",
    ),
    "doubled": Switch(
        "multiplications and additions are counted apart; one of each together is one multiply-add",
        "Which is larger, the number of multiply-adds or that of operations (FLOPs)?",
        "No factor of 2.",
    ),
}  # fmt: skip


def _augment(images: Tensor, generator: Generator) -> Tensor:
    """As in the notebook: each image mirrored or not, and rolled sideways."""
    batch, width = len(images), images.shape[-1]
    mirrored = torch.rand(batch, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    shift = torch.randint(-2, 3, (batch, 1, 1), generator=generator)
    return images.gather(-1, ((torch.arange(width) + shift) % width).expand_as(images))


def _view_probes(generator: Generator) -> list[Probe]:
    probes = []
    for batch, height, width, classes, T, seed in (
        (2, 1, 4, 3, 1.0, 1), (4, 2, 5, 3, 0.5, 7), (6, 3, 4, 5, 4.0, 3), (5, 2, 6, 4, 3.0, 4), (8, 1, 7, 6, 1.0, 5),
    ):  # fmt: skip
        pixels = height * width
        values = {
            "images": 0.5 + randn(batch, height, width, generator=generator),
            "student_weight": randn(classes, pixels, generator=generator) / 2,
            "teacher_weight": randn(classes, pixels, generator=generator),
            "mean": 0.5 + 0.5 * randn(pixels, generator=generator),
            "var": 0.5 + torch.rand(pixels, generator=generator),
        }
        probes.append(Probe(values | {"temperature": T, "seed": seed}))
        if len(probes) == 1:  # the same at another temperature
            probes.append(Probe(values | {"temperature": 4.0, "seed": seed}))
    weight, var = randn(3, 8, generator=generator) / 2, 0.5 + torch.rand(8, generator=generator)
    copy = {
        "images": randn(6, 2, 4, generator=generator),
        "student_weight": weight / (var + 1e-5).sqrt(),
        "teacher_weight": weight,
        "mean": torch.zeros(8),
        "var": var,
        "temperature": 1.0,
    }
    why = "this student says of every image what its teacher says, so another seed must change nothing"
    return [*probes, Probe(copy | {"seed": 1}), Probe(copy | {"seed": 2}, like=(len(probes), why))]


def _view_loss(
    images: Tensor, student_weight: Tensor, teacher_weight: Tensor, mean: Tensor, var: Tensor,
    temperature: float, seed: int, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    generator, T = torch.Generator().manual_seed(seed), temperature
    first = _augment(images, generator)
    seen = heard = first
    if on & {"two_views", "two_views_teacher_first"}:
        seen, heard = (first, _augment(images, generator))[:: 1 if "two_views" in on else -1]
    seen = images if on & {"student_plain", "not_augmented"} else seen
    heard = images if on & {"teacher_plain", "not_augmented"} else heard
    weight = teacher_weight if "teacher_gradient" in on else teacher_weight.detach()
    flat = nn.functional.batch_norm(heard.flatten(1), mean, var, training="teacher_training" in on)
    log_p = (flat @ weight.T / T).log_softmax(-1)
    log_q = (seen.flatten(1) @ student_weight.T / (1 if "cold_student" in on else T)).log_softmax(-1)
    if "reversed" in on:
        log_p, log_q = log_q, log_p
    each = (log_p.exp() * (log_p - log_q)).sum(-1) * (1 if "no_T2" in on else T**2)
    if "mean_classes" in on:
        each = each / log_p.shape[-1]
    return each.sum() if "sum" in on else each.mean()


def _other_views(name: str) -> tuple[str, ...]:
    ways = ("two_views", "two_views_teacher_first", "teacher_plain", "student_plain", "not_augmented")
    return tuple(way for way in ways if way != name)


_ONCE = "views = augment(images, generator), once, and both networks get views."
_TWICE = "augment is called twice: teacher and student see two different views of each image"

_VIEW_SWITCHES = {
    "two_views": Switch(
        _TWICE,
        "The teacher's copy as a student: what does it cost in your function?",
        _ONCE,
        _other_views("two_views"),
    ),
    "two_views_teacher_first": Switch(
        _TWICE,
        "The teacher's copy as a student: what does it cost in your function?",
        _ONCE,
        _other_views("two_views_teacher_first"),
    ),
    "teacher_plain": Switch(
        "the teacher sees the images as they are; what it says is about another view than the student's",
        "The digit is shifted out of the student's view. Should its teacher be sure of it?",
        _ONCE,
        _other_views("teacher_plain"),
    ),
    "student_plain": Switch(
        "the student sees the images as they are; only its teacher gets the view",
        "For which of the two networks was the augmentation meant?",
        _ONCE,
        _other_views("student_plain"),
    ),
    "not_augmented": Switch(
        "nobody sees an augmented image",
        "Does your loss depend on the seed?",
        _ONCE,
        _other_views("not_augmented"),
    ),
    "teacher_training": Switch(
        "the teacher is in training mode: this batch normalises it, and changes what it keeps",
        "Does what the teacher says of an image depend on its neighbours in the batch?",
        "training=False for the teacher.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "torch.no_grad() around the teacher, or detach what it says.",
    ),
    "cold_student": Switch(
        "the student's logits are not divided by T",
        "The teacher's copy as a student: what does it cost at T = 4?",
        "The same T divides both sides.",
    ),
    "no_T2": Switch(
        "the factor T² is missing",
        "What happens to the gradient of your loss when T doubles?",
        "T² times the divergence, as in chapter 04.",
    ),
    "reversed": Switch(
        "the divergence is the wrong way round: this is KL(student ‖ teacher)",
        "Whose probabilities weigh the difference of the logarithms?",
        "F.kl_div(log_q, p): the student's logarithms first.",
    ),
    "mean_classes": Switch(
        "the classes are averaged, not summed",
        "By what does reduction=\"mean\" divide, and by what \"batchmean\"?",
        "Sum over the classes, mean over the images.",
        ("sum",),
    ),
    "sum": Switch(
        "the images are summed, not averaged",
        "How does your step change when the batch is twice as large?",
        "Sum over the classes, mean over the images.",
    ),
}  # fmt: skip


def _decoupled_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_logits": tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]),
        "teacher_logits": tensor([[3.0, 1.5, -1.0], [0.0, 1.0, 2.0]]),
        "targets": tensor([0, 1]),
        "target_weight": 1.0,
        "other_weight": 8.0,
    }
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    probes.append(Probe(small | {"other_weight": 0.0, "temperature": 4.0}))
    for batch, classes, T, target, other in ((4, 5, 0.5, 0.5, 2.0), (6, 4, 2.0, 3.0, 1.0), (5, 10, 3.0, 1.0, 4.0)):
        teacher = 2 * randn(batch, classes, generator=generator)
        targets = torch.randint(classes, (batch,), generator=generator)
        targets[0], targets[1] = teacher[0].argmax(), teacher[1].argmin()
        values = {
            "student_logits": 1.5 * randn(batch, classes, generator=generator),
            "teacher_logits": teacher,
            "targets": targets,
        }
        probes.append(Probe(values | {"target_weight": target, "other_weight": other, "temperature": T}))
    shifted = probes[1].arguments | {"student_logits": small["student_logits"] + 3}
    why = "adding 3 to all logits of the student must change nothing"
    return [*probes, Probe(shifted, like=(1, why))]


def _decoupled(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, target_weight: float, other_weight: float,
    temperature: float, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    T = temperature
    teacher_logits = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    v = teacher_logits if {"cold", "cold_teacher"} & on else teacher_logits / T
    z = student_logits if {"cold", "cold_student"} & on else student_logits / T
    label = teacher_logits.argmax(-1) if "of_teacher" in on else targets
    is_label = nn.functional.one_hot(label, z.shape[-1]).bool()
    weight = 1 - v.softmax(-1)[is_label] if "coupled" in on else 1
    if "reversed" in on:
        v, z = z, v

    def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
        return log_p.exp() * (log_p - log_q)

    log_p, log_q = v.log_softmax(-1), z.log_softmax(-1)
    at_label = kl(log_p[is_label], log_q[is_label])
    rest = (log.masked_fill(is_label, -torch.inf).logsumexp(-1) for log in (log_p, log_q))
    target = at_label if "half_target" in on else at_label + kl(*rest)
    if "whole" in on:
        others = kl(log_p, log_q).sum(-1)
    elif "not_shared_out" in on:
        others = kl(log_p, log_q).masked_fill(is_label, 0).sum(-1)
    else:
        low = 0.0 if "zero_logit" in on else -1e9
        hidden = (x.masked_fill(is_label, low).log_softmax(-1) for x in (v, z))
        others = kl(*hidden).sum(-1)
    target = target * (1 if on & {"no_T2", "no_T2_target"} else T**2)
    others = weight * others * (1 if on & {"no_T2", "no_T2_others"} else T**2)
    weights = (other_weight, target_weight) if "swapped" in on else (target_weight, other_weight)
    loss = weights[0] * target + weights[1] * others
    return loss.mean() if "mean" in on else loss


_APART = "Take the target's logit away before the softmax of the others."
_OWN_WEIGHT = "What is left of your second part where the teacher gives the target 0.99?"

_DECOUPLED_SWITCHES = {
    "whole": Switch(
        "the target is still among the others: the second part is the whole soft loss",
        "Raise the target's logit. Does your second part change?",
        _APART,
        ("not_shared_out", "zero_logit", "coupled"),
    ),
    "not_shared_out": Switch(
        "the target's term is left out, but the others' probabilities do not sum to 1",
        "Can your second part be negative?",
        _APART,
        ("zero_logit", "coupled"),
    ),
    "zero_logit": Switch(
        "the target's logit is set to 0, and exp(0) is a share like any other",
        "Subtract 10 from all logits. Which class does your second part find likely now?",
        _APART,
        ("coupled",),
    ),
    "coupled": Switch(
        "the second part is still multiplied by the teacher's 1 - p(target): that is the coupling to be undone",
        _OWN_WEIGHT,
        "other_weight * KL among the others, nothing else.",
    ),
    "half_target": Switch(
        "the first part has one term of two: the probability of any other class is left out",
        "The target, or not: how many probabilities has that distribution?",
        "p log(p/q) + (1 - p) log((1 - p)/(1 - q)).",
    ),
    "swapped": Switch(
        "the two weights are exchanged",
        "What is left of your loss at other_weight = 0?",
        "target_weight * target + other_weight * others.",
    ),
    "no_T2": Switch(
        "the factor T² is missing from both parts",
        "What happens to the gradient of your loss when T doubles?",
        "Both parts are multiplied by T².",
        ("no_T2_target", "no_T2_others"),
    ),
    "no_T2_target": Switch(
        "the factor T² is missing from the target's part",
        "Which of the two parts fades as T grows?",
        "Both parts are multiplied by T².",
        ("no_T2_others",),
    ),
    "no_T2_others": Switch(
        "the factor T² is missing from the others' part",
        "Which of the two parts fades as T grows?",
        "Both parts are multiplied by T².",
    ),
    **cold_sides("does a target look"),
    "of_teacher": Switch(
        "the teacher's first choice stands where the label belongs",
        "Does your loss depend on targets?",
        "The target is the class in targets, also where the teacher chooses another.",
    ),
    "reversed": Switch(
        "the divergences are the wrong way round: these are KL(student ‖ teacher)",
        "Whose probabilities weigh the difference of the logarithms?",
        "p (log p - log q), with p the teacher's.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_logits.detach().",
    ),
    "mean": Switch(
        "the examples are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to weigh examples?",
        "Leave the first axis alone.",
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Choice(
        "15.1",
        "answer_1",
        "b",
        {
            "a": "Slow first passes make the time too long. Here work shows up after the clock was read.",
            "b": "A call hands its work over and returns. The clock must wait: torch.cuda.synchronize().",
            "c": "Batch norm then does more work, not less, and gives other answers. The time would be too long.",
            "d": "Recording costs memory, and a little time. It does not move work behind the clock.",
        },
    ),
    Order(
        "15.2",
        "answer_2",
        ("c", "e", "a", "f", "b", "d"),
        (
            "what is warmed up must be what is timed, so the mode comes first.",
            "what the first passes prepare is not to be timed, so they come before the clock.",
            "the time of the passes is the difference of two readings, and the first comes before them.",
            "the second reading is worth something when the passes are done.",
            "a median is taken over finished measurements.",
        ),
    ),
    Function("15.3", "multiply_adds", _convolution_probes, _multiply_adds, _CONVOLUTION_SWITCHES, rtol=1e-6),
    Function(
        "15.4",
        "same_view_loss",
        _view_probes,
        _view_loss,
        _VIEW_SWITCHES,
        grads=("student_weight", "teacher_weight"),
    ),
    Function(
        "15.5",
        "decoupled_loss",
        _decoupled_probes,
        _decoupled,
        _DECOUPLED_SWITCHES,
        grads=("student_logits", "teacher_logits"),
    ),
    Number(
        "15.6",
        "answer_6",
        2.62 / 4.28,
        "(72.98 - 70.36) / (74.64 - 70.36): of 4.28 points between the two, 2.62.",
        [
            (
                1.66 / 4.28,
                Switch(
                    "this is the share that is left open",
                    "What comes out if the distilled student is as good as its teacher?",
                    "(distilled - alone) / (teacher - alone).",
                ),
            ),
            (
                72.98 / 74.64,
                Switch(
                    "this is a share of the teacher's accuracy; the student alone has most of that",
                    "What would the student alone get from your formula?",
                    "(distilled - alone) / (teacher - alone).",
                ),
            ),
            (
                2.62,
                Switch(
                    "these are points of accuracy; asked for is a share of the gap",
                    "How many points were there to be gained?",
                    "(distilled - alone) / (teacher - alone).",
                ),
            ),
            (
                2.62 / 29.64,
                Switch(
                    "this is the share of the student's mistakes that went away",
                    "Is the goal of the formula the teacher, or 100 %?",
                    "(distilled - alone) / (teacher - alone).",
                ),
            ),
            (
                2.62 / 70.36,
                Switch(
                    "this is the gain relative to the student alone",
                    "How many points were there to be gained?",
                    "(distilled - alone) / (teacher - alone).",
                ),
            ),
        ],
    ),
    Number(
        "15.7",
        "answer_7",
        573 / 288,
        "(3 · 96 + 285) / (3 · 96): the student runs forward and backward, the teacher forward.",
        [
            (
                381 / 96,
                Switch(
                    "teacher and student are counted alike; one of them is not trained",
                    "Which of the two networks has a backward pass?",
                    "3 · 96 for the student, 285 for the teacher.",
                ),
            ),
            (
                285 / 288,
                Switch(
                    "this is what the teacher adds; the student's own work comes on top",
                    "What would a teacher that costs nothing give?",
                    "(3 · 96 + 285) / (3 · 96).",
                ),
            ),
            (
                285 / 96,
                Switch(
                    "this is how the forward passes compare; an epoch has more than that",
                    "How much work is a step of the student alone?",
                    "3 · 96 for the student, 285 for the teacher.",
                ),
            ),
            (
                477 / 192,
                Switch(
                    "the student has its backward pass, but not its forward pass",
                    "Forward once, backward twice as much: how much together?",
                    "3 · 96 for the student.",
                ),
            ),
        ],
    ),
    Choice(
        "15.8",
        "answer_8",
        "c",
        {
            "a": "No gradient used them, but a choice did: the highest of 240 noisy numbers is too high.",
            "b": "No weight was fitted to the test images. The choice alone was, and that is bad enough.",
            "c": "The highest of many noisy numbers lies, as a rule, above what new images would show.",
            "d": "All levels are too high then, and not by the same amount: what luck adds differs from arm to arm.",
        },
    ),
    Choice(
        "15.9",
        "answer_9",
        "a",
        {
            "a": "It is as fast: speed comes from the architecture. Distillation gave the difference in accuracy.",
            "b": "It says how good the teacher could be. The speed is that of the student's architecture.",
            "c": "A second batch size is worth having, but cannot say what distillation had to do with it.",
            "d": "A time for training is worth having. Asked for is why the finished student is fast.",
        },
    ),
    Number(
        "15.10",
        "answer_10",
        100.0,
        'reduction="mean" divides by images and classes, "batchmean" by images alone.',
        [
            (
                64.0,
                Switch(
                    "this is the number of images, by which the right loss is divided as well",
                    'By what does "mean" divide, and by what "batchmean"?',
                    "Only the classes are left over.",
                ),
            ),
            (
                6400.0,
                Switch(
                    "this counts the images, by which the right loss is divided as well",
                    'By what does "mean" divide, and by what "batchmean"?',
                    "Only the classes are left over.",
                ),
            ),
            (
                0.01,
                Switch(
                    "this is the wrong term divided by the right one; asked for is how many times it is too small",
                    "By what must the wrong term be multiplied?",
                    "One over this.",
                ),
            ),
        ],
    ),
    Choice(
        "15.11",
        "answer_11",
        "d",
        {
            "a": "That makes every answer flatter still, and it is too flat already.",
            "b": "With it the student imitates targets that are nearly one-hot. What it needs is to be fitted.",
            "c": "Accuracy stays as it is, but confidence is one number away from being right on average.",
            "d": "It says 45 % and is right in 77 % of the cases: the logits are too small. T < 1 enlarges them.",
        },
    ),
]
