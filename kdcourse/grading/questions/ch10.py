"""Exercise 10, sequential distillation: the loss of a stage, dead units, the cost of a chain, reading broken seeds."""

import torch
from torch import Generator, Tensor

from ..spec import Choice, Function, Number, Order, Probe, Question, Switch


def _stage_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_hidden": torch.tensor([[1.0, 2.0]]),
        "weight": torch.tensor([[1.0, 0.0], [0.5, -1.0]]),
        "bias": torch.tensor([0.5, -0.5]),
        "teacher_hidden": torch.tensor([[1.0, 3.0]]),
        "student_logits": torch.tensor([[1.0, 0.0, -1.0]]),
        "teacher_logits": torch.tensor([[2.0, 1.5, -1.0]]),
        "temperature": 1.0,
        "stage": 1,
    }
    probes = [Probe(small), Probe(small | {"stage": 2}), Probe(small | {"stage": 2, "temperature": 4.0})]
    shapes = ((4, 3, 5, 2.0), (5, 6, 4, 0.5), (3, 4, 7, 8.0))
    for batch, units, classes, temperature in shapes:
        values = {
            "student_hidden": torch.randn(batch, units, generator=generator),
            "weight": torch.randn(units, units, generator=generator),
            "bias": torch.randn(units, generator=generator),
            "teacher_hidden": 1 + 2 * torch.randn(batch, units, generator=generator),
            "student_logits": 2 * torch.randn(batch, classes, generator=generator),
            "teacher_logits": 2 * torch.randn(batch, classes, generator=generator),
            "temperature": temperature,
        }
        probes += [Probe(values | {"stage": stage}) for stage in (1, 2)]
    return probes


def _stage_loss(
    student_hidden: Tensor, weight: Tensor, bias: Tensor, teacher_hidden: Tensor, student_logits: Tensor,
    teacher_logits: Tensor, temperature: float, stage: int, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    T = temperature
    hidden = teacher_hidden if "hint_gradient" in on else teacher_hidden.detach()
    logits = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    guess = student_hidden if "no_regressor" in on else student_hidden @ weight.T + bias
    terms = (guess - hidden) ** 2
    hint = terms.sum(-1) if "sum" in on else terms.mean(0) if "over_batch" in on else terms.mean(-1)
    log_p, log_q = (z.div(T).log_softmax(-1) for z in (logits, student_logits))
    soft = (log_p.exp() * (log_p - log_q)).sum(-1) * (1 if "no_T2" in on else T**2)
    first = stage == (2 if "swapped" in on else 1)
    if "same_stages" in on or ("answers_early" in on and not first) or ("hint_stays" not in on and not first):
        return soft
    if not first:
        return hint + soft
    return hint + soft if "answers_early" in on else hint


_STAGES = "Stage 1 returns the hint and nothing else, stage 2 the soft loss and nothing else."
_HINT = "F.linear(student_hidden, weight, bias), minus teacher_hidden.detach(), squared, mean(-1)."

_STAGE_SWITCHES = {
    "same_stages": Switch(
        "the stage is not looked at: both stages have the soft loss",
        "What does your function do with `stage`?",
        _STAGES,
        ("swapped", "hint_stays", "answers_early", "no_regressor", "hint_gradient", "sum", "over_batch"),
    ),
    "swapped": Switch(
        "the two stages are exchanged: answers first, the hint second",
        "With which loss does your student end?",
        _STAGES,
        ("hint_stays", "answers_early"),
    ),
    "hint_stays": Switch(
        "the hint goes on in stage 2, beside the soft loss",
        "Does your stage 2 move the regressor?",
        _STAGES,
        ("over_batch",),
    ),
    "answers_early": Switch(
        "the soft loss is already there in stage 1, beside the hint",
        "Does your stage 1 move the student's logits?",
        _STAGES,
        ("over_batch", "hint_stays"),
    ),
    "no_regressor": Switch(
        "the regressor is forgotten: the student's layer itself is compared",
        "Which number of yours changes when `weight` does?",
        _HINT,
    ),
    "hint_gradient": Switch(
        "in stage 1 gradients flow into the teacher",
        "Which of the two networks is finished?",
        _HINT,
    ),
    "teacher_gradient": Switch(
        "in stage 2 gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_logits.detach().",
    ),
    "sum": Switch(
        "the teacher's units are summed, not averaged",
        "How does your hint change when the layer is ten times as wide?",
        _HINT,
        ("over_batch",),
    ),
    "over_batch": Switch(
        "the hint is averaged over the examples, not over the teacher's units",
        "What shape comes out of [batch, units], if the caller is to weigh examples?",
        _HINT,
    ),
    "no_T2": Switch(
        "the factor T² is missing from the soft loss",
        "What happens to the gradient of your stage 2 when T doubles?",
        "temperature**2 times the divergence.",
    ),
}  # fmt: skip


def _dead_probes(generator: Generator) -> list[Probe]:
    """Layers with several kinds of silence, in numbers that tell every way to count apart."""
    small = torch.tensor([[1.0, -1.0, 0.0, 2.0], [-2.0, -1.0, -3.0, 1.0], [1.0, -0.5, -1.0, -4.0]])
    rows = ([1.0, 2.0, -1.0], [-1.0, -2.0, -3.0], [0.0, 0.0, 0.0], [-1.0, 0.0, -2.0], [-2.0, -0.5, -1.0])
    blank = torch.tensor(rows)  # images of which nothing is seen
    probes = [Probe({"before": small}), Probe({"before": blank})]
    # units: below 0, at or below 0, at 0; mostly silent, at 0 once, never silent
    for images, kinds in (
        (6, (2, 1, 1, 3, 2, 1)),
        (4, (1, 3, 2, 4, 0, 0)),
        (9, (3, 2, 1, 1, 4, 2)),
        (5, (0, 2, 3, 5, 1, 3)),
    ):
        size = 0.5 + torch.rand(images, sum(kinds), generator=generator)
        below, at_most, at, mostly, once, _ = torch.arange(sum(kinds)).split(kinds)
        before = size.clone()
        before[:, below] *= -1
        before[:, at_most] *= -1
        before[0, at_most] = 0
        before[:, at] = 0
        before[1:, mostly] *= -1
        before[1, once] = 0
        probes.append(Probe({"before": before[:, torch.randperm(sum(kinds), generator=generator)]}))
    return probes


def _dead_share(before: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    silent = before == 0 if "exactly_zero" in on else before < 0 if "zero_speaks" in on else before <= 0
    axis = 1 if "images" in on else 0
    if "every_zero" in on:
        flags = silent.double()
    elif "sometimes" in on:
        flags = silent.any(axis).double()
    elif "mean" in on:
        flags = (before.mean(axis) <= 0).double()
    else:
        flags = silent.all(axis).double()
    share = flags.sum() if "count" in on else flags.mean()
    return (flags.numel() if "count" in on else 1) - share if "alive" in on else share


_DEAD = "(before <= 0).all(0), then the mean."

_DEAD_SWITCHES = {
    "every_zero": Switch(
        "this is the share of silent activations; a unit is dead only if it is silent on every image",
        "A unit speaks on one image in ten. Is it dead? What does it add to your number?",
        _DEAD,
        ("sometimes", "mean", "images"),
    ),
    "sometimes": Switch(
        "a unit counts as dead if it is silent on one image",
        "What would a unit have to do, to be alive by your count?",
        _DEAD,
        ("mean",),
    ),
    "mean": Switch(
        "the mean over the images is compared with 0; one image may be loud",
        "A unit computes 5 on one image and -1 on nine. Does it get a gradient?",
        _DEAD,
        ("exactly_zero", "zero_speaks"),
    ),
    "images": Switch(
        "the axes are exchanged: these are images on which no unit speaks",
        "How many flags do you average, with 6 images and 5 units?",
        _DEAD,
    ),
    "exactly_zero": Switch(
        "0 is looked for before the ReLU; there a silent unit is below 0",
        "What does a ReLU make of -1?",
        _DEAD,
        ("zero_speaks",),
    ),
    "zero_speaks": Switch(
        "a value of exactly 0 counts as speaking; a ReLU lets nothing of it through",
        "What comes out of the ReLU for 0?",
        _DEAD,
    ),
    "alive": Switch(
        "this is the share that lives",
        "What does your function say of a layer in which every unit speaks?",
        _DEAD,
    ),
    "count": Switch(
        "this is a number of units; the share is asked for",
        "Is your result ever above 1?",
        "Mean in the place of sum.",
    ),
}  # fmt: skip


def _fair_probes(generator: Generator) -> list[Probe]:
    probes = [
        Probe({"steps": torch.tensor([600.0, 600.0]), "costs": torch.tensor([2.0, 1.0])}),
        # a small assistant: the student is the last, not the cheapest
        Probe({"steps": torch.tensor([500.0, 300.0, 700.0]), "costs": torch.tensor([9.0, 2.0, 4.0])}),
    ]
    for networks in (3, 2, 4, 5):
        steps = 100.0 * torch.randint(2, 13, (networks,), generator=generator)
        costs = 1000.0 * torch.randint(2, 40, (networks,), generator=generator).sort(descending=True).values
        costs = costs + 500 * torch.arange(networks, 0, -1)  # no two alike
        probes.append(Probe({"steps": steps, "costs": costs}))
    return probes


def _fair_steps(steps: Tensor, costs: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    if "students_forgotten" in on:
        steps = torch.cat([steps[:-1], steps[-1:] * 0])
    if "steps_only" in on:
        return steps.sum()
    unit = costs[0] if "first_cost" in on else costs.mean() if "mean_cost" in on else costs[-1]
    whole = (steps.sum() * costs.sum()) if "sums_multiplied" in on else (steps * costs).sum()
    return whole if "multiplications" in on else whole / unit


_FAIR = "(steps * costs).sum() / costs[-1]."

_FAIR_SWITCHES = {
    "steps_only": Switch(
        "the steps are added as they are; an assistant's step costs more",
        "What does your answer do when the assistant becomes ten times as large?",
        _FAIR,
        ("first_cost", "mean_cost", "sums_multiplied", "multiplications"),
    ),
    "students_forgotten": Switch(
        "the student's own steps in the chain are left out",
        "A chain of the student alone: how many steps are fair?",
        _FAIR,
    ),
    "first_cost": Switch(
        "the whole is divided by the cost of the first network's step",
        "Who is to take the steps that you count?",
        _FAIR,
        ("mean_cost", "multiplications"),
    ),
    "mean_cost": Switch(
        "the whole is divided by the mean cost of a step",
        "Who is to take the steps that you count?",
        _FAIR,
        ("multiplications",),
    ),
    "sums_multiplied": Switch(
        "all steps times all costs: each network pays for the others",
        "Two networks, one step each, of 3 and 1 multiplications. How many are that?",
        _FAIR,
    ),
    "multiplications": Switch(
        "these are multiplications; steps of the student are asked for",
        "In which unit is your answer?",
        _FAIR,
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function(
        "10.1",
        "stage_loss",
        _stage_probes,
        _stage_loss,
        _STAGE_SWITCHES,
        grads=("student_hidden", "weight", "bias", "teacher_hidden", "student_logits", "teacher_logits"),
    ),
    Function("10.2", "dead_share", _dead_probes, _dead_share, _DEAD_SWITCHES),
    Function("10.3", "fair_steps", _fair_probes, _fair_steps, _FAIR_SWITCHES),
    Choice(
        "10.4",
        "answer_4",
        "d",
        {
            "a": "The mean mixes four sound seeds with two broken ones; no student loses 18 points.",
            "b": "The median hides that every third run is ruined, which whoever uses the method will meet.",
            "c": "Dropping the seeds that went wrong makes a method look sound that is not.",
            "d": "Two kinds of outcome mean a defect. Its cause comes first; dead units are one.",
        },
    ),
    Number(
        "10.5",
        "answer_5",
        1.6,
        "(64·16 + 16·16 + 16·64) / (64·16 + 16·16 + 16·10) = 2304 / 1440: the head rests, the regressor works.",
        [
            (
                2464 / 1440,
                Switch(
                    "the head is counted in the hint stage, where no logits are computed",
                    "Which layers does the hint need?",
                    "2304 / 1440.",
                ),
            ),
            (
                1024 / 1440,
                Switch(
                    "this is the regressor alone; the student's body works as well",
                    "Through what does an image go before it meets the regressor?",
                    "2304 / 1440.",
                ),
            ),
            (
                1440 / 2304,
                Switch(
                    "the ratio is upside down",
                    "Which of the two steps is dearer?",
                    "2304 / 1440.",
                ),
            ),
        ],
    ),
    Choice(
        "10.6",
        "answer_6",
        "b",
        {
            "a": "Features enter no loss here, low or high.",
            "b": "The loss is the same throughout, so the restarts are the only treatment. Compare with them.",
            "c": "The restarts of the schedule alone make other students.",
            "d": "The next stage goes on from the weights of the one before.",
        },
    ),
    Choice(
        "10.7",
        "answer_7",
        "c",
        {
            "a": "The gap in size is smaller, but the student sees answers and no sizes.",
            "b": "What the assistant does on test images the student never sees.",
            "c": "The student is shown nearly the same numbers, so it becomes nearly the same student.",
            "d": "At every T the two sets of soft targets are nearly the same.",
        },
    ),
    Order(
        "10.8",
        "answer_8",
        ("c", "d", "a", "b"),
        (
            "one look at the seeds says whether all students are a little worse or some are ruined",
            "the count says what to mend; a cure without it is a guess",
            "a comparison of a broken method says nothing about the method",
        ),
    ),
    Choice(
        "10.9",
        "answer_9",
        "c",
        {
            "a": "There is no softmax, so T only scales the error.",
            "b": "At every T the gradient of the squared error points the same way.",
            "c": "1/T² is a weight, and a weight on the only loss is divided out by Adam.",
            "d": "Adam's steps have the same length whatever the loss is multiplied by.",
        },
    ),
    Number(
        "10.10",
        "answer_10",
        1.0,
        "5 % of twenty. One surprising arm on such a page is what chance gives.",
        [
            (
                0.05,
                Switch("this is the share, not the number", "Of how many comparisons?", "0.05 × 20."),
            ),
            (
                0.0,
                Switch(
                    "a 95 % interval misses the truth in one of twenty cases, even where nothing is there",
                    "What do the other 5 % stand for?",
                    "0.05 × 20.",
                ),
            ),
            (
                19.0,
                Switch("this is how many hold 0", "Which were asked for?", "0.05 × 20."),
            ),
        ],
    ),
]
