"""Attention pooling, a student that shows where it looked, and what it can learn from a teacher beyond its logits.

Axes: [..., (heads or members,) tokens or classes]. A token is whatever is pooled: a tile, a patch, a word, a group of
hidden units. The losses are pure and return one number for each example, as those of `losses`; the plainest way to
learn from an ensemble is there already: `soft_loss` towards `mean_of_members`.
"""

import math

import torch
from torch import Tensor, nn

from kdcourse.losses import soft_loss
from kdcourse.softmax import as_column, check_logits, check_temperature, full_precision, tempered_log_softmax
from kdcourse.softmax import tempered_softmax as _softmax


def attention_pool(tokens: Tensor, scores: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted means of tokens [..., tokens, features] and the weights: ([..., features], [..., heads, tokens]).

    The weights are the softmax over the tokens of `scores` [..., heads, tokens]; each head pools its own equal share of
    the features. Where `mask` [..., tokens] is False nothing is attended: weight 0. The weights of an example sum to 1;
    where nothing may be attended they are 0, and so is the mean.
    Source: Lin et al. (2017), section 2, arXiv:1703.03130, with a linear score.
    """
    check_logits("attention_pool", tokens=tokens)
    check_logits("attention_pool", scores=scores)
    heads, features = scores.shape[-2], tokens.shape[-1]
    if scores.shape[-1] != tokens.shape[-2]:
        raise ValueError(
            "attention_pool: scores [..., heads, tokens] must have a score for each token of [..., tokens, features], "
            f"got {tuple(scores.shape)} and {tuple(tokens.shape)}"
        )
    if features % heads:
        raise ValueError(f"attention_pool: heads must divide the features, got {heads} heads and {features} features")
    scores = full_precision(scores)
    if mask is None:
        weights = _softmax(scores)
    else:
        if mask.dtype != torch.bool or mask.shape[-1] != tokens.shape[-2]:
            raise TypeError(
                f"attention_pool: mask must be bool of shape [..., {tokens.shape[-2]}], got {mask.dtype} of shape "
                f"{tuple(mask.shape)}"
            )
        mask = mask.unsqueeze(-2)
        # Before the softmax, or the others would not sum to 1; and once more after it, for rows without any token.
        weights = _softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min)) * mask
    shares = tokens.unflatten(-1, (heads, features // heads))  # [..., tokens, heads, share]
    pooled = (weights.to(tokens.dtype).transpose(-1, -2).unsqueeze(-1) * shares).sum(-3)
    return pooled.flatten(-2), weights


class AttentionStudent(nn.Module):
    """Tokens to one answer: an encoder, a pooling, a linear layer. One forward pass gives logits and weights.

    `encoder` maps inputs to tokens [batch, tokens, features]. The forward gives (logits, weights), or with several
    members (logits, member_logits [batch, members, classes], weights), where the logits are the log of the members'
    mean probability. pool="max" or "mean" are rivals of the same size without the score; they give no weights, so the
    forward gives logits, or (logits, member_logits).
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        classes: int = 10,
        *,
        heads: int = 1,
        members: int = 1,
        pool: str = "attention",
    ) -> None:
        super().__init__()
        if pool not in ("attention", "max", "mean"):
            raise ValueError(f"AttentionStudent: pool must be attention, max or mean, got {pool!r}")
        if features % heads:
            raise ValueError(f"AttentionStudent: heads must divide the features, got {heads} and {features}")
        self.encoder, self.pool, self.members = encoder, pool, members
        # No bias: added to all scores it would change no weight, and its gradient would be rounding noise.
        self.score = nn.Linear(features, heads, bias=False) if pool == "attention" else None
        self.head = nn.Linear(features, members * classes)

    def pooled(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the answer is computed from, [batch, features], and the weights [batch, heads, tokens], if any."""
        tokens = self.encoder(inputs)
        if self.score is not None:
            return attention_pool(tokens, self.score(tokens).transpose(-1, -2), mask)
        if mask is None:
            return (tokens.amax(-2) if self.pool == "max" else tokens.mean(-2)), None
        seen = mask.unsqueeze(-1)
        if self.pool == "max":
            return torch.where(seen.any(-2), tokens.masked_fill(~seen, torch.finfo(tokens.dtype).min).amax(-2), 0), None
        return (tokens * seen).sum(-2) / seen.sum(-2).clamp_min(1), None

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        pooled, weights = self.pooled(inputs, mask)
        logits = self.head(pooled)
        shown = () if weights is None else (weights,)
        if self.members > 1:
            member_logits = logits.unflatten(-1, (self.members, -1))
            return mean_of_members(member_logits), member_logits, *shown
        return (logits, *shown) if shown else logits


def mean_of_members(member_logits: Tensor, temperature: float | Tensor = 1.0, weights: Tensor | None = None) -> Tensor:
    """T log of the members' mean probability at T, which serves as logits: [..., members, classes] -> [..., classes].

    softmax(result / T) is the mean of softmax(member_logits / T), so a loss with the same T is taught by that mean.
    `weights` [..., members], not negative and of sum 1, make it a weighted mean.
    """
    log_probs = tempered_log_softmax(member_logits, as_column(temperature))
    if weights is None:
        return as_column(temperature) * (log_probs.logsumexp(-2) - math.log(member_logits.shape[-2]))
    return as_column(temperature) * (log_probs + weights.log().unsqueeze(-1)).logsumexp(-2)


def attention_loss(student_weights: Tensor, teacher_weights: Tensor) -> Tensor:
    """KL(teacher's map ‖ student's), the mean over the student's heads: [..., heads, tokens], [..., tokens] -> [...].

    Both are weights that sum to 1 over the tokens; the teacher is detached. A token that the student's mask hides
    costs a finite amount and gives no gradient.
    """
    check_logits("attention_loss", student_weights=student_weights)
    if student_weights.ndim != teacher_weights.ndim + 1 or student_weights.shape[-1] != teacher_weights.shape[-1]:
        raise ValueError(
            "attention_loss: student_weights [..., heads, tokens] and teacher_weights [..., tokens] must agree, got "
            f"{tuple(student_weights.shape)} and {tuple(teacher_weights.shape)}"
        )
    student, teacher = full_precision(student_weights), full_precision(teacher_weights).detach().unsqueeze(-2)
    tiny = torch.finfo(student.dtype).tiny  # 0 log 0 = 0, and its gradient too
    log_ratio = teacher.clamp_min(tiny).log() - student.clamp_min(tiny).log()
    return (teacher * log_ratio).sum(-1).mean(-1)


def hydra_loss(member_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """T² KL from each member of the teacher to its own head, the mean over members: [..., members, classes] -> [...].

    Source: Tran et al. (2020), Hydra, section 3, arXiv:2001.04694.
    """
    if member_logits.shape[-2:] != teacher_logits.shape[-2:]:
        raise ValueError(
            "hydra_loss: every member [..., members, classes] needs a head of its own, got "
            f"{tuple(member_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    return soft_loss(member_logits, teacher_logits, as_column(temperature)).mean(-1)


def dirichlet_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """-log density of the members' answers under the student's Dirichlet, their mean: [..., classes] -> [...].

    The concentrations are exp(student_logits / T), the answers softmax(teacher_logits / T) of [..., members, classes].
    A schedule brings T from about 10 down to 1: members that agree nearly give no gradient to what they disagree in.
    Source: Malinin, Mlodozeniec and Gales (2020), EnD², section 3, arXiv:1905.00076.
    """
    check_logits("dirichlet_loss", student_logits=student_logits, teacher_logits=teacher_logits)
    check_temperature("dirichlet_loss", temperature)
    if teacher_logits.ndim != student_logits.ndim + 1:
        raise ValueError(
            "dirichlet_loss: the teacher must have one axis more, [..., members, classes], got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    concentration = (full_precision(student_logits) / as_column(temperature)).exp()
    # A little of the uniform, as in the source: else one certain member would decide all.
    members = _softmax(teacher_logits.detach(), as_column(temperature))
    log_p = ((1 - 1e-4) * members + 1e-4 / members.shape[-1]).log().mean(-2)
    scale = torch.lgamma(concentration).sum(-1) - torch.lgamma(concentration.sum(-1))
    return scale - ((concentration - 1) * log_p).sum(-1)
