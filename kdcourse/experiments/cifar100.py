"""Image recognition on CIFAR-100: at which T is the student best, and what else would have helped it as much?

On two cores 20 of the 100 classes (every fifth), halved to 16 x 16 pixels, and 2,000 images for the student; on a GPU
pairs of a public benchmark on all images, by its protocol and by a short one with a validation set. All students of a
seed see the same views and share their teacher's forward pass. A pilot on 20 other classes chose the networks and the
number of images, one further seed of these the epochs and the grid of learning rates.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pandas import DataFrame
from torch import Tensor, nn

from kdcourse import data, losses, metrics
from kdcourse.attention import mean_of_members
from kdcourse.calibration import fit_temperature
from kdcourse.data import Batch
from kdcourse.experiments import fashion
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.experiments.together import Recipe, Student, answer, keep, train_together
from kdcourse.methods.decoupled import decoupled_loss
from kdcourse.methods.dist import dist_loss
from kdcourse.methods.standardized import standardized
from kdcourse.networks import network

SWEEP = [0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0]
SHORT = {"warm_up": 5, "nesterov": True, "milestones": []}
BENCHMARK = {"epochs": 240, "batch": 64, "milestones": [150, 180, 210], "warm_up": 0, "nesterov": False}


def arm(name: str, strengths: list[float], soft_weights: list[float] | None = None) -> Settings:
    """An arm with what its strength may be; where the teacher is heard, also with which weight."""
    return {"arm": name, "strengths": strengths, "soft_weights": soft_weights or [0.0]}


def arms(sweep: list[float], decays: list[float]) -> list[Settings]:
    """The sweep over T and its rivals."""
    return [
        arm("hard labels", [5e-4]),
        arm("weight decay", decays),
        arm("label smoothing", [0.1, 0.2]),
        arm("pseudo-labels", [0.0], [0.9]),
        arm("logit MSE", [0.0], [0.9]),
        arm("distilled", sweep, [0.9]),
        arm("distilled, other weights", [1.0, 4.0], [0.5, 1.0]),
        arm("decoupled", [1.0, 4.0], [0.5]),
        arm("standardised", [1.0, 4.0], [0.9]),
        arm("DIST", [1.0, 4.0], [0.5]),
        arm("three teachers", [1.0, 4.0], [0.9]),
    ]


def benchmark(teacher: str, student: str, lr: float = 0.05) -> Settings:
    """A pair by the protocol of the public table: T = 4, soft_weight 0.9, all images, 240 epochs, nothing to choose."""
    return {
        "pair": [teacher, student],
        "protocol": "benchmark",
        "validation": 0,
        "images": 50_000,
        "lr": [lr],
        "recipe": BENCHMARK,
        "teacher": BENCHMARK | {"lr": 0.05, "members": 1},
        "arms": [arm("hard labels", [5e-4]), arm("distilled", [4.0], [0.9])],
    }


SMALL = {
    "pair": ["strided 32-64-128", "strided 8-16"],
    "protocol": "short",
    "validation": 1_000,
    "images": 2_000,
    "lr": [0.03, 0.1, 0.3],
    "recipe": SHORT | {"epochs": 20, "batch": 64, "warm_up": 0},
    "teacher": SHORT | {"epochs": 15, "batch": 64, "warm_up": 0, "lr": 0.05, "members": 3},
    "strict": SHORT | {"epochs": 60, "batch": 64, "warm_up": 0, "lr": 0.05, "members": 1},
    "arms": [*arms(SWEEP, [2e-3, 1e-2, 5e-2]), arm("strict teacher", [1.0, 4.0], [0.9])],
}
SCALES = {
    "smoke": {
        "seeds": [40, 41],
        "classes": 5,
        "size": 16,
        "cases": [
            SMALL
            | {"images": 100, "lr": [0.05], "arms": [*arms([1.0, 4.0], [5e-3])[:6], SMALL["arms"][-1]]}
            | {name: SMALL[name] | {"epochs": 1, "batch": 50} for name in ("recipe", "teacher", "strict")},
        ],
    },
    "cpu": {"seeds": [40, 41, 42, 43, 44], "classes": 20, "size": 16, "cases": [SMALL]},
    "gpu": {
        "seeds": [40, 41, 42],
        "classes": 100,
        "size": 32,
        "cases": [
            benchmark("vgg13", "vgg8"),
            {
                "pair": ["vgg13", "vgg8"],
                "protocol": "short",
                "validation": 5_000,
                "images": 45_000,
                "lr": [0.05, 0.1, 0.2],
                "recipe": SHORT | {"epochs": 60, "batch": 256},
                "teacher": SHORT | {"epochs": 60, "batch": 256, "lr": 0.1, "members": 3},
                "arms": arms(SWEEP, [1e-3, 2e-3, 5e-3]),
            },
            benchmark("resnet56", "resnet20"),
            benchmark("wrn-40-2", "wrn-16-2"),
            benchmark("resnet32x4", "resnet8x4"),
            benchmark("resnet50", "mobilenetv2", lr=0.01),
        ],
    },
}

# --- what the answers of a teacher are used for -----------------------------------------------------------------------


def mse(student: Tensor, teacher: Tensor, targets: Tensor, _: float) -> Tensor:
    """Regression on centred logits."""
    return fashion.logit_mse(student, Batch.trusted(teacher_logits=teacher))


def soft(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The soft loss, which needs no labels."""
    return losses.soft_loss(student, teacher, temperature)


# arm: what takes the place of the soft loss, as a function of the strength; and the teacher that is heard
HEARD: dict[str, tuple[Callable[[Tensor, Tensor, Tensor, float], Tensor], str]] = {
    "pseudo-labels": (lambda s, t, y, _: losses.hard_loss(s, t.argmax(-1)), "teacher"),
    "logit MSE": (mse, "teacher"),
    "distilled": (soft, "teacher"),
    "distilled, other weights": (soft, "teacher"),
    "decoupled": (lambda s, t, y, temperature: decoupled_loss(s, t, y, temperature=temperature), "teacher"),
    "standardised": (lambda s, t, y, temperature: soft(standardized(s), standardized(t), y, temperature), "teacher"),
    "DIST": (lambda s, t, y, temperature: dist_loss(s, t, temperature=temperature), "teacher"),
    "three teachers": (soft, "three teachers"),
    "strict teacher": (soft, "strict teacher"),
}


def hard(student: Tensor, teacher: Tensor | None, targets: Tensor) -> Tensor:
    """Labels alone."""
    return losses.hard_loss(student, targets)


def smoothed(student: Tensor, teacher: Tensor | None, targets: Tensor, smoothing: float) -> Tensor:
    """Labels that give away `smoothing` in equal parts."""
    return fashion.smoothed(student, Batch.trusted(targets=targets), smoothing)


def weighed(student: Tensor, teacher: Tensor, targets: Tensor, *, name: str, strength: float, weight: float) -> Tensor:
    """What the teacher says with `weight`, and the labels with the rest."""
    said = HEARD[name][0](student, teacher, targets, strength)
    return weight * said + (1 - weight) * losses.hard_loss(student, targets)


def student_of(name: str, strength: float, weight: float, lr: float, net: nn.Module) -> Student:
    """A student of one arm; weight decay is 5e-4 unless it is the strength."""
    if name in HEARD:
        loss = partial(weighed, name=name, strength=strength, weight=weight)
        return Student(net, loss, lr, 5e-4, HEARD[name][1])
    if name == "label smoothing":
        return Student(net, partial(smoothed, smoothing=strength), lr, 5e-4)
    return Student(net, hard, lr, strength)


# --- images and teachers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One pair and protocol: standardised images [n, size, size, 3] on the device, and the teachers."""

    pool: Batch
    validation: Batch
    test: Batch
    teachers: dict[str, list[nn.Module]]


def images(settings: Settings, device: torch.device, train: bool) -> Batch:
    """The classes of a scale, pooled to its size, standardised channel by channel."""
    everything = data.cifar100(train)
    step = 100 // settings["classes"]
    batch = everything[everything.targets % step == 0] if step > 1 else everything
    pixels = batch.inputs.to(device).float().div(255)
    pixels = (pixels - pixels.new_tensor(data.CIFAR100_MEAN)) / pixels.new_tensor(data.CIFAR100_STD)
    if (factor := 32 // settings["size"]) > 1:
        pixels = nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)
    return Batch(pixels, (batch.targets // step).to(device))


def prepare(settings: Settings, device: torch.device) -> tuple[list[Case], dict[str, float]]:
    """Images and trained teachers of every case, and the teachers' scores."""
    everything, test = (images(settings, device, train) for train in (True, False))
    everything = data.split(everything, [len(everything)], 0)[0]
    cases, facts = [], {}
    for case in settings["cases"]:
        cut = len(everything) - case["validation"]
        pool, validation = everything[:cut], everything[cut:]
        members = _teachers(case["pair"][0], pool, case["teacher"], settings["classes"], device)
        teachers = {"teacher": members[:1], "three teachers": members}
        cases.append(Case(pool, validation, test, teachers))
        name = f"{case['pair'][0]} {case['protocol']}"
        for key, value in _scores(teachers["teacher"], test).items():
            facts[f"{name} {key}"] = value
        facts[f"{name} accuracy on its pool"] = _scores(teachers["teacher"], pool)["accuracy"]
        if len(members) > 1:
            facts[f"three {name} accuracy"] = _scores(members, test)["accuracy"]
    return cases, facts


def _scores(members: list[nn.Module], test: Batch) -> dict[str, float]:
    results = metrics.scores(mean_logits(members, test), test.targets)
    return {name: results[name].item() for name in ("accuracy", "nll", "ece")}


def mean_logits(members: list[nn.Module], batch: Batch) -> Tensor:
    """log of the mean probability of several networks on whole images, [n, classes]."""
    return mean_of_members(torch.stack([answer(member, batch.inputs) for member in members], dim=-2))


def _teachers(name: str, pool: Batch, recipe: Settings, classes: int, device: torch.device) -> list[nn.Module]:
    """Trained once, member by member, and kept beside the data: on a GPU a teacher takes as long as its students."""
    lengths = {"pool": len(pool), "size": pool.inputs.shape[1], "classes": classes}
    members = []
    for member in range(recipe["members"]):
        torch.manual_seed(member)
        net = network(name, classes)
        kept = _kept("cifar100", [name, recipe, lengths, member, torch.__version__, device.type])
        if kept.exists():
            net.load_state_dict(torch.load(kept, weights_only=True))
            net.to(device, memory_format=torch.channels_last).eval()
        else:
            train_one(net, pool, recipe, member, kept.with_suffix(".epoch"))
            keep(kept, {key: value.cpu() for key, value in net.state_dict().items()})
        members.append(net)
    return members


def train_one(net: nn.Module, pool: Batch, recipe: Settings, seed: int, checkpoint: Path | None = None) -> nn.Module:
    """A network by labels alone."""
    train_together(
        [Student(net, hard, recipe["lr"], 5e-4)],
        pool.inputs,
        pool.targets,
        _recipe(recipe),
        seed=seed,
        checkpoint=checkpoint,
    )
    return net


def _recipe(settings: Settings) -> Recipe:
    return Recipe(**{key: settings[key] for key in ("epochs", "batch", "milestones", "warm_up", "nesterov")})


def _kept(kind: str, what: Any) -> Path:
    name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    return data.folder() / "kdcourse" / f"{kind}-{name}.pt"


# --- the work ---------------------------------------------------------------------------------------------------------


def settings_of(case: Settings) -> list[dict[str, Any]]:
    """What distinguishes the students of a seed."""
    return [
        {"arm": chosen["arm"], "strength": strength, "soft_weight": weight, "lr": lr}
        for chosen in case["arms"]
        for strength in chosen["strengths"]
        for weight in chosen["soft_weights"]
        for lr in case["lr"]
    ]


def units(settings: Settings) -> list[Unit]:
    """One for each case and seed: all arms together, since they share views and the teacher."""
    return [
        Unit(
            f"{' to '.join(case['pair'])}, {case['protocol']}, seed {seed}",
            {"case": number, "seed": seed},
            len(settings_of(case)) * case["recipe"]["epochs"] * case["images"],
        )
        for number, case in enumerate(settings["cases"])
        for seed in settings["seeds"]
    ]


def compute(cases: list[Case], settings: Settings, device: torch.device, *, case: int, seed: int) -> DataFrame:
    """All students of a seed: a row each, with the scores on validation and test images."""
    own, world, classes = settings["cases"][case], cases[case], settings["classes"]
    labelled = data.split(world.pool, [own["images"]], seed)[0]
    teachers = dict(world.teachers)
    if "strict" in own:
        torch.manual_seed(seed)
        strict = network(own["pair"][0], classes)
        teachers["strict teacher"] = [train_one(strict, labelled, own["strict"], seed)]
    chosen = settings_of(own)
    students = []
    for setting in chosen:
        torch.manual_seed(seed)  # every arm starts from the same parameters
        net = network(own["pair"][1], classes)
        students.append(student_of(setting["arm"], setting["strength"], setting["soft_weight"], setting["lr"], net))
    watched = train_together(
        students,
        labelled.inputs,
        labelled.targets,
        _recipe(own["recipe"]),
        seed=seed,
        teachers=teachers,
        watch=(world.test.inputs, world.test.targets),
        checkpoint=_kept("epoch", [own, settings["size"], classes, seed, torch.__version__, device.type]),
    )
    said = {name: mean_logits(members, world.test) for name, members in teachers.items()}
    rows = []
    for setting, student, course in zip(chosen, students, watched.T, strict=True):
        logits = answer(student.network, world.test.inputs)
        row = metrics.scores(logits, world.test.targets, said[student.teacher or "teacher"])
        row["best_epoch"] = course.max()
        if len(world.validation):
            held = answer(student.network, world.validation.inputs)
            row |= {f"val_{name}": metrics.scores(held, world.validation.targets)[name] for name in ("accuracy", "nll")}
            fitted, _ = fit_temperature(held, world.validation.targets)
            row |= {"fitted": fitted, "nll_fitted": metrics.nll(logits / fitted.item(), world.test.targets)}
        rows.append(setting | {"seed": seed} | {name: float(value) for name, value in row.items()})
    labels = {"pair": " to ".join(own["pair"]), "protocol": own["protocol"]}
    return DataFrame(rows).drop(columns="brier").assign(**labels)


STUDY = Study(
    name="cifar100",
    question="On small photographs: at which T is the student best, and how far is it from its teacher?",
    page="15_image_recognition",
    scales=SCALES,
    key=("pair", "protocol", "arm", "strength", "soft_weight", "lr"),
    judged=("accuracy", "nll"),
    units=units,
    prepare=prepare,
    compute=compute,
    optional=("val_accuracy", "val_nll", "fitted", "nll_fitted"),
)
