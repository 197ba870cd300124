"""What the studies on Fashion-MNIST share: who has seen which images, the teacher, the arms, the scores.

Of the 60,000 training images 50,000 are the pool that the teacher has seen, and 2,000 of the others are for
validation; the official test images are for testing alone. A student of a seed gets the first n images of the pool in
that seed's order, with their labels and the teacher's logits, and no others.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pandas import DataFrame
from torch import Tensor, nn

from kdcourse import data, losses, metrics, models, schedules
from kdcourse.calibration import fit_temperature
from kdcourse.data import Batch
from kdcourse.experiments import distilled, hard_only
from kdcourse.experiments.study import Settings
from kdcourse.softmax import tempered_log_softmax, tempered_softmax
from kdcourse.training import Students, grid, train

SPLIT = {"pool": 50_000, "validation": 2_000, "test": 10_000}
TEACHER = {"steps": 2_344, "batch": 128, "lr": 2e-3, "weight_decay": 5e-4, "warm_up": 100}
BATCH = 64
SMOKE_SPLIT = {"pool": 1_000, "validation": 200, "test": 300}
SMOKE_TEACHER = TEACHER | {"steps": 10, "warm_up": 2}


def conv_teacher() -> nn.Sequential:
    """28 x 28 images to 10 classes, 422,250 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def student() -> nn.Sequential:
    """784-16-10, 12,730 parameters."""
    return models.mlp(784, 16, 10)


@dataclass(frozen=True)
class World:
    """Images as rows [n, 784] with the teacher's logits: `pool`, `validation`, `test`."""

    pool: Batch
    validation: Batch
    test: Batch

    def labelled(self, images: int, seeds: Iterable[int]) -> dict[int, Batch]:
        """The images of each seed; fewer images are the first of more."""
        return {seed: data.split(self.pool, [images], seed)[0] for seed in seeds}


def split() -> tuple[Batch, Batch]:
    """All training images in the order of the split, and all test images."""
    return data.split(data.fashion_mnist(train=True), [60_000], 0)[0], data.fashion_mnist(train=False)


def prepare(settings: Settings, device: torch.device) -> tuple[World, dict[str, float]]:
    """The world with its teacher, and the teacher's own scores."""
    everything, test = split()
    sizes = settings["split"]
    parts = {
        "pool": everything[: sizes["pool"]],
        "validation": everything[50_000 : 50_000 + sizes["validation"]],
        "test": test[: sizes["test"]],
    }
    logits = _teacher_logits(parts, settings["teacher"], device)
    world = World(
        **{name: Batch(part.inputs.flatten(1), part.targets).with_teacher(logits[name]) for name, part in parts.items()}
    )
    facts = {
        "teacher_parameters": models.count_parameters(conv_teacher()),
        "student_parameters": models.count_parameters(student()),
        "teacher_accuracy": metrics.accuracy(logits["test"], test.targets[: sizes["test"]]).item(),
        "teacher_nll": metrics.nll(logits["test"], test.targets[: sizes["test"]]).item(),
        "teacher_accuracy_on_pool": metrics.accuracy(logits["pool"], parts["pool"].targets).item(),
        "teacher_confidence_on_pool": tempered_softmax(logits["pool"]).amax(-1).mean().item(),
    }
    return world, facts


def _teacher_logits(parts: dict[str, Batch], recipe: Settings, device: torch.device) -> dict[str, Tensor]:
    """The teacher's answers; trained once and kept beside the data, since it takes longer than many a study."""
    lengths = {name: len(part) for name, part in parts.items()}
    key = json.dumps([recipe, lengths, torch.__version__, device.type], sort_keys=True)
    kept = data.folder() / "kdcourse" / f"fashion-{hashlib.sha256(key.encode()).hexdigest()[:12]}.pt"
    if kept.exists():
        return torch.load(kept, weights_only=True)
    pool = parts["pool"]
    # Every image also mirrored: the same as mirroring at random, and the loop need not know.
    doubled = Batch(torch.cat([pool.inputs, pool.inputs.flip(-1)]), pool.targets.repeat(2))
    teacher = train_teachers({0: doubled}, recipe, [0], device)
    logits = {name: answers(teacher, part.inputs)[0] for name, part in parts.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(logits, kept.with_suffix(f".{os.getpid()}"))
    os.replace(kept.with_suffix(f".{os.getpid()}"), kept)
    return logits


def train_teachers(images: dict[int, Batch], recipe: Settings, seeds: list[int], device: torch.device) -> Students:
    """Convolutional teachers: AdamW, a short warm-up, then linearly to 0; a large net gains nothing from company."""
    up, steps = recipe["warm_up"], recipe["steps"]
    return train(
        conv_teacher,
        images,
        hard_only,
        seeds=seeds,
        steps=steps,
        batch=recipe["batch"],
        lr=recipe["lr"],
        weight_decay=recipe["weight_decay"],
        lr_schedule=lambda step: (step + 1) / up if step < up else (steps - step) / (steps - up),
        engine="loop",
        device=device,
    )


def answers(students: Students, inputs: Tensor, rows: int = 2_000) -> Tensor:
    """Logits [runs, n, classes] on inputs [n, ...], a piece at a time."""
    return torch.cat([students.logits(piece) for piece in inputs.split(rows)], dim=1)


# --- the arms ---------------------------------------------------------------------------------------------------------


def pseudo_labels(logits, batch):
    """The teacher's first choice as if it were the label."""
    return losses.hard_loss(logits, batch.teacher_logits.argmax(-1))


def smoothed(logits, batch, smoothing):
    """Labels that give away `smoothing` in equal parts to all classes."""
    log_q = tempered_log_softmax(logits)
    return (1 - smoothing) * losses.hard_loss(logits, batch.targets) - smoothing * log_q.mean(-1)


def logit_mse(logits, batch):
    """Regression on centred logits, the limit of the soft loss for high temperatures."""
    gap = logits - batch.teacher_logits
    return (gap - gap.mean(-1, keepdim=True)).square().mean(-1) / 2


# arm: its loss, and the setting that `strength` means
ARMS: dict[str, tuple[Callable, str]] = {
    "hard labels": (hard_only, "weight_decay"),
    "hard labels, a quarter of the steps": (hard_only, "weight_decay"),
    "weight decay": (hard_only, "weight_decay"),
    "label smoothing": (smoothed, "smoothing"),
    "pseudo-labels": (pseudo_labels, "weight_decay"),
    "logit MSE": (logit_mse, "weight_decay"),
    "distilled": (distilled, "temperature"),
}


def steps_of(arm: str, steps: int) -> int:
    """How many of the study's steps an arm takes."""
    return steps // 4 if "quarter" in arm else steps


def train_students(
    labelled: dict[int, Batch],
    loss: Callable,
    *,
    lr: Iterable[float],
    steps: int,
    device: torch.device,
    network: Callable[[], nn.Module] = student,
    **hyper: Any,
) -> Students:
    """Every seed with every learning rate and every value of `hyper`: Adam, cosine to 0, batches of 64."""
    scheduled = {name: value for name, value in hyper.items() if callable(value)}
    axes = {name: value for name, value in hyper.items() if not callable(value)}
    return train(
        network,
        labelled,
        loss,
        steps=steps,
        batch=BATCH,
        lr_schedule=schedules.cosine(1, 0, steps),
        chunk=30 if device.type == "cpu" else 1000,  # what the caches of a processor hold
        device=device,
        **scheduled,
        **grid(lr=list(lr), seeds=list(labelled), **axes),
    )


def run_arm(
    arm: str,
    strengths: list[float],
    labelled: dict[int, Batch],
    world: World | Mapping[int, World],
    *,
    lr: float,
    steps: int,
    device: torch.device,
    network: Callable[[], nn.Module] = student,
) -> DataFrame:
    """One arm on one set of images: a row for each seed and strength."""
    loss, meaning = ARMS[arm]
    students = train_students(
        labelled, loss, lr=[lr], steps=steps_of(arm, steps), device=device, network=network, **{meaning: strengths}
    )
    table = score(students, world)
    return table.assign(arm=arm, strength=students.table[meaning])


def score(students: Students, world: World | Mapping[int, World]) -> DataFrame:
    """Seed, learning rate, and the metrics of each student: on validation (columns val_...) and on test images.

    `world` is one for all, or one for each seed with the same images and its own teacher.

    `fitted` is the temperature that makes the student's own answers most likely on validation; `nll_fitted` and
    `ece_fitted` are the test scores after it, which a scale of the logits can no longer change.
    """
    seeds = students.columns["seed"]
    worlds = {seed: world if isinstance(world, World) else world[seed] for seed in seeds}
    logits, columns = {}, {}
    for prefix, part in (("val_", "validation"), ("", "test")):
        batches = {seed: getattr(own, part) for seed, own in worlds.items()}
        batch = batches[seeds[0]]
        logits[part] = answers(students, batch.inputs)
        teacher = batch.teacher_logits
        if len({id(own) for own in worlds.values()}) > 1:
            teacher = torch.stack([batches[seed].teacher_logits for seed in seeds])
        results = metrics.scores(logits[part], batch.targets, teacher)
        columns |= {prefix + name: results[name] for name in ("accuracy", "nll", "ece", "agreement", "kl")}
    one = worlds[seeds[0]]
    columns["fitted"], _ = fit_temperature(logits["validation"], one.validation.targets)
    honest = logits["test"] / columns["fitted"].view(-1, 1, 1)
    columns["nll_fitted"] = metrics.nll(honest, one.test.targets)
    columns["ece_fitted"] = metrics.expected_calibration_error(honest, one.test.targets)
    return students.table[["seed", "lr", "frozen_at"]].assign(
        **{name: value.tolist() for name, value in columns.items()}
    )
