"""Exercise 11, adversarial and in stages: effects of a 2 x 2 table, and what a step costs."""

import torch
from torch import Generator, Tensor

from ..spec import Choice, Function, Number, Order, Probe, Question, Switch


def _effects_probes(generator: Generator) -> list[Probe]:
    probes = [Probe({"scores": torch.tensor([[[90.0, 92.0], [91.0, 97.0]]])})]
    for seeds in (3, 5, 2, 4):
        scores = 80 + 5 * torch.randn(seeds, 2, 2, generator=generator)
        probes.append(Probe({"scores": scores + torch.tensor([[0.0, 3.0], [-2.0, 9.0]])}))
    return probes


def _effects(scores: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    a = scores[0] if "one_seed" in on else scores.mean(0)
    if "turned" in on:
        a = a.T
    stages, adversary = a[1].mean() - a[0].mean(), a[:, 1].mean() - a[:, 0].mean()
    if "simple" in on:
        stages, adversary = a[1, 0] - a[0, 0], a[0, 1] - a[0, 0]
    if "summed" in on:
        stages, adversary = 2 * stages, 2 * adversary
    interaction = (a[1, 1] - a[0, 1]) - (a[1, 0] - a[0, 0])
    if "both_effect" in on:
        interaction = a[1, 1] - a[0, 0]
    if "other_way" in on:
        interaction = -interaction
    if "halved" in on:
        interaction = interaction / 2
    return torch.stack([stages, adversary, interaction])


_MAIN = "stages: mean of row 1 minus mean of row 0; adversary: the same of the columns."
_INTER = "(a[1, 1] - a[0, 1]) - (a[1, 0] - a[0, 0])."

_EFFECTS_SWITCHES = {
    "turned": Switch(
        "rows and columns are exchanged: the first number is the adversary's effect",
        "Which axis says whether stages were used?",
        _MAIN,
    ),
    "simple": Switch(
        "these are effects alone, against neither; a main effect averages over the other ingredient",
        "Which of the four arms do your first two numbers never look at?",
        _MAIN,
        ("summed",),
    ),
    "summed": Switch(
        "the two differences are added; their mean is asked for",
        "Stages add 2 points beside the adversary and 2 without. What is their main effect?",
        _MAIN,
    ),
    "both_effect": Switch(
        "the third number is the effect of both together, not the interaction",
        "Two ingredients add 1 point each and 2 together. How large is their interaction?",
        _INTER,
    ),
    "other_way": Switch(
        "the third number has the wrong sign",
        "Two ingredients add 1 point each and 5 together. Is your interaction positive?",
        _INTER,
    ),
    "halved": Switch(
        "the interaction is halved; the difference of the differences is asked for",
        "Stages add 2 points beside the adversary and 1 without. By how much more is that?",
        _INTER,
    ),
    "one_seed": Switch(
        "only the first seed is looked at",
        "What does your function do with the last seed?",
        "scores.mean(0) first.",
    ),
}  # fmt: skip


def _passes_probes(generator: Generator) -> list[Probe]:
    names = ("steps", "attack_steps", "answers")
    probes = [Probe(dict(zip(names, torch.tensor([[600.0], [5.0], [1.0]]), strict=True)))]
    for stages in (2, 3, 2, 4):
        steps = 100.0 * torch.randint(1, 9, (stages,), generator=generator)
        attack_steps = torch.randint(0, 11, (stages,), generator=generator).float()
        attack_steps[0] = 0
        answers = torch.randint(1, 4, (stages,), generator=generator).float()
        answers[-1] = 2
        probes.append(Probe({"steps": steps, "attack_steps": attack_steps, "answers": answers}))
    return probes


def _passes(steps: Tensor, attack_steps: Tensor, answers: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    if "no_answers" in on:
        answers = answers * 0
    if "one_answer" in on:
        answers = answers * 0 + 1
    if "no_attack" in on:
        attack_steps = attack_steps * 0
    each = attack_steps * answers if "multiplied" in on else attack_steps + answers
    if "sums_multiplied" in on:
        return steps.sum() * each.sum()
    whole = steps * each
    return whole[-1] if "last" in on else whole.mean() if "mean" in on else whole.sum()


_PASSES = "(steps * (attack_steps + answers)).sum()."

_PASSES_SWITCHES = {
    "no_attack": Switch(
        "the steps of the attack are not counted",
        "What does the sign of a gradient cost that you have not computed?",
        _PASSES,
        ("multiplied", "no_answers"),
    ),
    "no_answers": Switch(
        "only the attack is counted; the training itself passes through the student as well",
        "How many passes does a stage without an attack take?",
        _PASSES,
        ("multiplied", "one_answer"),
    ),
    "one_answer": Switch(
        "one answer a step is counted, however many the loss looks at",
        "RSLAD looks at the clean and at the attacked image. How many passes are that after the attack?",
        _PASSES,
    ),
    "multiplied": Switch(
        "attack and answers are multiplied; they come one after the other",
        "An attack of 5 steps, then 2 answers: 10 passes, or 7?",
        _PASSES,
        ("one_answer",),
    ),
    "sums_multiplied": Switch(
        "all steps times all costs: each stage pays for the others",
        "Two stages, one step each, of 1 and 6 passes. How many are that?",
        _PASSES,
        ("last", "mean"),
    ),
    "last": Switch(
        "only the last stage is counted",
        "What did the first stage cost?",
        _PASSES,
        ("mean",),
    ),
    "mean": Switch(
        "this is the mean of the stages; the whole is asked for",
        "Does a second stage make your number larger?",
        _PASSES,
    ),
}  # fmt: skip


def _second_probes(generator: Generator) -> list[Probe]:
    names = ("budget", "first_steps", "first_passes", "second_passes")
    probes = [Probe(dict(zip(names, (4200, 300, 1, 7), strict=True)))]
    for first_steps, first_passes, second_passes in ((9, 2, 6), (4, 3, 7), (5, 6, 8), (7, 4, 11)):
        first = first_steps * first_passes
        while True:  # whatever is forgotten, the division leaves a rest; small numbers, so that the rest is seen
            budget = first + torch.randint(20, 90, (1,), generator=generator).item()
            if all((budget - spent) % second_passes for spent in (0, first_steps, first)):
                break
        probes.append(Probe(dict(zip(names, (budget, first_steps, first_passes, second_passes), strict=True))))
    return probes


def _second_stage(
    budget: int, first_steps: int, first_passes: int, second_passes: int, on: frozenset[str] = frozenset()
) -> float:
    first = first_steps if "steps_not_passes" in on else first_steps * first_passes
    left = budget if "first_is_free" in on else budget - first
    steps = left if "in_passes" in on else left / second_passes
    if "total_steps" in on:
        steps = steps + first_steps
    if "fraction" in on or "in_passes" in on:
        return steps
    return -(-steps // 1) if "up" in on else steps // 1


_SECOND = "(budget - first_steps * first_passes) // second_passes."

_SECOND_SWITCHES = {
    "first_is_free": Switch(
        "the first stage is not paid for",
        "What does your answer do when the first stage becomes twice as long?",
        _SECOND,
        ("steps_not_passes",),
    ),
    "steps_not_passes": Switch(
        "the first stage is counted in steps; its passes are what it costs",
        "What does your answer do when a step of the first stage costs twice as much?",
        _SECOND,
    ),
    "in_passes": Switch(
        "these are the passes that are left, not steps",
        "In which unit is your answer?",
        _SECOND,
        ("up", "fraction"),
    ),
    "total_steps": Switch(
        "the steps of the first stage are added; those of the second are asked for",
        "What does your answer do when the whole budget goes to the first stage?",
        _SECOND,
    ),
    "up": Switch(
        "rounded up: the last step is beyond the budget",
        "Multiply your steps by their price and add the first stage. Is it more than the budget?",
        _SECOND,
        ("fraction",),
    ),
    "fraction": Switch(
        "a fraction of a step is asked of nobody: whole steps",
        "Can a training loop take your number of steps?",
        _SECOND,
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function("11.1", "effects", _effects_probes, _effects, _EFFECTS_SWITCHES),
    Function("11.2", "passes", _passes_probes, _passes, _PASSES_SWITCHES),
    Function("11.3", "second_stage", _second_probes, _second_stage, _SECOND_SWITCHES),
    Number(
        "11.4",
        "answer_4",
        3600.0,
        "600 × (5 + 1): five for the attack, one for the training.",
        [
            (
                3000.0,
                Switch("the training's own pass is missing", "What happens after the attack?", "600 × (5 + 1)."),
            ),
            (
                600.0,
                Switch(
                    "these are steps; the attack passes through the student as well",
                    "How does the attack get its gradients?",
                    "600 × (5 + 1).",
                ),
            ),
            (
                4200.0,
                Switch(
                    "that is RSLAD, which looks at the clean image too",
                    "How many answers does the loss of adversarial training look at?",
                    "600 × (5 + 1).",
                ),
            ),
        ],
    ),
    Number(
        "11.5",
        "answer_5",
        50.0,
        "4 + (6 - 4) + (48 - 4): each adds what it adds alone. What the fourth arm has beyond that is the interaction.",
        [
            (
                54.0,
                Switch(
                    "the two accuracies are added; what each adds to neither is meant",
                    "How much do stages add to neither?",
                    "4 + 2 + 44.",
                ),
            ),
            (
                58.0,
                Switch("all three are added", "How much do stages add to neither?", "4 + 2 + 44."),
            ),
            (
                48.0,
                Switch(
                    "that is the attack alone; the stages' two points are missing",
                    "How much do stages add to neither?",
                    "4 + 2 + 44.",
                ),
            ),
        ],
    ),
    Order(
        "11.6",
        "answer_6",
        ("b", "d", "c", "a"),
        (
            "600 passes against 1,800: both pay one a step",
            "1,800 against 300 + 300 × 7 = 2,400",
            "2,400 against 600 × 7 = 4,200, in the same number of steps",
        ),
    ),
    Choice(
        "11.7",
        "answer_7",
        "c",
        {
            "a": "They compare different pairs of students, and both can be true.",
            "b": "Passes are what the machine does; steps are what the program counts.",
            "c": "Cheap steps bought attacked steps. Without a control the hints get the credit of being cheap.",
            "d": "If hints helped, another clean stage in their place would have to do worse.",
        },
    ),
    Choice(
        "11.8",
        "answer_8",
        "b",
        {
            "a": "More passes change the comparison, not its explanation.",
            "b": "If labels gain as much from a clean start, the teacher had no part in it.",
            "c": "Clean training alone is not robust, with or without a teacher.",
            "d": "The teacher is the same in both arms.",
        },
    ),
    Choice(
        "11.9",
        "answer_9",
        "b",
        {
            "a": "A forger that deals out the teacher's answers at random fools the judge as well.",
            "b": "The student may be perfect, the judge blind, or untrained. Measure the student.",
            "c": "Chance is the judge's here, not the student's.",
            "d": "A judge says nothing about what came before.",
        },
    ),
    Choice(
        "11.10",
        "answer_10",
        "c",
        {
            "a": "The mean mixes sound students with a broken one.",
            "b": "More seeds measure more precisely how often it breaks, and not why.",
            "c": "One ruined seed among sound ones is a defect with a cause; a first stage that kills units is one.",
            "d": "The weight was the same in the four sound seeds.",
        },
    ),
]
