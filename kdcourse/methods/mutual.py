"""Mutual learning: peers that train at the same time, each towards the labels and towards what the others say now."""

import torch
from torch import Tensor

from kdcourse.losses import soft_loss
from kdcourse.softmax import check_logits


def mutual_loss(peer_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """T² KL(another peer ‖ this peer), the mean over the others: [peers, batch, classes] -> [peers, batch].

    Row k is what peer k has to learn: no gradient of it reaches another peer. Add it to each peer's own hard loss and
    sum over the peers, and one step updates all of them as if each had a step of its own.
    Source: Zhang et al. (2018), section 3.3, arXiv:1706.00384, there at T = 1.
    """
    check_logits("mutual_loss", peer_logits=peer_logits)
    if peer_logits.ndim != 3 or len(peer_logits) < 2:
        raise ValueError(
            "mutual_loss: peer_logits must be [peers, batch, classes] with at least 2 peers, "
            f"got shape {tuple(peer_logits.shape)}"
        )
    # Rolled by 1, 2, ..., everybody meets everybody else once and nobody themselves.
    others = [soft_loss(peer_logits, peer_logits.roll(by, 0), temperature) for by in range(1, len(peer_logits))]
    return torch.stack(others).mean(0)
