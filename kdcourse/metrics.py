"""How good, how honest and how faithful a classifier is.

Everything takes logits [..., batch, classes] and averages over the batch: the result is [...], so
a batch of runs gives one number for each run. Log-probabilities are logits too: an ensemble's mean
probabilities enter as their logarithm.
"""

import math

import torch
from torch import Tensor

from kdcourse.losses import hard_loss, soft_loss
from kdcourse.softmax import check_logits, entropy, full_precision, tempered_log_softmax, tempered_softmax


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of examples whose largest logit is at the label; of equal logits the first counts."""
    check_batch("accuracy", logits, targets)
    return (logits.argmax(-1) == targets).float().mean(-1)


def nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels, in nats."""
    check_batch("nll", logits, targets)
    return hard_loss(logits, targets).mean(-1)


def brier(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of Σ_k (q_k - y_k)² over all classes, from 0 to 2.

    Source: Brier (1950), in its original form; some libraries halve it or average over classes.
    """
    check_batch("brier", logits, targets)
    probs = tempered_softmax(logits)
    at_label = probs.gather(-1, targets.broadcast_to(probs.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return (probs.square().sum(-1) - 2 * at_label + 1).mean(-1)


def reliability_bins(
    logits: Tensor, targets: Tensor, bins: int = 15, *, equal_mass: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean confidence, accuracy and number of examples in each bin of confidence: [..., bins].

    Bin b holds confidences (largest probabilities) in [b/bins, (b+1)/bins), the last one 1 as well.
    With `equal_mass` it holds the b-th part of the examples in order of confidence instead; equal
    confidences share a bin, so that the order of the examples does not matter.
    Confidence and accuracy of an empty bin are 0.
    Source: Guo et al. (2017), section 2, arXiv:1706.04599; equal mass: Nixon et al. (2019), arXiv:1904.01685.
    """
    check_batch("reliability_bins", logits, targets)
    confidence, predicted = tempered_softmax(logits).max(-1)
    bin_of = _bin_of("reliability_bins", confidence, bins, equal_mass)
    return _means(confidence, predicted == targets, bin_of, bins)


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = 15, *, equal_mass: bool = False) -> Tensor:
    """ECE: mean gap between confidence and accuracy over the `reliability_bins`, from 0 to 1.

    A perfectly calibrated model shows more than 0 on a finite sample: see `calibration_floor`.
    Source: Guo et al. (2017), equation 3, arXiv:1706.04599.
    """
    return _mean_gap(*reliability_bins(logits, targets, bins, equal_mass=equal_mass))


def classwise_calibration_error(logits: Tensor, targets: Tensor, bins: int = 15) -> Tensor:
    """Gap between a class's probability and how often it comes, in bins of that probability, averaged over classes.

    It also sees the probabilities of the classes that the model did not choose.
    Source: Nixon et al. (2019), their "static calibration error", arXiv:1904.01685.
    """
    check_batch("classwise_calibration_error", logits, targets)
    return _mean_gap(*_class_bins("classwise_calibration_error", logits, targets, bins)).mean(-1)


def calibration_floor(
    logits: Tensor, bins: int = 15, *, equal_mass: bool = False, draws: int = 100, seed: int = 0
) -> Tensor:
    """What ECE would be if the model were perfectly calibrated, for `draws` samples of this size: [draws, ...].

    Whether each example is right is drawn from the model's own confidence. The mean over draws is the
    finite-sample floor; an ECE within their range is no evidence of miscalibration.
    Source: Vaicenavicius et al. (2019), consistency resampling, arXiv:1902.06977.
    """
    check_logits("calibration_floor", logits=logits)
    confidence = tempered_softmax(logits).amax(-1)
    bin_of = _bin_of("calibration_floor", confidence, bins, equal_mass)
    generator = torch.Generator(confidence.device).manual_seed(seed)
    errors = []
    for _ in range(draws):
        drawn = torch.rand(confidence.shape, generator=generator, dtype=confidence.dtype, device=confidence.device)
        errors.append(_mean_gap(*_means(confidence, drawn < confidence, bin_of, bins)))
    return torch.stack(errors)


def brier_parts(logits: Tensor, targets: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reliability, resolution, uncertainty and the rest within bins; brier = rel - res + unc + within.

    Each class's probability is binned by itself, and the parts are summed over classes.
    reliability  squared gap between probability and frequency in a bin: less is better, recalibration lowers it
    resolution   how far the bins' frequencies lie from the class's share of all labels: more is better
    uncertainty  Σ_k share_k (1 - share_k) of the labels alone; no model changes it
    within       what one number for a whole bin leaves out; near 0 where bins are narrow
    Source: Murphy (1973); the part within bins: Stephenson, Coelho and Jolliffe (2008).
    """
    check_batch("brier_parts", logits, targets)
    forecast, frequency, count = _class_bins("brier_parts", logits, targets, bins)
    weight = count / count.sum(-1, keepdim=True)
    share = (weight * frequency).sum(-1, keepdim=True)
    reliability = (weight * (forecast - frequency).square()).sum((-2, -1))
    resolution = (weight * (frequency - share).square()).sum((-2, -1))
    uncertainty = (share * (1 - share)).sum((-2, -1))
    return reliability, resolution, uncertainty, brier(logits, targets) - (reliability - resolution + uncertainty)


def auroc(score: Tensor, positives: Tensor) -> Tensor:
    """Chance that a positive example has a higher score than a negative one; equal scores count half: [...].

    `score` and `positives` (bool) are [..., batch] and broadcast: an uncertainty beside the mistakes, say.
    NaN where all examples are positive or none is: there is no pair to compare.
    """
    score, positives = _check_scores("auroc", "score", score, positives=positives)
    below, at_most = _ranks(score)
    number = positives.sum(-1)
    # Twice the sum of the positives' mean ranks, in whole numbers, so that nothing is rounded.
    doubled = torch.where(positives, below + at_most + 1, 0).sum(-1) - number * (number + 1)
    return (doubled.double() / (2 * number * (score.shape[-1] - number))).to(score.dtype)


def aupr(score: Tensor, positives: Tensor) -> Tensor:
    """Average precision: at each positive's score, the share of positives among what scores at least as high: [...].

    The mean over positives; shapes as for `auroc`. A score that knows nothing has the share of positives.
    NaN without a positive.
    """
    score, positives = _check_scores("aupr", "score", score, positives=positives)
    below, _ = _ranks(score)
    ordered = positives.gather(-1, score.argsort(-1)).long()
    lower = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0)).gather(-1, below)  # positives that score less
    number = positives.sum(-1)
    precision = (number.unsqueeze(-1) - lower).double() / (score.shape[-1] - below)
    return (torch.where(positives, precision, 0).sum(-1) / number).to(score.dtype)


def risk_coverage(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """(coverage [batch], risk [..., batch]): the share of mistakes among the k most confident answers, k = 1 to batch.

    `confidence` and `right` (bool) are [..., batch] and broadcast; coverage is k / batch. Examples of equal
    confidence share their mistakes evenly, as the mean over all their orders would.
    Source: Geifman and El-Yaniv (2017), section 2, arXiv:1705.08500.
    """
    confidence, right = _check_scores("risk_coverage", "confidence", confidence, right=right)
    ordered, order = confidence.sort(-1, descending=True)
    below, at_most = _ranks(-ordered)
    mistakes = torch.nn.functional.pad((~right).gather(-1, order).double().cumsum(-1), (1, 0))
    own = (mistakes.gather(-1, at_most) - mistakes.gather(-1, below)) / (at_most - below)
    number = torch.arange(1, own.shape[-1] + 1, device=own.device)
    return number.to(confidence.dtype) / own.shape[-1], (own.cumsum(-1) / number).to(confidence.dtype)


def aurc(confidence: Tensor, right: Tensor) -> Tensor:
    """Area under the risk-coverage curve, the mean risk over all coverages: [...]; 0 if all is right, 1 if nothing is.

    Source: Geifman, Uziel and El-Yaniv (2019), arXiv:1805.08206.
    """
    return risk_coverage(confidence, right)[1].mean(-1)


def uncertainty_parts(member_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(total, data, knowledge) uncertainty of an ensemble, in nats: [..., batch, members, classes] -> [..., batch].

    total      entropy of the members' mean probabilities
    data       mean entropy of each member: what they all call undecided
    knowledge  their mutual information, the mean KL of a member to the mean: what they disagree on
    total = data + knowledge. Source: Depeweg et al. (2018), arXiv:1710.07283.
    """
    check_logits("uncertainty_parts", member_logits=member_logits)
    if member_logits.ndim < 3:
        raise ValueError(
            "uncertainty_parts: member_logits must be [..., batch, members, classes], "
            f"got shape {tuple(member_logits.shape)}"
        )
    log_probs = tempered_log_softmax(member_logits)
    mean = log_probs.logsumexp(-2, keepdim=True) - math.log(member_logits.shape[-2])
    # As a divergence, not as a difference of entropies: that would lose the digits of a small value.
    knowledge = soft_loss(mean, log_probs, 1.0).mean(-1)
    return entropy(mean.squeeze(-2).exp()), entropy(log_probs.exp()).mean(-1), knowledge


def dirichlet_parts(concentration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`uncertainty_parts` of a Dirichlet, as of infinitely many members: [..., classes] -> three of [...], in nats.

    `concentration` is positive: the parameters α, whose sum says how much the members agree.
    Source: Malinin and Gales (2018), arXiv:1802.10501.
    """
    check_logits("dirichlet_parts", concentration=concentration)
    exact = concentration.double()  # digamma minus digamma: float32 would lose the digits of a large α
    strength = exact.sum(-1, keepdim=True)
    mean = exact / strength
    total = entropy(mean)
    data = (mean * (torch.digamma(strength + 1) - torch.digamma(exact + 1))).sum(-1)
    return tuple(part.to(concentration.dtype) for part in (total, data, total - data))


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


def _bin_of(function: str, values: Tensor, bins: int, equal_mass: bool = False) -> Tensor:
    """The bin of each value in [0, 1]; the batch is the last axis."""
    if bins < 1:
        raise ValueError(f"{function}: bins must be at least 1, got {bins!r}")
    values = values.detach()
    if equal_mass:
        return _ranks(values)[0] * bins // values.shape[-1]
    edges = torch.linspace(0, 1, bins + 1, device=values.device)[1:-1]
    # Edges between bins only, so that rounding can never send a confidence past the last bin.
    return torch.bucketize(values, edges, right=True)


def _means(values: Tensor, hits: Tensor, bin_of: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean value, share of hits and number of examples in each bin: [..., batch] -> three of [..., bins]."""
    empty = values.new_zeros(*values.shape[:-1], bins)
    count = empty.scatter_add(-1, bin_of, torch.ones_like(values))
    share = count.clamp_min(1)
    mean = empty.scatter_add(-1, bin_of, values) / share
    return mean, empty.scatter_add(-1, bin_of, hits.to(values.dtype)) / share, count


def _mean_gap(mean: Tensor, hits: Tensor, count: Tensor) -> Tensor:
    return ((mean - hits).abs() * count).sum(-1) / count.sum(-1)


def _class_bins(function: str, logits: Tensor, targets: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `reliability_bins`, for each class's probability whether it is the largest or not: [..., classes, bins]."""
    probs = tempered_softmax(logits).transpose(-1, -2).contiguous()
    label = torch.arange(probs.shape[-2], device=probs.device).unsqueeze(-1)
    return _means(
        probs, (targets.unsqueeze(-2) == label).broadcast_to(probs.shape), _bin_of(function, probs, bins), bins
    )


def _ranks(values: Tensor) -> tuple[Tensor, Tensor]:
    """For each value, how many of the batch (the last axis) are smaller, and how many smaller or equal."""
    ordered, values = values.sort(-1).values, values.contiguous()
    return torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)


def _check_scores(function: str, name: str, values: Tensor, **truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both broadcast to one shape, half types in float32."""
    ((what, flags),) = truth.items()
    if flags.dtype != torch.bool:
        raise TypeError(f"{function}: {what} must be bool, got {flags.dtype}")
    if values.ndim < 1 or flags.ndim < 1 or values.shape[-1] != flags.shape[-1]:
        raise ValueError(
            f"{function}: {name} and {what} must agree on the last axis, the batch, got "
            f"{tuple(values.shape)} and {tuple(flags.shape)}"
        )
    values, flags = torch.broadcast_tensors(full_precision(values.detach()), flags)
    return values, flags


def check_batch(function: str, logits: Tensor, targets: Tensor) -> None:
    check_logits(function, logits=logits)
    if logits.ndim < 2 or targets.ndim < 1 or targets.shape[-1] != logits.shape[-2]:
        raise ValueError(
            f"{function}: logits [..., batch, classes] and targets [..., batch] must agree, got "
            f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        )
