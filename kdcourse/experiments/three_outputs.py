"""A translation of which everything is known: four words of four, three right answers, no training and no sampling.

A source is four tokens, and it has three valid outputs. The teacher picks one of them and slips at each token with a
small probability, so its distribution over all 256 outputs is exact; and so are the students that see the source and
their own last `memory` tokens, fitted until nothing is left to gain. A distribution is [sources, 256] in float64.
"""

import torch
from torch import Tensor

SYMBOLS, LENGTH = 4, 4
MEMORY = LENGTH - 1  # all earlier tokens
SEQUENCES = torch.cartesian_prod(*[torch.arange(SYMBOLS)] * LENGTH)  # [256, 4], in the order of their numbers
THREE = (0.4, 0.3, 0.3)


def valid_outputs() -> Tensor:
    """[sources, 3, tokens]: the outputs of the 240 sources that have three different ones.

    The first is the source. The second is the source backwards, each token plus one; the third agrees with the second
    at every other token, and is the source plus two at the rest.
    """
    source = SEQUENCES
    second = (source.flip(-1) + 1) % SYMBOLS
    third = torch.where(torch.arange(LENGTH) % 2 == 1, second, (source + 2) % SYMBOLS)
    outputs = torch.stack([source, second, third], 1)
    first, second, third = _number(outputs).unbind(-1)
    return outputs[(first != second) & (second != third) & (third != first)]


def teacher(weights: tuple[float, ...] = THREE, noise: float = 0.1) -> Tensor:
    """P: the valid outputs with these probabilities, each token replaced by any of the four with probability `noise`.

    Two weights leave the third output out.
    """
    if not 1 <= len(weights) <= 3 or abs(sum(weights) - 1) > 1e-9:
        raise ValueError(f"teacher: weights must be at most three and sum to 1, got {weights!r}")
    outputs = valid_outputs()[:, : len(weights)]
    same = outputs.unsqueeze(-2) == SEQUENCES  # [sources, outputs, 256, tokens]
    token = noise / SYMBOLS + (1 - noise) * same.double()
    return torch.einsum("k,nks->ns", torch.tensor(weights, dtype=torch.float64), token.prod(-1))


def contexts(memory: int) -> Tensor:
    """[256, tokens]: the number, below 4 ** memory, of what a student with this memory sees before each token."""
    if not 0 <= memory <= MEMORY:
        raise ValueError(f"contexts: memory must lie between 0 and {MEMORY}, got {memory!r}")
    seen = torch.zeros_like(SEQUENCES)
    for back in range(1, memory + 1):
        seen[:, back:] += SYMBOLS ** (back - 1) * SEQUENCES[:, :-back]
    return seen


def next_tokens(probs: Tensor, memory: int = MEMORY) -> Tensor:
    """[sources, tokens, contexts, symbols]: the mass of each context with each next token; divide for a conditional."""
    place = torch.arange(LENGTH) * SYMBOLS**memory + contexts(memory)
    cells = (place * SYMBOLS + SEQUENCES).flatten()
    mass = probs.new_zeros(len(probs), LENGTH * SYMBOLS ** (memory + 1))
    spread = probs.unsqueeze(-1).expand(-1, -1, LENGTH).flatten(1)
    return mass.index_add(1, cells, spread).view(len(probs), LENGTH, SYMBOLS**memory, SYMBOLS)


def sequences(log_conditionals: Tensor, memory: int) -> Tensor:
    """log Q of all outputs: [sources, tokens, contexts, symbols] -> [sources, 256]; gradients pass."""
    return log_conditionals[:, torch.arange(LENGTH), contexts(memory), SEQUENCES].sum(-1)


def word_level(probs: Tensor, memory: int, temperature: float = 1.0) -> Tensor:
    """The optimum of word-level distillation: least sum over tokens of KL(P ‖ Q) at `temperature`, prefixes from P.

    One context stands for several prefixes, so the student can do no better than their mean. The result is the
    student in use, at temperature 1. Source: Kim and Rush (2016), section 3.1, arXiv:1606.07947.
    """
    mass = next_tokens(probs)
    soft = _tempered(mass, temperature) * mass.sum(-1, keepdim=True)
    mean = soft.unflatten(2, (-1, SYMBOLS**memory)).sum(2)
    return sequences(_tempered(mean, 1 / temperature).log(), memory).exp()


def sequence_level(probs: Tensor) -> Tensor:
    """The optimum on the single best output of P: all mass on it, whatever the memory.

    Source: Kim and Rush (2016), section 3.2, arXiv:1606.07947.
    """
    return torch.zeros_like(probs).scatter(1, probs.argmax(1, keepdim=True), 1.0)


def cooled(probs: Tensor, temperature: float) -> Tensor:
    """The same model with its next-token distributions sharpened or flattened while it generates."""
    return sequences(_tempered(next_tokens(probs), temperature).log(), MEMORY).exp()


def greedy(probs: Tensor) -> Tensor:
    """[sources]: the number of the output that takes the likeliest token at each step; of equal ones the first."""
    chosen = torch.zeros(len(probs), dtype=torch.long)
    for length in range(1, LENGTH + 1):
        prefix = probs.view(len(probs), SYMBOLS**length, -1).sum(-1)
        prefix = prefix.view(len(probs), -1, SYMBOLS)[torch.arange(len(probs)), chosen]
        chosen = chosen * SYMBOLS + prefix.argmax(-1)
    return chosen


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) over all outputs, in nats: [sources]; infinite where q lacks something that p has."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1).clamp_min(0)


def measures(q: Tensor, p: Tensor, outputs: int = 3) -> dict[str, Tensor]:
    """What a student Q does for each source, P being its teacher and the first `outputs` outputs valid: [sources].

    greedy, mode     is the greedily decoded, or the likeliest, output a valid one?
    sampled          probability that a sample is valid
    minor            the part of it on the valid outputs but P's likeliest
    share            of the mass on valid outputs, how much is on Q's likeliest of them
    kl, reverse_kl   KL(P ‖ Q), KL(Q ‖ P)
    entropy          of Q over all outputs, in nats
    """
    valid = _number(valid_outputs()[:, :outputs])
    mass = q.gather(1, valid)
    best = p.gather(1, valid).argmax(-1, keepdim=True)
    return {
        "greedy": (greedy(q).unsqueeze(-1) == valid).any(-1).double(),
        "mode": (q.argmax(-1, keepdim=True) == valid).any(-1).double(),
        "sampled": mass.sum(-1),
        "minor": mass.sum(-1) - mass.gather(1, best).squeeze(1),
        "share": mass.amax(-1) / mass.sum(-1),
        "kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "entropy": torch.special.entr(q).sum(-1),
    }


def _number(outputs: Tensor) -> Tensor:
    """The place of each output in SEQUENCES."""
    return (outputs * SYMBOLS ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)


def _tempered(mass: Tensor, temperature: float) -> Tensor:
    """mass ** (1 / T), made to sum to 1; a context that never comes gives nothing."""
    powers = (mass / mass.amax(-1, keepdim=True).clamp_min(1e-300)) ** (1 / temperature)
    return powers / powers.sum(-1, keepdim=True).clamp_min(1e-300)
