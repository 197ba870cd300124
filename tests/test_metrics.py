"""Metrics: tiny examples by hand, edges of the bins, batches of runs, messages."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from kdcourse.metrics import (
    accuracy,
    agreement,
    aupr,
    aurc,
    auroc,
    brier,
    brier_parts,
    calibration_floor,
    classwise_calibration_error,
    dirichlet_parts,
    expected_calibration_error,
    kl_to_teacher,
    nll,
    reliability_bins,
    risk_coverage,
    scores,
    uncertainty_parts,
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


# -- calibration: bins of equal mass, classes one by one, the finite-sample floor ------------------


def drawn(*shape: int, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the given shape, and labels drawn without regard to them."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*shape, generator=generator)
    return logits, torch.randint(shape[-1], shape[-2:-1], generator=generator)


def test_bins_of_equal_mass_by_hand():
    # In order of confidence: .5 .55 | .6 .7 | .8 .9, the second, third and last of them wrong.
    logits = confident(0.9, 0.5, 0.7, 0.55, 0.8, 0.6)
    targets = torch.tensor([1, 0, 0, 1, 0, 1])
    confidence, right, count = reliability_bins(logits, targets, bins=3, equal_mass=True)
    assert_close(confidence, torch.tensor([0.525, 0.65, 0.85]))
    assert right.tolist() == [0.5, 0.5, 0.5] and count.tolist() == [2, 2, 2]
    got = expected_calibration_error(logits, targets, 3, equal_mass=True)
    assert_close(got.item(), (0.025 + 0.15 + 0.35) / 3)


@pytest.mark.parametrize(("examples", "bins"), [(10, 3), (100, 15), (7, 7)])
def test_bins_of_equal_mass_differ_by_one_example_at_most(examples, bins):
    logits, targets = drawn(examples, 4)
    *_, count = reliability_bins(logits, targets, bins, equal_mass=True)
    assert count.sum() == examples and count.max() - count.min() <= 1


def test_fewer_examples_than_bins_of_equal_mass_leave_bins_empty_and_not_nan():
    logits, targets = drawn(5, 3)
    confidence, right, count = reliability_bins(logits, targets, bins=20, equal_mass=True)
    assert count.sum() == 5 and count.max() == 1
    assert confidence[count == 0].tolist() == right[count == 0].tolist() == [0.0] * 15


def test_equal_confidences_share_a_bin_of_equal_mass_whatever_their_order():
    logits = confident(0.9, 0.9, 0.6, 0.9, 0.9, 0.6, 0.9, 0.7)
    targets = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])
    *_, count = reliability_bins(logits, targets, bins=4, equal_mass=True)
    assert count.tolist() == [2, 6, 0, 0]  # .7 and the first .9 belong to the second quarter
    one = expected_calibration_error(logits, targets, 4, equal_mass=True)
    for seed in range(5):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        assert_close(expected_calibration_error(logits[order], targets[order], 4, equal_mass=True), one)
    *_, count = reliability_bins(torch.tensor([[1e4, 0.0]] * 4), torch.zeros(4).long(), bins=4, equal_mass=True)
    assert count.tolist() == [4, 0, 0, 0]


def test_classwise_error_by_hand():
    # Two classes, one bin: class 0 is said to have .8 and has .5, class 1 .2 and .5.
    logits = confident(0.9, 0.7)
    assert_close(classwise_calibration_error(logits, torch.tensor([0, 1]), bins=1).item(), 0.3)


def test_classwise_error_sees_classes_that_were_not_chosen():
    # Always sure of 60 % in class 0, and right so often; but class 2 never comes, although it is promised 20 %.
    logits = torch.tensor([[0.6, 0.2, 0.2]] * 10).log()
    targets = torch.tensor([0] * 6 + [1] * 4)
    assert expected_calibration_error(logits, targets) < 1e-6
    assert_close(classwise_calibration_error(logits, targets).item(), (0.0 + 0.2 + 0.2) / 3)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_the_floor_is_the_error_of_labels_that_the_model_itself_has_drawn(equal_mass):
    logits, _ = drawn(300, 5)
    targets = torch.distributions.Categorical(logits=logits).sample((400,))
    honest = torch.stack([expected_calibration_error(logits, t, equal_mass=equal_mass) for t in targets])
    floor = calibration_floor(logits, equal_mass=equal_mass, draws=400)
    assert floor.shape == (400,)
    assert abs(floor.mean() - honest.mean()) < 4 * (2 / 400) ** 0.5 * honest.std()
    assert 0.8 < floor.std() / honest.std() < 1.25


def test_the_floor_of_one_bin_is_the_mean_deviation_of_a_coin():
    # n tosses with chance p: E |share - p| is about sqrt(2 p (1 - p) / (π n)).
    logits = confident(*[0.8] * 400)
    floor = calibration_floor(logits, bins=1, draws=2000).mean().item()
    assert floor == pytest.approx((2 * 0.8 * 0.2 / (math.pi * 400)) ** 0.5, rel=0.06)


def test_the_floor_falls_with_the_examples_and_is_zero_for_certainty():
    logits, _ = drawn(4000, 5)
    few, many = (calibration_floor(logits[:n], draws=50).mean() for n in (100, 4000))
    assert many < few / 3
    assert (calibration_floor(1e4 * torch.eye(5)) == 0).all()
    assert torch.equal(calibration_floor(logits, draws=3), calibration_floor(logits, draws=3))
    assert not torch.equal(calibration_floor(logits, draws=3), calibration_floor(logits, draws=3, seed=1))


# -- the parts of the Brier score -----------------------------------------------------------------


def brier_by_hand(logits: torch.Tensor, targets: torch.Tensor, bins: int) -> list[float]:
    """The definitions, one class and one bin after the other."""
    probs, parts = logits.double().softmax(-1), [0.0, 0.0, 0.0, 0.0]
    for k in range(probs.shape[-1]):
        p, y = probs[:, k], (targets == k).double()
        parts[2] += (y.mean() * (1 - y.mean())).item()
        bin_of = (p.float() * bins).long().clamp(max=bins - 1)
        for b in bin_of.unique():
            own_p, own_y = p[bin_of == b], y[bin_of == b]
            share = len(own_p) / len(p)
            parts[0] += share * (own_p.mean() - own_y.mean()).item() ** 2
            parts[1] += share * (own_y.mean() - y.mean()).item() ** 2
            within = own_p.var(correction=0) - 2 * ((own_p - own_p.mean()) * (own_y - own_y.mean())).mean()
            parts[3] += share * within.item()
    return parts


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_the_parts_of_the_brier_score_are_their_definitions_and_sum_to_it(bins):
    logits, targets = drawn(200, 4)
    got = brier_parts(logits, targets, bins)
    assert_close(
        torch.stack(got).double(), torch.tensor(brier_by_hand(logits, targets, bins)).double(), atol=1e-5, rtol=0
    )
    reliability, resolution, uncertainty, within = got
    assert_close(reliability - resolution + uncertainty + within, brier(logits, targets))


def test_equal_answers_in_a_bin_leave_nothing_within_it():
    probs = torch.tensor([[0.7, 0.3], [0.2, 0.8]]).repeat_interleave(5, 0)
    targets = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 0])
    reliability, resolution, uncertainty, within = brier_parts(probs.log(), targets)
    assert_close(reliability.item(), 2 * (0.5 * 0.1**2 + 0.5 * 0))
    assert_close(resolution.item(), 2 * 0.2**2)
    assert_close(uncertainty.item(), 2 * 0.4 * 0.6)
    assert within.abs() < 1e-6


def test_certain_and_right_is_all_resolution_and_one_class_of_labels_has_none():
    sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    reliability, resolution, uncertainty, within = brier_parts(sure, torch.tensor([0, 1]))
    assert (reliability, resolution, uncertainty, within) == (0, 0.5, 0.5, 0)
    _, resolution, uncertainty, _ = brier_parts(sure, torch.tensor([0, 0]))
    assert resolution == uncertainty == 0


# -- ranking: AUROC, AUPR, risk and coverage --------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order_and_ties_count_half(examples):
    high = [s for s, positive in examples if positive]
    low = [s for s, positive in examples if not positive]
    got = auroc(torch.tensor([float(s) for s, _ in examples]), torch.tensor([positive for _, positive in examples]))
    if not high or not low:
        assert got.isnan()
        return
    pairs = [(h > n) + (h == n) / 2 for h in high for n in low]
    assert_close(got.item(), sum(pairs) / len(pairs))


def test_auroc_turns_round_with_the_score_and_ignores_its_scale():
    score, positives = torch.randn(100, generator=torch.Generator().manual_seed(0)), torch.arange(100) < 30
    assert_close(auroc(-score, positives), 1 - auroc(score, positives))
    assert auroc(score.exp(), positives) == auroc(score, positives)
    infinite = torch.tensor([float("inf"), 0.0, -float("inf")])
    assert auroc(infinite, torch.tensor([True, False, False])) == 1


def test_auroc_of_many_examples_loses_no_digits_in_float32():
    score = torch.arange(30_000).flip(0) // 2  # ties in pairs
    positives = torch.arange(30_000) % 2 == 0
    assert auroc(score.float(), positives) == 0.5


def test_average_precision_by_hand():
    # From the top: +, (+ -) tied, -: precision 1 at the first, 2/3 at the second.
    score, positives = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False])
    assert_close(aupr(score, positives).item(), (1 + 2 / 3) / 2)
    assert_close(aupr(torch.zeros(10), torch.arange(10) < 3).item(), 0.3)
    assert aupr(score, torch.ones(4, dtype=bool)) == 1
    assert aupr(score, torch.zeros(4, dtype=bool)).isnan()


def test_risk_and_coverage_by_hand():
    # From the most sure: right, wrong, right, wrong.
    confidence = torch.tensor([0.9, 0.6, 0.8, 0.7])
    right = torch.tensor([True, False, False, True])
    coverage, risk = risk_coverage(confidence, right)
    assert_close(coverage, torch.tensor([0.25, 0.5, 0.75, 1]))
    assert_close(risk, torch.tensor([0, 1 / 2, 1 / 3, 1 / 2]))
    assert_close(aurc(confidence, right).item(), (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_equal_confidences_share_their_mistakes_as_the_mean_over_all_orders():
    confidence = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.2])
    right = torch.tensor([True, False, True, True, False])
    means = []
    for order in itertools.permutations(range(1, 4)):
        rows = [0, *order, 4]
        means.append(risk_coverage(torch.arange(5, 0, -1).float(), right[rows])[1])
    assert_close(risk_coverage(confidence, right)[1], torch.stack(means).mean(0))


@pytest.mark.parametrize("flag", [True, False])
def test_risk_is_zero_where_all_is_right_and_one_where_nothing_is(flag):
    right = torch.full((7,), flag)
    assert aurc(torch.rand(7), right) == 1 - flag
    assert aurc(torch.ones(7), right) == 1 - flag


# -- uncertainty of several members ---------------------------------------------------------------


def test_parts_of_uncertainty_by_hand():
    certain = 1e4 * torch.eye(2)  # two members, each sure, of different classes
    assert_close(torch.stack(uncertainty_parts(certain[None])).flatten(), math.log(2) * torch.tensor([1, 0, 1.0]))
    alike = torch.zeros(1, 3, 4)  # three members that all call it undecided
    assert_close(torch.stack(uncertainty_parts(alike)).flatten(), math.log(4) * torch.tensor([1, 1, 0.0]))


def test_parts_of_uncertainty_sum_and_knowledge_is_the_mutual_information():
    logits = drawn(6, 40, 5, 7)[0]
    total, data, knowledge = uncertainty_parts(logits)
    assert total.shape == data.shape == knowledge.shape == (6, 40)
    assert_close(data + knowledge, total)
    p = logits.double().softmax(-1)
    assert_close(data.double(), torch.special.entr(p).sum(-1).mean(-1), atol=1e-6, rtol=0)
    information = (p * (p / p.mean(-2, keepdim=True)).log()).sum(-1).mean(-1)
    assert_close(knowledge.double(), information, atol=1e-6, rtol=0)
    assert (knowledge >= 0).all()


def test_a_small_disagreement_keeps_its_digits_in_float32():
    logits = drawn(50, 1, 10)[0] + 1e-3 * drawn(50, 5, 10, seed=1)[0]
    p = logits.double().softmax(-1)
    information = (p * (p / p.mean(-2, keepdim=True)).log()).sum(-1).mean(-1)
    assert information.max() < 1e-5
    assert_close(uncertainty_parts(logits)[2].double(), information, rtol=0.02, atol=0)


@pytest.mark.parametrize("strength", [0.3, 3.0, 300.0])
def test_parts_of_a_dirichlet_are_those_of_its_members(strength):
    concentration = strength * torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    torch.manual_seed(0)
    members = torch.distributions.Dirichlet(concentration).sample((200_000,)).clamp_min(1e-300)
    expected = uncertainty_parts(members.log().unsqueeze(0))
    for exact, sampled in zip(dirichlet_parts(concentration), expected, strict=True):
        assert_close(exact, sampled[0], rtol=0.01, atol=0)


def test_parts_of_a_dirichlet_sum_and_keep_their_digits_in_float32():
    # For a large strength, knowledge is (classes - 1) / (2 strength).
    concentration = torch.tensor([0.4, 0.3, 0.3]) * 1e6
    total, data, knowledge = dirichlet_parts(concentration)
    assert_close(data + knowledge, total)
    assert_close(knowledge.item(), 1e-6, rtol=1e-3, atol=0)
    assert total.dtype == torch.float32


# -- all of them --------------------------------------------------------------------------------------


def on_runs(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    confidence, choice = logits.softmax(-1).max(-1)
    wrong = choice != targets
    parts = zip(("rel", "res", "unc", "within"), brier_parts(logits, targets), strict=True)
    return dict(parts) | {
        "equal mass": expected_calibration_error(logits, targets, equal_mass=True),
        "classwise": classwise_calibration_error(logits, targets),
        "auroc": auroc(-confidence, wrong),
        "aupr": aupr(-confidence, wrong),
        "aurc": aurc(confidence, ~wrong),
    }


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_the_later_metrics_take_a_batch_of_runs_and_vmap(shape):
    logits, targets = drawn(*shape, 50, 4)
    flat = [on_runs(run, targets) for run in logits.view(-1, 50, 4)]
    traced = torch.func.vmap(lambda run: on_runs(run, targets))(logits.view(-1, 50, 4))
    for name, values in on_runs(logits, targets).items():
        assert values.shape == shape, name
        assert_close(values.flatten(), torch.stack([one[name] for one in flat]))
        assert_close(values.flatten(), traced[name])
    assert calibration_floor(logits, draws=2).shape == (2, *shape)


def test_scores_and_flags_broadcast():
    score, positives = torch.randn(3, 20), torch.arange(20) < 8
    assert auroc(score, positives).shape == aupr(score, positives).shape == aurc(score, positives).shape == (3,)
    assert auroc(score[0], positives.expand(5, 20)).shape == (5,)


@pytest.mark.parametrize("function", [auroc, aupr])
def test_scores_and_flags_that_do_not_fit_are_named(function):
    name = function.__name__
    with pytest.raises(ValueError) as error:
        function(torch.randn(2, 20), torch.ones(19, dtype=bool))
    assert str(error.value) == (
        f"{name}: score and positives must agree on the last axis, the batch, got (2, 20) and (19,)"
    )
    with pytest.raises(TypeError) as error:
        function(torch.randn(2, 20), torch.ones(20))
    assert str(error.value) == f"{name}: positives must be bool, got torch.float32"


def test_messages_name_the_function_that_was_called():
    logits, targets = drawn(10, 3)
    for function in (classwise_calibration_error, brier_parts):
        with pytest.raises(ValueError, match=f"^{function.__name__}: bins must be at least 1, got 0"):
            function(logits, targets, 0)
    with pytest.raises(ValueError, match="^calibration_floor: bins must be at least 1, got 0"):
        calibration_floor(logits, 0)
    with pytest.raises(TypeError, match="^risk_coverage: right must be bool, got torch.int64"):
        risk_coverage(torch.rand(3), torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError) as error:
        uncertainty_parts(logits)
    assert str(error.value) == (
        "uncertainty_parts: member_logits must be [..., batch, members, classes], got shape (10, 3)"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_every_floating_type_are_ranked(dtype):
    score, positives = (torch.arange(300) % 50).to(dtype), torch.arange(300) % 7 < 2
    for metric in (auroc, aupr, aurc):
        assert_close(metric(score, positives).float(), metric(score.float(), positives), rtol=1e-6, atol=0)
