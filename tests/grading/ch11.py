"""Exercise 11: unusual right answers, and every named mistake as an edit of the public solution."""

import torch


def _effects_by_contrast(scores):  # as three contrasts of the four cells
    a = scores.double().mean(0).flatten()
    contrasts = torch.tensor([[-0.5, -0.5, 0.5, 0.5], [-0.5, 0.5, -0.5, 0.5], [1, -1, -1, 1]], dtype=torch.double)
    return contrasts @ a


def _effects_by_seed(scores):
    rows = []
    for one in scores.tolist():
        (none, adversary), (stages, both) = one
        rows.append([
            (stages - none + both - adversary) / 2,
            (adversary - none + both - stages) / 2,
            both - adversary - stages + none,
        ])  # fmt: skip
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _passes_loop(steps, attack_steps, answers):
    return sum(float(n) * (float(k) + float(m)) for n, k, m in zip(steps, attack_steps, answers, strict=True))


def _second_loop(budget, first_steps, first_passes, second_passes):
    spent, steps = first_steps * first_passes, 0
    while spent + second_passes <= budget:
        spent, steps = spent + second_passes, steps + 1
    return steps


UNUSUAL = {
    "11.1": [
        _effects_by_contrast,
        _effects_by_seed,
        lambda s: torch.stack([
            (s[:, 1] - s[:, 0]).mean(), (s[..., 1] - s[..., 0]).mean(),
            (s[:, 1, 1] + s[:, 0, 0] - s[:, 0, 1] - s[:, 1, 0]).mean(),
        ]),
    ],
    "11.2": [
        _passes_loop,
        lambda steps, attack_steps, answers: steps.double() @ (attack_steps + answers).double(),
        lambda steps, attack_steps, answers: steps @ attack_steps + steps @ answers,
    ],
    "11.3": [
        _second_loop,
        lambda budget, n, a, b: int((budget - n * a) / b),
        lambda budget, n, a, b: divmod(budget - n * a, b)[0],
    ],
}  # fmt: skip

_FIRST_TWO = [
    ("stages = a[1].mean() - a[0].mean()", "stages = a[1, 0] - a[0, 0]"),
    ("adversary = a[:, 1].mean() - a[:, 0].mean()", "adversary = a[0, 1] - a[0, 0]"),
]

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "11.1": {
        "turned": [("scores.mean(0)", "scores.mean(0).T")],
        "simple": _FIRST_TWO,
        "summed": [(".mean() - a[0].mean()", ".sum() - a[0].sum()"),
                   (".mean() - a[:, 0].mean()", ".sum() - a[:, 0].sum()")],
        "both_effect": [("(a[1, 1] - a[0, 1]) - (a[1, 0] - a[0, 0])", "a[1, 1] - a[0, 0]")],
        "other_way": [("(a[1, 1] - a[0, 1]) - (a[1, 0] - a[0, 0])", "(a[1, 0] - a[0, 0]) - (a[1, 1] - a[0, 1])")],
        "halved": [("adversary, interaction])", "adversary, interaction / 2])")],
        "one_seed": [("scores.mean(0)", "scores[0]")],
    },
    "11.2": {
        "no_attack": [("(attack_steps + answers)", "answers")],
        "no_answers": [("(attack_steps + answers)", "attack_steps")],
        "one_answer": [("+ answers", "+ 1")],
        "multiplied": [("attack_steps + answers", "attack_steps * answers")],
        "sums_multiplied": [("(steps * (attack_steps + answers)).sum()",
                             "steps.sum() * (attack_steps + answers).sum()")],
        "last": [(".sum()", "[-1]")],
        "mean": [(".sum()", ".mean()")],
    },
    "11.3": {
        "first_is_free": [(" - first_steps * first_passes", "")],
        "steps_not_passes": [("first_steps * first_passes", "first_steps")],
        "in_passes": [(" // second_passes", "")],
        "total_steps": [("left // second_passes", "left // second_passes + first_steps")],
        "up": [("left // second_passes", "-(-left // second_passes)")],
        "fraction": [("//", "/")],
    },
}  # fmt: skip
