"""Metrics: tiny examples by hand, edges of the bins, batches of runs, messages."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from kdcourse.metrics import (
    accuracy,
    agreement,
    brier,
    expected_calibration_error,
    kl_to_teacher,
    nll,
    reliability_bins,
    scores,
)

# Probabilities enter as their logarithm: log p is a logit.
PROBS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5], [0.6, 0.3, 0.1]])
LOGITS, TARGETS = PROBS.log(), torch.tensor([0, 1, 1, 2])  # right, right, wrong, wrong
OTHER = torch.tensor([[0.4, 0.5, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]).log()
WITH_TARGETS = [accuracy, nll, brier, expected_calibration_error, reliability_bins]


def confident(*confidences: float) -> torch.Tensor:
    """Logits of two classes whose first class has the given probabilities."""
    p = torch.tensor(confidences)
    return torch.stack([p, 1 - p], -1).log()


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(LOGITS, TARGETS) == 0.5


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
def test_of_equal_logits_the_first_counts(classes):
    tied = torch.zeros(4, classes)
    assert accuracy(tied, torch.tensor([0, 0, 0, 1])) == 0.75
    assert agreement(tied, -torch.arange(classes).float().expand(4, -1)) == 1
    confidence, right, count = reliability_bins(tied, torch.tensor([0, 0, 0, 1]), bins=1)
    assert right.item() == 0.75 and count.item() == 4
    assert_close(confidence.item(), 1 / classes)


def test_nll_is_the_mean_of_minus_log_probability_at_the_label():
    by_hand = -(math.log(0.5) + math.log(0.8) + math.log(0.25) + math.log(0.1)) / 4
    assert_close(nll(LOGITS, TARGETS).item(), by_hand)


def test_brier_is_the_mean_squared_distance_from_the_one_hot_label():
    by_hand = (
        (0.5**2 + 0.3**2 + 0.2**2)
        + (0.1**2 + 0.2**2 + 0.1**2)
        + (0.25**2 + 0.75**2 + 0.5**2)
        + (0.6**2 + 0.3**2 + 0.9**2)
    ) / 4
    assert_close(brier(LOGITS, TARGETS).item(), by_hand)


def test_brier_is_zero_for_certain_and_right_and_two_for_certain_and_wrong():
    sure = torch.tensor([[200.0, -200.0, -200.0]])
    assert brier(sure, torch.tensor([0])) == 0
    assert brier(sure, torch.tensor([1])) == 2


def test_reliability_bins_by_hand():
    # Confidences 0.5, 0.8, 0.5 in five bins of width 0.2: [0.4, 0.6) holds the two halves.
    confidence, right, count = reliability_bins(LOGITS[:3], TARGETS[:3], bins=5)
    assert_close(confidence, torch.tensor([0.0, 0.0, 0.5, 0.0, 0.8]))
    assert_close(right, torch.tensor([0.0, 0.0, 0.5, 0.0, 1.0]))
    assert count.tolist() == [0, 0, 2, 0, 1]


def test_ece_is_the_gap_in_each_bin_weighted_by_its_examples():
    # Bins as above: |0.5 - 0.5| for two examples, |0.8 - 1| for one.
    assert_close(expected_calibration_error(LOGITS[:3], TARGETS[:3], bins=5).item(), 0.2 / 3)


def test_one_bin_is_the_gap_between_mean_confidence_and_accuracy():
    got = expected_calibration_error(LOGITS, TARGETS, bins=1)
    assert_close(got.item(), abs((0.5 + 0.8 + 0.5 + 0.6) / 4 - 0.5))


def test_fifteen_bins_are_what_is_meant_when_nothing_is_said():
    assert reliability_bins(LOGITS, TARGETS)[0].shape == (15,)
    default = expected_calibration_error(LOGITS, TARGETS)
    assert default == expected_calibration_error(LOGITS, TARGETS, bins=15)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above_it():
    *_, count = reliability_bins(torch.zeros(1, 2), torch.tensor([0]), bins=2)
    assert count.tolist() == [0, 1]
    *_, count = reliability_bins(torch.zeros(1, 4), torch.tensor([0]), bins=4)
    assert count.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 15, 100])
def test_a_confidence_of_exactly_one_is_in_the_last_bin(bins):
    sure = torch.tensor([[1e4, 0.0], [-1e4, 1e4]])
    confidence, right, count = reliability_bins(sure, torch.tensor([0, 0]), bins)
    assert count.tolist() == [0.0] * (bins - 1) + [2]
    assert confidence[-1] == 1 and right[-1] == 0.5
    assert expected_calibration_error(sure, torch.tensor([0, 0]), bins) == 0.5


def test_an_empty_bin_is_zero_and_not_nan():
    confidence, right, count = reliability_bins(confident(0.95), torch.tensor([0]), bins=10)
    assert confidence[:-1].tolist() == right[:-1].tolist() == count[:-1].tolist() == [0.0] * 9


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=30))
def test_bins_hold_every_example_once_and_ece_is_at_most_one(examples):
    logits = confident(*(p for p, _ in examples))
    targets = torch.tensor([int(not right) for _, right in examples])
    confidence, right, count = reliability_bins(logits, targets, bins=7)
    assert count.sum() == len(examples)
    assert_close((right * count).sum() / count.sum(), accuracy(logits, targets))
    mean_confidence = logits.double().softmax(-1).max(-1).values.mean()
    assert_close((confidence * count).sum() / count.sum(), mean_confidence.float())
    lower, upper = torch.arange(7) / 7, torch.arange(1, 8) / 7
    full = count > 0
    assert (lower - 1e-6 <= confidence)[full].all() and (confidence <= upper + 1e-6)[full].all()
    assert 0 <= expected_calibration_error(logits, targets, bins=7) <= 1


@given(st.integers(0, 50))
def test_merging_bins_never_raises_ece(seed):
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(seed))
    targets = torch.arange(200) % 5
    coarse, fine = (expected_calibration_error(logits, targets, bins) for bins in (8, 32))
    assert coarse <= fine + 1e-6


def test_agreement_is_the_share_of_equal_choices_right_or_wrong():
    assert agreement(LOGITS, OTHER) == 0.75
    assert agreement(LOGITS, LOGITS * 100 - 3) == 1


def test_kl_to_teacher_is_the_mean_of_KL_from_teacher_to_student_at_T_1():
    p, q = OTHER.double().exp(), LOGITS.double().exp()
    by_hand = sum(
        float(a) * math.log(a / b)
        for row_p, row_q in zip(p, q, strict=True)
        for a, b in zip(row_p.tolist(), row_q.tolist(), strict=True)
    )
    assert_close(kl_to_teacher(LOGITS, OTHER).item(), by_hand / 4)
    assert kl_to_teacher(LOGITS, LOGITS + 5.0).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_batch_of_runs_is_one_run_at_a_time(shape):
    generator = torch.Generator().manual_seed(0)
    runs = 3 * torch.randn(*shape, 50, 4, generator=generator)
    teacher = 3 * torch.randn(50, 4, generator=generator)
    targets = torch.randint(4, (50,), generator=generator)
    flat = [scores(run, targets, teacher) for run in runs.view(-1, 50, 4)]
    for name, values in scores(runs, targets, teacher).items():
        assert values.shape == shape, name
        assert_close(values.flatten(), torch.stack([one[name] for one in flat]))
    for part, alone in zip(
        reliability_bins(runs, targets), reliability_bins(runs.view(-1, 50, 4)[-1], targets),
        strict=True,
    ):  # fmt: skip
        assert part.shape == (*shape, 15)
        assert_close(part.view(-1, 15)[-1], alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_floating_type_is_taken(dtype):
    exact = LOGITS.to(dtype)
    # Halves of bins are left out: rounding to half may move a confidence across an edge.
    single, other = scores(exact.float(), TARGETS, OTHER), scores(exact, TARGETS, OTHER.to(dtype))
    for name in ("accuracy", "nll", "brier", "agreement"):
        assert_close(other[name].float(), single[name], rtol=1e-4, atol=1e-6)


def test_scores_are_the_metrics_by_their_column_names():
    assert list(scores(LOGITS, TARGETS)) == ["accuracy", "nll", "brier", "ece"]
    assert scores(LOGITS, TARGETS, OTHER) == {
        "accuracy": accuracy(LOGITS, TARGETS),
        "nll": nll(LOGITS, TARGETS),
        "brier": brier(LOGITS, TARGETS),
        "ece": expected_calibration_error(LOGITS, TARGETS),
        "agreement": agreement(LOGITS, OTHER),
        "kl": kl_to_teacher(LOGITS, OTHER),
    }


@pytest.mark.parametrize("metric", WITH_TARGETS)
def test_a_batch_of_another_length_than_its_targets_is_named(metric):
    name = metric.__name__ if metric is not expected_calibration_error else "reliability_bins"
    with pytest.raises(ValueError) as error:
        metric(LOGITS, TARGETS[:3])
    assert str(error.value) == (
        f"{name}: logits [..., batch, classes] and targets [..., batch] must agree, got (4, 3) and (3,)"
    )


@pytest.mark.parametrize("metric", WITH_TARGETS)
def test_logits_that_are_whole_numbers_are_named(metric):
    with pytest.raises(TypeError, match="logits must be a floating-point tensor, got torch.int64"):
        metric(LOGITS.long(), TARGETS)


@pytest.mark.parametrize("bins", [0, -1])
def test_fewer_bins_than_one_are_named(bins):
    with pytest.raises(ValueError) as error:
        expected_calibration_error(LOGITS, TARGETS, bins)
    assert str(error.value) == f"reliability_bins: bins must be at least 1, got {bins}"


@pytest.mark.parametrize(("metric", "name"), [(agreement, "agreement"), (kl_to_teacher, "soft_loss")])
def test_a_student_and_a_teacher_of_other_classes_are_named(metric, name):
    with pytest.raises(ValueError) as error:
        metric(LOGITS[:, :2], OTHER)
    assert str(error.value) == (
        f"{name}: student and teacher must score the same classes (the last axis), "
        "got student_logits (4, 2) and teacher_logits (4, 3)"
    )
