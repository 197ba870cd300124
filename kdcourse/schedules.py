"""Schedules: a plain function of the step, made by a function; it may drive anything.

temperature = cosine(8.0, 1.0, steps=300)
temperature(0), temperature(300)  # 8.0, 1.0
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """The same `value` at every step."""
    _check_finite("constant", value=value)
    return lambda step: value


def linear(start: float, end: float, steps: int) -> Schedule:
    """A straight line from `start` at step 0 to `end` at step `steps`; `end` from then on."""
    _check_finite("linear", start=start, end=end)
    _check_steps("linear", steps)
    return lambda step: start + (end - start) * min(step / steps, 1.0)


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine from `start` at step 0 to `end` at step `steps`; `end` from then on.

    >>> temperature = cosine(8.0, 1.0, steps=100)
    >>> [temperature(step) for step in (0, 50, 100, 10_000)]
    [8.0, 4.5, 1.0, 1.0]
    """
    _check_finite("cosine", start=start, end=end)
    _check_steps("cosine", steps)

    def value_at(step: int) -> float:
        progress = min(step / steps, 1.0)
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2

    return value_at


def exponential(start: float, decay: float, floor: float) -> Schedule:
    """`start` times `decay` to the power of the step, never below `floor`.

    >>> temperature = exponential(10.0, decay=0.1, floor=1.0)
    >>> [temperature(step) for step in (0, 1, 2)]
    [10.0, 1.0, 1.0]
    """
    _check_finite("exponential", start=start, decay=decay, floor=floor)
    if not 0 < decay <= 1:
        raise ValueError(f"exponential: decay must lie in (0, 1], got {decay!r}")
    if not 0 < floor <= start:
        raise ValueError(f"exponential: floor must lie in (0, start = {start!r}], got {floor!r}")
    return lambda step: max(start * decay**step, floor)


def _check_finite(function: str, **values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{function}: {name} must be finite, got {value!r}")


def _check_steps(function: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{function}: steps must be at least 1, got {steps!r}")
