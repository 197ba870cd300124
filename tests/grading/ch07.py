"""Exercise 07: unusual right answers, and each mistake as an edit of the public solution."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.scale * gradient, None


def _reverse_hook(x, scale):
    y = x.clone()
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * -scale)
    return y


def _mended_by_example(student_logits, teacher_logits, targets, temperature, soft_weight):
    rows = []
    for z, v, y in zip(student_logits, teacher_logits.detach(), targets, strict=True):
        p, q = (v / temperature).softmax(0), (z / temperature).softmax(0)
        rows.append(soft_weight * temperature**2 * (p * (p / q).log()).sum() - (1 - soft_weight) * z.log_softmax(0)[y])
    return torch.stack(rows).mean()


def _mended_rescaled(s, t, y, T, w):  # keeps reduction="mean" and multiplies the classes back in
    with torch.no_grad():
        p = (t / T).softmax(1)
    soft = F.kl_div((s / T).log_softmax(1), p, reduction="none").mean() * s.shape[1] * T * T
    return torch.lerp(F.cross_entropy(s, y), soft, w)


def _mended_kdcourse(student_logits, teacher_logits, targets, temperature, soft_weight):
    from kdcourse.losses import distillation_loss

    return distillation_loss(
        student_logits, teacher_logits, targets, temperature=temperature, soft_weight=soft_weight
    ).mean()


def _weight_by_cases(step, start, end, hold, steps):
    if step <= hold:
        return start
    if step >= steps:
        return end
    return (start * (steps - step) + end * (step - hold)) / (steps - hold)


UNUSUAL: dict[str, list[Callable[..., Any]]] = {
    "07.2": [
        lambda x, scale: _Reverse.apply(x, scale),
        _reverse_hook,
        lambda x, scale: x.detach() - scale * (x - x.detach()),
    ],
    "07.3": [_mended_by_example, _mended_rescaled, _mended_kdcourse],
    "07.4": [
        _weight_by_cases,
        lambda step, start, end, hold, steps: float(np.interp(step, [hold, steps], [start, end])),
        lambda step, start, end, hold, steps: torch.lerp(
            torch.tensor(start), torch.tensor(end), torch.tensor((step - hold) / (steps - hold)).clamp(0, 1)
        ),
    ],
}

_SHARE = "share = (step - hold) / (steps - hold)"
PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "07.2": {
        "no_sign": [("-scale * x", "scale * x")],
        "no_scale": [("-scale * x", "-x")],
        "value_too": [("turned + (x - turned).detach()", "turned")],
        "value_shrunk": [("(x - turned).detach()", "x.detach()")],
        "identity": [(".detach()", "")],
        "cut": [("turned + (x - turned).detach()", "x.detach()")],
    },
    "07.3": {
        "mean": [('reduction="batchmean"', 'reduction="mean"')],
        "no_T2": [(" * temperature**2", "")],
        "sum": [('reduction="batchmean"', 'reduction="sum"')],
        "classes": [("* temperature**2", "* temperature**2 * p.shape[-1]")],
        "kl_reversed": [("F.kl_div(log_q, p,", "F.kl_div(p.log(), log_q.exp(),")],
        "hot_hard": [("cross_entropy(student_logits,", "cross_entropy(student_logits / temperature,")],
        "swapped": [("soft_weight * soft + (1 - soft_weight) * hard", "(1 - soft_weight) * soft + soft_weight * hard")],
        "teacher_gradient": [(".detach()", "")],
    },
    "07.4": {
        "no_hold": [(_SHARE, "share = step / steps")],
        "late": [(_SHARE, "share = (step - hold) / steps")],
        "early": [("max(0.0, share)", "share")],
        "goes_on": [("min(1.0, max(0.0, share))", "max(0.0, share)")],
        "jump": [(_SHARE, "share = 1.0 if step > hold else 0.0")],
        "one_more": [("(step - hold) /", "(step + 1 - hold) /")],
        "swapped": [("return start + (end - start)", "return end + (start - end)")],
        "hard_weight": [("return start + (end - start) * share", "return 1 - start - (end - start) * share")],
    },
}
