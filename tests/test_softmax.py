"""Softmax with a temperature and entropy: definition by hand, identities, limits, messages."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from kdcourse.softmax import entropy, tempered_log_softmax, tempered_softmax

TEMPERATURES = [0.1, 0.5, 1.0, 4.0, 20.0, 1e4]
finite = st.floats(-1e4, 1e4, allow_subnormal=False)
rows = st.lists(finite, min_size=1, max_size=12)
temperatures = st.floats(1e-3, 1e4)


def by_hand(logits: list[float], temperature: float) -> list[float]:
    """The formula in plain Python: exp(z_k / T) over their sum, with the largest logit at 0."""
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    return [w / math.fsum(weights) for w in weights]


@given(rows, temperatures)
def test_probabilities_are_the_formula_worked_out_by_hand(logits, temperature):
    got = tempered_softmax(torch.tensor(logits, dtype=torch.float64), temperature)
    assert_close(got.tolist(), by_hand(logits, temperature), rtol=1e-9, atol=1e-15)


@given(rows, temperatures)
def test_log_probabilities_are_logs_of_probabilities_and_stay_finite(logits, temperature):
    logits = torch.tensor(logits, dtype=torch.float64)
    log_probs = tempered_log_softmax(logits, temperature)
    assert log_probs.isfinite().all()
    assert_close(log_probs.exp(), tempered_softmax(logits, temperature))


@given(rows, temperatures)
def test_float32_probabilities_sum_to_one_and_are_never_nan(logits, temperature):
    probs = tempered_softmax(torch.tensor(logits, dtype=torch.float32), temperature)
    assert ((probs >= 0) & (probs <= 1 + 1e-6)).all()
    assert_close(probs.sum(), torch.tensor(1.0))


@given(rows, finite, temperatures)
def test_a_constant_added_to_all_logits_changes_nothing(logits, constant, temperature):
    logits = torch.tensor(logits, dtype=torch.float64)
    expected = tempered_softmax(logits, temperature)
    # A logit of 1e4 keeps twelve digits after the point, and 1/T enlarges what it loses.
    atol = 1e-11 / temperature
    assert_close(tempered_softmax(logits + constant, temperature), expected, rtol=0, atol=atol)


@given(rows, temperatures)
def test_the_order_of_the_classes_survives_any_temperature(logits, temperature):
    probs = tempered_softmax(torch.tensor(logits, dtype=torch.float64), temperature)
    ranked = probs[torch.tensor(logits, dtype=torch.float64).argsort()]
    assert (ranked.diff() >= 0).all()


@given(rows, st.floats(0.1, 100), st.floats(1.0, 100))
def test_hotter_is_never_sharper(logits, temperature, factor):
    logits = torch.tensor(logits, dtype=torch.float64)
    cold = entropy(tempered_softmax(logits, temperature))
    hot = entropy(tempered_softmax(logits, temperature * factor))
    assert hot >= cold - 1e-12


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_derivative_is_that_of_softmax_over_T(temperature):
    logits = torch.tensor([1.5, -0.5, 0.25, 3.0], dtype=torch.float64)
    jacobian = torch.func.jacrev(tempered_softmax)(logits, temperature)
    p = torch.tensor(by_hand(logits.tolist(), temperature), dtype=torch.float64)
    assert_close(jacobian, (torch.diag(p) - torch.outer(p, p)) / temperature)


@pytest.mark.parametrize("function", [tempered_softmax, tempered_log_softmax])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_first_and_second_derivatives_pass_gradcheck(function, temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: function(z, temperature), logits)
    assert torch.autograd.gradgradcheck(lambda z: function(z, temperature), logits)


def test_a_temperature_can_be_learned():
    logits = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: tempered_log_softmax(logits, t), temperature)


def test_as_T_goes_to_zero_the_largest_logit_takes_all():
    probs = tempered_softmax(torch.tensor([1.0, 3.0, 2.0]), temperature=1e-3)
    assert probs.tolist() == [0.0, 1.0, 0.0]


def test_as_T_goes_to_zero_equal_largest_logits_share():
    probs = tempered_softmax(torch.tensor([3.0, 1.0, 3.0, 3.0]), temperature=1e-3)
    assert_close(probs, torch.tensor([1 / 3, 0.0, 1 / 3, 1 / 3]))


def test_as_T_goes_to_infinity_all_classes_are_equal():
    logits = torch.tensor([5.0, -3.0, 0.0, 1.0], dtype=torch.float64)
    for temperature in (1e4, 1e6, 1e8):
        gap = tempered_softmax(logits, temperature) - 1 / 4
        # The first term of the series: p - 1/N = (z - mean z) / (N T), then 1/T² and smaller.
        assert_close(gap, (logits - logits.mean()) / (4 * temperature), rtol=20 / temperature, atol=0)


@pytest.mark.parametrize("function", [tempered_softmax, tempered_log_softmax])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("temperature", [1e-3, *TEMPERATURES])
def test_float32_agrees_with_float64(function, scale, temperature):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, 10, generator=generator) * scale
    got, exact = function(logits, temperature), function(logits.double(), temperature)
    # z/T is rounded once to 24 bits, so its error grows with its size.
    atol = 1e-6 * max(1.0, (logits.abs().max() / temperature).item())
    rtol = 1e-5 if function is tempered_log_softmax else 1e-6
    assert_close(got.double(), exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("function", [tempered_softmax, tempered_log_softmax])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_and_returned_in_float32(function, dtype):
    logits = torch.tensor([[300.0, 1.0, -200.0], [0.1, 0.2, 0.3]], dtype=dtype)
    assert_close(function(logits, 0.01), function(logits.float(), 0.01), rtol=0, atol=0)
    assert function(logits).dtype == torch.float32
    assert function(logits.double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7), (2, 3, 5, 7)])
def test_the_class_axis_is_the_last_one_whatever_stands_before_it(shape):
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    probs = tempered_softmax(logits, 2.0)
    assert probs.shape == shape
    for row, expected in zip(logits.view(-1, 7), probs.view(-1, 7), strict=True):
        assert_close(by_hand(row.tolist(), 2.0), expected.tolist())


def test_a_view_of_other_memory_gives_the_same_numbers():
    logits = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    for view in (logits.t(), logits[:, ::2], logits[::2].t(), logits[:1].expand(4, 8)):
        assert_close(tempered_softmax(view, 3.0), tempered_softmax(view.clone().contiguous(), 3.0))


@pytest.mark.parametrize("function", [tempered_softmax, tempered_log_softmax])
def test_a_temperature_for_each_row_equals_one_at_a_time(function):
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(4))
    runs = torch.tensor([0.5, 2.0, 8.0])
    one_by_one = [function(part, t) for part, t in zip(logits, runs.tolist(), strict=True)]
    assert_close(function(logits, runs[:, None]), torch.stack(one_by_one))
    assert_close(torch.func.vmap(function)(logits, runs), torch.stack(one_by_one))


def test_a_single_class_has_probability_one():
    assert tempered_softmax(torch.tensor([[-7.0], [1e4]]), 0.5).tolist() == [[1.0], [1.0]]
    assert tempered_log_softmax(torch.tensor([[-7.0], [1e4]]), 0.5).tolist() == [[0.0], [0.0]]


def test_entropy_is_minus_the_sum_of_p_log_p():
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]], dtype=torch.float64)
    by_definition = [-math.fsum(p * math.log(p) for p in row) for row in probs.tolist()]
    assert_close(entropy(probs).tolist(), by_definition)
    assert_close(entropy(probs[0]).item(), 1.5 * math.log(2))


def test_entropy_runs_from_zero_for_certainty_to_log_N_for_ignorance():
    assert entropy(torch.tensor([0.0, 1.0, 0.0])) == 0
    for classes in (1, 2, 10, 1000):
        uniform = torch.full((classes,), 1 / classes, dtype=torch.float64)
        assert_close(entropy(uniform).item(), math.log(classes))


@pytest.mark.parametrize("function", [tempered_softmax, tempered_log_softmax])
@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, True, "4", None])
def test_a_temperature_that_is_not_positive_and_finite_is_named(function, temperature):
    with pytest.raises(ValueError) as error:
        function(torch.zeros(2, 3), temperature)
    assert str(error.value) == (f"{function.__name__}: temperature must be positive and finite, got {temperature!r}")


@pytest.mark.parametrize("function", [tempered_softmax, tempered_log_softmax])
def test_logits_that_are_whole_numbers_are_named(function):
    with pytest.raises(TypeError) as error:
        function(torch.tensor([1, 2, 3]))
    assert str(error.value) == (f"{function.__name__}: logits must be a floating-point tensor, got torch.int64")
    with pytest.raises(TypeError, match="logits must be a floating-point tensor, got list"):
        function([1.0, 2.0])


@pytest.mark.parametrize("shape", [(), (4, 0)])
def test_logits_without_a_class_are_named(shape):
    with pytest.raises(ValueError) as error:
        tempered_softmax(torch.zeros(shape))
    assert str(error.value) == (
        f"tempered_softmax: logits must have at least one class on its last axis, got shape {shape}"
    )
