"""Weights for several teachers, chosen by labels that none of them has seen."""

import torch
from torch import Tensor

from kdcourse.losses import hard_loss
from kdcourse.metrics import check_batch


def mixture_weights(member_logits: Tensor, targets: Tensor, steps: int = 100) -> Tensor:
    """Weights under which the members' mean probability fits the labels best: [n, members, classes] -> [members].

    They sum to 1 and start equal. In each step a member's weight becomes its mean share of the weighted probability of
    the label (expectation maximisation), which never makes the labels less likely and needs no step size.
    Fitted to few labels they overfit: they tell bad members from good ones, and good ones hardly from better.
    Source: Dempster, Laird and Rubin (1977), for mixtures; here only the weights are free.
    """
    if member_logits.ndim != 3:
        raise ValueError(
            f"mixture_weights: member_logits must be [n, members, classes], got shape {tuple(member_logits.shape)}"
        )
    check_batch("mixture_weights", member_logits.transpose(0, 1), targets)
    if steps < 1:
        raise ValueError(f"mixture_weights: steps must be at least 1, got {steps!r}")
    log_p = -hard_loss(member_logits.detach(), targets.unsqueeze(-1))  # of the label: [n, members]
    weights = torch.full_like(log_p[0], 1 / log_p.shape[-1])
    for _ in range(steps):
        weights = torch.softmax(log_p + weights.log(), -1).mean(0)
    return weights
