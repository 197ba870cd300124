"""Schedules: a temperature, a weight or a learning rate that changes during training.

Most are a plain function of the step, made by a function; it may drive anything:

temperature = cosine(8.0, 1.0, steps=300)
temperature(0), temperature(300)  # 8.0, 1.0

A `Rule` answers to what training shows (a loss), and keeps its state outside, as tensors. The last functions stand in
for a schedule where the temperature is learned or where each example has its own.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcourse.softmax import full_precision

Schedule = Callable[[int], float]
State = dict[str, Tensor]


def constant(value: float) -> Schedule:
    """The same `value` at every step."""
    _check_finite("constant", value=value)
    return _named(lambda step: value, f"constant({value:g})")


def linear(start: float, end: float, steps: int) -> Schedule:
    """A straight line from `start` at step 0 to `end` at step `steps`; `end` from then on."""
    _check_finite("linear", start=start, end=end)
    _check_steps("linear", steps=steps)
    return _named(lambda step: start + (end - start) * min(step / steps, 1.0), f"linear({start:g}, {end:g}, {steps})")


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine from `start` at step 0 to `end` at step `steps`; `end` from then on.

    >>> temperature = cosine(8.0, 1.0, steps=100)
    >>> [temperature(step) for step in (0, 50, 100, 10_000)]
    [8.0, 4.5, 1.0, 1.0]
    """
    _check_finite("cosine", start=start, end=end)
    _check_steps("cosine", steps=steps)

    def value_at(step: int) -> float:
        progress = min(step / steps, 1.0)
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2

    return _named(value_at, f"cosine({start:g}, {end:g}, {steps})")


def exponential(start: float, decay: float, floor: float) -> Schedule:
    """`start` times `decay` to the power of the step, never below `floor`.

    >>> temperature = exponential(10.0, decay=0.1, floor=1.0)
    >>> [temperature(step) for step in (0, 1, 2)]
    [10.0, 1.0, 1.0]
    """
    _check_finite("exponential", start=start, decay=decay, floor=floor)
    _check_factor("exponential", "decay", decay)
    if not 0 < floor <= start:
        raise ValueError(f"exponential: floor must lie in (0, start = {start!r}], got {floor!r}")
    return _named(lambda step: max(start * decay**step, floor), f"exponential({start:g}, {decay:g}, {floor:g})")


def step(start: float, factor: float, every: int, floor: float = 0.0) -> Schedule:
    """`start`, multiplied by `factor` after each `every` steps, never below `floor`.

    Without a floor it tends to 0, where a temperature has no meaning: "divide T by 10 each epoch" is
    step(10.0, 0.1, every=epoch), and its patient dies of that.

    >>> temperature = step(8.0, 0.5, every=10, floor=1.0)
    >>> [temperature(n) for n in (0, 9, 10, 20, 1000)]
    [8.0, 8.0, 4.0, 2.0, 1.0]
    """
    _check_finite("step", start=start, factor=factor, floor=floor)
    _check_steps("step", every=every)
    _check_factor("step", "factor", factor)
    if not 0 <= floor <= start:
        raise ValueError(f"step: floor must lie in [0, start = {start!r}], got {floor!r}")
    return _named(lambda n: max(start * factor ** (n // every), floor), f"step({start:g}, {factor:g}, {every})")


def sigmoid(rate: float, every: int = 1) -> Schedule:
    """1 / (1 + exp(-rate * epoch)), an epoch being `every` steps: from 1/2 up towards 1, never beyond.

    A patient: it has been proposed as a temperature, though it rises, and though all of it lies below 1.
    """
    _check_finite("sigmoid", rate=rate)
    _check_steps("sigmoid", every=every)
    if rate <= 0:
        raise ValueError(f"sigmoid: rate must be positive, got {rate!r}")
    return _named(lambda step: 1 / (1 + math.exp(-rate * (step // every))), f"sigmoid({rate:g}, {every})")


def sampled(low: float, high: float, seed: int = 0) -> Schedule:
    """A value drawn anew at each step, its logarithm uniform between those of `low` and `high`."""
    _check_bounds("sampled", low=low, high=high)
    path = lambda step: low * (high / low) ** random.Random(f"{seed} {step}").random()  # noqa: E731
    return _named(path, f"sampled({low:g}, {high:g}, {seed})")


@dataclass(frozen=True)
class Rule:
    """A value that answers to a metric of which less is better: state in, state out, nothing kept inside.

    In a plain loop `state["value"]` is the value, and after an epoch, or whenever there is news,

        state = rule.update(state, validation_loss)

    A state is a dict of tensors, scalars or one entry a run, so `torch.save` keeps it, and a loop that is given it back
    goes on as if it had never stopped. A metric that is NaN is no improvement.
    """

    name: str
    first: dict[str, float]
    decide: Callable[[State, Tensor], State]
    lowest: float
    highest: float

    def initial(self, like: Tensor | None = None) -> State:
        """The state before the first decision: scalars, or tensors of the shape, type and device of `like`."""
        like = torch.tensor(0.0) if like is None else like
        return {name: torch.full_like(like, value) for name, value in self.first.items()}

    def update(self, state: State, metric: float | Tensor) -> State:
        """The state after one more decision."""
        return self.decide(state, torch.as_tensor(metric).to(state["value"]))


def plateau(
    start: float, factor: float = 0.5, patience: int = 3, *, improvement: float = 0.0, floor: float = 1.0
) -> Rule:
    """Multiply by `factor` after `patience` decisions in a row without improvement, down to `floor`; never up.

    `improvement` is the dead band: a metric must fall below the best so far by more than this to count.

    >>> rule = plateau(8.0, factor=0.5, patience=2)
    >>> state = rule.initial()
    >>> for loss in (1.0, 0.9, 0.9, 0.9):
    ...     state = rule.update(state, loss)
    >>> state["value"]
    tensor(4.)
    """
    _check_finite("plateau", start=start, factor=factor, improvement=improvement, floor=floor)
    _check_factor("plateau", "factor", factor)
    if not 0 < floor <= start:
        raise ValueError(f"plateau: floor must lie in (0, start = {start!r}], got {floor!r}")
    decide = _after_patience("plateau", factor, patience, improvement, floor)
    name = f"plateau({start:g}, {factor:g}, {patience})"
    return Rule(name, {"value": start, "best": math.inf, "waited": 0.0}, decide, floor, start)


def early_stopping(patience: int = 3, *, improvement: float = 0.0) -> Rule:
    """1 while a run learns, 0 after `patience` decisions in a row without improvement: the `stop` of `train`."""
    _check_finite("early_stopping", improvement=improvement)
    decide = _after_patience("early_stopping", 0.0, patience, improvement, 0.0)
    return Rule(f"early_stopping({patience})", {"value": 1.0, "best": math.inf, "waited": 0.0}, decide, 0.0, 1.0)


def two_way(
    start: float, factor: float = 1.5, *, band: float = 0.0, floor: float = 0.05, ceiling: float = 20.0
) -> Rule:
    """Times `factor` where the metric is worse than at the last decision, divided by it where it is the same.

    "The same" means within `band`. A patient: two noisy numbers are compared, so the value walks at random.
    """
    _check_finite("two_way", start=start, factor=factor, band=band)
    _check_bounds("two_way", floor=floor, ceiling=ceiling)
    if factor <= 1:
        raise ValueError(f"two_way: factor must be above 1, got {factor!r}")
    if band < 0:
        raise ValueError(f"two_way: band must not be negative, got {band!r}")
    if not floor <= start <= ceiling:
        raise ValueError(f"two_way: start must lie in [floor, ceiling] = [{floor!r}, {ceiling!r}], got {start!r}")

    def decide(state: State, metric: Tensor) -> State:
        value, last = state["value"], state["last"]
        worse, better = metric > last + band, metric < last - band
        same = ~worse & ~better & ~metric.isnan()
        value = torch.where(worse, value * factor, torch.where(same, value / factor, value))
        return {"value": value.clamp(floor, ceiling), "last": torch.where(metric.isnan(), last, metric)}

    return Rule(f"two_way({start:g}, {factor:g})", {"value": start, "last": math.inf}, decide, floor, ceiling)


def between(raw: Tensor, low: float, high: float) -> Tensor:
    """A number without bounds, such as a learned parameter, as a value between `low` and `high`: a smooth fold."""
    _check_bounds("between", low=low, high=high)
    return low + (high - low) * raw.sigmoid()


def reverse_gradient(values: Tensor, scale: float = 1.0) -> Tensor:
    """`values`, unchanged; their gradient is multiplied by -`scale`, so what is descended for others is climbed here.

    An adversarial temperature: T = between(reverse_gradient(raw), 1.0, 20.0), where `raw` is trained with the student.
    Source: Ganin and Lempitsky (2015), arXiv:1409.7495; for temperatures Li et al. (2023), CTKD, arXiv:2211.16231.
    """
    _check_finite("reverse_gradient", scale=scale)
    fixed = values.detach()
    return fixed - scale * (values - fixed)


def standardise(logits: Tensor) -> Tensor:
    """Logits [..., classes] with mean 0 and standard deviation 1 in each example: a temperature for each example.

    Dividing by the standard deviation is T = std(logits), whatever the network's scale; use it on student and teacher.
    Source: Sun et al. (2024), arXiv:2403.01427.
    """
    logits = full_precision(logits)
    centred = logits - logits.mean(-1, keepdim=True)
    # The small number keeps the gradient of equal logits finite.
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-14).sqrt()


def _after_patience(function: str, factor: float, patience: int, improvement: float, floor: float):
    _check_steps(function, patience=patience)
    if improvement < 0:
        raise ValueError(f"{function}: improvement must not be negative, got {improvement!r}")

    def decide(state: State, metric: Tensor) -> State:
        better = metric < state["best"] - improvement
        waited = torch.where(better, 0.0, state["waited"] + 1)
        now = waited >= patience
        lower = (state["value"] * factor).clamp(min=floor)
        return {
            "value": torch.where(now, lower, state["value"]),
            "best": torch.where(better, metric, state["best"]),
            "waited": torch.where(now, 0.0, waited),
        }

    return decide


def _named(schedule: Schedule, name: str) -> Schedule:
    """A table of runs shows the name."""
    schedule.__name__ = name
    return schedule


def _check_finite(function: str, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{function}: {name} must be finite, got {value!r}")


def _check_steps(function: str, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{function}: {name} must be at least 1, got {count!r}")


def _check_factor(function: str, name: str, factor: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"{function}: {name} must lie in (0, 1], got {factor!r}")


def _check_bounds(function: str, **bounds: float) -> None:
    _check_finite(function, **bounds)
    (low_name, low), (high_name, high) = bounds.items()
    if not 0 < low <= high:
        raise ValueError(f"{function}: 0 < {low_name} <= {high_name} must hold, got {low!r} and {high!r}")
