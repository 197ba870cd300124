"""The same numbers as independent public implementations, and the factor where a convention differs.

Peers: torchdistill (KDLoss), torch.nn.functional composed by hand, torchmetrics, scikit-learn.
"""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.testing import assert_close

from kdcourse import metrics
from kdcourse.calibration import fit_temperature
from kdcourse.losses import distillation_loss, hard_loss, soft_loss
from kdcourse.softmax import entropy, tempered_log_softmax, tempered_softmax

with warnings.catch_warnings():  # what the peers import is theirs to mend
    warnings.simplefilter("ignore")
    import torchmetrics.functional as tm
    from torchdistill.losses.mid_level import KDLoss
    from torchmetrics.functional.classification import (
        binary_auroc,
        binary_average_precision,
        binary_calibration_error,
        multiclass_accuracy,
        multiclass_calibration_error,
    )

CLASSES, BATCH = 7, 60
TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


@pytest.fixture
def answers() -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher [batch, classes] in float64, and targets [batch]."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, BATCH, CLASSES, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(CLASSES, (BATCH,), generator=generator)


def torchdistill_loss(student: Tensor, teacher: Tensor, targets: Tensor | None, **settings) -> Tensor:
    loss = KDLoss("logits", "output", "logits", "output", **settings)
    return loss({"logits": {"output": student}}, {"logits": {"output": teacher}}, targets)


# -- torchdistill ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("soft_weight", [0.1, 0.5, 0.9])
def test_torchdistill_weighs_the_labels_with_alpha_so_alpha_is_one_minus_soft_weight(answers, temperature, soft_weight):
    student, teacher, targets = (part.clone() for part in answers)
    settings = {"temperature": temperature, "soft_weight": soft_weight}
    results = []
    for loss in (
        lambda z: distillation_loss(z, teacher, targets, **settings).mean(),
        lambda z: torchdistill_loss(z, teacher, targets, temperature=temperature, alpha=1 - soft_weight),
    ):
        z = student.clone().requires_grad_()
        value = loss(z)
        results.append((value.detach(), *torch.autograd.grad(value, z)))
    assert_close(*results)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_torchdistill_drops_T_squared_when_alpha_is_zero(answers, temperature):
    student, teacher, targets = answers
    ours = distillation_loss(student, teacher, targets, temperature=temperature, soft_weight=1.0)
    theirs = torchdistill_loss(student, teacher, targets, temperature=temperature, alpha=0.0)
    assert_close(ours.mean(), theirs * temperature**2)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_torchdistill_drops_T_squared_without_targets_too(answers, temperature):
    student, teacher, _ = answers
    theirs = torchdistill_loss(student, teacher, None, temperature=temperature, alpha=0.5)
    assert_close(soft_loss(student, teacher, temperature).mean(), theirs * temperature**2)


# -- torch.nn.functional composed by hand ---------------------------------------------------------


@given(st.floats(0.5, 50), st.floats(0, 1), st.integers(0, 100))
def test_the_loss_of_every_tutorial_has_the_same_value_and_gradient(temperature, soft_weight, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, 9, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(5, (9,), generator=generator)
    student.requires_grad_()
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.softmax(teacher / temperature, dim=1),
        reduction="batchmean",
    )
    theirs = soft_weight * temperature**2 * soft + (1 - soft_weight) * F.cross_entropy(student, targets)
    ours = distillation_loss(student, teacher, targets, temperature=temperature, soft_weight=soft_weight).mean()
    assert_close(ours, theirs)
    assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (ours, theirs)))


def test_kl_div_mean_divides_by_the_classes_as_well(answers):
    student, teacher, _ = answers
    with warnings.catch_warnings():  # torch warns of this very trap
        warnings.simplefilter("ignore")
        theirs = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="mean")
    assert_close(soft_loss(student, teacher, 1.0).mean(), theirs * CLASSES)


def test_kl_div_takes_the_student_first_and_as_logarithms(answers):
    student, teacher, _ = answers
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    theirs = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    assert_close(soft_loss(student, teacher, 1.0), theirs)
    assert_close(soft_loss(teacher, student, 1.0), F.kl_div(log_p, log_q.exp(), reduction="none").sum(-1))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_cross_entropy_with_soft_targets_is_KL_plus_the_teachers_entropy(answers, temperature):
    student, teacher, _ = answers
    p = tempered_softmax(teacher, temperature)
    theirs = F.cross_entropy(student / temperature, p, reduction="none")
    ours = soft_loss(student, teacher, temperature) / temperature**2 + entropy(p)
    assert_close(ours, theirs)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_torch_distributions_know_the_same_entropy_and_divergence(answers, temperature):
    student, teacher, _ = (part / temperature for part in answers)
    q, p = (
        torch.distributions.Categorical(logits=student),
        torch.distributions.Categorical(logits=teacher),
    )
    assert_close(entropy(tempered_softmax(answers[1], temperature)), p.entropy())
    divergence = torch.distributions.kl_divergence(p, q)
    assert_close(soft_loss(*answers[:2], temperature) / temperature**2, divergence)


def test_softmax_and_hard_loss_are_torchs_own_at_T_1(answers):
    student, _, targets = answers
    assert_close(tempered_softmax(student), F.softmax(student, -1))
    assert_close(tempered_log_softmax(student), F.log_softmax(student, -1))
    assert_close(hard_loss(student, targets), F.cross_entropy(student, targets, reduction="none"))


# -- torchmetrics ---------------------------------------------------------------------------------


def test_torchmetrics_has_the_same_accuracy_when_it_averages_over_examples(answers):
    student, _, targets = answers
    theirs = multiclass_accuracy(student, targets, CLASSES, average="micro")
    assert_close(metrics.accuracy(student, targets), theirs)
    # Its own choice averages over classes: another number where classes differ in size.
    assert multiclass_accuracy(student, targets, CLASSES) != theirs


@pytest.mark.parametrize("bins", [5, 15, 40])
def test_torchmetrics_bins_confidence_in_the_same_way(answers, bins):
    student, _, targets = (part.float() if part.is_floating_point() else part for part in answers)
    ours = metrics.expected_calibration_error(student, targets, bins)
    # Logits go in as probabilities: torchmetrics guesses, from their range, which it was given.
    theirs = multiclass_calibration_error(student.softmax(-1), targets, CLASSES, n_bins=bins)
    assert_close(ours, theirs)


def test_torchmetrics_puts_a_confidence_on_an_edge_into_the_same_bin():
    # Four equal classes: 0.25 is an edge of four bins. Alone it makes no difference; beside
    # confidences of 0.2 and 0.3, a wrong bin would show.
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.3, 0.3, 0.2, 0.2], [0.5, 0.2, 0.2, 0.1]])
    targets = torch.tensor([0, 1, 0])
    ours = metrics.expected_calibration_error(probs.log(), targets, bins=4)
    assert_close(ours, multiclass_calibration_error(probs, targets, 4, n_bins=4))


def test_torchmetrics_means_another_thing_by_confidence_when_there_are_two_classes(answers):
    # There it is the probability of class 1, from 0 to 1; here always the larger of the two.
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 2, generator=generator)
    targets = torch.randint(2, (200,), generator=generator)
    probs = logits.softmax(-1)
    ours = metrics.expected_calibration_error(logits, targets, bins=10)
    assert_close(ours, multiclass_calibration_error(probs, targets, 2, n_bins=10))
    first = probs[:, 1].contiguous()
    assert ours != binary_calibration_error(first, targets, n_bins=10)


def test_torchmetrics_names_the_divergence_by_the_teacher_first(answers):
    student, teacher, _ = answers
    theirs = tm.kl_divergence(teacher.log_softmax(-1), student.log_softmax(-1), log_prob=True)
    assert_close(metrics.kl_to_teacher(student, teacher), theirs)


@pytest.mark.parametrize("bins", [5, 15])
def test_torchmetrics_gap_of_one_class_after_the_other_is_the_classwise_error(answers, bins):
    student, _, targets = (part.float() if part.is_floating_point() else part for part in answers)
    probs = student.softmax(-1)
    theirs = [binary_calibration_error(probs[:, k].contiguous(), (targets == k).long(), bins) for k in range(CLASSES)]
    assert_close(metrics.classwise_calibration_error(student, targets, bins), torch.stack(theirs).mean())


@pytest.mark.parametrize("equal_mass", [False, True])
def test_torchmetrics_of_certain_answers(equal_mass):
    sure = 1e4 * torch.eye(4).repeat(5, 1)
    targets = (torch.arange(20) + (torch.arange(20) < 6)) % 4
    ours = metrics.expected_calibration_error(sure, targets, equal_mass=equal_mass)
    assert_close(ours, multiclass_calibration_error(sure.softmax(-1), targets, 4, n_bins=15))
    assert_close(ours, torch.tensor(0.3))


# -- scikit-learn ---------------------------------------------------------------------------------


def test_sklearn_agrees_on_accuracy_and_log_loss(answers):
    student, _, targets = answers
    probs, labels = student.softmax(-1).numpy(), list(range(CLASSES))
    assert_close(
        metrics.accuracy(student, targets).item(),
        sk.accuracy_score(targets, probs.argmax(-1)),
        rtol=1e-6,
        atol=0,
    )
    assert_close(metrics.nll(student, targets).item(), sk.log_loss(targets, probs, labels=labels))


def test_sklearn_agrees_on_the_brier_score_of_many_classes(answers):
    student, _, targets = answers
    theirs = sk.brier_score_loss(targets, student.softmax(-1).numpy(), labels=list(range(CLASSES)), scale_by_half=False)
    assert_close(metrics.brier(student, targets).item(), theirs)


def test_sklearns_brier_score_of_two_classes_is_half_of_the_sum_over_classes(answers):
    student, _, targets = answers[0][:, :2], None, answers[2] % 2
    theirs = sk.brier_score_loss(targets, student.softmax(-1)[:, 1].numpy())
    assert_close(metrics.brier(student, targets).item(), 2 * theirs)


def test_sklearns_mean_squared_error_averages_over_the_classes_as_well(answers):
    student, _, targets = answers
    one_hot = np.eye(CLASSES)[targets]
    theirs = sk.mean_squared_error(one_hot, student.softmax(-1).numpy())
    assert_close(metrics.brier(student, targets).item(), CLASSES * theirs)


def test_sklearns_calibration_curve_is_the_bins_that_are_not_empty(answers):
    student, _, targets = answers
    confidence, choice = student.softmax(-1).max(-1)
    right = (choice == targets).numpy()
    theirs_right, theirs_confidence = calibration_curve(right, confidence.numpy(), n_bins=10)
    ours_confidence, ours_right, count = metrics.reliability_bins(student, targets, bins=10)
    assert_close(ours_right[count > 0].numpy(), theirs_right)
    assert_close(ours_confidence[count > 0].numpy(), theirs_confidence)


def test_sklearn_puts_a_confidence_on_an_edge_into_the_bin_below():
    # Confidences 0.5 and 0.9: here 0.5 opens the upper of two bins; there it closes the lower one.
    probs = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    *_, count = metrics.reliability_bins(probs.log(), torch.tensor([0, 0]), bins=2)
    assert count.tolist() == [0, 2]
    _, theirs = calibration_curve([1, 1], probs[:, 0].numpy(), n_bins=2)
    assert theirs.tolist() == [0.5, 0.9]


def test_sklearn_counts_agreement_as_the_accuracy_of_the_student_on_the_teachers_choices(answers):
    student, teacher, _ = answers
    theirs = sk.accuracy_score(teacher.argmax(-1), student.argmax(-1))
    assert_close(metrics.agreement(student, teacher).item(), theirs, rtol=1e-6, atol=0)


def test_sklearns_curve_of_quantiles_is_the_bins_of_equal_mass(answers):
    student, _, targets = answers
    confidence, choice = student.softmax(-1).max(-1)
    right = (choice == targets).numpy()
    theirs_right, theirs_confidence = calibration_curve(
        right, confidence.numpy(), n_bins=BATCH // 12, strategy="quantile"
    )
    ours_confidence, ours_right, _ = metrics.reliability_bins(student, targets, BATCH // 12, equal_mass=True)
    assert_close(ours_right.numpy(), theirs_right)
    assert_close(ours_confidence.numpy(), theirs_confidence)


@pytest.mark.parametrize("kind", ["no ties", "ties", "two values", "all equal", "probabilities at 0 and 1"])
@pytest.mark.parametrize("seed", range(3))
def test_sklearn_and_torchmetrics_agree_on_auroc_and_average_precision(kind, seed):
    generator = torch.Generator().manual_seed(seed)
    score = {
        "no ties": torch.rand(200, generator=generator),
        "ties": torch.randint(8, (200,), generator=generator) / 8,
        "two values": torch.randint(2, (200,), generator=generator).float(),
        "all equal": torch.full((200,), 0.3),
        "probabilities at 0 and 1": (3 * torch.rand(200, generator=generator) - 1).clamp(0, 1),
    }[kind]
    positives = torch.rand(200, generator=generator) < 0.2 + 0.5 * score
    for ours, ranked, other in (
        (metrics.auroc, sk.roc_auc_score, binary_auroc),
        (metrics.aupr, sk.average_precision_score, binary_average_precision),
    ):
        assert_close(ours(score, positives).item(), ranked(positives, score), rtol=1e-5, atol=0)
        assert_close(ours(score, positives), other(score, positives.long()), rtol=1e-5, atol=0)


def test_of_one_kind_alone_the_peers_answer_or_warn_and_ours_is_not_a_number():
    score, none = torch.rand(9), torch.zeros(9, dtype=torch.bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert binary_auroc(score, none.long()) == 0  # as if it were the worst score
        assert np.isnan(sk.roc_auc_score(none, score))
        assert sk.average_precision_score(none, score) == 0
    assert metrics.auroc(score, none).isnan() and metrics.auroc(score, ~none).isnan()
    assert metrics.aupr(score, none).isnan() and metrics.aupr(score, ~none) == 1


def test_a_temperature_fitted_by_sklearns_logistic_regression_is_the_same(answers):
    """Two classes: the slope of a regression without intercept on the difference of the logits is 1 / T."""
    generator = torch.Generator().manual_seed(0)
    gap = 3 * torch.randn(500, generator=generator, dtype=torch.float64)
    targets = (torch.rand(500, generator=generator, dtype=torch.float64) < (gap / 2).sigmoid()).long()
    logits = torch.stack([torch.zeros_like(gap), gap], -1)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(gap[:, None].numpy(), targets.numpy())
    assert_close(fit_temperature(logits, targets)[0].item(), 1 / peer.coef_.item(), rtol=1e-5, atol=0)
