"""Exercise 09, adversarial distillation: a judge's two losses, a step of an attack, a student under attack."""

import torch
from torch import Generator, Tensor

from ..spec import Choice, Function, Number, Probe, Question, Switch
from .sides import cold_sides

_ONE_EACH = "Leave the batch alone; the caller averages."


def _judge_probes(generator: Generator) -> list[Probe]:
    small = {
        "teacher_logits": torch.tensor([[2.0, -1.0]]),
        "student_logits": torch.tensor([[0.5, 1.0]]),
        "weight": torch.tensor([1.0, 0.5]),
        "bias": torch.tensor(0.2),
    }
    probes = [Probe(small)]
    for batch, classes in ((4, 3), (3, 5), (6, 4)):
        values = {
            "teacher_logits": 1 + torch.randn(batch, classes, generator=generator),
            "student_logits": torch.randn(batch, classes, generator=generator),
            "weight": torch.randn(classes, generator=generator),
            "bias": torch.randn((), generator=generator),
        }
        probes.append(Probe(values))
    return probes


def _softplus(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x)


def _judge_loss(
    teacher_logits: Tensor, student_logits: Tensor, weight: Tensor, bias: Tensor, on: frozenset[str] = frozenset()
) -> Tensor:
    if "judge_cut" in on:
        weight, bias = weight.detach(), bias.detach()
    student = student_logits if "student_gradient" in on else student_logits.detach()
    as_teacher, as_student = teacher_logits @ weight + bias, student @ weight + bias
    if "swapped" in on:
        as_teacher, as_student = -as_teacher, -as_student
    terms = [_softplus(-as_teacher)] * ("only_student" not in on) + [_softplus(as_student)] * ("only_teacher" not in on)
    loss = sum(terms) * (0.5 if "halved" in on else 1)
    loss = -loss if "uphill" in on else loss
    return loss.mean() if "mean_all" in on else loss


_JUDGE_SWITCHES = {
    "student_gradient": Switch(
        "the judge's step would move the student: its logits are not detached",
        "Who learns in this step? Follow your gradient to student_logits.",
        "student_logits.detach().",
        ("only_teacher",),
    ),
    "judge_cut": Switch(
        "the judge is cut off, and nobody learns",
        "Who learns in this step? Follow your gradient to weight.",
        "Leave weight and bias in the graph.",
    ),
    "swapped": Switch(
        "the sides are exchanged: this judge calls the student the teacher",
        "Which score should be large where the teacher has spoken?",
        "-log sigmoid(teacher's score) - log(1 - sigmoid(student's score)).",
    ),
    "only_teacher": Switch(
        "the student's answers are missing from the judge's loss",
        "A judge that says teacher to everybody: what does it pay?",
        "Two terms, one for each kind of answer.",
        ("only_student",),
    ),
    "only_student": Switch(
        "the teacher's answers are missing from the judge's loss",
        "A judge that says student to everybody: what does it pay?",
        "Two terms, one for each kind of answer.",
    ),
    "halved": Switch(
        "the two terms are averaged, not added",
        "What does a judge pay that always guesses? Two coins, or one?",
        "Add the two terms.",
        ("only_teacher", "only_student"),
    ),
    "uphill": Switch(
        "the sign is turned: whoever lowers this makes the judge worse",
        "Is your loss large or small for a judge that is right?",
        "-log, so that being right costs little.",
    ),
    "mean_all": Switch(
        "the examples are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to weigh examples?",
        _ONE_EACH,
    ),
}  # fmt: skip


def _fooling_probes(generator: Generator) -> list[Probe]:
    return [
        Probe({name: value for name, value in probe.arguments.items() if name != "teacher_logits"})
        for probe in _judge_probes(generator)
    ]


def _fooling_loss(
    student_logits: Tensor, weight: Tensor, bias: Tensor, on: frozenset[str] = frozenset()
) -> Tensor:  # fmt: skip
    if "judge_gradient" not in on:
        weight, bias = weight.detach(), bias.detach()
    score = (student_logits.detach() if "student_cut" in on else student_logits) @ weight + bias
    loss = _softplus(score) if {"helps", "saturating"} & on else _softplus(-score)
    loss = -loss if "saturating" in on else loss
    return loss.mean() if "mean_all" in on else loss


_FOOLING_SWITCHES = {
    "saturating": Switch(
        "this lowers log(1 - sigmoid(score)), which is flat while the judge wins",
        "What is your gradient at a score of -20, where the student needs it most?",
        "-log sigmoid(score), softplus(-score).",
        ("helps",),
    ),
    "helps": Switch(
        "the student helps the judge: it learns to be recognised",
        "Is your loss small where the judge takes the student for the teacher?",
        "-log sigmoid(score), softplus(-score).",
    ),
    "student_cut": Switch(
        "the student is detached, so nothing moves it",
        "The value is right. Whose step is this?",
        "Detach in the judge's step, not in the student's.",
    ),
    "judge_gradient": Switch(
        "gradients reach the judge, which would learn to be fooled",
        "Whose step is this? Follow your gradient to weight.",
        "weight.detach() and bias.detach().",
    ),
    "mean_all": Switch(
        "the examples are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to weigh examples?",
        _ONE_EACH,
    ),
}  # fmt: skip


def _step_probes(generator: Generator) -> list[Probe]:
    small = {
        "moved": torch.tensor([[0.52, 0.45, 0.05]]),
        "images": torch.tensor([[0.5, 0.5, 0.0]]),
        "targets": torch.tensor([0]),
        "weight": torch.tensor([[1.0, -2.0, 1.5], [-1.0, 1.0, -2.0]]),
        "radius": 0.1,
        "step_size": 0.05,
    }
    probes = [Probe(small)]
    for (batch, pixels, classes), radius, size in (
        ((4, 12, 3), 0.15, 0.06), ((3, 16, 5), 0.1, 0.25), ((6, 10, 4), 0.3, 0.1), ((5, 14, 3), 0.2, 0.15)
    ):  # fmt: skip
        images = torch.rand(batch, pixels, generator=generator).mul(1.8).sub(0.4).clamp(0, 1)
        noise = 2 * torch.rand(batch, pixels, generator=generator) - 1
        values = {
            "moved": (images + radius * noise).clamp(0, 1),
            "images": images,
            "targets": torch.randint(classes, (batch,), generator=generator),
            "weight": 3 * torch.randn(classes, pixels, generator=generator),
            "radius": radius,
            "step_size": size,
        }
        probes.append(Probe(values))
    return probes


def _attack_step(
    moved: Tensor,
    images: Tensor,
    targets: Tensor,
    weight: Tensor,
    radius: float,
    step_size: float,
    on: frozenset[str] = frozenset(),
) -> Tensor:
    at = images if "clean_gradient" in on else moved
    # The gradient of cross-entropy by hand: (q - one-hot) times the weights.
    q = (at @ weight.T).softmax(-1)
    slope = (q - torch.nn.functional.one_hot(targets, len(weight))) @ weight
    direction = slope if "no_sign" in on else slope.sign()
    step = step_size * (-direction if "descent" in on else direction)
    new = (images if "from_images" in on else moved) + step
    if "no_ball" not in on:
        new = images + (new - images).clamp(-radius, radius)
    return new if "no_box" in on else new.clamp(0, 1)


_STEP_SWITCHES = {
    "no_sign": Switch(
        "the step follows the gradient itself, not its sign",
        "How far does a pixel go whose gradient is a thousandth?",
        "step_size * slope.sign().",
    ),
    "descent": Switch(
        "the step goes down: this attack helps the student",
        "Is the loss larger or smaller after your step?",
        "moved + step_size * slope.sign().",
    ),
    "no_ball": Switch(
        "the projection is missing: pixels leave the ball around the original",
        "After a hundred steps, how far is a pixel from its original?",
        "images + (moved - images).clamp(-radius, radius).",
    ),
    "no_box": Switch(
        "pixels leave the range from 0 to 1",
        "Could your result be printed?",
        ".clamp(0, 1) at the end.",
    ),
    "clean_gradient": Switch(
        "the gradient is that of the clean image at every step",
        "Where does the attack stand now, and where do you measure the slope?",
        "The loss of moved, not of images.",
    ),
    "from_images": Switch(
        "each step begins at the original again, so many steps are no more than one",
        "What has the second step kept of the first?",
        "moved + ..., then back into the ball around images.",
    ),
}  # fmt: skip


def _ard_probes(generator: Generator) -> list[Probe]:
    small = {
        "clean_logits": torch.tensor([[2.0, 0.5, -1.0]]),
        "attacked_logits": torch.tensor([[0.5, 1.0, 0.0]]),
        "teacher_logits": torch.tensor([[3.0, 1.0, -2.0]]),
        "targets": torch.tensor([0]),
    }
    probes = [Probe(small | {"temperature": T, "soft_weight": 0.7}) for T in (1.0, 4.0)]
    for (batch, classes), T, weight in (((4, 3), 2.0, 0.9), ((3, 6), 0.5, 0.3), ((5, 4), 6.0, 0.8)):
        values = {
            "clean_logits": 2 * torch.randn(batch, classes, generator=generator),
            "attacked_logits": 2 * torch.randn(batch, classes, generator=generator),
            "teacher_logits": 3 * torch.randn(batch, classes, generator=generator),
            "targets": torch.randint(classes, (batch,), generator=generator),
            "temperature": T,
            "soft_weight": weight,
        }
        probes.append(Probe(values))
    return probes


def _ard_loss(
    clean_logits: Tensor,
    attacked_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    temperature: float,
    soft_weight: float,
    on: frozenset[str] = frozenset(),
) -> Tensor:
    teacher = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    student = clean_logits if "soft_on_clean" in on else attacked_logits
    log_p = (teacher / (1 if {"cold", "cold_teacher"} & on else temperature)).log_softmax(-1)
    log_q = (student / (1 if {"cold", "cold_student"} & on else temperature)).log_softmax(-1)
    if "reversed" in on:
        log_p, log_q = log_q, log_p
    soft = (log_p.exp() * (log_p - log_q)).sum(-1) * (1 if "no_T2" in on else temperature**2)
    named = attacked_logits if "hard_on_attacked" in on else clean_logits
    hard = -named.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    share = 1 - soft_weight if "swapped" in on else soft_weight
    loss = share * soft + (0 if "no_hard" in on else (1 - share) * hard)
    return loss.mean() if "mean_all" in on else loss


_ARD_SWITCHES = {
    "soft_on_clean": Switch(
        "the soft term looks at the clean image: plain distillation, and no robustness",
        "What does your student learn about attacked images?",
        "The student's attacked_logits against the teacher's clean answer.",
    ),
    "hard_on_attacked": Switch(
        "the hard term looks at the attacked image",
        "Which term keeps the clean accuracy?",
        "Cross-entropy of clean_logits.",
        ("no_hard",),
    ),
    "no_hard": Switch(
        "the hard term on clean images is missing",
        "What does soft_weight = 0 leave of your loss?",
        "(1 - soft_weight) times the cross-entropy of clean_logits.",
    ),
    "swapped": Switch(
        "the two weights are exchanged",
        "What is left of your loss at soft_weight = 1?",
        "soft_weight · soft + (1 - soft_weight) · hard.",
    ),
    "no_T2": Switch(
        "the factor T² is missing from the soft term",
        "What happens to its gradient when T doubles?",
        "T² times the divergence, as in chapter 04.",
    ),
    **cold_sides(),
    "reversed": Switch(
        "the divergence is the wrong way round: this is KL(student ‖ teacher)",
        "Whose probabilities weigh the difference of the logarithms?",
        "p (log p - log q), with p the teacher's.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_logits.detach().",
    ),
    "mean_all": Switch(
        "the examples are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to weigh examples?",
        _ONE_EACH,
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function(
        "09.1",
        "judge_loss",
        _judge_probes,
        _judge_loss,
        _JUDGE_SWITCHES,
        grads=("teacher_logits", "student_logits", "weight", "bias"),
    ),
    Function(
        "09.2",
        "fooling_loss",
        _fooling_probes,
        _fooling_loss,
        _FOOLING_SWITCHES,
        grads=("student_logits", "weight", "bias"),
    ),
    Function("09.3", "attack_step", _step_probes, _attack_step, _STEP_SWITCHES),
    Function(
        "09.4",
        "ard_loss",
        _ard_probes,
        _ard_loss,
        _ARD_SWITCHES,
        grads=("clean_logits", "attacked_logits", "teacher_logits"),
    ),
    Choice(
        "09.5",
        "answer_5",
        "d",
        {
            "a": "A forger that deals the teacher's answers to the wrong images is never told apart either.",
            "b": "Nothing was said about the images, and a forger with 10 % accuracy has the same cloud of answers.",
            "c": "An untrained judge cannot tell either, whatever the student is.",
            "d": "A perfect student, a forger and a blind judge look the same from here: measure the accuracy.",
        },
    ),
    Number(
        "09.6",
        "answer_6",
        12.0,
        "Ten for the attack, one for the attacked view, one for the clean view.",
        [
            (
                11.0,
                Switch(
                    "one of the two views that the loss looks at is not counted",
                    "On how many images does the loss itself need the student's answer?",
                    "10 + 2.",
                ),
            ),
            (
                10.0,
                Switch(
                    "the attack is counted, the step of training is not",
                    "What happens once the attack is done?",
                    "10 + 2.",
                ),
            ),
            (
                13.0,
                Switch(
                    "the teacher is counted: its answers on clean images are kept, and it has no backward pass",
                    "Whose passes are asked for?",
                    "10 + 2.",
                ),
            ),
        ],
    ),
    Number(
        "09.7",
        "answer_7",
        700.0,
        "4,200 passes buy 4,200 / 6 steps of adversarial training.",
        [
            (
                600.0,
                Switch(
                    "these are equal steps, not equal passes",
                    "How many passes does a step of adversarial training take, with five attack steps?",
                    "600 · 7 / 6.",
                ),
            ),
            (
                840.0,
                Switch(
                    "the step of training itself is not counted: an attack of five steps makes six passes",
                    "What happens once the attack is done?",
                    "600 · 7 / 6.",
                ),
            ),
            (
                514.3,
                Switch(
                    "the ratio is upside down",
                    "Whose step is the cheaper one?",
                    "600 · 7 / 6.",
                ),
            ),
        ],
    ),
    Choice(
        "09.8",
        "answer_8",
        "b",
        {
            "a": "Its answers on clean images say next to nothing about the ball around them.",
            "b": "What makes a student robust is the attack in its own training; clean soft targets do not replace it.",
            "c": "A higher T tells more about the other classes, still on clean images only.",
            "d": "The clean accuracy is what copying does give.",
        },
    ),
    Choice(
        "09.9",
        "answer_9",
        "a",
        {
            "a": "A search without gradients has less to go by. If it wins, the gradient was hidden or the loss flat.",
            "b": "This is as it should be: a random direction is no attack.",
            "c": "This is as it should be: more steps find a little more.",
            "d": "This is as it should be: the same images were made for another network.",
        },
    ),
    Choice(
        "09.10",
        "answer_10",
        "c",
        {
            "a": "Weight decay of its own choice is what the rival lacked.",
            "b": "The seeds are paired and many; the comparison itself is unfair.",
            "c": "Every arm gets the same tries; else the tuning is measured, not the method.",
            "d": "Another teacher does not make the control fairer.",
        },
    ),
    Choice(
        "09.11",
        "answer_11",
        "d",
        {
            "a": "Adding the labels doubles the sum; it does not soften anything.",
            "b": "The one-hot part stays as it is at any T of the soft part.",
            "c": "With weights that sum to 1 the loss is an average; here it is a sum.",
            "d": "Cross-entropy is linear in its target: CE(p + y) = CE(p) + CE(y), twice the mean of both.",
        },
    ),
]
