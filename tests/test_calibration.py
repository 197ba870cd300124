"""Temperature and vector scaling: against scipy and torch's L-BFGS, at the bounds, for batches of runs."""

import math

import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.testing import assert_close

from kdcourse.calibration import fit_temperature, fit_vector_scaling
from kdcourse.metrics import accuracy, nll


def overconfident(factor: float, seed: int = 0, examples: int = 500) -> tuple[Tensor, Tensor]:
    """Logits [examples, 6] in float64, `factor` times too large for the labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(examples, 6, generator=generator, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
    return factor * logits, targets


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_factor_by_which_the_logits_are_too_large(factor):
    logits, targets = overconfident(factor, examples=20_000)
    temperature, at_bound = fit_temperature(logits, targets)
    assert temperature.item() == pytest.approx(factor, rel=0.03) and not at_bound


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_scipy_finds_the_same_temperature(factor):
    logits, targets = overconfident(factor)
    theirs = minimize_scalar(
        lambda log_t: nll(logits / math.exp(log_t), targets).item(),
        bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-10},
    )  # fmt: skip
    assert_close(fit_temperature(logits, targets)[0].item(), math.exp(theirs.x), rtol=1e-6, atol=0)


def test_torchs_lbfgs_finds_the_same_temperature():
    logits, targets = overconfident(3.0)
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=100, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nll(logits / log_t.exp(), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_close(fit_temperature(logits, targets)[0], log_t.exp().detach(), rtol=1e-6, atol=0)


def test_it_lowers_the_nll_and_leaves_every_choice():
    logits, targets = overconfident(3.0)
    scaled = logits / fit_temperature(logits, targets)[0]
    assert nll(scaled, targets) < nll(logits, targets) - 0.1
    assert accuracy(scaled, targets) == accuracy(logits, targets)


def test_all_right_runs_to_the_lower_bound_and_all_wrong_to_the_upper():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    for targets, bound in (([0, 1], 0.05), ([1, 0], 20.0)):
        temperature, at_bound = fit_temperature(logits, torch.tensor(targets))
        assert temperature.item() == pytest.approx(bound) and at_bound
        temperature, at_bound = fit_temperature(logits, torch.tensor(targets), bounds=(0.5, 4))
        assert temperature.item() in (0.5, 4) and at_bound
    temperature, at_bound = fit_temperature(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert temperature == 20 and at_bound  # every T is as good: nothing can be fitted


def test_a_bound_that_is_not_reached_does_not_matter():
    logits, targets = overconfident(3.0)
    wide, narrow = (fit_temperature(logits, targets, bounds)[0] for bounds in ((0.01, 100), (2, 5)))
    assert_close(wide, narrow, rtol=1e-9, atol=0)
    temperature, at_bound = fit_temperature(logits, targets, (0.5, 2))
    assert temperature == 2 and at_bound


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_a_batch_of_runs_is_fitted_one_by_one(shape):
    runs = [overconfident(1.0 + i, seed=0) for i in range(math.prod(shape))]
    logits, targets = torch.stack([z for z, _ in runs]).view(*shape, 500, 6), runs[0][1]
    temperature, at_bound = fit_temperature(logits, targets)
    assert temperature.shape == at_bound.shape == shape
    assert_close(temperature.flatten(), torch.stack([fit_temperature(z, targets)[0] for z, _ in runs]))
    scaled = (logits / temperature[..., None, None]).flatten(0, -3)
    assert_close(scaled, scaled[:1].expand_as(scaled))  # the factors 1, 2, ... are gone
    scale, shift = fit_vector_scaling(logits, targets)
    assert scale.shape == shift.shape == (*shape, 6)
    alone = [fit_vector_scaling(z, targets) for z, _ in runs]
    assert_close(scale.view(-1, 6), torch.stack([s for s, _ in alone]), atol=1e-5, rtol=1e-5)
    assert_close(shift.view(-1, 6), torch.stack([b for _, b in alone]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_fit_is_made_in_double_precision_and_comes_back_as_it_went_in(dtype):
    logits, targets = overconfident(3.0)
    logits = logits.to(dtype)
    for fit in (fit_temperature, fit_vector_scaling):
        single, exact = fit(logits, targets), fit(logits.double(), targets)
        assert single[0].dtype == dtype
        assert torch.equal(single[0], exact[0].to(dtype)) and torch.equal(single[1], exact[1].to(single[1].dtype))


@pytest.mark.parametrize("pull", [1e-3, 0.1])
def test_scipy_finds_the_same_scales_and_shifts(pull):
    logits, targets = overconfident(2.0)
    logits = logits + torch.tensor([1.0, 0, 0, 0, 0, -1.0])

    def loss(numbers):
        both = torch.tensor(numbers, requires_grad=True)
        scale, shift = both.split(6)
        value = nll(logits * scale + shift, targets) + pull * ((scale - 1).square().sum() + shift.square().sum())
        (slope,) = torch.autograd.grad(value, both)
        return value.item(), slope.numpy()

    theirs = torch.tensor(minimize(loss, [1.0] * 6 + [0.0] * 6, jac=True, options={"gtol": 1e-9}).x)
    scale, shift = fit_vector_scaling(logits, targets, pull)
    assert_close(torch.cat([scale, shift]), theirs, atol=1e-5, rtol=1e-5)


def test_vector_scaling_undoes_a_shift_of_one_class_and_one_temperature_cannot():
    logits, targets = overconfident(1.0, examples=5000)
    shifted = logits + torch.tensor([2.0, 0, 0, 0, 0, 0])
    scale, shift = fit_vector_scaling(shifted, targets)
    repaired = nll(shifted * scale + shift, targets)
    assert (shift[0] - shift[1:].mean()).item() == pytest.approx(-2, abs=0.2)
    assert repaired < nll(shifted / fit_temperature(shifted, targets)[0], targets) - 0.05


def test_separable_classes_have_a_finite_answer():
    logits = 5 * torch.eye(3).repeat(4, 1)
    scale, shift = fit_vector_scaling(logits, torch.arange(12) % 3)
    assert scale.isfinite().all() and shift.isfinite().all() and (scale > 1).all()


def test_nothing_is_left_in_the_graph_and_gradients_may_be_off():
    logits, targets = overconfident(2.0)
    logits.requires_grad_()
    with torch.no_grad():
        results = (*fit_temperature(logits, targets), *fit_vector_scaling(logits, targets))
    assert not any(part.requires_grad for part in results) and logits.grad is None


def test_wrong_calls_are_named():
    logits, targets = overconfident(2.0)
    for bounds in ((0, 1), (2, 1), (1, 1)):
        with pytest.raises(ValueError) as error:
            fit_temperature(logits, targets, bounds)
        assert str(error.value) == f"fit_temperature: bounds must be 0 < lowest T < highest T, got {bounds}"
    with pytest.raises(ValueError, match="^fit_vector_scaling: pull must be positive, got 0"):
        fit_vector_scaling(logits, targets, pull=0)
    for function in (fit_temperature, fit_vector_scaling):
        with pytest.raises(ValueError, match=rf"^{function.__name__}: logits \[..., batch, classes\] and targets"):
            function(logits, targets[:3])
