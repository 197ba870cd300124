"""Exercise 07, balancing the losses: effective weight, a gradient turned round, the `mean` trap, a moving weight."""

import math

import torch.nn.functional as F
from torch import Generator, Tensor, randint, randn, tensor

from ..spec import ALONE, Choice, Function, Number, Probe, Question, Switch


def _reverse_probes(generator: Generator) -> list[Probe]:
    small = {"x": tensor([1.0, -2.0, 3.0])}
    probes = [Probe(small | {"scale": scale}) for scale in (0.5, 2.0)]
    for shape, scale in (((4,), 0.1), ((3, 5), 1.5), ((2, 3, 4), 3.0)):
        probes.append(Probe({"x": 2 * randn(shape, generator=generator), "scale": scale}))
    return probes


def _reverse(x: Tensor, scale: float, on: frozenset[str] = frozenset()) -> Tensor:
    if "cut" in on:
        return x.detach()
    if "identity" in on:
        return 1 * x
    if "value_too" in on:
        return -scale * x
    if "value_shrunk" in on:
        return -scale * x + x.detach()
    turned = (1 if "no_sign" in on else -1) * (1 if "no_scale" in on else scale) * x
    return turned + (x - turned).detach()


def _mended_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_logits": tensor([[1.0, 0.0, -1.0], [0.5, 0.0, 2.0]]),
        "teacher_logits": tensor([[2.0, 1.5, -1.0], [-1.0, 1.0, 2.5]]),
        "targets": tensor([1, 2]),
        "temperature": 4.0,
        "soft_weight": 0.75,
    }
    probes = [Probe(small)]
    for batch, classes, T, weight in ((4, 3, 2.0, 0.9), (3, 7, 3.0, 0.3), (5, 6, 8.0, 0.7), (6, 10, 1.5, 0.4)):
        values = {
            "student_logits": 2 * randn(batch, classes, generator=generator),
            "teacher_logits": 2 * randn(batch, classes, generator=generator),
            "targets": randint(classes, (batch,), generator=generator),
        }
        probes.append(Probe(values | {"temperature": T, "soft_weight": weight}))
    return probes


def _mended(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor,
    temperature: float, soft_weight: float, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    teacher = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    log_p, log_q = (teacher / temperature).log_softmax(-1), (student_logits / temperature).log_softmax(-1)
    if "kl_reversed" in on:
        log_p, log_q = log_q, log_p
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    soft = each.sum() if "sum" in on else each.mean()
    if "mean" in on:
        soft = soft / log_p.shape[-1]
    if "no_T2" not in on:
        soft = soft * temperature**2
    if "classes" in on:
        soft = soft * log_p.shape[-1]
    hard = F.cross_entropy(student_logits / temperature if "hot_hard" in on else student_logits, targets)
    soft_share, hard_share = (1 - soft_weight, soft_weight) if "swapped" in on else (soft_weight, 1 - soft_weight)
    return soft_share * soft + hard_share * hard


def _weight_probes(generator: Generator) -> list[Probe]:
    plan = {"start": 0.9, "end": 0.3, "hold": 100, "steps": 400}
    probes = [Probe({"step": step} | plan) for step in (0, 50, 100, 130, 250, 390, 400, 480)]
    other = {"start": 0.1, "end": 0.7, "hold": 0, "steps": 50}
    probes += [Probe({"step": step} | other) for step in (0, 10, 35, 70)]
    step = int(randint(30, 75, (), generator=generator))
    return [*probes, Probe({"step": step, "start": 0.2, "end": 1.0, "hold": 20, "steps": 80})]


def _weight_at(step: int, start: float, end: float, hold: int, steps: int, on: frozenset[str] = frozenset()) -> float:
    if "swapped" in on:
        start, end = end, start
    begin = 0 if "no_hold" in on else hold
    share = (step + ("one_more" in on) - begin) / (steps if "late" in on or "no_hold" in on else steps - hold)
    share = share if "early" in on else max(share, 0.0)
    share = share if "goes_on" in on else min(share, 1.0)
    if "jump" in on:
        share = float(step > hold)
    value = start + (end - start) * share
    return 1 - value if "hard_weight" in on else value


_SHARE = "soft = 0.9 / 16, hard = 0.1; then soft / (soft + hard)."
_LINE = "share = (step - hold) / (steps - hold), kept between 0 and 1."
_BATCHMEAN = 'reduction="batchmean": the sum over all entries, divided by the batch alone.'
_TRICK = "a + (b - a).detach() has the value of b and the gradient of a."
_LOG5 = math.log(5)

QUESTIONS: list[Question] = [
    Number(
        "07.1",
        "answer_1",
        (0.9 / 16) / (0.9 / 16 + 0.1),
        "(0.9 / 16) / (0.9 / 16 + 0.1): the labels have nearly twice the teacher's weight.",
        [
            (
                0.9,
                Switch(
                    "nothing has changed here; the soft term lost a factor of 16",
                    "What does the program multiply T² KL by, if T² was forgotten?",
                    _SHARE,
                ),
            ),
            (
                0.9 / 16,
                Switch(
                    "this is the factor of the soft term, not its share: the two factors no longer sum to 1",
                    "What do the two factors sum to now?",
                    _SHARE,
                ),
            ),
            (
                (0.9 / 4) / (0.9 / 4 + 0.1),
                Switch("the factor is T², and T was used", "How large is T² at T = 4?", _SHARE),
            ),
            (
                0.9 * 16 / (0.9 * 16 + 0.1),
                Switch(
                    "T² was multiplied, not divided: this is the share when it is applied once too often",
                    "Is the soft term too large or too small without its factor?",
                    _SHARE,
                ),
            ),
            (
                0.1 / (0.9 / 16 + 0.1),
                Switch("this is the share of the labels", "Which of the two shares is asked for?", _SHARE),
            ),
        ],
    ),
    Function(
        "07.2",
        "reverse",
        _reverse_probes,
        _reverse,
        {
            "no_sign": Switch(
                "the gradient is scaled, but not turned round",
                "In which direction does a descent step move x now?",
                "Minus scale.",
                ("no_scale",),
            ),
            "no_scale": Switch(
                "the gradient is turned round, but scale is not in it",
                "What is the gradient at scale = 2, and what at scale = 0.5?",
                "Minus scale, not minus one.",
            ),
            "value_too": Switch(
                "the value is turned round and scaled as well; forward nothing should change",
                "What does the function return for scale = 2 and x = 1?",
                _TRICK,
                (ALONE,),
            ),
            "value_shrunk": Switch(
                "the gradient is right, but the value is (1 - scale) times x",
                "Which detached term brings the value back to x?",
                _TRICK,
                (ALONE,),
            ),
            "identity": Switch(
                "nothing is turned round: value and gradient are those of x",
                "Which of the terms of your sum should carry no gradient?",
                _TRICK,
                (ALONE,),
            ),
            "cut": Switch(
                "the gradient is cut off: detach() lets none through",
                "Which term of your function carries a gradient?",
                _TRICK,
                (ALONE,),
            ),
        },
        grads=("x",),
    ),
    Function(
        "07.3",
        "mended",
        _mended_probes,
        _mended,
        {
            "mean": Switch(
                "the soft term is divided by the number of classes too",
                'What does reduction="mean" of F.kl_div divide by, for logits of shape [64, 10]?',
                _BATCHMEAN,
                ("sum", "classes"),
            ),
            "no_T2": Switch(
                "the factor T² is missing from the soft term",
                "Your two terms: what happens to the gradient of the first when T doubles?",
                "soft * temperature**2.",
            ),
            "sum": Switch(
                "the soft term is summed over the batch, the hard term averaged",
                "What happens to the balance of the two terms when the batch is twice as large?",
                _BATCHMEAN,
                ("classes",),
            ),
            "classes": Switch(
                "the number of classes was put in twice: batchmean does not divide by it",
                "Does the soft term still need its number of classes once the reduction is batchmean?",
                _BATCHMEAN,
            ),
            "kl_reversed": Switch(
                "the divergence is the wrong way round: this is KL(student ‖ teacher)",
                "Which of its two inputs does F.kl_div take as a logarithm?",
                "F.kl_div(log_q, p): the student's log-probabilities first.",
            ),
            "hot_hard": Switch(
                "the hard term is taken at temperature T; it belongs at T = 1",
                "At which temperature is the student used when its training is over?",
                "F.cross_entropy of the logits, not divided.",
            ),
            "swapped": Switch(
                "the weights are swapped: soft_weight multiplies the hard term",
                "What should be left of the loss at soft_weight = 1?",
                "soft_weight * soft + (1 - soft_weight) * hard.",
            ),
            "teacher_gradient": Switch(
                "gradients flow into the teacher",
                "Which of the two networks should this loss move?",
                "teacher_logits.detach().",
            ),
        },
        grads=("student_logits", "teacher_logits"),
    ),
    Function(
        "07.4",
        "weight_at",
        _weight_probes,
        _weight_at,
        {
            "no_hold": Switch(
                "the line starts at step 0; it should wait until step hold",
                "What should the weight be at step = hold?",
                _LINE,
                ("late", "early"),
            ),
            "late": Switch(
                "the line takes `steps` steps from hold on, so it arrives too late",
                "How many steps lie between hold and steps?",
                _LINE,
            ),
            "early": Switch(
                "before hold the line goes on backwards, past start",
                "What is your share at a step below hold?",
                _LINE,
            ),
            "goes_on": Switch(
                "after the last step the weight goes on past end",
                "What is your share at a step beyond steps, and may a weight leave [0, 1]?",
                _LINE,
            ),
            "jump": Switch(
                "the weight jumps to end after hold; a straight line is asked for",
                "What should the weight be half way between hold and steps?",
                _LINE,
                ("no_hold", "late", "early", "goes_on", "one_more"),
            ),
            "one_more": Switch(
                "the line is one step ahead",
                "What should the weight be at step = hold, exactly?",
                "Use step, not step + 1.",
            ),
            "swapped": Switch(
                "start and end are exchanged",
                "What should the weight be at step 0?",
                "start + (end - start) * share.",
            ),
            "hard_weight": Switch(
                "this is the weight of the hard loss, 1 minus what is asked for",
                "Which of the two losses does the weight belong to?",
                "Return the weight of the soft loss.",
            ),
        },
    ),
    Number(
        "07.5",
        "answer_5",
        0.2 * _LOG5,
        "0.2 log 5: KL subtracts the uniform teacher's entropy, weighted as the soft term is.",
        [
            (
                _LOG5,
                Switch(
                    "this is the teacher's entropy; the soft term counts for 0.2",
                    "By which number is the soft loss multiplied?",
                    "soft_weight times log 5.",
                ),
            ),
            (
                0.8 * _LOG5,
                Switch(
                    "the entropy is weighted with the hard term's weight",
                    "Which of the two terms holds the teacher?",
                    "soft_weight times log 5.",
                ),
            ),
            (
                0.2 * math.log2(5),
                Switch("this is in bits", "How many nats is one bit?", "The natural logarithm."),
            ),
            (
                0.2 * math.log10(5),
                Switch("the logarithm is to base 10", "Which logarithm counts nats?", "The natural logarithm."),
            ),
            (
                -0.2 * _LOG5,
                Switch(
                    "the sign is wrong: cross-entropy is KL plus an entropy, never below it",
                    "Which of the two values is larger?",
                    "soft_weight times log 5.",
                ),
            ),
        ],
    ),
    Number(
        "07.6",
        "answer_6",
        0.1 / 64,
        "0.1 / 64: without the factor each gradient is 1/T² of what it should be, and so is each step.",
        [
            (
                0.1 * 64,
                Switch(
                    "this is the other way round",
                    "Which loss has the larger gradient, and which rate must then be smaller?",
                    "Divide by T².",
                ),
            ),
            (
                0.1 / 8,
                Switch(
                    "the factor is T², and T was used",
                    "How large is T² at T = 8?",
                    "Divide by T².",
                ),
            ),
            (
                0.1,
                Switch(
                    "that is Adam, which divides the size of the gradient away; gradient descent does not",
                    "What is a step of gradient descent, as a product?",
                    "Divide by T².",
                ),
            ),
        ],
    ),
    Choice(
        "07.7",
        "answer_7",
        "c",
        {
            "a": "That is a habit for good teachers. With this one, 0.9 pulls the student down to the teacher's level.",
            "b": "Half the weight on a source that is wrong more often than your labels costs; they need no help.",
            "c": "The labels alone lead further than this teacher does. Each step towards it is a step down.",
            "d": "It can: labels alone are ahead of this teacher.",
        },
    ),
    Choice(
        "07.8",
        "answer_8",
        "a",
        {
            "a": "The weight settles near one over the loss, and the teacher's entropy is part of that loss.",
            "b": "No gradient for the student, but one for the learned number: it multiplies the whole loss.",
            "c": "Adam divides each parameter's gradient by its size. The place where it stops is the same.",
            "d": "It is the larger loss, and so it gets the smaller weight.",
        },
    ),
    Choice(
        "07.9",
        "answer_9",
        "d",
        {
            "a": "Where they differ, it is mostly the label that is wrong. The mask believes the label.",
            "b": "It drops about three images in ten, and just those whose label is wrong.",
            "c": "The lot drops as many, but most of them carry a right label. The mask does worse.",
            "d": "On a wrong label the teacher was the only one who knew better.",
        },
    ),
    Choice(
        "07.10",
        "answer_10",
        "b",
        {
            "a": "More tries make the best of them look better still, with or without an effect.",
            "b": "The best of twenty is ahead of one by luck alone, on the images that chose it most of all.",
            "c": "A falling training loss says how well the target is fitted, not whether the target is good.",
            "d": "Another setting answers another question. The comparison stays unfair.",
        },
    ),
    Choice(
        "07.11",
        "answer_11",
        "d",
        {
            "a": "Dividing all logits by one number keeps their order.",
            "b": "First stays first at any T.",
            "c": "That is soft_weight, or an accident where T² is missing; the answer itself knows no labels.",
            "d": "It rises with T towards the logarithm of the number of classes.",
        },
    ),
    Choice(
        "07.12",
        "answer_12",
        "b",
        {
            "a": "It sums to 2, so it is no distribution, on average or otherwise.",
            "b": "Cross-entropy is linear in its target: two losses with weight one each, and no knob left.",
            "c": "The teacher's half of the sum has a gradient too.",
            "d": "No logit is divided; a target that sums to 2 is not a softer one.",
        },
    ),
]
