"""Logit standardisation: the temperature counted in standard deviations of each example's logits."""

from torch import Tensor

from kdcourse.softmax import check_logits, full_precision


def standardized(logits: Tensor) -> Tensor:
    """(z - mean) / standard deviation, over the classes of each example: [..., classes], of the same shape.

    soft_loss(standardized(student_logits), standardized(teacher_logits), temperature) is the method: the student has to
    match the shape of the teacher's logits and no longer their scale, so its own logits are not calibrated by it.
    The deviation is that of a sample (n - 1). Equal logits give zeros.
    Source: Sun et al. (2024), algorithm 1, arXiv:2403.01427.
    """
    check_logits("standardized", logits=logits)
    if logits.shape[-1] < 2:
        raise ValueError(f"standardized: at least 2 classes are needed, got {logits.shape[-1]}")
    centred = full_precision(logits)
    centred = centred - centred.mean(-1, keepdim=True)
    # Inside the root: a square root has no gradient at 0.
    variance = centred.square().sum(-1, keepdim=True) / (logits.shape[-1] - 1)
    return centred / (variance + 1e-14).sqrt()
