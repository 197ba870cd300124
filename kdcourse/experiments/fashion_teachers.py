"""What five teachers of disjoint data can give a student, on Fashion-MNIST.

Each seed draws 5,500 training images. The student's 500 no teacher has seen; the others are five shards of 1,000, one a
teacher. A sixth teacher, of the same network, has all five shards and takes as many steps as the five together. Two
teachers more, the liars, have the last two shards with four labels in five drawn at random: with the first three
teachers they are the second panel. Nobody trains on the validation images; they choose the best member, the weights and
the student's settings.
"""

from collections.abc import Callable

import torch
from pandas import DataFrame
from torch import Generator, Tensor

from kdcourse import data, losses, metrics, models, schedules
from kdcourse.attention import mean_of_members
from kdcourse.data import Batch
from kdcourse.experiments import distilled, fashion, hard_only
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.methods.mixture import mixture_weights
from kdcourse.training import Students, train

TEACHERS, LIARS, SHARE_OF_LIES = 5, 2, 0.8
T = [1.0, 2.0, 4.0, 8.0]
HONEST = {
    "labels": [0.0],
    "labels, twice the steps": [0.0],
    "weight decay": [0.3, 1.0, 3.0, 10.0],
    "label smoothing": [0.05, 0.1, 0.2],
    "pseudo-labels": [0.0, 1.0],
    "best member": T,
    "mean of probabilities": T,
    "mean of logits": T,
    "averaged first": T,
    "one teacher of all data": T,
}
TWO_LIARS = {
    "mean of probabilities": T,
    "mean of logits": T,
    "averaged first": T,
    "weighted mean": T,
}

SCALES = {
    "smoke": {
        "student_images": 40,
        "shard": 60,
        "validation": 200,
        "test": 300,
        "seeds": [420, 421],
        "teacher": {"lr": 1e-3, "steps": 6},
        "steps": 8,
        "lr": [3e-3],
        "panels": {
            "five honest": {"labels": [0.0], "best member": [2.0], "one teacher of all data": [2.0]},
            "two liars": {"averaged first": [2.0], "weighted mean": [2.0]},
        },
    },
    "cpu": {
        "student_images": 500,
        "shard": 1_000,
        "validation": 2_000,
        "test": 10_000,
        "seeds": list(range(420, 428)),
        "teacher": {"lr": 1e-3, "steps": 600},
        "steps": 800,
        "lr": [1e-3, 3e-3],
        "panels": {"five honest": HONEST, "two liars": TWO_LIARS},
    },
}


def of_probabilities(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return losses.soft_loss(logits, mean_of_members(batch.teacher_logits, temperature), temperature)


def of_logits(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return losses.soft_loss(logits, batch.teacher_logits.mean(-2), temperature)


def averaged_first(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return losses.soft_loss(logits, mean_of_members(batch.teacher_logits), temperature)


def weighted(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    targets = mean_of_members(batch.teacher_logits, temperature, batch.teacher_features)
    return losses.soft_loss(logits, targets, temperature)


# arm: its loss, and the setting that `strength` means
ARMS: dict[str, tuple[Callable, str]] = {
    "labels": (hard_only, "weight_decay"),
    "labels, twice the steps": (hard_only, "weight_decay"),
    "weight decay": (hard_only, "weight_decay"),
    "label smoothing": (fashion.smoothed, "smoothing"),
    "pseudo-labels": (fashion.pseudo_labels, "weight_decay"),
    "best member": (distilled, "temperature"),
    "one teacher of all data": (distilled, "temperature"),
    "mean of probabilities": (of_probabilities, "temperature"),
    "mean of logits": (of_logits, "temperature"),
    "averaged first": (averaged_first, "temperature"),
    "weighted mean": (weighted, "temperature"),
}


def teacher() -> torch.nn.Sequential:
    """784-64-10, 50,890 parameters."""
    return models.mlp(784, 64, 10)


def train_teachers(images: dict[int, Batch], lr: float, steps: int, device: torch.device) -> Students:
    """Adam on labels alone, cosine to 0; a key of `images` is a teacher's seed."""
    rate = schedules.cosine(1, 0, steps)
    return train(
        teacher, images, hard_only, seeds=list(images), lr=lr, steps=steps, lr_schedule=rate, chunk=40, device=device
    )


def with_lies(batch: Batch, seed: int) -> Batch:
    """A share of the labels replaced by random ones, which are right one time in ten."""
    generator = Generator().manual_seed(seed)
    lie = torch.rand(len(batch), generator=generator) < SHARE_OF_LIES
    drawn = torch.randint(10, (len(batch),), generator=generator)
    return Batch(batch.inputs, torch.where(lie, drawn, batch.targets))


def prepare(settings: Settings, device: torch.device) -> tuple[dict[int, dict], dict[str, float]]:
    """For each seed the student's images and what every teacher says of all images: members 5 + 2, then the big one."""
    train_half, test_half = fashion.split()
    validation = train_half[50_000 : 50_000 + settings["validation"]]
    parts = {"validation": validation, "test": test_half[: settings["test"]]}
    parts = {name: Batch(part.inputs.flatten(1), part.targets) for name, part in parts.items()}
    own, small, large = {}, {}, {}
    for seed in settings["seeds"]:
        cut = data.split(train_half[:50_000], [settings["student_images"], TEACHERS * settings["shard"]], seed)
        own[seed], pool = (Batch(part.inputs.flatten(1), part.targets) for part in cut)
        shards = [pool[shard::TEACHERS] for shard in range(TEACHERS)]
        liars = [with_lies(shards[-liar], 100 * seed + liar) for liar in range(1, LIARS + 1)]
        small |= {100 * seed + k: shard for k, shard in enumerate([*shards, *liars])}
        large[100 * seed + 99] = pool
    recipe = settings["teacher"]
    many = train_teachers(small, recipe["lr"], recipe["steps"], device)
    pooled = train_teachers(large, recipe["lr"], TEACHERS * recipe["steps"], device)
    worlds, each = {}, TEACHERS + LIARS
    for place, seed in enumerate(settings["seeds"]):
        teachers = [many[each * place + k] for k in range(each)] + [pooled[place]]
        worlds[seed] = {
            name: part.with_teacher(_answers(teachers, part.inputs))
            for name, part in {"own": own[seed], **parts}.items()
        }
    return worlds, _facts(worlds)


@torch.no_grad()
def _answers(teachers: list[torch.nn.Module], inputs: Tensor) -> Tensor:
    return torch.stack([one.cpu()(inputs) for one in teachers], dim=1)


def panel_of(batch: Batch, panel: str) -> Tensor:
    """The logits [n, members, classes] of the five who teach."""
    liars = LIARS if panel == "two liars" else 0
    members = [*range(TEACHERS - liars), *range(TEACHERS, TEACHERS + liars)]
    return batch.teacher_logits[:, members]


def _facts(worlds: dict[int, dict]) -> dict[str, float]:
    """Accuracy on test images, the means over seeds: of a shard's teacher, of a liar, of each mean, of the big one."""

    def mean_accuracy(answer: Callable[[Batch], Tensor]) -> float:
        tests = [world["test"] for world in worlds.values()]
        return torch.stack([metrics.accuracy(answer(test), test.targets).mean() for test in tests]).mean().item()

    return {
        "teacher_parameters": models.count_parameters(teacher()),
        "student_parameters": models.count_parameters(fashion.student()),
        "one_shard": mean_accuracy(lambda test: test.teacher_logits[:, :TEACHERS].transpose(0, 1)),
        "one_liar": mean_accuracy(lambda test: test.teacher_logits[:, TEACHERS:-1].transpose(0, 1)),
        "five_honest": mean_accuracy(lambda test: mean_of_members(panel_of(test, "five honest"))),
        "two_liars": mean_accuracy(lambda test: mean_of_members(panel_of(test, "two liars"))),
        "all_data": mean_accuracy(lambda test: test.teacher_logits[:, -1]),
    }


def taught(world: dict, panel: str, arm: str) -> Batch:
    """The student's images with what its arm learns from."""
    own, validation = world["own"], world["validation"]
    members, known = panel_of(own, panel), panel_of(validation, panel)
    if arm == "one teacher of all data":
        return own.with_teacher(own.teacher_logits[:, -1])
    if arm == "best member":
        best = metrics.nll(known.transpose(0, 1), validation.targets).argmin()
        return own.with_teacher(members[:, best])
    if arm == "pseudo-labels":
        return own.with_teacher(mean_of_members(members))
    if arm == "weighted mean":
        weights = mixture_weights(known, validation.targets)
        return own.with_teacher(members, weights.expand(len(own), -1))
    return own.with_teacher(members)


def units(settings: Settings) -> list[Unit]:
    """One for each panel, arm and learning rate: all seeds and strengths together."""
    return [
        Unit(
            f"{panel}, {arm}, lr {lr:g}",
            {"panel": panel, "arm": arm, "lr": lr},
            len(strengths) * len(settings["seeds"]) * steps_of(arm, settings["steps"]) * fashion.BATCH,
        )
        for panel, arms in settings["panels"].items()
        for arm, strengths in arms.items()
        for lr in settings["lr"]
    ]


def steps_of(arm: str, steps: int) -> int:
    return 2 * steps if "twice" in arm else steps


def compute(
    worlds: dict[int, dict], settings: Settings, device: torch.device, *, panel: str, arm: str, lr: float
) -> DataFrame:
    """All seeds and strengths of one arm; agreement and KL are to the panel's mean probability at T = 1."""
    loss, meaning = ARMS[arm]
    strengths = settings["panels"][panel][arm]
    students = fashion.train_students(
        {seed: taught(world, panel, arm) for seed, world in worlds.items()},
        loss,
        lr=[lr],
        steps=steps_of(arm, settings["steps"]),
        device=device,
        **{meaning: strengths},
    )
    judged = {}
    for seed, world in worlds.items():
        parts = {k: b.with_teacher(mean_of_members(panel_of(b, panel))) for k, b in world.items()}
        judged[seed] = fashion.World(parts["own"], parts["validation"], parts["test"])
    table = fashion.score(students, judged)
    return table.assign(panel=panel, arm=arm, strength=students.table[meaning])


STUDY = Study(
    name="fashion_teachers",
    question="What do five teachers that could not pool their data give a student, and which mean of them?",
    page="12_many_teachers",
    scales=SCALES,
    key=("panel", "arm", "strength", "lr"),
    judged=("accuracy", "nll"),
    units=units,
    prepare=prepare,
    compute=compute,
)
