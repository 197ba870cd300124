"""Schedules: their ends, their shape, what they share, messages."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcourse.schedules import constant, cosine, exponential, linear

values = st.floats(0.1, 100)
lengths = st.integers(1, 500)


@given(values, values, lengths, st.integers(0, 1000))
def test_linear_and_cosine_start_at_start_end_at_end_and_stay_there(start, end, steps, later):
    for schedule in (linear(start, end, steps), cosine(start, end, steps)):
        assert schedule(0) == pytest.approx(start)
        assert schedule(steps + later) == pytest.approx(end)


@given(values, values, lengths)
def test_linear_and_cosine_never_leave_the_interval_nor_turn_back(start, end, steps):
    for schedule in (linear(start, end, steps), cosine(start, end, steps)):
        path = [schedule(step) for step in range(steps + 2)]
        assert sorted(path, reverse=start > end) == pytest.approx(path)
        assert min(start, end) - 1e-9 <= min(path) and max(path) <= max(start, end) + 1e-9


@given(values, values, lengths, st.data())
def test_linear_takes_equal_steps(start, end, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    schedule = linear(start, end, steps)
    assert schedule(step + 1) - schedule(step) == pytest.approx((end - start) / steps, abs=1e-9)


def test_cosine_is_half_a_cosine():
    schedule = cosine(8.0, 2.0, steps=60)
    for step in range(61):
        assert schedule(step) == pytest.approx(5 + 3 * math.cos(math.pi * step / 60))
    assert schedule(30) == pytest.approx(5.0)
    assert schedule(1) - schedule(0) == pytest.approx(0, abs=0.01)  # flat at its ends


@given(st.floats(1, 100), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 10_000))
def test_exponential_multiplies_by_decay_until_the_floor(start, decay, floor, step):
    schedule = exponential(start, decay, floor)
    assert schedule(0) == start
    assert schedule(step) == pytest.approx(max(start * math.exp(step * math.log(decay)), floor))
    assert schedule(step + 1) == pytest.approx(max(decay * schedule(step), floor))


def test_constant_is_the_same_at_every_step():
    assert {constant(4.0)(step) for step in (0, 1, 10**9)} == {4.0}


def test_a_schedule_is_a_plain_function_so_that_schedules_can_be_combined():
    warm_up, decline = linear(0.0, 1.0, steps=10), cosine(8.0, 1.0, steps=100)
    both = lambda step: warm_up(step) * decline(step)  # noqa: E731
    assert both(0) == 0 and both(100) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: constant(v), "constant: value"),
        (lambda v: linear(v, 1.0, 10), "linear: start"),
        (lambda v: linear(1.0, v, 10), "linear: end"),
        (lambda v: cosine(v, 1.0, 10), "cosine: start"),
        (lambda v: cosine(1.0, v, 10), "cosine: end"),
        (lambda v: exponential(v, 0.9, 1.0), "exponential: start"),
        (lambda v: exponential(8.0, v, 1.0), "exponential: decay"),
        (lambda v: exponential(8.0, 0.9, v), "exponential: floor"),
    ],
)
def test_a_value_that_is_not_finite_is_named(make, name, bad):
    with pytest.raises(ValueError) as error:
        make(bad)
    assert str(error.value) == f"{name} must be finite, got {bad!r}"


@pytest.mark.parametrize("steps", [0, -3])
@pytest.mark.parametrize("make", [linear, cosine])
def test_a_schedule_without_steps_is_named(make, steps):
    with pytest.raises(ValueError) as error:
        make(8.0, 1.0, steps)
    assert str(error.value) == f"{make.__name__}: steps must be at least 1, got {steps}"


def test_a_decay_that_grows_or_alternates_is_named():
    for decay in (0, -0.5, 1.01):
        with pytest.raises(ValueError) as error:
            exponential(8.0, decay, 1.0)
        assert str(error.value) == f"exponential: decay must lie in (0, 1], got {decay!r}"


def test_a_floor_above_the_start_or_not_above_zero_is_named():
    for floor in (0, -1.0, 8.5):
        with pytest.raises(ValueError) as error:
            exponential(8.0, 0.9, floor)
        assert str(error.value) == (f"exponential: floor must lie in (0, start = 8.0], got {floor!r}")
