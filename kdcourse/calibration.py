"""Recalibration: a few numbers, fitted on validation data after training, that correct a model's confidence.

Two temperatures must not be mixed up. The *calibration* temperature of this module divides the logits of a finished
model when it predicts; it is fitted, on labels that the model has not trained on, and no parameter moves. The
*distillation* temperature of `losses.soft_loss` divides the logits of teacher and student inside the training loss; it
is chosen beforehand, changes what is learnt, and the student then predicts with T = 1.
"""

import torch
from torch import Tensor

from kdcourse.metrics import check_batch, nll
from kdcourse.softmax import tempered_softmax


def fit_temperature(
    logits: Tensor, targets: Tensor, bounds: tuple[float, float] = (0.05, 20.0)
) -> tuple[Tensor, Tensor]:
    """(temperature, at_bound): the T within `bounds` whose softmax(z / T) has the least NLL here.

    Logits [..., batch, classes] of validation data give one T a run: both results are [...]. Predict with
    `logits / temperature[..., None, None]`. T > 1 makes a model less sure; no choice of a class changes.
    `at_bound` is True where the least NLL lies at or beyond a bound. A model that makes hardly a mistake on few
    examples is such a case: then the T says more about `bounds`, to be fixed beforehand, than about the model.
    Source: Guo et al. (2017), section 4.2, arXiv:1706.04599.

    >>> fit_temperature(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))[0]  # right on 3 of 4: 2 / log 3
    tensor(1.8205)
    """
    check_batch("fit_temperature", logits, targets)
    coolest, hottest = bounds
    if not 0 < coolest < hottest:
        raise ValueError(f"fit_temperature: bounds must be 0 < lowest T < highest T, got {bounds}")
    exact = logits.detach().double()
    index = targets.broadcast_to(exact.shape[:-1]).unsqueeze(-1)
    gap = exact - exact.gather(-1, index)  # to the label's logit

    def slope(inverse: Tensor) -> Tensor:
        """Derivative of the mean NLL by 1 / T. The NLL is convex in 1 / T, so the slope only rises."""
        return (tempered_softmax(exact, 1 / inverse.unsqueeze(-1)) * gap).sum(-1).mean(-1)

    least = exact.new_full(exact.shape[:-2], 1 / hottest)
    most = torch.full_like(least, 1 / coolest)
    too_hot, too_cool = slope(least) >= 0, slope(most) <= 0
    for _ in range(60):  # halves the logarithm of the interval: more than float64 can tell apart
        middle = (least * most).sqrt()
        falls = slope(middle) < 0
        least, most = torch.where(falls, middle, least), torch.where(falls, most, middle)
    temperature = torch.where(too_hot, hottest, torch.where(too_cool, coolest, 1 / most))
    return temperature.to(logits.dtype), too_hot | too_cool


def fit_vector_scaling(logits: Tensor, targets: Tensor, pull: float = 1e-3) -> tuple[Tensor, Tensor]:
    """(scale, shift) of each class, both [..., classes]: `logits * scale + shift` has the least NLL here.

    Logits are [..., batch, classes], one fit a run; predict with `logits * scale[..., None, :] + shift[..., None, :]`.
    Unlike one temperature it can change the chosen class, and it overfits sooner: `pull` times the squared distance
    from scale 1, shift 0 is added to the mean NLL, and keeps the answer finite where the classes can be separated.
    Source: Guo et al. (2017), section 4.2, arXiv:1706.04599 (there without the pull).
    """
    check_batch("fit_vector_scaling", logits, targets)
    if not pull > 0:
        raise ValueError(f"fit_vector_scaling: pull must be positive, got {pull!r}")
    exact = logits.detach().double()
    shape = (*exact.shape[:-2], 1, exact.shape[-1])
    scale, shift = exact.new_ones(shape).requires_grad_(), exact.new_zeros(shape).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scale, shift], max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        distance = (scale - 1).square().sum() + shift.square().sum()
        loss = nll(exact * scale + shift, targets).sum() + pull * distance
        loss.backward()
        return loss

    optimizer.step(closure)  # with gradients, whatever the caller has switched off
    return tuple(part.detach().squeeze(-2).to(logits.dtype) for part in (scale, shift))
