"""Attacks: the small change of an image that raises a loss most, found with the network's gradient or without it.

Images are [..., pixels] in [0, 1], and a loss maps such images to one number each, [...]. So a stack of runs is
attacked as one network is, each run by its own gradient. A radius is the largest change of any pixel (the L∞ ball), in
units of the pixels' range, and so is the size of a step.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdcourse.softmax import check_logits

Loss = Callable[[Tensor], Tensor]


def pgd(
    loss: Loss, images: Tensor, *, radius: float, steps: int, step_size: float, start: Tensor | None = None
) -> Tensor:
    """Images of the same shape, none further than `radius` from its original, where projected ascent has taken them.

    Each step goes `step_size` along the sign of the gradient, then back into the ball and into [0, 1]. It begins at
    `start`, such as `random_start`, or at the images. Only the images get a gradient; parameters keep theirs.
    Source: Madry et al. (2018), section 2, arXiv:1706.06083.
    """
    low, high = _ball("pgd", images, radius, steps)
    if not 0 < step_size < math.inf:
        raise ValueError(f"pgd: step_size must be positive and finite, got {step_size!r}")
    moved = (images if start is None else start).detach().clamp(low, high)
    with torch.enable_grad():
        for _ in range(steps):
            moved.requires_grad_()
            (slope,) = torch.autograd.grad(loss(moved).sum(), moved)
            moved = (moved.detach() + step_size * slope.sign()).clamp(low, high)
    return moved


def random_start(images: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Somewhere in the ball. One draw [batch, pixels] serves all runs of a stack, so company changes nothing."""
    return images + radius * (2 * _uniform(images, generator) - 1)


def random_search(loss: Loss, images: Tensor, *, radius: float, steps: int, generator: torch.Generator) -> Tensor:
    """An attack that sees losses and no gradient: a gradient that hides nothing is seldom beaten by it.

    It walks over corners of the ball. A try turns the sign of a random tenth of the pixels, at least one, and is kept
    where the loss has grown. Draws are shared by all runs of a stack.
    The idea, with squares in the place of single pixels: Andriushchenko et al. (2020), arXiv:1912.00049.
    """
    low, high = _ball("random_search", images, radius, steps)
    sign = torch.where(_uniform(images, generator) < 0.5, -1.0, 1.0).expand_as(images)
    with torch.no_grad():
        best = loss((images + radius * sign).clamp(low, high))
        for _ in range(steps):
            draw = _uniform(images, generator)
            turned = torch.where((draw < 0.1) | (draw == draw.amin(-1, keepdim=True)), -sign, sign)
            now = loss((images + radius * turned).clamp(low, high))
            better = now > best
            sign, best = torch.where(better.unsqueeze(-1), turned, sign), torch.where(better, now, best)
    return (images + radius * sign).clamp(low, high)


def margin_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The largest wrong logit minus the right one, [..., classes] -> [...]: above 0 where the answer is wrong.

    Its gradient does not fade where the network is sure, as that of cross-entropy does.
    Source: Carlini and Wagner (2017), section V, arXiv:1608.04644, without their bound: where a bound holds, the
    gradient is 0 and the attack stands still.
    """
    check_logits("margin_loss", logits=logits)
    right = targets.unsqueeze(-1).broadcast_to(*logits.shape[:-1], 1)
    others = logits.scatter(-1, right, -torch.inf).amax(-1)
    return others - logits.gather(-1, right).squeeze(-1)


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(images.shape[-2:], generator=generator, device=images.device)


def _ball(function: str, images: Tensor, radius: float, steps: int) -> tuple[Tensor, Tensor]:
    """The least and the largest value that each pixel may take."""
    if not 0 <= radius < math.inf:
        raise ValueError(f"{function}: radius must be finite and not negative, got {radius!r}")
    if steps < 1:
        raise ValueError(f"{function}: steps must be at least 1, got {steps!r}")
    least, most = images.min().item(), images.max().item()
    if not 0 <= least <= most <= 1:
        raise ValueError(f"{function}: pixels must lie in [0, 1], got {least:g} to {most:g}")
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)
