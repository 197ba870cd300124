"""Distillation from a few stored probabilities a token, where all of them would fill a disk.

A cache holds ids [..., k] and weights [..., k]. The k largest are the obvious choice and teach the wrong distribution;
k draws from the teacher teach the right one on average. Losses are [..., classes] -> [...], in nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kdcourse.softmax import check_logits, tempered_log_softmax, tempered_softmax


class Cache(NamedTuple):
    """Some classes of each token and the weight of each: ids [..., k] (integers), weights [..., k]."""

    ids: Tensor
    weights: Tensor


def top_k(teacher_logits: Tensor, k: int) -> Cache:
    """The k most probable classes with their probabilities, whose sum is what the k hold of 1."""
    check_logits("top_k", teacher_logits=teacher_logits)
    if not 1 <= k < teacher_logits.shape[-1]:
        raise ValueError(f"top_k: k must lie between 1 and {teacher_logits.shape[-1] - 1}, got {k!r}")
    weights, ids = tempered_softmax(teacher_logits.detach()).topk(k)
    return Cache(ids, weights)


def renormalised(cache: Cache) -> Cache:
    """The same classes with weights that sum to 1: every class that is left out counts as impossible."""
    return Cache(cache.ids, cache.weights / cache.weights.sum(-1, keepdim=True))


def sampled(teacher_logits: Tensor, draws: int, generator: torch.Generator) -> Cache:
    """`draws` classes drawn from the teacher with replacement, weight 1/draws each; drawn c times, c/draws in all.

    The weights' expectation is the teacher's distribution, so loss and gradient are right on average.
    Source: Anshumann et al. (2025), arXiv:2503.16870.
    """
    check_logits("sampled", teacher_logits=teacher_logits)
    if draws < 1:
        raise ValueError(f"sampled: draws must be at least 1, got {draws!r}")
    probs = tempered_softmax(teacher_logits.detach())
    ids = torch.multinomial(probs.reshape(-1, probs.shape[-1]), draws, replacement=True, generator=generator)
    ids = ids.view(*probs.shape[:-1], draws)
    return Cache(ids, torch.full_like(ids, 1 / draws, dtype=probs.dtype))


def cached_cross_entropy(student_logits: Tensor, cache: Cache) -> Tensor:
    """-Σ weight log q over the classes of the cache; with weights p it is cross-entropy with the teacher.

    Less the teacher's entropy that is KL(p ‖ q), with the same gradient.
    """
    log_q = _log_probs("cached_cross_entropy", student_logits, cache)
    return -(cache.weights * log_q.gather(-1, cache.ids)).sum(-1)


def ghost_cross_entropy(student_logits: Tensor, cache: Cache) -> Tensor:
    """Cross-entropy over the classes of `top_k` and one more: all the others together, with what is left of 1.

    The cache's classes get the right probability; how the others share theirs, nobody teaches.
    """
    log_q = _log_probs("ghost_cross_entropy", student_logits, cache)
    left = (1 - cache.weights.sum(-1)).clamp_min(0)
    log_rest = log_q.scatter(-1, cache.ids, -torch.inf).logsumexp(-1)
    return -(cache.weights * log_q.gather(-1, cache.ids)).sum(-1) - left * log_rest


def _log_probs(function: str, student_logits: Tensor, cache: Cache) -> Tensor:
    check_logits(function, student_logits=student_logits)
    if cache.ids.shape != cache.weights.shape or cache.ids.shape[:-1] != student_logits.shape[:-1]:
        raise ValueError(
            f"{function}: ids and weights [..., k] must have the student's tokens, got ids {tuple(cache.ids.shape)}, "
            f"weights {tuple(cache.weights.shape)} and student_logits {tuple(student_logits.shape)}"
        )
    return tempered_log_softmax(student_logits)
