"""Softmax with a temperature, and the entropy of what comes out.

Leading axes are free: everything here maps [..., classes] and never mixes two examples.
"""

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor


def tempered_log_softmax(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """log softmax(z / T): log-probabilities, in nats, of the same shape as `logits`.

    `logits` is [..., classes] and floating point; half types are computed in float32.
    `temperature` is T > 0: a number, or a tensor that broadcasts against [...].
    Source: Hinton, Vinyals and Dean (2015), equation 1, arXiv:1503.02531.
    """
    scaled = _scaled("tempered_log_softmax", logits, temperature)
    return _over_classes(torch.log_softmax, scaled)


def tempered_softmax(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """softmax(z / T): probabilities of the same shape as `logits`; see `tempered_log_softmax`.

    >>> tempered_softmax(torch.tensor([2.0, 2.0]), temperature=0.1)  # equal logits share
    tensor([0.5000, 0.5000])
    """
    scaled = _scaled("tempered_softmax", logits, temperature)
    return _over_classes(torch.softmax, scaled)


def entropy(probs: Tensor) -> Tensor:
    """-Σ p log p in nats, with 0 log 0 = 0: [..., classes] -> [...].

    >>> entropy(torch.tensor([1.0, 0.0]))  # nothing is left to learn
    tensor(0.)
    """
    return torch.special.entr(probs).sum(-1)


def check_temperature(function: str, temperature: float | Tensor) -> None:
    """Raise unless a number T is positive and finite.

    A tensor passes: looking at its values would break `vmap` and stall a GPU. `train` looks at
    them once, before the first step.
    """
    if isinstance(temperature, Tensor):
        return
    number = isinstance(temperature, Real) and not isinstance(temperature, bool)
    if not number or not 0 < temperature < math.inf:
        raise ValueError(f"{function}: temperature must be positive and finite, got {temperature!r}")


def check_logits(function: str, **logits: Tensor) -> None:
    """Raise unless each argument is a floating-point tensor, and all score the same classes."""
    for name, value in logits.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{function}: {name} must be a floating-point tensor, got {kind}")
        if value.ndim == 0 or value.shape[-1] == 0:
            raise ValueError(
                f"{function}: {name} must have at least one class on its last axis, got shape {tuple(value.shape)}"
            )
    if len({value.shape[-1] for value in logits.values()}) > 1:
        shapes = " and ".join(f"{name} {tuple(value.shape)}" for name, value in logits.items())
        raise ValueError(f"{function}: student and teacher must score the same classes (the last axis), got {shapes}")


def full_precision(logits: Tensor) -> Tensor:
    """float32 for half types, unchanged otherwise."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def few_first(logits: Tensor) -> Tensor:
    """The same [..., classes], up to 64 classes first in memory."""
    return logits if logits.shape[-1] > 64 else logits.movedim(-1, 0).contiguous().movedim(0, -1)


def as_column(temperature: float | Tensor) -> float | Tensor:
    """A tensor of temperatures [...] as [..., 1], ready to divide logits."""
    return temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature


def _scaled(function: str, logits: Tensor, temperature: float | Tensor) -> Tensor:
    check_logits(function, logits=logits)
    check_temperature(function, temperature)
    logits = few_first(full_precision(logits))
    # A pass over all logits that changes none of them is worth leaving out.
    return logits / as_column(temperature) if isinstance(temperature, Tensor) or temperature != 1 else logits


def _over_classes(softmax: Callable[[Tensor, int], Tensor], scaled: Tensor) -> Tensor:
    # Over ten classes a CPU is twenty times faster when neighbours in memory belong to different
    # examples, so the classes come first in memory; over hundreds it is the other way round.
    if scaled.shape[-1] > 64:
        return softmax(scaled, -1)
    return softmax(scaled.movedim(-1, 0), 0).movedim(0, -1)
