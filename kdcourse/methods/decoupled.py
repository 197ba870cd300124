"""Decoupled distillation: what the teacher says of the target, and what it says of all other classes, weighed apart."""

import torch
from torch import Tensor

from kdcourse.losses import soft_loss
from kdcourse.softmax import as_column, check_logits, check_temperature, full_precision


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor,
    target_weight: float | Tensor = 1.0,
    other_weight: float | Tensor = 8.0,
) -> Tensor:
    """target_weight · KL(target or not) + other_weight · KL(among the others), both times T²: [..., classes] -> [...].

    `targets` [...] are class numbers. The soft loss is the same with the weights 1 and 1 - p_target, so a sure teacher
    says nothing of the other classes there; here that part has a weight of its own. No gradient reaches the teacher.
    Source: Zhao et al. (2022), equation 7, arXiv:2203.08679, whose alpha and beta are the two weights.
    """
    check_logits("decoupled_loss", student_logits=student_logits, teacher_logits=teacher_logits)
    check_temperature("decoupled_loss", temperature)
    if student_logits.shape[-1] < 3:
        raise ValueError(f"decoupled_loss: at least 3 classes are needed, got {student_logits.shape[-1]}")
    student_pair, student_others = _apart(student_logits, targets, temperature)
    teacher_pair, teacher_others = _apart(teacher_logits.detach(), targets, temperature)
    target = soft_loss(student_pair, teacher_pair, temperature)
    others = soft_loss(student_others, teacher_others, temperature)
    return target_weight * target + other_weight * others


def _apart(logits: Tensor, targets: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """Logits of "the target" and "any other class" [..., 2], and those of the other classes [..., classes - 1]."""
    logits, target = full_precision(logits), targets.unsqueeze(-1)
    rank = torch.arange(logits.shape[-1] - 1, device=logits.device)
    others = logits.gather(-1, rank + (rank >= target))
    column = as_column(temperature)
    any_other = column * torch.logsumexp(others / column, -1, keepdim=True)
    return torch.cat([logits.gather(-1, target), any_other], -1), others
