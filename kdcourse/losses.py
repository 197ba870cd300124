"""The losses of distillation: pure functions that return one number for each example.

Logits are [..., classes] and the result is [...]; nothing is averaged, the caller writes `.mean()`.
Left out: features, attention maps and anything else that is not an answer of the network.
"""

import math

import torch
from torch import Tensor

from kdcourse.softmax import (
    as_column,
    check_logits,
    check_temperature,
    few_first,
    full_precision,
    tempered_log_softmax,
)


def hard_loss(student_logits: Tensor, targets: Tensor) -> Tensor:
    """-log q_y: cross-entropy with the labels, for each example, in nats.

    Logits are [..., classes]; `targets` are class numbers (integers) and broadcast against [...].
    """
    check_logits("hard_loss", student_logits=student_logits)
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"hard_loss: targets must be class numbers (integers), got {targets.dtype}")
    log_q = tempered_log_softmax(student_logits)
    targets = targets.long().broadcast_to(log_q.shape[:-1])
    # Along the first axis, so that the gradient comes back with the classes first in memory, as log_q is.
    return -log_q.movedim(-1, 0).gather(0, targets.unsqueeze(0)).squeeze(0)


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """T² KL(p ‖ q) for each example, in nats; p is the teacher's softmax(v/T), q the student's.

    Logits are [..., classes] and broadcast; `temperature` is T > 0, a number or a tensor that
    broadcasts against [...]. No gradient reaches the teacher.
    The gradient for the student's logits is T (q - p): the factor T² keeps its size when T grows.
    Source: Hinton, Vinyals and Dean (2015), section 2, arXiv:1503.02531.

    >>> logits = torch.tensor([[2.0, 0.0, -2.0]])
    >>> soft_loss(logits, logits, temperature=4.0)  # a perfect copy costs nothing
    tensor([0.])
    """
    check_logits("soft_loss", student_logits=student_logits, teacher_logits=teacher_logits)
    check_temperature("soft_loss", temperature)
    teacher = few_first(full_precision(teacher_logits.detach()))
    student = few_first(full_precision(student_logits))
    log_p = tempered_log_softmax(teacher, temperature)
    log_q = tempered_log_softmax(student, temperature)
    # Written plainly, KL has the right gradient but loses the digits of a small value; so the
    # gradient is taken from the plain form (the difference below is 0), the value from the other.
    p, d = log_p.exp(), log_q - log_p
    minus_plain = (p * d).sum(-1)
    gap = (teacher - student.detach()) / as_column(temperature)
    value = _kl_divergence(p.detach(), log_q.detach().exp(), d.detach(), gap.detach())
    return temperature**2 * (value - (minus_plain - minus_plain.detach()))


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor,
    soft_weight: float | Tensor,
) -> Tensor:
    """soft_weight · soft_loss + (1 - soft_weight) · hard_loss, for each example: [...].

    `soft_weight` lies in [0, 1]: a number, or a tensor that broadcasts against [...].
    Source: Hinton, Vinyals and Dean (2015), section 2, arXiv:1503.02531.
    """
    if not isinstance(soft_weight, Tensor) and not 0 <= soft_weight <= 1:
        raise ValueError(f"distillation_loss: soft_weight must lie between 0 and 1, got {soft_weight!r}")
    check_logits("distillation_loss", student_logits=student_logits)
    student_logits = few_first(full_precision(student_logits))  # once for both terms
    soft = soft_loss(student_logits, teacher_logits, temperature)
    hard = hard_loss(student_logits, targets)
    return soft_weight * soft + (1 - soft_weight) * hard


def _kl_divergence(p: Tensor, q: Tensor, d: Tensor, gap: Tensor) -> Tensor:
    """KL(p ‖ q), never negative, to about three digits or better in float32 at any temperature.

    `gap` is the difference of the logits that p and q came from.
    Σ p (log p - log q) cancels where p and q nearly agree: in float32 its rounding error is larger
    than its value from T = 1000 on. Two sums of terms that are never negative stand in for it,
    both equal to it.
    """
    # Σ p (exp(d) - 1 - d) with d = log q - log p. Above 15, where exp(d) could overflow, p is next to
    # nothing, and q - p exp(15), positive nowhere else, puts back what the clamp takes.
    beyond = torch.sub(q, p, alpha=math.exp(15)).clamp(min=0)
    far = torch.addcmul(beyond, p, torch.expm1(d.clamp(max=15)) - d).sum(-1)

    # Where all gaps are small, d has lost its digits, but the gap has not. With g the gap centred
    # under p, KL = log Σ p exp(-g) = var(g) / 2 - Σ p g³ / 6, right to 1e-6 within ±0.002. The mean
    # is taken off once more in the variance, since p sums to 1 only to rounding.
    gap = gap - (p * gap).sum(-1, keepdim=True)
    first = p * gap
    second = first * gap
    near = ((second.sum(-1) - first.sum(-1) ** 2) / 2 - (second * gap).sum(-1) / 6).clamp(min=0)
    # One choice for a row: `torch.where` over all classes would cost more than all the rest.
    return torch.where(gap.abs().amax(-1) < 0.002, near, far)
