"""The whole family: stairs, patients, rules with state, learned and per-example temperatures."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.testing import assert_close

from kdcourse.schedules import (
    between,
    constant,
    cosine,
    early_stopping,
    exponential,
    linear,
    plateau,
    reverse_gradient,
    sampled,
    sigmoid,
    standardise,
    step,
    two_way,
)

values = st.floats(0.1, 100)
metrics = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30)


def path(rule, seen):
    """The value after each decision."""
    state, shown = rule.initial(), []
    for metric in seen:
        state = rule.update(state, metric)
        shown.append(state["value"].item())
    return shown


# -- functions of the step ------------------------------------------------------------------------


@given(values, st.floats(0.05, 1), st.integers(1, 50), st.floats(0, 1), st.integers(0, 500))
def test_step_falls_by_its_factor_each_time_and_never_below_the_floor(start, factor, every, share, n):
    floor = share * start
    schedule = step(start, factor, every, floor)
    assert schedule(0) == start
    assert schedule(n) == schedule(n - n % every)
    assert schedule(n + every) == pytest.approx(max(factor * schedule(n), floor), rel=1e-6, abs=1e-300)
    assert floor <= schedule(n + 1) <= schedule(n) <= start


@given(st.floats(0.01, 5), st.integers(1, 50), st.integers(0, 2000))
def test_the_sigmoid_rises_from_a_half_and_never_passes_one(rate, every, n):
    schedule = sigmoid(rate, every)
    assert schedule(0) == 0.5
    assert 0.5 <= schedule(n) <= schedule(n + every) <= 1
    assert schedule(every) == pytest.approx(1 / (1 + math.exp(-rate)))


def test_dividing_by_ten_each_epoch_leaves_the_useful_range_within_two():
    schedule = step(10.0, 0.1, every=16)
    assert [schedule(16 * epoch) for epoch in range(4)] == pytest.approx([10, 1, 0.1, 0.01])
    assert step(10.0, 0.1, every=16, floor=1.0)(10**6) == 1.0


@given(values, st.floats(1, 10), st.integers(0, 10**6), st.integers(0, 5))
def test_a_sampled_value_stays_in_its_bounds_and_belongs_to_its_step(low, times, n, seed):
    schedule = sampled(low, low * times, seed)
    assert low * (1 - 1e-9) <= schedule(n) <= low * times * (1 + 1e-9)
    assert schedule(n) == sampled(low, low * times, seed)(n)


def test_sampled_values_are_spread_evenly_over_the_logarithm():
    drawn = torch.tensor([math.log(sampled(1.0, 16.0)(n)) for n in range(4000)]) / math.log(16)
    assert_close(drawn.histc(4, 0, 1) / 4000, torch.full((4,), 0.25), rtol=0, atol=0.03)
    assert abs(torch.corrcoef(torch.stack([drawn[1:], drawn[:-1]]))[0, 1]) < 0.05


def test_a_schedule_has_a_name_that_a_table_can_show():
    made = [constant(4), linear(8, 1, 10), cosine(8, 1, 10), exponential(8, 0.9, 1), step(8, 0.5, 10), sigmoid(0.1)]
    names = [schedule.__name__ for schedule in made]
    assert names[0] == "constant(4)" and names[2] == "cosine(8, 1, 10)"
    assert len(set(names)) == len(names)
    assert plateau(8.0).name == "plateau(8, 0.5, 3)"


# -- rules ----------------------------------------------------------------------------------------


def plateau_by_hand(start, factor, patience, improvement, floor, seen):
    value, best, waited, shown = start, math.inf, 0, []
    for metric in seen:
        if metric < best - improvement:
            best, waited = metric, 0
        else:
            waited += 1
        if waited >= patience:
            value, waited = max(value * factor, floor), 0
        shown.append(value)
    return shown


@given(metrics, st.floats(1, 20, width=32), st.floats(0.1, 1), st.integers(1, 4), st.sampled_from([0.0, 0.5, 3.0]))
def test_a_plateau_is_what_its_sentence_says_and_never_rises(seen, start, factor, patience, improvement):
    rule = plateau(start, factor, patience, improvement=improvement, floor=0.5)
    got = path(rule, seen)
    assert got == pytest.approx(plateau_by_hand(start, factor, patience, improvement, 0.5, seen), rel=1e-5)
    assert sorted(got, reverse=True) == got and 0.5 <= got[-1] <= start * (1 + 1e-6)


def two_way_by_hand(value, factor, band, floor, ceiling, seen):
    last, shown = math.inf, []
    for metric in seen:
        if metric > last + band:
            value *= factor
        elif metric >= last - band:
            value /= factor
        value, last = min(max(value, floor), ceiling), metric
        shown.append(value)
    return shown


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.sampled_from([0.0, 1.0]))
def test_the_two_way_rule_is_what_its_sentence_says_and_stays_in_its_bounds(seen, band):
    got = path(two_way(4.0, 1.5, band=band, floor=1.0, ceiling=9.0), seen)
    assert got == pytest.approx(two_way_by_hand(4.0, 1.5, band, 1.0, 9.0, seen), rel=1e-4)
    assert 1.0 <= min(got) and max(got) <= 9.0


def test_noise_alone_drives_the_two_way_rule():
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0))
    # Numbers that never repeat can only raise it, equal ones only lower it; counts of errors do both.
    assert path(two_way(4.0), noise.tolist())[-1] == 20.0
    assert path(two_way(4.0, band=1e9), noise.tolist())[-1] == pytest.approx(0.05)
    walk = torch.tensor(path(two_way(4.0), noise.round().tolist())).log().diff()
    assert (walk > 0.1).any() and (walk < -0.1).any()


@given(metrics, st.integers(1, 4))
def test_early_stopping_stops_once_and_for_all(seen, patience):
    got = path(early_stopping(patience), seen)
    by_hand = plateau_by_hand(1.0, 0.0, patience, 0.0, 0.0, seen)
    assert got == by_hand and set(got) <= {0.0, 1.0} and sorted(got, reverse=True) == got


RULES = [plateau(8.0, 0.5, 2, improvement=0.1, floor=1.0), two_way(4.0, band=0.2), early_stopping(2)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@given(before=metrics, after=metrics)
def test_a_state_that_was_saved_and_restored_goes_on_as_if_never_stopped(rule, before, after):
    state = rule.initial()
    for metric in before:
        state = rule.update(state, metric)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored = torch.load(file, weights_only=True)
    for metric in after:
        state, restored = rule.update(state, metric), rule.update(restored, metric)
        assert_close(restored, state, rtol=0, atol=0)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_runs_side_by_side_are_the_same_runs_alone_and_a_state_is_not_changed(rule):
    seen = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    state, shown = rule.initial(torch.zeros(5)), []
    for metric in seen:
        before = {name: value.clone() for name, value in state.items()}
        after = rule.update(state, metric)
        assert_close(state, before, rtol=0, atol=0)
        state = after
        shown.append(state["value"])
    for run in range(5):
        assert torch.stack(shown)[:, run].tolist() == path(rule, seen[:, run].tolist())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_metric_that_is_not_a_number_is_no_improvement(rule):
    state = rule.update(rule.initial(), 1.0)
    assert rule.update(state, math.nan)["value"].isfinite()
    later = rule.update(rule.update(state, math.nan), 0.5)
    assert all(value.isfinite() for value in later.values())


# -- learned, adversarial, one for each example ---------------------------------------------------


@given(st.floats(-50, 50), values, st.floats(1, 10))
def test_a_fold_stays_between_its_bounds_and_rises(raw, low, times):
    low_, high = low, low * times
    folded = between(torch.tensor([raw, raw + 1], dtype=torch.float64), low_, high)
    assert low_ <= folded[0] <= folded[1] <= high * (1 + 1e-12)


def test_a_reversed_gradient_is_the_gradient_times_minus_scale_and_the_value_is_untouched():
    x = torch.randn(7, dtype=torch.float64)
    assert torch.equal(reverse_gradient(x, 3.0), x)
    forward, reversed_ = (
        grad(lambda x, f=f: f(x).square().sum())(x) for f in (lambda x: x, lambda x: reverse_gradient(x, 3.0))
    )
    assert_close(reversed_, -3 * forward)
    assert_close(vmap(grad(lambda x: reverse_gradient(x, 3.0).square()))(x), reversed_)


def test_standardised_logits_have_mean_0_and_deviation_1_whatever_the_scale():
    logits = torch.randn(6, 10, dtype=torch.float64)
    got = standardise(logits)
    assert_close(got.mean(-1), torch.zeros(6, dtype=torch.float64))
    assert_close(got.std(-1, correction=0), torch.ones(6, dtype=torch.float64))
    assert_close(standardise(5 * logits + 3), got)
    assert_close(got, (logits - logits.mean(-1, True)) / logits.std(-1, correction=0, keepdim=True))
    assert standardise(logits.half()).dtype == torch.float32
    equal = torch.ones(2, 10, requires_grad=True)
    standardise(equal).sum().backward()
    assert equal.grad.isfinite().all()


# -- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step(math.nan, 0.5, 10), "step: start must be finite, got nan"),
        (lambda: step(8.0, 1.5, 10), "step: factor must lie in (0, 1], got 1.5"),
        (lambda: step(8.0, 0.5, 0), "step: every must be at least 1, got 0"),
        (lambda: step(8.0, 0.5, 10, floor=9.0), "step: floor must lie in [0, start = 8.0], got 9.0"),
        (lambda: step(8.0, 0.5, 10, floor=-1.0), "step: floor must lie in [0, start = 8.0], got -1.0"),
        (lambda: sigmoid(0.0), "sigmoid: rate must be positive, got 0.0"),
        (lambda: sigmoid(math.inf), "sigmoid: rate must be finite, got inf"),
        (lambda: sigmoid(1.0, 0), "sigmoid: every must be at least 1, got 0"),
        (lambda: sampled(0.0, 2.0), "sampled: 0 < low <= high must hold, got 0.0 and 2.0"),
        (lambda: sampled(3.0, 2.0), "sampled: 0 < low <= high must hold, got 3.0 and 2.0"),
        (lambda: plateau(math.inf), "plateau: start must be finite, got inf"),
        (lambda: plateau(8.0, 0.0), "plateau: factor must lie in (0, 1], got 0.0"),
        (lambda: plateau(8.0, patience=0), "plateau: patience must be at least 1, got 0"),
        (lambda: plateau(8.0, improvement=-1.0), "plateau: improvement must not be negative, got -1.0"),
        (lambda: plateau(8.0, floor=0.0), "plateau: floor must lie in (0, start = 8.0], got 0.0"),
        (lambda: plateau(8.0, floor=9.0), "plateau: floor must lie in (0, start = 8.0], got 9.0"),
        (lambda: early_stopping(0), "early_stopping: patience must be at least 1, got 0"),
        (lambda: early_stopping(improvement=-0.1), "early_stopping: improvement must not be negative, got -0.1"),
        (lambda: two_way(4.0, 1.0), "two_way: factor must be above 1, got 1.0"),
        (lambda: two_way(4.0, band=-1.0), "two_way: band must not be negative, got -1.0"),
        (lambda: two_way(4.0, floor=0.0), "two_way: 0 < floor <= ceiling must hold, got 0.0 and 20.0"),
        (lambda: two_way(30.0), "two_way: start must lie in [floor, ceiling] = [0.05, 20.0], got 30.0"),
        (lambda: between(torch.zeros(()), 2.0, 1.0), "between: 0 < low <= high must hold, got 2.0 and 1.0"),
        (lambda: reverse_gradient(torch.zeros(()), math.nan), "reverse_gradient: scale must be finite, got nan"),
    ],
)
def test_a_bad_parameter_is_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
