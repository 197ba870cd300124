"""Exercise 01, why distil: what the words mean, and what would count as evidence."""

import torch
from torch import Generator, Tensor

from ..spec import Choice, Function, Number, Probe, Question, Switch


def _gap_probes(generator: Generator) -> list[Probe]:
    fixed = [(80.0, 86.0, 90.0), (0.5, 0.75, 0.875)]
    probes = [Probe({"alone": a, "distilled": d, "teacher": t}) for a, d, t in fixed]
    for _ in range(4):
        base, gain, rest = (torch.rand(3, generator=generator) * torch.tensor([40, 9, 20])).tolist()
        values = [round(v, 2) for v in (40 + base, 41 + base + gain, 43 + base + gain + rest)]
        probes.append(Probe(dict(zip(("alone", "distilled", "teacher"), values, strict=True))))
    # a student may beat its teacher, and distillation may do harm: neither is a reason to clip
    probes.append(Probe({"alone": 88.0, "distilled": 92.0, "teacher": 91.0}))
    probes.append(Probe({"alone": 88.0, "distilled": 86.5, "teacher": 91.0}))
    return probes


def _gap_closed(alone: float, distilled: float, teacher: float, on: frozenset[str] = frozenset()) -> Tensor:
    gain = teacher - distilled if "what_is_left" in on else distilled - alone
    gap = teacher - alone
    if "ratio_to_teacher" in on:
        gain, gap = distilled, teacher
    if "no_baseline" in on:
        gain, gap = distilled - teacher, teacher
    if "per_baseline" in on:
        gap = alone
    if "points" in on:
        gap = 1.0
    share = gain / gap
    if "clipped" in on:
        share = min(max(share, 0.0), 1.0)
    return torch.tensor(100 * share if "percent" in on else share, dtype=torch.float64)


_PLACE = "The gap runs from the student alone to the teacher; the gain starts at the same place."

QUESTIONS: list[Question] = [
    Choice(
        "01.1",
        "answer_1",
        "c",
        {
            "a": ("Copying weights needs two networks of one shape. A student is trained, usually with another."),
            "b": ("That is pruning: it shrinks the network at hand. Distillation trains a network that you chose."),
            "c": ("A student learns to reproduce a function of the teacher, most often its output distribution."),
            "d": ("Averaging teachers gives an ensemble, which is larger. It may be the teacher of a distillation."),
        },
    ),
    Choice(
        "01.2",
        "answer_2",
        "a",
        {
            "a": ("You chose a smaller network. The loss changes what its weights learn, not how many there are."),
            "b": ("The loss has no say in the number of weights: the student has as many before as after."),
            "c": "The temperature divides logits during training. It removes no weight.",
            "d": ("The teacher is not cut down. It is as large afterwards as before, and is left at home."),
        },
    ),
    Choice(
        "01.3",
        "answer_3",
        "b",
        {
            "a": ("The teacher's logits are used while training. The trained student computes its own."),
            "b": ("It takes inputs and its own weights, at T = 1. Teacher, soft labels and T stay behind."),
            "c": ("T > 1 softens both sides while training. A T > 1 kept in use would only lower every confidence."),
            "d": ("Labels are needed to train and to measure. Predicting is what one does without them."),
        },
    ),
    Choice(
        "01.4",
        "answer_4",
        "d",
        {
            "a": ("A better score on its training data is what any student gets by training. It tells nothing new."),
            "b": ("A student can be near its teacher because the task is easy. Near says nothing about why."),
            "c": ("Another network is another cause. The two students may differ in their layers alone."),
            "d": ("Same network, data, budget and seeds, without the teacher: the teacher is all that differs."),
        },
    ),
    Choice(
        "01.5",
        "answer_5",
        "c",
        {
            "a": ("That is the hard label: what the data set says, whether or not the teacher agrees."),
            "b": ("That is the teacher's argmax, a pseudo-label. It may be wrong, and it has lost the rest."),
            "c": ("A probability for each class, the wrong ones included: that remainder is what is new."),
            "d": ("Smoothing gives every wrong class the same share. The teacher gives them different ones."),
        },
    ),
    Function(
        "01.6",
        "gap_closed",
        _gap_probes,
        _gap_closed,
        {
            "what_is_left": Switch(
                "this is the share of the gap that is still open, teacher minus distilled",
                "If distillation changed nothing, which number should come out, and which one does?",
                "Count from the student alone upwards.",
                ("ratio_to_teacher", "no_baseline"),
            ),
            "ratio_to_teacher": Switch(
                "this is the distilled student's share of the teacher's score, not of the gap",
                "What does your formula say of a student that gained nothing from its teacher?",
                _PLACE,
                ("no_baseline", "per_baseline", "points"),
            ),
            "no_baseline": Switch(
                "the gain is measured from the teacher; the student alone is not in it",
                "Where in your formula is the student that had no teacher?",
                _PLACE,
                ("per_baseline", "points"),
            ),
            "per_baseline": Switch(
                "the gain is divided by the score of the student alone, not by the gap",
                "How large is your number when the student has reached its teacher?",
                "Divide by the distance there was to go.",
                ("points",),
            ),
            "points": Switch(
                "this is the gain in points; it is not divided by the gap",
                "Is a gain of 2 points much? What would it have to be compared with?",
                "Divide by the distance there was to go.",
                ("clipped",),
            ),
            "clipped": Switch(
                "the share is cut to between 0 and 1",
                "What should a reader learn about a student that beats its teacher, or that was harmed?",
                "Let it exceed 1, and let it be negative.",
                ("ratio_to_teacher", "no_baseline", "per_baseline"),
            ),
            "percent": Switch(
                "this is in percent; a fraction is asked for",
                "What number should come out when the whole gap is closed?",
                "Leave out the factor 100.",
            ),
        },
    ),
    Number(
        "01.7",
        "answer_7",
        10.0,
        "Parameters of one over the other: the loss and the temperature are not in it.",
        [
            (
                0.1,
                Switch(
                    "this is the inverse: the student over the teacher",
                    "Is a network that was made smaller compressed by more than 1, or by less?",
                    "Divide the larger by the smaller.",
                ),
            ),
            (
                0.9,
                Switch(
                    "this is the share of parameters that is gone, not the ratio",
                    "How many students weigh as much as one teacher?",
                    "Divide the larger by the smaller.",
                ),
            ),
            (
                9.0,
                Switch(
                    "this is how many times larger the teacher is in excess of the student",
                    "How many students weigh as much as one teacher?",
                    "Divide, do not subtract first.",
                ),
            ),
            (
                2.5,
                Switch(
                    "the temperature is in it, and it has no weights",
                    "How many weights does a temperature of 4 remove?",
                    "Divide 120,000 by 12,000.",
                ),
            ),
        ],
    ),
]
