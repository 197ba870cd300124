"""A loss over a large vocabulary that never holds all logits at once.

tokens x vocabulary numbers, several times over, are what fills the memory when a language model is distilled. Here a
chunk of tokens gets its logits, its losses and, in the backward pass, its logits once more; then they are gone.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint


class Head(NamedTuple):
    """What becomes logits: hidden states [..., width], the output matrix [vocabulary, width], its bias or None."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None


def chunked_mean(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    student: Head,
    teacher: Head,
    targets: Tensor,
    *,
    chunk: int,
    mask: Tensor | None = None,
    denominator: int | Tensor | None = None,
) -> Tensor:
    """The mean over tokens of loss(student_logits, teacher_logits, targets), a scalar, `chunk` tokens at a time.

    Targets are [...], as the hidden states without their last axis. `loss` gives one number a token, as all losses here
    do; gradients reach the student's hidden states, matrix and bias, and are those of the whole loss, at the price of
    a second forward pass through its output matrix and the loss.
    Tokens where `mask` [...] is False cost and count nothing. The sum is divided by the number of tokens that count, or
    by `denominator`: their number in all batches, where several make one step.
    """
    if chunk < 1:
        raise ValueError(f"chunked_mean: chunk must be at least 1 token, got {chunk!r}")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"chunked_mean: mask must be bool, True where a token counts, got {mask.dtype}")
    shapes = {
        "targets": targets.shape,
        "student.hidden": student.hidden.shape[:-1],
        "teacher.hidden": teacher.hidden.shape[:-1],
        **({} if mask is None else {"mask": mask.shape}),
    }
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"chunked_mean: all must have the same tokens, got {found}")

    def total(student_hidden: Tensor, teacher_hidden: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_logits = linear(teacher_hidden, *teacher[1:])
        return loss(linear(student_hidden, *student[1:]), teacher_logits, targets).sum()

    tokens = [value.flatten(0, targets.ndim - 1) for value in (student.hidden, teacher.hidden, targets)]
    if mask is not None:
        tokens = [value[mask.flatten()] for value in tokens]
    count = len(tokens[0]) if denominator is None else denominator
    if len(tokens[0]) == 0 and denominator is None:
        raise ValueError("chunked_mean: at least one token must count, got none")
    # A loss is pure: there is no random state to keep for the second pass.
    sums = [
        checkpoint(total, *piece, use_reentrant=False, preserve_rng_state=False)
        for piece in zip(*(value.split(chunk) for value in tokens), strict=True)
    ]
    return torch.stack(sums).sum() / count
