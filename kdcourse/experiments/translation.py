"""What does a translator learn from a larger one: its distribution at every word, or the sentences that it writes?

English to German. A Transformer teaches a smaller Transformer and a recurrent network with attention, all on the same
pairs of sentences and in as many steps with the same sources in each. Word level: the teacher's distribution over the
next piece, given the reference so far. Sequence level: the teacher's own translation, found by beam search, instead of
the reference. Every mean over tokens leaves padding out and divides by the number of real tokens.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sentencepiece
import torch
import torch.nn.functional as F
from pandas import DataFrame
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from kdcourse import data, losses
from kdcourse.experiments import multi30k
from kdcourse.experiments.multi30k import BOS, EOS, PAD
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.models import count_parameters
from kdcourse.softmax import tempered_log_softmax

SCALES: dict[str, Settings] = {
    "smoke": {
        "seeds": [340, 341],
        "words": 8,
        "pairs": 60,
        "judged_pairs": 12,
        "vocabulary": 150,
        "teacher": {"network": "Transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.1},
        "teacher_recipe": {"lr": 1e-2, "epochs": 2, "tokens": 400, "bf16": False},
        "recipe": {"epochs": 1, "tokens": 400, "bf16": False},
        "longest": 12,
        "beams": 2,
        "samples": 20,
        "students": {
            "Transformer": {
                "shape": {"network": "Transformer", "width": 8, "layers": 1, "heads": 2, "dropout": 0.1},
                "runs": [
                    ["hard labels", 0.0, 1e-2],
                    ["hard labels", 0.0, 2e-2],
                    ["weight decay", 0.1, 1e-2],
                    ["label smoothing", 0.1, 1e-2],
                    ["word level", 1.0, 1e-2],
                    ["word level", 2.0, 1e-2],
                    ["sequence level", 0.0, 1e-2],
                    ["both levels", 1.0, 1e-2],
                ],
            },
            "GRU": {
                "shape": {"network": "GRU", "width": 8, "dropout": 0.1},
                "runs": [["hard labels", 0.0, 1e-2], ["word level", 1.0, 1e-2], ["sequence level", 0.0, 1e-2]],
            },
        },
    },
    "cpu": {
        "seeds": [20, 21, 22, 23, 24],
        "words": 10,
        "pairs": 6_000,
        "judged_pairs": 400,
        "vocabulary": 1_000,
        "teacher": {"network": "Transformer", "width": 128, "layers": 2, "heads": 4, "dropout": 0.1},
        "teacher_recipe": {"lr": 2e-3, "epochs": 8, "tokens": 450, "bf16": False},
        "recipe": {"epochs": 3, "tokens": 450, "bf16": False},
        "longest": 40,
        "beams": 5,
        "samples": 1_000,
        "students": {
            "Transformer": {
                "shape": {"network": "Transformer", "width": 64, "layers": 1, "heads": 4, "dropout": 0.0},
                "runs": [
                    ["hard labels", 0.0, 5e-3],
                    ["hard labels", 0.0, 8e-3],
                    ["label smoothing", 0.1, 8e-3],
                    ["word level", 0.5, 8e-3],
                    ["word level", 1.0, 8e-3],
                    ["word level", 2.0, 8e-3],
                    ["word level", 4.0, 8e-3],
                    ["sequence level", 0.0, 8e-3],
                    ["both levels", 1.0, 8e-3],
                ],
            },
            "GRU": {
                "shape": {"network": "GRU", "width": 64, "dropout": 0.0},
                "runs": [["hard labels", 0.0, 5e-3], ["word level", 1.0, 5e-3], ["sequence level", 0.0, 5e-3]],
            },
        },
    },
    "gpu": {
        "seeds": [20, 21, 22, 23, 24],
        "words": 100,
        "pairs": 29_000,
        "judged_pairs": 1_014,
        "vocabulary": 4_000,
        "teacher": {"network": "Transformer", "width": 256, "layers": 4, "heads": 4, "dropout": 0.3},
        "teacher_recipe": {"lr": 1e-3, "epochs": 40, "tokens": 4_096, "bf16": True},
        "recipe": {"epochs": 20, "tokens": 4_096, "bf16": True},
        "longest": 80,
        "beams": 5,
        "samples": 1_000,
        "students": {
            "Transformer": {
                "shape": {"network": "Transformer", "width": 128, "layers": 2, "heads": 4, "dropout": 0.1},
                "runs": [
                    ["hard labels", 0.0, 1e-3],
                    ["hard labels", 0.0, 2e-3],
                    ["hard labels", 0.0, 4e-3],
                    ["weight decay", 0.1, 2e-3],
                    ["label smoothing", 0.1, 2e-3],
                    ["word level", 0.5, 2e-3],
                    ["word level", 1.0, 2e-3],
                    ["word level", 2.0, 2e-3],
                    ["word level", 4.0, 2e-3],
                    ["word level", 8.0, 2e-3],
                    ["sequence level", 0.0, 2e-3],
                    ["both levels", 1.0, 2e-3],
                    ["both levels", 2.0, 2e-3],
                ],
            },
            "GRU": {
                "shape": {"network": "GRU", "width": 256, "dropout": 0.1},
                "runs": [
                    ["hard labels", 0.0, 2e-3],
                    ["label smoothing", 0.1, 2e-3],
                    ["word level", 0.5, 2e-3],
                    ["word level", 1.0, 2e-3],
                    ["word level", 2.0, 2e-3],
                    ["sequence level", 0.0, 2e-3],
                    ["both levels", 1.0, 2e-3],
                ],
            },
        },
    },
}
Past = list[Tensor]


def per_token(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [..., tokens] over the tokens where `mask` is True; padding neither adds nor divides."""
    return values.masked_fill(~mask, 0).sum() / mask.sum()


# --- networks ---------------------------------------------------------------------------------------------------------


class Translator(nn.Module):
    """What the decoder of both networks shares: pieces in, states, pieces out through the same embedding.

    `memorise(source)` reads [batch, source tokens] once; `decode(inputs, memory, past)` gives the states
    [batch, tokens, width] of the inputs and what a later call needs of them, with the batch as first axis.
    """

    def __init__(self, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) * self.embedding.embedding_dim**0.5

    def states(self, source: Tensor, targets: Tensor) -> Tensor:
        """States before each target, given the targets before it: [batch, target tokens, width]."""
        inputs = F.pad(targets, (1, -1), value=BOS)
        return self.decode(inputs, *self.memorise(source))[0]

    def logits(self, states: Tensor) -> Tensor:
        return F.linear(states, self.embedding.weight)

    def forward(self, source: Tensor, targets: Tensor) -> Tensor:
        """Logits of each target, given the targets before it: [batch, target tokens, vocabulary]."""
        return self.logits(self.states(source, targets))

    def memorise(self, source: Tensor) -> tuple[Past, Past]:
        """(memory, past): what the decoder sees of the source, and of a target that has not begun."""
        raise NotImplementedError

    def decode(self, inputs: Tensor, memory: Past, past: Past) -> tuple[Tensor, Past]:
        raise NotImplementedError


class Attention(nn.Module):
    """Attention with several heads; keys and values are made apart, so that they can be kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, inputs: Tensor) -> Tensor:
        return inputs.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def kept(self, inputs: Tensor) -> list[Tensor]:
        """Keys and values, each [batch, heads, tokens, width / heads]."""
        return [self.split(self.key(inputs)), self.split(self.value(inputs))]

    def forward(self, inputs: Tensor, kept: Sequence[Tensor], visible: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.split(self.query(inputs)), *kept, attn_mask=visible)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention to its own kind, in a decoder to the source too, then two linear layers; normalised before each."""

    def __init__(self, width: int, heads: int, dropout: float, decoder: bool) -> None:
        super().__init__()
        self.own = Attention(width, heads)
        self.source = Attention(width, heads) if decoder else None
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if decoder else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, states: Tensor, visible: Tensor, past: Past, memory: Past, source_visible: Tensor | None
    ) -> tuple[Tensor, Past]:
        normal = self.norms[0](states)
        kept = self.own.kept(normal)
        if past:
            kept = [torch.cat(both, dim=2) for both in zip(past, kept, strict=True)]
        states = states + self.dropout(self.own(normal, kept, visible))
        if self.source is not None:
            states = states + self.dropout(self.source(self.norms[1](states), memory, source_visible))
        return states + self.dropout(self.feed(self.norms[-1](states))), kept


class Transformer(Translator):
    """Encoder and decoder of `layers` layers each. Source: Vaswani et al. (2017), arXiv:1706.03762."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__(vocabulary, width, dropout)
        self.encoder = nn.ModuleList(Layer(width, heads, dropout, decoder=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(width, heads, dropout, decoder=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def placed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Embedded tokens with their positions, of which the first is number `first`."""
        width = self.embedding.embedding_dim
        position = torch.arange(first, first + tokens.shape[1], device=tokens.device).unsqueeze(-1)
        angle = position * torch.exp(torch.arange(0, width, 2, device=tokens.device) * (-math.log(1e4) / width))
        return self.dropout(self.embed(tokens) + torch.cat([angle.sin(), angle.cos()], dim=-1))

    def memorise(self, source: Tensor) -> tuple[Past, Past]:
        visible = (source != PAD)[:, None, None]
        states = self.placed(source)
        for layer in self.encoder:
            states, _ = layer(states, visible, [], [], None)
        states = self.norms[0](states)
        return [visible, *(tensor for layer in self.decoder for tensor in layer.source.kept(states))], []

    def decode(self, inputs: Tensor, memory: Past, past: Past) -> tuple[Tensor, Past]:
        first = past[0].shape[2] if past else 0
        tokens = inputs.shape[1]
        visible = torch.ones(tokens, first + tokens, dtype=torch.bool, device=inputs.device).tril(first)
        states, after = self.placed(inputs, first), []
        for i, layer in enumerate(self.decoder):
            pair = slice(2 * i, 2 * i + 2)
            states, kept = layer(states, visible, past[pair], memory[1:][pair], memory[0])
            after += kept
        return self.norms[1](states), after


class Recurrent(Translator):
    """A bidirectional GRU reads, another writes and attends. Source: Luong et al. (2015), arXiv:1508.04025."""

    def __init__(self, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__(vocabulary, width, dropout)
        self.encoder = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width, bias=False)
        self.mix = nn.Linear(2 * width, width)

    def memorise(self, source: Tensor) -> tuple[Past, Past]:
        real = source != PAD
        # Packed, or the way back would begin in the padding.
        packed = pack_padded_sequence(
            self.dropout(self.embed(source)), real.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.encoder(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        return [real[:, None], states], [last.transpose(0, 1).flatten(1)]

    def decode(self, inputs: Tensor, memory: Past, past: Past) -> tuple[Tensor, Past]:
        visible, source = memory
        states, last = self.decoder(self.dropout(self.embed(inputs)), past[0].unsqueeze(0).contiguous())
        seen = F.scaled_dot_product_attention(self.query(states), source, source, attn_mask=visible, scale=1.0)
        return self.dropout(self.mix(torch.cat([states, seen], dim=-1)).tanh()), [last[0]]


NETWORKS: dict[str, Callable[..., Translator]] = {"Transformer": Transformer, "GRU": Recurrent}


def build(vocabulary: int, shape: Settings, seed: int, device: torch.device) -> Translator:
    """A network with the initial parameters of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[shape["network"]](
            vocabulary, **{name: value for name, value in shape.items() if name != "network"}
        ).to(device)


# --- decoding ---------------------------------------------------------------------------------------------------------


def writable(scores: Tensor) -> Tensor:
    """Scores of pieces [..., vocabulary] with PAD and BOS out of reach."""
    return scores.index_fill(-1, torch.tensor([PAD, BOS], device=scores.device), -math.inf)


@torch.no_grad()
def greedy(model: Translator, source: Tensor, longest: int) -> Tensor:
    """The most likely piece, one after the other, up to EOS or `longest` pieces: [batch, tokens]."""
    memory, past = model.memorise(source)
    tokens = source.new_full((len(source), 1), BOS)
    done = torch.zeros_like(tokens, dtype=torch.bool)
    written = []
    while len(written) < longest and not done.all():
        states, past = model.decode(tokens, memory, past)
        tokens = writable(model.logits(states)).argmax(-1).masked_fill(done, PAD)
        done = done | (tokens == EOS)
        written.append(tokens)
    return torch.cat(written, dim=1)


@torch.no_grad()
def beam_search(model: Translator, source: Tensor, beams: int, longest: int) -> tuple[Tensor, Tensor]:
    """The best translation found with `beams` candidates at every step: [batch, tokens], and its log p [batch].

    No bonus for length: the search is for the mode of the model's distribution, as sequence-level distillation wants.
    """
    batch = len(source)
    memory, past = model.memorise(source)
    memory = [tensor.repeat_interleave(beams, 0) for tensor in memory]
    past = [tensor.repeat_interleave(beams, 0) for tensor in past]
    written = source.new_full((batch, beams, 1), BOS)
    score = torch.full((batch, beams), -math.inf, device=source.device)
    score[:, 0] = 0  # all beams are alike at first: one begins
    first_row = torch.arange(batch, device=source.device).unsqueeze(1) * beams
    done = torch.zeros_like(score, dtype=torch.bool)
    while written.shape[2] <= longest and not done.all():
        states, past = model.decode(written[..., -1].reshape(-1, 1), memory, past)
        log_q = writable(tempered_log_softmax(model.logits(states))).view(batch, beams, -1)
        log_q = log_q.masked_fill(done.unsqueeze(-1), -math.inf)
        log_q[..., PAD].masked_fill_(done, 0)  # a finished sentence goes on with padding, which costs nothing
        score, chosen = (score.unsqueeze(-1) + log_q).flatten(1).topk(beams)
        parent, token = chosen // log_q.shape[-1], chosen % log_q.shape[-1]
        past = [tensor[(first_row + parent).flatten()] for tensor in past]
        written = torch.cat([written.gather(1, parent.unsqueeze(-1).expand_as(written)), token.unsqueeze(-1)], dim=2)
        done = done.gather(1, parent) | (token == EOS)
    return written[:, 0, 1:], score[:, 0]  # topk sorts: the best is first


def translate(model: Translator, source: Tensor, longest: int, beams: int = 1, rows: int = 250) -> Tensor:
    """The translation of every source, greedy or by beam search: [n, tokens], padded."""
    model.eval()
    order = (source != PAD).sum(1).argsort(stable=True)  # sources of like length share a batch
    found = []
    for some in order.split(rows):
        batch = cut(source[some])
        found += greedy(model, batch, longest) if beams == 1 else beam_search(model, batch, beams, longest)[0]
    return pad_sequence(found, batch_first=True, padding_value=PAD)[order.argsort()]


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass
class Corpus:
    """Pairs as piece numbers, [n, tokens] each, and the teacher's state before every real target, [tokens, width].

    `order` [n] is what an epoch sorts by: pieces of the reference, then of the source; the same for all arms.
    """

    source: Tensor
    target: Tensor
    order: Tensor
    states: Tensor | None = None

    def __post_init__(self) -> None:
        length = (self.target != PAD).sum(1)
        self.first = length.cumsum(0) - length

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(source, target, states) of some pairs, no longer than they need; states of padding are of other pairs."""
        source, target = cut(self.source[rows]), cut(self.target[rows])
        if self.states is None:
            return source, target, None
        place = self.first[rows].unsqueeze(1) + torch.arange(target.shape[1], device=target.device)
        return source, target, self.states[place.clamp(max=len(self.states) - 1)]


def cut(tokens: Tensor) -> Tensor:
    """Without the columns that are all padding."""
    return tokens[:, : int((tokens != PAD).sum(1).max())]


def batches(order: Tensor, tokens: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch: row numbers of pairs of like length, at most `tokens` target pieces of the references in each."""
    shuffled = (order + torch.rand(len(order), generator=generator) / 1e3).argsort()
    lengths = order[shuffled].int().tolist()
    parts, begin = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - begin) * lengths[end] > tokens:
            parts.append(shuffled[begin:end])
            begin = end
    return (parts[part] for part in torch.randperm(len(parts), generator=generator).tolist())


def from_labels(logits: Tensor, teacher_logits: Tensor | None, targets: Tensor, strength: float) -> Tensor:
    return losses.hard_loss(logits, targets)


def smoothed(logits: Tensor, teacher_logits: Tensor | None, targets: Tensor, strength: float) -> Tensor:
    return F.cross_entropy(logits.transpose(1, 2), targets, label_smoothing=strength, reduction="none")


def from_words(logits: Tensor, teacher_logits: Tensor | None, targets: Tensor, strength: float) -> Tensor:
    """`strength` is the temperature. Source: Kim and Rush (2016), section 3.1, arXiv:1606.07947."""
    return losses.soft_loss(logits, teacher_logits, strength)


@dataclass(frozen=True)
class Arm:
    """A loss of each token, whose sentences it learns from, and whether `strength` is the weight decay."""

    loss: Callable[[Tensor, Tensor | None, Tensor, float], Tensor]
    written_by: str = "people"
    decays: bool = False


ARMS = {
    "hard labels": Arm(from_labels),
    "weight decay": Arm(from_labels, decays=True),
    "label smoothing": Arm(smoothed),
    "word level": Arm(from_words),
    "sequence level": Arm(from_labels, "teacher"),
    "both levels": Arm(from_words, "teacher"),
}


def fit(
    model: Translator,
    corpus: Corpus,
    arm: str,
    strength: float,
    *,
    lr: float,
    seed: int,
    recipe: Settings,
    projection: Tensor | None = None,
    after_epoch: Callable[[], Any] = lambda: None,
) -> None:
    """AdamW, a warm-up over a tenth of the steps, then linearly to 0; gradients are clipped to norm 1."""
    chosen, device = ARMS[arm], corpus.source.device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=strength if chosen.decays else 0.0
    )
    steps = recipe["epochs"] * len(list(batches(corpus.order, recipe["tokens"], torch.Generator())))
    up = max(steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / up, max(steps - step, 0) / max(steps - up, 1))
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout draws from here
        for _ in range(recipe["epochs"]):
            model.train()
            for rows in batches(corpus.order, recipe["tokens"], generator):
                source, target, states = corpus[rows]
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe["bf16"]):
                    logits = model(source, target).float()
                teacher_logits = F.linear(states, projection) if chosen.loss is from_words else None
                loss = per_token(chosen.loss(logits, teacher_logits, target, strength), target != PAD)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            after_epoch()


# --- the world of the study -------------------------------------------------------------------------------------------


@dataclass
class World:
    """Pairs and their texts, and the teacher; `train` by who wrote the German side."""

    processor: sentencepiece.SentencePieceProcessor
    teacher: Translator
    train: dict[str, Corpus]
    judged: dict[str, Corpus]
    references: dict[str, list[str]]


def prepare(settings: Settings, device: torch.device) -> tuple[World, dict[str, float]]:
    """The pairs, the teacher with its translations of the training sources, and its scores.

    Teacher and translations are kept beside the data, each as soon as it is there: they take longest.
    """
    words, counts = settings["words"], {"train": settings["pairs"], "val": settings["judged_pairs"]}
    names = {"train": "train", "val": "val", "test": "test_2016_flickr"}
    pairs = {part: multi30k.short_pairs(name, counts.get(part, counts["val"]), words) for part, name in names.items()}
    processor = multi30k.pieces(pairs["train"], settings["vocabulary"])
    corpora = {part: _corpus(processor, some, device) for part, some in pairs.items()}
    references = {part: [german for _, german in some] for part, some in pairs.items()}
    train, longest, beams = corpora["train"], settings["longest"], settings["beams"]
    judged = {part: corpora[part] for part in ("val", "test")}
    key = [words, counts, settings["vocabulary"], settings["teacher"], settings["teacher_recipe"], device.type]

    def make_teacher() -> dict[str, Any]:
        return train_teacher(settings, train, judged["val"])

    trained = kept("teacher", key, make_teacher, device)
    teacher = build(settings["vocabulary"], settings["teacher"], 0, device)
    teacher.load_state_dict(trained["parameters"])

    def make_outputs() -> Tensor:
        return translate(teacher, train.source, longest, beams)

    outputs = kept("outputs", [*key, longest, beams], make_outputs, device)
    # What the search has cut off ends all the same: a student must learn to stop.
    outputs = multi30k.rows([_until_end(row) for row in outputs.tolist()]).to(device)
    by = {"people": train, "teacher": Corpus(train.source, outputs, train.order)}
    for corpus in by.values():
        corpus.states = _teacher_states(teacher, corpus)
    world = World(processor, teacher, by, judged, references)
    row, _ = judge(teacher, world, settings)
    epoch = batches(train.order, settings["recipe"]["tokens"], torch.Generator())
    positions = sum(cut(train.target[rows]).numel() for rows in epoch)
    written = multi30k.scores(multi30k.text(processor, outputs), references["train"])
    scored = ("bleu", "chrf", "beam_bleu", "beam_chrf", "nll", "val_bleu", "val_nll")
    facts = {
        "pairs": len(pairs["train"]),
        "val_pairs": len(pairs["val"]),
        "test_pairs": len(pairs["test"]),
        "vocabulary": settings["vocabulary"],
        "target_pieces": len(by["people"].states),
        "padding_share": 1 - len(by["people"].states) / positions,
        "teacher_parameters": count_parameters(teacher),
        "teacher_epoch": trained["epoch"],
        **{f"teacher_{name}": row[name] for name in scored},
        "teacher_output_bleu_on_train": written.bleu,
        "teacher_output_pieces": len(by["teacher"].states),
    }
    return world, facts


def _corpus(
    processor: sentencepiece.SentencePieceProcessor, pairs: list[tuple[str, str]], device: torch.device
) -> Corpus:
    source, target = (multi30k.rows(processor.encode(list(side))).to(device) for side in zip(*pairs, strict=True))
    return Corpus(source, target, ((target != PAD).sum(1) + (source != PAD).sum(1) / 1e3).cpu())


def _until_end(row: list[int]) -> list[int]:
    return [piece for piece in row[: row.index(EOS) if EOS in row else len(row)] if piece != PAD]


def kept(name: str, key: Sequence[Any], make: Callable[[], Any], device: torch.device) -> Any:
    """What `make` gives, computed once and kept beside the data under the settings that it follows from."""
    key = json.dumps([*key, torch.__version__], sort_keys=True)
    file = data.folder() / "kdcourse" / f"multi30k-{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.pt"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        torch.save(make(), partial)
        os.replace(partial, file)
    return torch.load(file, map_location=device, weights_only=True)


def train_teacher(settings: Settings, train: Corpus, validation: Corpus) -> dict[str, Any]:
    """Hard labels; of all epochs the one with the lowest NLL on validation is kept, since it overfits."""
    recipe = settings["teacher_recipe"]
    teacher = build(settings["vocabulary"], settings["teacher"], 0, train.source.device)
    best: dict[str, Any] = {"nll": math.inf}
    epochs = iter(range(1, recipe["epochs"] + 1))

    def remember() -> None:
        epoch, value = next(epochs), fidelity(teacher, validation)["nll"]
        if value < best["nll"]:
            parameters = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
            best.update(nll=value, epoch=epoch, parameters=parameters)

    fit(teacher, train, "hard labels", 0.0, lr=recipe["lr"], seed=0, recipe=recipe, after_epoch=remember)
    return best


@torch.no_grad()
def _teacher_states(teacher: Translator, corpus: Corpus) -> Tensor:
    """Its state before each real target, [tokens, width]; its embedding makes logits of them, which need more room."""
    teacher.eval()
    found = []
    for rows in torch.arange(len(corpus.source), device=corpus.source.device).split(250):
        source, target, _ = corpus[rows]
        found.append(teacher.states(source, target)[target != PAD])
    return torch.cat(found)


# --- scores -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def fidelity(model: Translator, corpus: Corpus, teacher: Translator | None = None) -> dict[str, float]:
    """Per real token of the references: `nll`, and with a teacher KL(teacher || model) and the same first choice."""
    model.eval()
    found: dict[str, list[Tensor]] = {"nll": [], "kl": [], "agreement": []}
    for rows in torch.arange(len(corpus.source), device=corpus.source.device).split(250):
        source, target, _ = corpus[rows]
        real = target != PAD
        logits = model(source, target)[real]
        found["nll"].append(losses.hard_loss(logits, target[real]))
        if teacher is not None:
            reference = teacher(source, target)[real]
            found["kl"].append(losses.soft_loss(logits, reference, 1.0))
            found["agreement"].append((logits.argmax(-1) == reference.argmax(-1)).float())
    return {name: torch.cat(parts).mean().item() for name, parts in found.items() if parts}


def judge(model: Translator, world: World, settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """The scores of a translator, and its greedy translations of the test sentences."""
    row: dict[str, Any] = {}
    ways = {"val_": ("val", 1), "": ("test", 1), "beam_": ("test", settings["beams"])}
    outputs = {}
    for prefix, (part, beams) in ways.items():
        tokens = translate(model, world.judged[part].source, settings["longest"], beams)
        outputs[prefix] = multi30k.text(world.processor, tokens)
        result = multi30k.scores(outputs[prefix], world.references[part])
        row |= {f"{prefix}bleu": result.bleu, f"{prefix}chrf": result.chrf}
    row["length_ratio"] = _words(outputs[""]) / _words(world.references["test"])
    row["val_nll"] = fidelity(model, world.judged["val"])["nll"]
    row |= fidelity(model, world.judged["test"], world.teacher)
    row |= {"bleu_signature": result.bleu_signature, "chrf_signature": result.chrf_signature}
    return row, outputs[""]


def _words(sentences: list[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


# --- the study --------------------------------------------------------------------------------------------------------


def units(settings: Settings) -> list[Unit]:
    """All arms of one student and one seed: the bootstrap compares them sentence by sentence."""
    return [
        Unit(
            f"{student}, seed {seed}",
            {"student": student, "seed": seed},
            len(settings["students"][student]["runs"]) * settings["recipe"]["epochs"] * settings["pairs"],
        )
        for seed in settings["seeds"]
        for student in settings["students"]
    ]


def compute(world: World, settings: Settings, device: torch.device, *, student: str, seed: int) -> DataFrame:
    """One student of one seed in all arms: the same initial parameters, sources and number of steps."""
    shape, rows, outputs = settings["students"][student]["shape"], [], []
    projection = world.teacher.embedding.weight.detach()
    for arm, strength, lr in settings["students"][student]["runs"]:
        model = build(settings["vocabulary"], shape, seed, device)
        corpus = world.train[ARMS[arm].written_by]
        fit(model, corpus, arm, strength, lr=lr, seed=seed, recipe=settings["recipe"], projection=projection)
        row, texts = judge(model, world, settings)
        about = {"seed": seed, "student": student, "arm": arm, "strength": strength, "lr": lr}
        rows.append(about | {"parameters": count_parameters(model)} | row)
        outputs.append(texts)
    plain = [i for i, row in enumerate(rows) if row["arm"] == "hard labels"]
    baseline = max(plain, key=lambda i: rows[i]["val_bleu"])
    others = [i for i in range(len(rows)) if i not in plain]
    systems = {f"{i}": outputs[i] for i in [baseline, *others]}
    p_values = multi30k.paired_bootstrap(systems, world.references["test"], settings["samples"])
    for i, row in enumerate(rows):
        row["p_value"] = p_values.get(f"{i}")
    return DataFrame(rows)


STUDY = Study(
    name="translation",
    question="What does a translator learn from a larger one: its distribution at every word, or its sentences?",
    page="16_translation",
    scales=SCALES,
    key=("student", "arm", "strength", "lr"),
    judged=("bleu", "nll"),
    units=units,
    prepare=prepare,
    compute=compute,
    optional=("p_value",),
)
