"""Which divergence should a small language model learn by, and what is left of its effect beside a colder sampler?

A GRU learns Shakespeare character by character and teaches a much smaller one. All arms of a seed go on from the same
student, which has had a short training on the text, with the same pieces of text; on-policy arms and sequence-level
take eight of its characters and go on in the student's or the teacher's own words. The students of cross-entropy and
of forward KL are also sampled at other temperatures: that frontier is what any gain in the samples has to beat.
Each arm's learning rate is the one of the grid with the lowest loss of its own on validation text, on a seed of its
own that is not among those of the record. Settings come from a pilot on the same text with other seeds.
"""

import hashlib
import json
import math
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy
import torch
from pandas import DataFrame
from torch import Generator, Tensor, nn

from kdcourse import data, losses
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.methods.divergences import jensen_shannon, reverse_kl
from kdcourse.models import count_parameters
from kdcourse.softmax import entropy, tempered_log_softmax, tempered_softmax

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
PREFIX = 8  # real characters before a model's own
UNSCORED = 32  # characters of a piece that fill the state before the first one counts
SMOOTHING = 0.1
LONG = 4  # times the steps: about the seconds of an on-policy arm

ARMS = (
    "CE",
    "CE, label smoothing",
    "CE, four times the steps",
    "forward KL",
    "half CE, half forward KL",
    "JSD",
    "reverse KL",
    "on-policy forward KL",
    "on-policy JSD",
    "on-policy reverse KL",
    "sequence-level",
)
FRONTIERS = ("CE", "forward KL")
DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward KL": partial(losses.soft_loss, temperature=1.0),
    "JSD": partial(jensen_shannon, beta=0.5),
    "reverse KL": reverse_kl,
}

SCALES = {
    "smoke": {
        "text": "made up",
        "seeds": [540, 541],
        "tuning_seed": 549,
        "teacher": {"sizes": [8, 24, 1], "dropout": 0.0, "steps": 12, "warm_up": 2, "batch": 8, "lr": 1e-2},
        "student": [8, 12, 1],
        "length": 24,
        "batch": 8,
        "warm_start": {"steps": 6, "warm_up": 2, "lr": 4e-3},
        "steps": 4,
        "lr": [2e-3, 8e-3],
        "tuning_batches": 1,
        "pieces": {"number": 4, "length": 64},
        "samples": {"number": 8, "length": 40},
        "sampling_temperatures": [1.0, 0.7],
    },
    "cpu": {
        "text": "tiny Shakespeare",
        "seeds": list(range(540, 545)),
        "tuning_seed": 549,
        "teacher": {"sizes": [64, 384, 1], "dropout": 0.0, "steps": 700, "warm_up": 50, "batch": 64, "lr": 4e-3},
        "student": [32, 64, 1],
        "length": 64,
        "batch": 32,
        "warm_start": {"steps": 300, "warm_up": 50, "lr": 4e-3},
        "steps": 200,
        "lr": [8e-3, 2.4e-2, 7.2e-2],
        "tuning_batches": 10,
        "pieces": {"number": 200, "length": 256},
        "samples": {"number": 64, "length": 200},
        "sampling_temperatures": [1.1, 1.0, 0.9, 0.8, 0.7, 0.6],
    },
    "gpu": {
        "text": "tiny Shakespeare",
        "seeds": list(range(540, 550)),
        "tuning_seed": 559,
        "teacher": {"sizes": [256, 1024, 2], "dropout": 0.4, "steps": 4_000, "warm_up": 100, "batch": 128, "lr": 2e-3},
        "student": [64, 256, 1],
        "length": 128,
        "batch": 64,
        "warm_start": {"steps": 1_000, "warm_up": 50, "lr": 4e-3},
        "steps": 2_000,
        "lr": [2e-3, 6e-3, 1.8e-2],
        "tuning_batches": 10,
        "pieces": {"number": 200, "length": 256},
        "samples": {"number": 256, "length": 200},
        "sampling_temperatures": [1.1, 1.0, 0.9, 0.8, 0.7, 0.6],
    },
}

# --- text -------------------------------------------------------------------------------------------------------------


def tiny_shakespeare() -> str:
    """The 1,115,394 characters of tiny Shakespeare. Source: Karpathy (2015), char-rnn."""
    file = data.folder() / "shakespeare" / "input.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"tiny_shakespeare: no {file}; it is data/tinyshakespeare/input.txt of karpathy/char-rnn: "
            f"mkdir -p {file.parent} && curl -o {file} {SOURCE}"
        )
    raw = file.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"tiny_shakespeare: {file} must have the SHA-256 {SHA256}, got {found}; delete it and get it again from "
            f"{SOURCE}"
        )
    return raw.decode("utf-8")


def made_up() -> str:
    """About 20,000 characters of no meaning, which need no data set."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abdegilmnorstu", k=chance.randint(2, 6))) for _ in range(60)]
    lines = (" ".join(chance.choices(words, k=chance.randint(4, 9))).capitalize() for _ in range(700))
    return ".\n".join(lines)


@dataclass(frozen=True)
class Text:
    """Characters as numbers, cut into training, validation and test; the last tenth is for the last two."""

    characters: str
    train: Tensor
    validation: Tensor
    test: Tensor
    words: frozenset[str]

    @classmethod
    def of(cls, source: str) -> "Text":
        text = tiny_shakespeare() if source == "tiny Shakespeare" else made_up()
        characters = "".join(sorted(set(text)))
        number = {character: i for i, character in enumerate(characters)}
        tokens = torch.tensor([number[character] for character in text])
        first, second = int(0.9 * len(text)), int(0.95 * len(text))
        parts = tokens[:first], tokens[first:second], tokens[second:]
        return cls(characters, *parts, frozenset(words(text[:first])))

    def read(self, tokens: Tensor) -> list[str]:
        """Rows of numbers as strings."""
        return ["".join(self.characters[i] for i in row) for row in tokens.tolist()]


def words(text: str) -> list[str]:
    """Runs of letters, apostrophes within them, in lower case."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def batch_of(tokens: Tensor, rows: int, length: int, generator: Generator) -> Tensor:
    """Pieces of `length` + 1 characters from anywhere: [rows, length + 1]."""
    starts = torch.randint(len(tokens) - length, (rows, 1), generator=generator)
    return tokens[starts + torch.arange(length + 1)]


def pieces_of(tokens: Tensor, number: int, length: int) -> Tensor:
    """The first `number` pieces of `length` + 1 characters that share none: [number, length + 1]."""
    if number * (length + 1) > len(tokens):
        raise ValueError(f"pieces_of: {number} pieces of {length + 1} need more than {len(tokens)} characters")
    return tokens[: number * (length + 1)].view(number, length + 1)


# --- models -----------------------------------------------------------------------------------------------------------


class CharacterModel(nn.Module):
    """Tokens [batch, length] and a state or None -> logits of the next token [batch, length, vocabulary], state."""

    def __init__(self, vocabulary: int, sizes: list[int], dropout: float = 0.0) -> None:
        super().__init__()
        embedding, hidden, layers = sizes
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.body = nn.GRU(embedding, hidden, layers, batch_first=True)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, state = self.body(self.dropout(self.embedding(tokens)), state)
        return self.head(self.dropout(hidden)), state


@torch.no_grad()
def sample(model: nn.Module, prefix: Tensor, length: int, generator: Generator, temperature: float = 1.0) -> Tensor:
    """`prefix` [batch, n] with `length` characters of the model's own behind it: [batch, n + length], no gradient.

    `temperature` is the sampler's: it changes what the model says, not what it has learned.
    """
    tokens, state, last = [prefix], None, prefix
    for _ in range(length):
        logits, state = model(last, state)
        last = torch.multinomial(tempered_softmax(logits[:, -1], temperature), 1, generator=generator)
        tokens.append(last)
    return torch.cat(tokens, dim=1)


@torch.no_grad()
def answers(model: nn.Module, tokens: Tensor, rows: int = 100) -> Tensor:
    """Logits for each next character of `tokens` [batch, length + 1]: [batch, length, vocabulary]."""
    return torch.cat([model(piece[:, :-1])[0] for piece in tokens.split(rows)])


# --- training ---------------------------------------------------------------------------------------------------------


def fit(
    model: nn.Module, loss: Callable[[int], Tensor], *, steps: int, lr: float, warm_up: int = 0, end: float = 0.05
) -> None:
    """Adam, gradients of at most norm 1, the rate up over `warm_up` steps and then linearly down to `end`."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        up = min((step + 1) / (warm_up + 1), 1)
        optimizer.param_groups[0]["lr"] = lr * up * (1 - (1 - end) * step / steps)
        optimizer.zero_grad()
        loss(step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def cross_entropy(model: nn.Module, tokens: Tensor, smoothing: float = 0.0, start: int = 0) -> Tensor:
    """Mean negative log-likelihood of tokens [batch, length + 1] from the `start`-th prediction on."""
    log_q = tempered_log_softmax(model(tokens[:, :-1])[0][:, start:])
    hard = losses.hard_loss(log_q, tokens[:, 1 + start :])
    return ((1 - smoothing) * hard - smoothing * log_q.mean(-1)).mean()


def arm_loss(
    arm: str, student: nn.Module, tokens: Tensor, teacher: nn.Module, generator: Generator, known: Tensor | None = None
) -> Tensor:
    """The loss of an arm on pieces of text [batch, length + 1], a scalar.

    `known` are the teacher's logits on them, if somebody has them. On-policy, the student goes on behind the first
    characters, and both are asked about what it wrote; no gradient runs through the choice of the characters.
    """
    kind = arm.removeprefix("on-policy ")
    if kind != arm:
        own = sample(student, tokens[:, :PREFIX], tokens.shape[1] - PREFIX, generator)
        taught, asked = answers(teacher, own, len(own)), student(own[:, :-1])[0]
        return DIVERGENCES[kind](asked[:, PREFIX - 1 :], taught[:, PREFIX - 1 :]).mean()
    if arm == "CE, label smoothing":
        return cross_entropy(student, tokens, SMOOTHING)
    if arm == "sequence-level":  # `tokens` are the teacher's own behind the first characters
        return cross_entropy(student, tokens, start=PREFIX - 1)
    if arm.startswith("CE"):
        return cross_entropy(student, tokens)
    taught = answers(teacher, tokens, len(tokens)) if known is None else known
    asked = student(tokens[:, :-1])[0]
    if arm == "half CE, half forward KL":
        hard, soft = losses.hard_loss(asked, tokens[:, 1:]), losses.soft_loss(asked, taught, 1.0)
        return (0.5 * hard + 0.5 * soft).mean()
    return DIVERGENCES[arm](asked, taught).mean()


@dataclass
class World:
    """What all seeds share."""

    text: Text
    teacher: nn.Module
    pieces: dict[str, Tensor]  # validation and test, [number, length + 1]
    taught: Tensor  # the teacher's logits on the test pieces
    rates: dict[str, float]  # the learning rate of each arm


class Student:
    """One seed: the student after its warm start, the pieces of text, and what the teacher says of them."""

    def __init__(self, world: World, settings: Settings, seed: int, device: torch.device) -> None:
        self.world, self.settings, self.seed, self.device = world, settings, seed, device
        warm = settings["warm_start"]
        batches = self._batches(world.text.train, warm["steps"] + LONG * settings["steps"], seed)
        self.batches = batches[warm["steps"] :]
        self.start = _new(len(world.text.characters), settings["student"], 0.0, seed).to(device)
        fit(self.start, lambda step: cross_entropy(self.start, batches[step]), end=1.0, **warm)
        began = time.perf_counter()
        self.known = [answers(world.teacher, batch, len(batch)) for batch in self.batches[: settings["steps"]]]
        self.answering = time.perf_counter() - began
        began = time.perf_counter()
        prefixes = torch.cat(self.batches[: settings["steps"]])[:, :PREFIX]
        length, generator = settings["length"] + 1 - PREFIX, self._generator(2)
        written = [sample(world.teacher, part, length, generator) for part in prefixes.split(1600)]
        self.written = torch.cat(written).split(settings["batch"])
        self.writing = time.perf_counter() - began

    def trained(self, arm: str, lr: float) -> tuple[nn.Module, float]:
        """The student of an arm, and the seconds that it costs with what it asks of the teacher."""
        student, generator, steps = self.copy(), self._generator(3), self.settings["steps"]
        batches = self.written if arm == "sequence-level" else self.batches

        def loss(step: int) -> Tensor:
            known = self.known[step] if arm in ("half CE, half forward KL", *DIVERGENCES) else None
            return arm_loss(arm, student, batches[step], self.world.teacher, generator, known)

        began = time.perf_counter()
        fit(student, loss, steps=steps * (LONG if "four times" in arm else 1), lr=lr)
        seconds = time.perf_counter() - began
        if arm == "sequence-level":
            seconds += self.writing
        elif not arm.startswith(("CE", "on-policy")):
            seconds += self.answering
        return student, seconds

    @torch.no_grad()
    def own_loss(self, arm: str, student: nn.Module) -> float:
        """An arm's loss on validation text, by which its learning rate is chosen; that of all cross-entropy is NLL."""
        if arm.startswith("CE") or arm == "sequence-level":
            arm = "CE"
        generator, number = self._generator(4), self.settings["tuning_batches"]
        batches = self._batches(self.world.text.validation, number, 0)
        found = [arm_loss(arm, student, batch, self.world.teacher, generator).item() for batch in batches]
        return sum(found) / number

    def copy(self) -> nn.Module:
        """The student as its warm start left it."""
        student = _new(len(self.world.text.characters), self.settings["student"], 0.0, self.seed).to(self.device)
        student.load_state_dict(self.start.state_dict())
        return student

    def _batches(self, tokens: Tensor, number: int, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows, length = self.settings["batch"], self.settings["length"]
        return [batch_of(tokens, rows, length, generator).to(self.device) for _ in range(number)]

    def _generator(self, use: int) -> Generator:
        return torch.Generator(self.device).manual_seed(10 * self.seed + use)


def _new(vocabulary: int, sizes: list[int], dropout: float, seed: int) -> CharacterModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CharacterModel(vocabulary, sizes, dropout)


# --- what a page compares ---------------------------------------------------------------------------------------------


def distinct(rows: list[str], n: int = 4) -> float:
    """Different n-grams as a share of all; compare only equal amounts of text.

    >>> distinct(["abab", "abc"], n=2)  # ab, ba, ab, ab, bc
    0.6
    """
    grams = [row[i : i + n] for row in rows for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams)


def beyond_frontier(runs: DataFrame, frontier: str) -> DataFrame:
    """How far each arm's samples lie from those of the arm `frontier` at equal distinct-4, within a seed.

    The frontier's sampling temperatures are points that are joined by straight lines; `gap` is the teacher's NLL of the
    arm's samples less the line's, negative where the arm is better, NaN where the line does not reach.
    """
    rows = []
    for seed, own in runs.groupby("seed"):
        line = own[own.arm == frontier].sort_values("distinct_4")
        if line.empty:
            raise ValueError(f"beyond_frontier: no runs of the arm {frontier!r} in seed {seed}")
        points = own[(own.sampling_temperature == 1) & (own.arm != frontier)]
        level = numpy.interp(points.distinct_4, line.distinct_4, line.teacher_nll, left=math.nan, right=math.nan)
        rows += zip([seed] * len(points), points.arm, points.teacher_nll - level, strict=True)
    return DataFrame(rows, columns=["seed", "arm", "gap"])


@torch.no_grad()
def scores(student: nn.Module, world: World, settings: Settings) -> dict[str, float]:
    """On text: NLL on validation and test, KL(teacher ‖ student) and agreement with the teacher on test."""
    logits = {name: answers(student, tokens)[:, UNSCORED:] for name, tokens in world.pieces.items()}
    nll = {
        name: losses.hard_loss(logits[name], tokens[:, 1 + UNSCORED :]).mean().item()
        for name, tokens in world.pieces.items()
    }
    test, taught = logits["test"], world.taught[:, UNSCORED:]
    return {
        "val_nll": nll["validation"],
        "nll": nll["test"],
        "kl": losses.soft_loss(test, taught, 1.0).mean().item(),
        "agreement": (test.argmax(-1) == taught.argmax(-1)).double().mean().item(),
    }


@torch.no_grad()
def sample_scores(tokens: Tensor, model: nn.Module | None, world: World) -> dict[str, float | None]:
    """Of rows that begin with 32 real characters: what follows them, as the teacher and the eye see it.

    `teacher_nll` and, of the model at temperature 1, `entropy` are nats a character; `real_words` is the share of words
    that the training text has, what stands before the first and behind the last space of a row left out.
    """
    rows = world.text.read(tokens[:, UNSCORED:])
    said = [word for row in rows for word in words(row.rpartition(" ")[0].partition(" ")[2])]
    first = UNSCORED - 1
    taught = answers(world.teacher, tokens)[:, first:]
    own = None if model is None else entropy(tempered_softmax(answers(model, tokens)[:, first:])).mean().item()
    return {
        "teacher_nll": losses.hard_loss(taught, tokens[:, UNSCORED:]).mean().item(),
        "distinct_4": distinct(rows),
        "entropy": own,
        "real_words": sum(word in world.text.words for word in said) / max(len(said), 1),
    }


# --- the study --------------------------------------------------------------------------------------------------------


def units(settings: Settings) -> list[Unit]:
    """One for each seed; its examples are the pieces of text that its students read."""
    steps = settings["warm_start"]["steps"] + settings["steps"] * (len(ARMS) - 1 + LONG)
    return [Unit(f"seed {seed}", {"seed": seed}, steps * settings["batch"]) for seed in settings["seeds"]]


def prepare(settings: Settings, device: torch.device) -> tuple[World, dict[str, float]]:
    """The text, the teacher, and each arm's learning rate; the last two are kept beside the data."""
    text = Text.of(settings["text"])
    vocabulary, recipe = len(text.characters), settings["teacher"]
    teacher = _new(vocabulary, recipe["sizes"], recipe["dropout"], 0).to(device)
    sizes = {"teacher": count_parameters(teacher)}
    sizes["student"] = count_parameters(_new(vocabulary, settings["student"], 0.0, 0))
    keep = settings["text"] != "made up"
    key = [recipe, settings["length"]]
    teacher.load_state_dict(_kept("teacher", key, keep, device, lambda: _train_teacher(teacher, text, settings)))
    teacher.eval().requires_grad_(False)
    pieces = {name: pieces_of(getattr(text, name), **settings["pieces"]).to(device) for name in ("validation", "test")}
    world = World(text, teacher, pieces, answers(teacher, pieces["test"]), {})
    without = {name: value for name, value in settings.items() if name != "seeds"}
    world.rates |= _kept("rates", [without, ARMS], keep, device, lambda: _choose_rates(world, settings, device))
    facts = {
        "vocabulary": vocabulary,
        "training_characters": len(text.train),
        **{f"{who}_parameters": number for who, number in sizes.items()},
        "teacher_nll": losses.hard_loss(world.taught[:, UNSCORED:], pieces["test"][:, 1 + UNSCORED :]).mean().item(),
    }
    return world, facts


def _train_teacher(teacher: nn.Module, text: Text, settings: Settings) -> dict[str, Tensor]:
    recipe, generator = settings["teacher"], torch.Generator().manual_seed(0)
    device = next(teacher.parameters()).device

    def loss(step: int) -> Tensor:
        return cross_entropy(teacher, batch_of(text.train, recipe["batch"], settings["length"], generator).to(device))

    with torch.random.fork_rng():
        torch.manual_seed(0)  # for dropout
        fit(teacher, loss, steps=recipe["steps"], lr=recipe["lr"], warm_up=recipe["warm_up"])
    return teacher.state_dict()


def _choose_rates(world: World, settings: Settings, device: torch.device) -> dict[str, float]:
    """For each arm the rate of the grid whose student has the lowest loss of its own on validation."""
    student = Student(world, settings, settings["tuning_seed"], device)
    return {
        arm: min(settings["lr"], key=lambda lr, arm=arm: student.own_loss(arm, student.trained(arm, lr)[0]))
        for arm in ARMS
    }


def _kept(what: str, key: object, keep: bool, device: torch.device, make: Callable[[], dict]) -> dict:
    """What takes long is made once, for these settings, this version of torch and this kind of device."""
    if not keep:
        return make()
    name = hashlib.sha256(json.dumps([key, torch.__version__, device.type]).encode()).hexdigest()[:12]
    file = data.folder() / "kdcourse" / f"character-{what}-{name}.pt"
    if not file.exists():
        made = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(f".{os.getpid()}")
        torch.save(made, partial_file)
        os.replace(partial_file, file)
    return torch.load(file, weights_only=True, map_location=device)


def compute(world: World, settings: Settings, device: torch.device, *, seed: int) -> DataFrame:
    """All arms of one seed, and beside them the student they start from, the teacher, and the text itself."""
    student, shape = Student(world, settings, seed, device), settings["samples"]
    prefix = batch_of(world.text.test, shape["number"], UNSCORED - 1 + shape["length"], _seeded(seed))
    real, prefix = prefix.to(device), prefix[:, :UNSCORED].to(device)
    rows = []

    def add(arm: str, model: nn.Module, temperature: float, facts: dict[str, float]) -> None:
        drawn = sample(model, prefix, shape["length"], _seeded(seed, device), temperature)
        row = {"seed": seed, "arm": arm, "sampling_temperature": temperature}
        rows.append(row | _EMPTY | facts | sample_scores(drawn, model, world))

    for arm in ARMS:
        trained, seconds = student.trained(arm, world.rates[arm])
        facts = {"lr": world.rates[arm], "seconds": seconds} | scores(trained, world, settings)
        for temperature in settings["sampling_temperatures"] if arm in FRONTIERS else [1.0]:
            add(arm, trained, temperature, facts)
    add("warm start", student.start, 1.0, scores(student.start, world, settings))
    add("teacher", world.teacher, 1.0, scores(world.teacher, world, settings))
    text = {"seed": seed, "arm": "real text", "sampling_temperature": 1.0}
    return DataFrame([*rows, text | _EMPTY | sample_scores(real, None, world)])


def _seeded(seed: int, device: torch.device | str = "cpu") -> Generator:
    return torch.Generator(device).manual_seed(10 * seed + 5)


_EMPTY = dict.fromkeys(("lr", "seconds", "val_nll", "nll", "kl", "agreement"))

STUDY = Study(
    name="character_model",
    question="Which divergence should a small language model learn by, and does it beat a colder sampler?",
    page="17_language_models",
    scales=SCALES,
    key=("arm", "sampling_temperature"),
    judged=("nll", "teacher_nll", "distinct_4"),
    units=units,
    prepare=prepare,
    compute=compute,
    optional=(*_EMPTY, "entropy"),  # what is not trained has no rate, and text no entropy
)
