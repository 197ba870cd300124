"""How good, how honest and how faithful a classifier is.

Everything takes logits [..., batch, classes] and averages over the batch: the result is [...], so
a batch of runs gives one number for each run. Log-probabilities are logits too: an ensemble's mean
probabilities enter as their logarithm.
"""

import torch
from torch import Tensor

from kdcourse.losses import hard_loss, soft_loss
from kdcourse.softmax import check_logits, tempered_softmax


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of examples whose largest logit is at the label; of equal logits the first counts."""
    _check_batch("accuracy", logits, targets)
    return (logits.argmax(-1) == targets).float().mean(-1)


def nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels, in nats."""
    _check_batch("nll", logits, targets)
    return hard_loss(logits, targets).mean(-1)


def brier(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of Σ_k (q_k - y_k)² over all classes, from 0 to 2.

    Source: Brier (1950), in its original form; some libraries halve it or average over classes.
    """
    _check_batch("brier", logits, targets)
    probs = tempered_softmax(logits)
    at_label = probs.gather(-1, targets.broadcast_to(probs.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return (probs.square().sum(-1) - 2 * at_label + 1).mean(-1)


def reliability_bins(logits: Tensor, targets: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Mean confidence, accuracy and number of examples in each bin of confidence: [..., bins].

    Bin b holds confidences (largest probabilities) in [b/bins, (b+1)/bins), the last one 1 as well.
    Confidence and accuracy of an empty bin are 0.
    Source: Guo et al. (2017), section 2, arXiv:1706.04599.
    """
    _check_batch("reliability_bins", logits, targets)
    if bins < 1:
        raise ValueError(f"reliability_bins: bins must be at least 1, got {bins!r}")
    confidence, predicted = tempered_softmax(logits).max(-1)
    edges = torch.linspace(0, 1, bins + 1, device=logits.device)[1:-1]
    # Edges between bins only, so that rounding can never send a confidence past the last bin.
    bin_of = torch.bucketize(confidence.detach(), edges, right=True)
    empty = confidence.new_zeros(*confidence.shape[:-1], bins)
    count = empty.scatter_add(-1, bin_of, torch.ones_like(confidence))
    right = (predicted == targets).to(confidence.dtype)
    share = count.clamp_min(1)
    mean_confidence = empty.scatter_add(-1, bin_of, confidence) / share
    return mean_confidence, empty.scatter_add(-1, bin_of, right) / share, count


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = 15) -> Tensor:
    """ECE: mean gap between confidence and accuracy over `bins` equal-width bins, from 0 to 1.

    Source: Guo et al. (2017), equation 3, arXiv:1706.04599.
    """
    confidence, right, count = reliability_bins(logits, targets, bins)
    return ((confidence - right).abs() * count).sum(-1) / count.sum(-1)


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Share of examples on which student and teacher choose the same class.

    Source: Stanton et al. (2021), section 3, arXiv:2106.05945.
    """
    check_logits("agreement", student_logits=student_logits, teacher_logits=teacher_logits)
    return (student_logits.argmax(-1) == teacher_logits.argmax(-1)).float().mean(-1)


def kl_to_teacher(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean KL(teacher ‖ student) at T = 1, in nats: how far the student is from a copy."""
    return soft_loss(student_logits, teacher_logits, 1.0).mean(-1)


def scores(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> dict[str, Tensor]:
    """All metrics by their column name; fidelity (agreement, kl) where there is a teacher."""
    columns = {
        "accuracy": accuracy(logits, targets),
        "nll": nll(logits, targets),
        "brier": brier(logits, targets),
        "ece": expected_calibration_error(logits, targets),
    }
    if teacher_logits is not None:
        columns["agreement"] = agreement(logits, teacher_logits)
        columns["kl"] = kl_to_teacher(logits, teacher_logits)
    return columns


def _check_batch(function: str, logits: Tensor, targets: Tensor) -> None:
    check_logits(function, logits=logits)
    if logits.ndim < 2 or targets.ndim < 1 or targets.shape[-1] != logits.shape[-2]:
        raise ValueError(
            f"{function}: logits [..., batch, classes] and targets [..., batch] must agree, got "
            f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        )
