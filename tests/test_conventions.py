"""The converter against torchdistill itself, and against each other library's formula, written out here once more."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from kdcourse.conventions import CONVENTIONS, Table, convert, terms, wrong_readings
from kdcourse.losses import distillation_loss

CLASSES = 7
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # torch, of one of torchdistill's settings


def logits(seed=0, batch=5):
    torch.manual_seed(seed)
    s, t = 3 * torch.randn(2, batch, CLASSES, dtype=torch.float64)
    return s.requires_grad_(), t, torch.randint(CLASSES, (batch,))


def log_p(z, T):
    return F.log_softmax(z / T, dim=-1)


def soft_cross_entropy(s, t, T):
    return -(log_p(t, T).exp() * log_p(s, T)).sum(-1).mean()


def divergence(s, t, T, reduction="batchmean"):
    table = log_p(t, T).exp() * (log_p(t, T) - log_p(s, T))
    return table.mean() if reduction == "mean" else table.sum() / len(s)


# Each library's loss in its own words, from its documentation and source.
def kdcourse(s, t, y, temperature, soft_weight):
    return distillation_loss(s, t, y, temperature=temperature, soft_weight=soft_weight).mean()


def torchdistill(s, t, y, temperature, alpha, beta=None, reduction="batchmean"):
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    loss = mid_level.KDLoss("s", "output", "t", "output", temperature, alpha, beta, reduction)
    return loss({"s": {"output": s}}, {"t": {"output": t}}, y)


def repdistiller(s, t, y, alpha, kd_T=4, gamma=1, beta=0):
    return gamma * F.cross_entropy(s, y) + alpha * kd_T**2 * divergence(s, t, kd_T)


def mdistiller(s, t, y, TEMPERATURE=4, KD_WEIGHT=0.9, CE_WEIGHT=0.1):
    return CE_WEIGHT * F.cross_entropy(s, y) + KD_WEIGHT * TEMPERATURE**2 * divergence(s, t, TEMPERATURE)


def textbrewer(s, t, y, temperature=4, kd_loss_weight=1, hard_label_weight=0, kd_loss_type="ce"):
    return kd_loss_weight * soft_cross_entropy(s, t, temperature) + hard_label_weight * F.cross_entropy(s, y)


def keras(s, t, y, temperature=3, student_loss_weight=0.5, loss="kl_divergence"):
    soft = temperature**2 * divergence(s, t, temperature)
    return student_loss_weight * F.cross_entropy(s, y) + (1 - student_loss_weight) * soft


def keras_example(s, t, y, temperature=3, alpha=0.1):
    return alpha * F.cross_entropy(s, y) + (1 - alpha) * temperature**2 * divergence(s, t, temperature)


def keras_example_2020(s, t, y, temperature=3, alpha=0.1):
    return alpha * F.cross_entropy(s, y) + (1 - alpha) * divergence(s, t, temperature)


def tutorial(s, t, y, T=2, soft_target_loss_weight=0.25, ce_loss_weight=0.75):
    return soft_target_loss_weight * T**2 * soft_cross_entropy(s, t, T) + ce_loss_weight * F.cross_entropy(s, y)


def gkd(s, t, y, beta, lmbda, temperature=0.9):
    return divergence(s, t, 1.0)


def distillation_trainer(s, t, y, beta, temperature=1.0):
    return divergence(s, t, temperature)


def liger(s, t, y, beta, temperature=1, weight_soft_loss=0.5, weight_hard_loss=0.5):
    return weight_hard_loss * F.cross_entropy(s, y) + weight_soft_loss * divergence(s, t, temperature)


def model_optimizer(s, t, y, temperature=1, kd_loss_weight=0.5, reduction="mean"):
    soft = temperature**2 * divergence(s, t, temperature, reduction)
    return kd_loss_weight * soft + (1 - kd_loss_weight) * F.cross_entropy(s, y)


LOSSES = dict(
    zip(
        CONVENTIONS,
        [
            *(kdcourse, torchdistill, repdistiller, mdistiller, textbrewer, keras, keras_example, keras_example_2020),
            *(tutorial, gkd, distillation_trainer, liger, model_optimizer),
        ],
        strict=True,
    )
)
SETTINGS = {
    "kdcourse": [{"temperature": 4.0, "soft_weight": 0.9}, {"temperature": 1.0, "soft_weight": 1.0}],
    "torchdistill": [
        {"temperature": 4.0, "alpha": 0.1},
        {"temperature": 3.0, "alpha": 0.5, "beta": 2.0},
        {"temperature": 4.0, "alpha": 0.0},
        {"temperature": 4.0, "alpha": 0.0, "beta": 3.0},
        {"temperature": 1.0, "alpha": 0.0},
        {"temperature": 2.0, "alpha": 0.3, "reduction": "mean"},
    ],
    "RepDistiller": [{"alpha": 0.9, "gamma": 0.1}, {"alpha": 0.8}],
    "mdistiller": [{}, {"TEMPERATURE": 1.0, "KD_WEIGHT": 0.5, "CE_WEIGHT": 0.5}],
    "TextBrewer": [{}, {"temperature": 8.0, "hard_label_weight": 1.0}],
    "Keras": [{}, {"temperature": 5.0, "student_loss_weight": 0.0}],
    "keras-io example": [{"temperature": 10.0}],
    "keras-io example of 2020": [{"temperature": 10.0}],
    "PyTorch tutorial": [{}],
    "TRL GKD": [{"beta": 0, "lmbda": 0}, {"beta": 0, "lmbda": 0.0, "temperature": 2.0}],
    "TRL DistillationTrainer": [{"beta": 0}, {"beta": 0, "temperature": 2.0}],
    "liger-kernel": [{"beta": 0, "temperature": 2.0}, {"beta": 0, "weight_hard_loss": 0.0}],
    "Model-Optimizer": [{"temperature": 2.0}, {"kd_loss_weight": 0.9, "reduction": "batchmean", "temperature": 4.0}],
}
CASES = [(library, settings) for library, many in SETTINGS.items() for settings in many]


def gradient(library, settings, seed):
    s, t, y = logits(seed)
    return torch.autograd.grad(LOSSES[library](s, t, y, **settings), s)[0]


@pytest.mark.parametrize("library, settings", CASES)
def test_the_terms_are_those_that_the_library_computes(library, settings):
    T, soft, hard = terms(library, classes=CLASSES, **settings)
    for seed in range(3):
        s, t, y = logits(seed)
        ours = soft * divergence(s, t, T) + hard * F.cross_entropy(s, y)
        torch.testing.assert_close(torch.autograd.grad(ours, s)[0], gradient(library, settings, seed))
        theirs = LOSSES[library](s, t, y, **settings)
        entropy = -(log_p(t, T).exp() * log_p(t, T)).sum(-1).mean()
        above = soft * entropy if library in ("TextBrewer", "PyTorch tutorial") else 0.0
        torch.testing.assert_close(ours + above, theirs)


@pytest.mark.parametrize("library, settings", CASES)
@pytest.mark.parametrize("target", CONVENTIONS)
def test_converted_settings_give_the_same_gradient(library, settings, target):
    T, _, hard = terms(library, classes=CLASSES, **settings)
    row = CONVENTIONS[target]
    if (row.temperature is None and T != 1) or (not row.soft and not row.hard and hard):
        with pytest.raises(ValueError, match=r"convert: .*(always at T = 1|has no hard term), got"):
            convert(library, target, classes=CLASSES, **settings)
        return
    converted = convert(library, target, classes=CLASSES, **settings)
    for seed in range(2):
        there = converted.scale * gradient(target, converted.settings, seed)
        torch.testing.assert_close(there, gradient(library, settings, seed), rtol=1e-6, atol=1e-9)


def test_the_words_of_the_table_are_settings_with_defaults():
    for library, row in CONVENTIONS.items():
        words = {row.temperature, row.soft, row.hard, *row.must} - {None}
        assert words <= row.defaults.keys(), library
        assert set(SETTINGS[library][0]) <= row.defaults.keys()
    html = Table()._repr_html_().replace("<wbr>", "")
    assert html.count("<tr>") == 1 + len(CONVENTIONS) and html.count("data-name") == 5 * len(CONVENTIONS)
    for library, row in CONVENTIONS.items():
        assert library in html and all(word in html for word in (row.soft, row.hard) if word)


@pytest.mark.parametrize("library, settings", CASES)
def test_a_wrong_reading_changes_the_gradient_by_the_factor_that_is_said(library, settings):
    row = CONVENTIONS[library]
    readings = wrong_readings(library, classes=CLASSES, **settings)
    T, soft, hard = terms(library, classes=CLASSES, **settings)
    square = T**2 if row.square else 1.0
    wrong = {
        "T² left out": (soft / T**2, hard),
        "T² added": (soft * T**2, hard),
        "sum over the classes taken for the mean": (soft / CLASSES, hard),
        "mean over the classes taken for the sum": (soft * CLASSES, hard),
    }
    if hard:
        divisor = CLASSES if (dict(row.defaults) | settings).get("reduction") == "mean" else 1
        wrong["weights swapped"] = (hard * square / divisor, soft / square * divisor)
    assert len(readings) == (T != 1) + 1 + (soft > 0 and hard > 0)
    for reading, factors in readings.items():
        s, t, y = logits()
        for term, one, two, factor in zip(
            (divergence(s, t, T), F.cross_entropy(s, y)), wrong[reading], (soft, hard), factors, strict=True
        ):
            grad = torch.autograd.grad(term, s)[0]
            torch.testing.assert_close(one * grad, factor * two * grad)


@pytest.mark.parametrize(
    "arguments, settings, words",
    [
        (("torchdisil", "kdcourse"), {}, r"terms: library must be one of .*, got 'torchdisil'"),
        (("torchdistill", "keras"), {"temperature": 1, "alpha": 1}, r"convert: target must be one of .*, got 'keras'"),
        (("Keras", "kdcourse"), {"alpha": 0.1}, r"terms: Keras has the settings .*student_loss_weight.*, got 'alpha'"),
        (("torchdistill", "kdcourse"), {"alpha": 0.1}, r"torchdistill: temperature must be a finite number, got None"),
        (("torchdistill", "kdcourse"), {"temperature": 2.0}, r"torchdistill: alpha must be a finite number, got None"),
        (("TRL GKD", "kdcourse"), {"lmbda": 0}, r"TRL GKD: beta must be 0 to be converted, got 0.5: .*Jensen-Shannon"),
        (("TRL GKD", "kdcourse"), {"beta": 0}, r"TRL GKD: lmbda must be 0 to be converted, got 0.5: .*share of text"),
        (("liger-kernel", "kdcourse"), {"beta": 1}, r"liger-kernel: beta must be 0 .*got 1: .*reverse KL"),
        (("TextBrewer", "kdcourse"), {"kd_loss_type": "mse"}, r"kd_loss_type must be 'ce' to be converted, got 'mse'"),
        (("RepDistiller", "kdcourse"), {"alpha": 0.9, "beta": 0.8}, r"RepDistiller: beta must be 0 .*got 0.8"),
        (("mdistiller", "TRL GKD"), {"TEMPERATURE": 1}, r"convert: TRL GKD has no hard term, got one of weight 0.1"),
        (("mdistiller", "TRL GKD"), {}, r"convert: the loss of TRL GKD is always at T = 1, got T = 4"),
        (("Model-Optimizer", "kdcourse"), {}, r"Model-Optimizer divides by the number of classes: classes must be"),
        (("Model-Optimizer", "kdcourse"), {"reduction": "sum"}, r"reduction must be 'batchmean' or 'mean', got 'sum'"),
        (("Keras", "kdcourse"), {"temperature": 0}, r"terms: Keras: temperature must be positive, got 0"),
        (("Keras", "kdcourse"), {"student_loss_weight": 1.5}, r"weights must not be negative, nor both 0, got -0.5"),
        (("Keras", "kdcourse"), {"temperature": math.inf}, r"temperature must be a finite number, got inf"),
    ],
)
def test_what_cannot_be_converted_says_why(arguments, settings, words):
    with pytest.raises(ValueError, match=words):
        convert(*arguments, **settings)


def test_there_and_back_is_where_one_started():
    for library, target in itertools.product(["torchdistill", "RepDistiller", "liger-kernel", "Keras"], repeat=2):
        start = convert("kdcourse", library, temperature=4.0, soft_weight=0.7)
        there = convert(library, target, **start.settings)
        back = convert(target, "kdcourse", **there.settings)
        assert back.settings == pytest.approx({"temperature": 4.0, "soft_weight": 0.7})
        assert start.scale * there.scale * back.scale == pytest.approx(1.0)
