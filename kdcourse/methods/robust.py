"""Losses for students that are trained on attacked images: whose answer do they learn there, and to what?

`clean_logits` are the student's on the images as they are, `attacked_logits` its own on images that an attack on the
student has moved (`methods.attacks`). The teacher always sees the clean image. Logits are [..., classes] and the result
is [...], in nats. Adversarial training itself needs no function: it is `hard_loss(attacked_logits, targets)`.
"""

import math

from torch import Tensor

from kdcourse.losses import hard_loss, soft_loss
from kdcourse.softmax import check_logits, tempered_log_softmax


def ard_loss(
    clean_logits: Tensor,
    attacked_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor,
    soft_weight: float,
) -> Tensor:
    """soft_weight · T² KL(teacher, clean ‖ student, attacked) + (1 - soft_weight) · hard loss of the student, clean.

    The attack raises the student's cross-entropy with the labels.
    Source: Goldblum et al. (2020), arXiv:1905.09747.
    """
    if not 0 <= soft_weight <= 1:
        raise ValueError(f"ard_loss: soft_weight must lie between 0 and 1, got {soft_weight!r}")
    soft = soft_loss(attacked_logits, teacher_logits, temperature)
    return soft_weight * soft + (1 - soft_weight) * hard_loss(clean_logits, targets)


def rslad_loss(
    clean_logits: Tensor, attacked_logits: Tensor, teacher_logits: Tensor, *, attacked_weight: float = 5 / 6
) -> Tensor:
    """attacked_weight · KL(p ‖ attacked) + (1 - attacked_weight) · KL(p ‖ clean): the teacher's p for both views.

    p is its clean answer at T = 1. No label appears. The attack raises KL(p ‖ student), with the same p.
    Source: Zi et al. (2021), arXiv:2108.07969; the weight 5/6 is the authors'.
    """
    if not 0 <= attacked_weight <= 1:
        raise ValueError(f"rslad_loss: attacked_weight must lie between 0 and 1, got {attacked_weight!r}")
    attacked, clean = (soft_loss(logits, teacher_logits, 1.0) for logits in (attacked_logits, clean_logits))
    return attacked_weight * attacked + (1 - attacked_weight) * clean


def trades_loss(clean_logits: Tensor, attacked_logits: Tensor, targets: Tensor, *, weight: float) -> Tensor:
    """Hard loss on clean + weight · KL(student on clean ‖ student on attacked): the rival without a teacher.

    Gradients reach both answers. The attack raises the same KL; it must begin off the image, where that is 0 and flat.
    Source: Zhang et al. (2019), algorithm 1, arXiv:1901.08573; `weight` is their 1/λ.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"trades_loss: weight must be finite and not negative, got {weight!r}")
    check_logits("trades_loss", clean_logits=clean_logits, attacked_logits=attacked_logits)
    log_p, log_q = tempered_log_softmax(clean_logits), tempered_log_softmax(attacked_logits)
    return hard_loss(clean_logits, targets) + weight * (log_p.exp() * (log_p - log_q)).sum(-1)
