"""Exercise 08, layers and features: hint, attention transfer, channel-wise softmax, where a temperature can act."""

import torch
from torch import Generator, Tensor

from ..spec import Choice, Function, Number, Probe, Question, Switch


def _hint_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_hidden": torch.tensor([[1.0, 2.0]]),
        "weight": torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]]),
        "bias": torch.tensor([0.5, -0.5, 1.0]),
        "teacher_hidden": torch.tensor([[1.0, 0.0, 3.0]]),
    }
    probes = [Probe(small)]
    for batch, student, teacher in ((4, 3, 5), (5, 6, 4), (2, 4, 9), (6, 2, 3)):
        values = {
            "student_hidden": torch.randn(batch, student, generator=generator),
            "weight": torch.randn(teacher, student, generator=generator),
            "bias": torch.randn(teacher, generator=generator),
            "teacher_hidden": 1 + 2 * torch.randn(batch, teacher, generator=generator),
        }
        probes.append(Probe(values))
    return probes


def _hint_loss(
    student_hidden: Tensor, weight: Tensor, bias: Tensor, teacher_hidden: Tensor,
    on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    teacher = teacher_hidden if "teacher_gradient" in on else teacher_hidden.detach()
    student = student_hidden.detach() if "student_cut" in on else student_hidden
    if "regressor_cut" in on:
        weight, bias = weight.detach(), bias.detach()
    if "on_teacher" in on:
        gap = teacher @ weight - student
    else:
        gap = student @ weight.T + (0 if "no_bias" in on else bias) - teacher
    terms = gap.abs() if "absolute" in on else gap**2
    if "mean_all" in on:
        return terms.mean()
    if "over_batch" in on:
        return terms.mean(0)
    return terms.sum(-1) if "sum" in on else terms.mean(-1)


_EACH = "One number an example: the mean over the last axis, and only over that one."

_HINT_SWITCHES = {
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_hidden.detach().",
    ),
    "student_cut": Switch(
        "the student is cut off: only the regressor learns",
        "The value is right. Which network was it that the hint should move?",
        "Detach the teacher, not the student.",
    ),
    "regressor_cut": Switch(
        "the regressor is cut off and keeps its random start",
        "Who else has to learn, if the guess is to become good?",
        "Leave weight and bias in the graph; only the teacher is detached.",
    ),
    "on_teacher": Switch(
        "the regressor is applied to the teacher; it reads the student",
        "Which of the two is asked to predict the other?",
        "student_hidden @ weight.T + bias against teacher_hidden.",
        ("no_bias",),
    ),
    "no_bias": Switch(
        "the regressor's bias is left out",
        "What does the regressor say where the student's layer is all zeros?",
        "student_hidden @ weight.T + bias.",
    ),
    "absolute": Switch(
        "the differences are taken as they are, not squared",
        "What happens to your loss when every difference doubles?",
        "Square the difference.",
    ),
    "sum": Switch(
        "the teacher's units are summed, not averaged",
        "How does your loss change when the teacher's layer is ten times as wide?",
        _EACH,
        ("over_batch", "mean_all"),
    ),
    "over_batch": Switch(
        "the average is over the examples, not over the teacher's units",
        "What shape comes out of [batch, units], if the caller is to weigh examples?",
        _EACH,
        ("mean_all",),
    ),
    "mean_all": Switch(
        "everything is averaged; one number for each example is asked for",
        "What shape comes out of [batch, units], if the caller is to weigh examples?",
        _EACH,
    ),
}  # fmt: skip


def _maps(generator: Generator, batch: int, channels: int, height: int, width: int) -> Tensor:
    # shifted, so that no sum over places is near 0, and uneven in size, as examples are
    size = torch.linspace(0.6, 1.9, batch)[:, None, None, None]
    return size * (0.8 + torch.randn(batch, channels, height, width, generator=generator))


_MAP_SHAPES = ((3, 4, 6, 2, 3), (4, 2, 3, 3, 3), (2, 5, 5, 4, 2), (5, 3, 8, 2, 2))


def _attention_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_maps": torch.tensor([[[[1.0, 2.0]], [[-1.0, 1.0]]]]),
        "teacher_maps": torch.tensor([[[[3.0, 1.0]]]]),
    }
    probes = [Probe(small)]
    for batch, student, teacher, height, width in _MAP_SHAPES:
        values = {
            "student_maps": _maps(generator, batch, student, height, width),
            "teacher_maps": _maps(generator, batch, teacher, height, width),
        }
        probes.append(Probe(values))
    louder = small | {"student_maps": 3 * small["student_maps"]}
    why = "a student whose maps are three times as large attends to the same places"
    return [*probes, Probe(louder, like=(0, why))]


def _attention_loss(student_maps: Tensor, teacher_maps: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    def attention(maps: Tensor) -> Tensor:
        flat = maps.flatten(2)
        energy = (flat if "not_squared" in on else flat.abs() if "absolute" in on else flat**2).mean(1)
        if "not_normalised" in on:
            return energy
        if "sum_to_one" in on:
            return energy / energy.sum(-1, keepdim=True)
        return energy / energy.norm(dim=0 if "over_batch" in on else -1, keepdim=True)

    teacher = teacher_maps if "teacher_gradient" in on else teacher_maps.detach()
    terms = (attention(student_maps) - attention(teacher)) ** 2
    if "mean_all" in on:
        return terms.mean()
    return terms.mean(-1) if "mean_places" in on else terms.sum(-1)


_LENGTH = "Divide each example's map by its own length, the root of the sum of its squares (dim=-1)."

_ATTENTION_SWITCHES = {
    "not_squared": Switch(
        "the channels are averaged without squaring",
        "Two channels, +5 and -5 at the same place: does the network look there?",
        "Square first, then average over the channels.",
        ("absolute",),
    ),
    "absolute": Switch(
        "the absolute value stands where the square belongs",
        "By what factor does your map grow where the activation doubles?",
        "Square first, then average over the channels.",
    ),
    "not_normalised": Switch(
        "the maps are not scaled to length 1",
        "A student with the same attention and three times the activations: what should it cost?",
        _LENGTH,
        ("over_batch", "sum_to_one"),
    ),
    "over_batch": Switch(
        "the length is taken over the batch, not over the places",
        "Does the map of one image depend on its neighbours in the batch?",
        _LENGTH,
        ("sum_to_one",),
    ),
    "sum_to_one": Switch(
        "each map is divided by its sum, not by its length",
        "What is the sum of squares of your map?",
        _LENGTH,
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_maps.detach().",
    ),
    "mean_places": Switch(
        "the places are averaged, not summed",
        "Does your loss of two maps that share no place depend on how many places there are?",
        "Sum the squares over the places (dim=-1).",
        ("mean_all",),
    ),
    "mean_all": Switch(
        "everything is averaged; one number for each example is asked for",
        "What shape comes out, if the caller is to weigh examples?",
        "Sum the squares over the places, leave the batch alone.",
    ),
}  # fmt: skip


def _channel_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_maps": torch.tensor([[[[1.0, 0.0, -1.0]], [[0.5, 2.0, 0.0]]]]),
        "teacher_maps": torch.tensor([[[[2.0, 1.5, -1.0]], [[0.0, 1.0, 3.0]]]]),
    }
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    for (batch, channels, _, height, width), T in zip(_MAP_SHAPES, (0.5, 2.0, 3.0, 6.0), strict=True):
        values = {
            "student_maps": 2 * torch.randn(batch, channels, height, width, generator=generator),
            "teacher_maps": 2 * torch.randn(batch, channels, height, width, generator=generator),
        }
        probes.append(Probe(values | {"temperature": T}))
    shifted = probes[1].arguments | {"student_maps": small["student_maps"] + 3}
    why = "adding 3 to all places of all channels must change nothing"
    return [*probes, Probe(shifted, like=(1, why))]


def _channel_loss(
    student_maps: Tensor, teacher_maps: Tensor, temperature: float, on: frozenset[str] = frozenset()
) -> Tensor:
    T = temperature
    teacher = teacher_maps if "teacher_gradient" in on else teacher_maps.detach()
    hot_teacher = teacher if {"cold", "cold_teacher"} & on else teacher / T
    hot_student = student_maps if {"cold", "cold_student"} & on else student_maps / T
    if "over_rows" in on:
        log_p, log_q = (maps.log_softmax(-1).flatten(2) for maps in (hot_teacher, hot_student))
    else:
        axis = 1 if "over_channels" in on else -1
        log_p, log_q = (maps.flatten(2).log_softmax(axis) for maps in (hot_teacher, hot_student))
    if "reversed" in on:
        log_p, log_q = log_q, log_p
    terms = log_p.exp() * ((0 if "cross_entropy" in on else log_p) - log_q)
    loss = terms.sum(-1).sum(1) if "sum_channels" in on else terms.sum(-1).mean(1)
    if "mean_places" in on:
        loss = loss / terms.shape[-1]
    loss = loss * (1 if "no_T2" in on else T**2)
    return loss.mean() if "mean_all" in on else loss


_BOTH = "The same T divides both sides."
_PLACES = "flatten(2), then softmax over the last axis: the places of one channel compete."

_CHANNEL_SWITCHES = {
    "over_channels": Switch(
        "the softmax is over the channels; the places of a channel should compete",
        "Along which axis do your probabilities sum to 1?",
        _PLACES,
        ("over_rows",),
    ),
    "over_rows": Switch(
        "the softmax is over each row of the image, not over the whole channel",
        "How many probabilities sum to 1, on maps of 4 by 2 places?",
        _PLACES,
    ),
    "cold": Switch(
        "the temperature divides neither side",
        "What does your distribution over the places look like at T = 100?",
        _BOTH,
        ("cold_student", "cold_teacher"),
    ),
    "cold_student": Switch(
        "the student's maps are not divided by T",
        "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
        _BOTH,
        ("cold_teacher",),
    ),
    "cold_teacher": Switch(
        "the teacher's maps are not divided by T",
        "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
        _BOTH,
    ),
    "no_T2": Switch(
        "the factor T² is missing",
        "What happens to the gradient of your loss when T doubles?",
        "T² times the divergence, as in chapter 04.",
    ),
    "reversed": Switch(
        "the divergence is the wrong way round: this is KL(student ‖ teacher)",
        "Whose probabilities weigh the difference of the logarithms?",
        "p (log p - log q), with p the teacher's.",
    ),
    "cross_entropy": Switch(
        "this is the cross-entropy; the teacher's entropy is not subtracted",
        "The gradient is right. What value does a perfect copy of the teacher get?",
        "p (log p - log q), summed over the places.",
    ),
    "sum_channels": Switch(
        "the channels are summed, not averaged",
        "How does your loss change when a layer has ten times as many channels?",
        "Sum over the places, mean over the channels.",
    ),
    "mean_places": Switch(
        "the places are averaged, not summed",
        "Which weights does an expectation under the teacher use? Is there a 1/places among them?",
        "Sum over the places, mean over the channels.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_maps.detach().",
    ),
    "mean_all": Switch(
        "the examples are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to weigh examples?",
        "Leave the first axis alone.",
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function(
        "08.1",
        "hint_loss",
        _hint_probes,
        _hint_loss,
        _HINT_SWITCHES,
        grads=("student_hidden", "weight", "bias", "teacher_hidden"),
    ),
    Function(
        "08.2",
        "attention_loss",
        _attention_probes,
        _attention_loss,
        _ATTENTION_SWITCHES,
        grads=("student_maps", "teacher_maps"),
    ),
    Function(
        "08.3",
        "channel_loss",
        _channel_probes,
        _channel_loss,
        _CHANNEL_SWITCHES,
        grads=("student_maps", "teacher_maps"),
    ),
    Number(
        "08.4",
        "answer_4",
        0.125,
        "Dividing both sides by T divides the squared error by T²: 2 / 16.",
        [
            (
                0.5,
                Switch(
                    "the difference is divided by T, but the loss is its square",
                    "What becomes of (a/4 - b/4)²?",
                    "2 / T².",
                ),
            ),
            (
                32.0,
                Switch(
                    "T² points the other way: division makes the term smaller",
                    "Is (a/4 - b/4)² larger or smaller than (a - b)²?",
                    "2 / T².",
                ),
            ),
            (
                2.0,
                Switch(
                    "this is the weight as it was; T does change the size of the term",
                    "What becomes of (a/4 - b/4)²?",
                    "2 / T².",
                ),
            ),
            (
                1 / 16,
                Switch(
                    "this is 1/T² alone; the weight of 2 is lost",
                    "Which weight stood there before?",
                    "2 / T².",
                ),
            ),
        ],
    ),
    Choice(
        "08.5",
        "answer_5",
        "c",
        {
            "a": "There is no softmax: T only scales the squared error, by 1/T².",
            "b": "The attention map has length 1 whatever its input's scale, so T cancels altogether.",
            "c": "The places compete in a softmax, and T decides how many of them count.",
            "d": "Batch norm takes out any scale that comes before it, so T cancels there.",
        },
    ),
    Number(
        "08.6",
        "answer_6",
        16.0,
        "The root of 256. The products are divided by it before the softmax.",
        [
            (
                1 / 16,
                Switch(
                    "this is the factor that multiplies the products; T divides them",
                    "Is a division by 16 a temperature of 16 or of 1/16?",
                    "T = 16.",
                ),
            ),
            (
                256.0,
                Switch(
                    "this is the length of the keys; attention divides by its root",
                    "How does the spread of a sum of 256 random terms grow?",
                    "The root of 256.",
                ),
            ),
            (
                128.0,
                Switch(
                    "this is half of the length, not its root",
                    "Which number, times itself, is 256?",
                    "The root of 256.",
                ),
            ),
        ],
    ),
    Number(
        "08.7",
        "answer_7",
        2176.0,
        "16 x 128 weights and 128 biases: more than the whole student, 1,210. It is thrown away afterwards.",
        [
            (
                2048.0,
                Switch(
                    "the biases are missing",
                    "What does each of the 128 outputs have besides its 16 weights?",
                    "16 x 128 + 128.",
                ),
            ),
            (
                2064.0,
                Switch(
                    "the biases belong to the outputs: there are 128 of them, not 16",
                    "In which direction does the regressor map?",
                    "16 x 128 + 128.",
                ),
            ),
            (
                3386.0,
                Switch(
                    "this is the student and its regressor together",
                    "How many of these are the student's own?",
                    "Count the regressor alone.",
                ),
            ),
        ],
        rtol=1e-3,
    ),
    Choice(
        "08.8",
        "answer_8",
        "b",
        {
            "a": "Layer 4 is computed from layer 1, so it cannot hold more information about the class than layer 1.",
            "b": "A linear reader finds more above, and the control shows that training did it, not depth.",
            "c": "The untrained network has the same depth, and its probe gets worse.",
            "d": "A probe is trained for the class, but the control is read by the same probe.",
        },
    ),
    Choice(
        "08.9",
        "answer_9",
        "d",
        {
            "a": "More seeds narrow the interval of a comparison that stays unfair.",
            "b": "The teacher's own accuracy says nothing about what the features added.",
            "c": "Labels alone are a baseline for distillation, not for the feature term.",
            "d": "One arm had twelve tries and the other one. The gain may be that of the tuning.",
        },
    ),
    Choice(
        "08.10",
        "answer_10",
        "a",
        {
            "a": "For high T, T² KL is the squared error of the centred maps, divided by twice the number of places.",
            "b": "That is the limit T → 0: one place has all the probability.",
            "c": "T² keeps it from vanishing: the divergence falls like 1/T².",
            "d": "The divergence falls as fast as T² grows, so T² KL stays finite.",
        },
    ),
    Choice(
        "08.11",
        "answer_11",
        "c",
        {
            "a": "Equal places are the limit of a high temperature.",
            "b": "The order of the places is the same at every T > 0.",
            "c": "At 0.01 the strongest place has all the probability: a pseudo-label for places.",
            "d": "Fine differences vanish at both ends; a low T shows the first choice alone.",
        },
    ),
]
