"""What is left of the gain when the teacher has seen no more than the student?

For each seed three convolutional networks are trained on the student's own 500 images; their mean answer teaches.
So nothing comes from other images, and what remains is the soft targets and the better architecture.
"""

import math
from collections.abc import Callable

import torch
from pandas import DataFrame
from torch import Tensor

from kdcourse import metrics
from kdcourse.data import Batch
from kdcourse.experiments import fashion
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.softmax import tempered_log_softmax

SCALES = {
    "smoke": {
        "split": fashion.SMOKE_SPLIT,
        "teacher": fashion.SMOKE_TEACHER,
        "own_teachers": {"members": 2, "steps": 5, "batch": 64, "lr": 2e-3, "weight_decay": 5e-4, "warm_up": 2},
        "seeds": [340, 341],
        "images": 100,
        "steps": 8,
        "lr": [3e-3],
        "strengths": {"hard labels": [0.0], "distilled": [1.0, 4.0]},
    },
    "cpu": {
        "split": fashion.SPLIT,
        "teacher": fashion.TEACHER,
        "own_teachers": {"members": 3, "steps": 200, "batch": 64, "lr": 2e-3, "weight_decay": 5e-4, "warm_up": 20},
        "seeds": list(range(340, 350)),
        "images": 500,
        "steps": 1_000,
        "lr": [1e-3, 3e-3],
        "strengths": {
            "hard labels": [0.0],
            "hard labels, a quarter of the steps": [0.0],
            "weight decay": [0.3, 1.0, 3.0, 10.0],
            "label smoothing": [0.05, 0.1],
            "pseudo-labels": [0.0],
            "logit MSE": [0.0],
            "distilled": [0.5, 1.0, 2.0, 4.0, 8.0, 32.0],
        },
    },
}


def units(settings: Settings) -> list[Unit]:
    """One for each arm and learning rate: all seeds and strengths together."""
    seeds, steps = len(settings["seeds"]), settings["steps"]
    return [
        Unit(
            f"{arm}, lr {lr:g}",
            {"arm": arm, "lr": lr},
            len(strengths) * seeds * fashion.steps_of(arm, steps) * fashion.BATCH,
        )
        for arm, strengths in settings["strengths"].items()
        for lr in settings["lr"]
    ]


def prepare(settings: Settings, device: torch.device) -> tuple[dict[int, fashion.World], dict[str, float]]:
    """For each seed the world with its own teachers; its pool are the student's images alone."""
    world, facts = fashion.prepare(settings, device)
    labelled = world.labelled(settings["images"], settings["seeds"])
    worlds = {}
    for seed, images in labelled.items():
        teach = own_teachers(images, settings["own_teachers"], seed, device)
        worlds[seed] = fashion.World(teach(images), teach(world.validation), teach(world.test))
    for name, part in (("", "test"), ("_on_own_images", "pool")):
        shares = [metrics.accuracy(b.teacher_logits, b.targets) for b in (getattr(w, part) for w in worlds.values())]
        facts[f"own_teachers_accuracy{name}"] = torch.stack(shares).mean().item()
    return worlds, facts


def own_teachers(images: Batch, recipe: Settings, seed: int, device: torch.device) -> Callable[[Batch], Batch]:
    """Train networks on these images and their mirror images; the result gives a batch their mean answer."""

    def square(inputs: Tensor) -> Tensor:
        return inputs.view(-1, 1, 28, 28)

    mirrored = Batch(torch.cat([square(images.inputs), square(images.inputs).flip(-1)]), images.targets.repeat(2))
    members = [1_000 * seed + member for member in range(recipe["members"])]
    teachers = fashion.train_teachers({member: mirrored for member in members}, recipe, members, device)

    def teach(batch: Batch) -> Batch:
        logits = fashion.answers(teachers, square(batch.inputs))
        return batch.with_teacher(tempered_log_softmax(logits).logsumexp(0) - math.log(len(members)))

    return teach


def compute(
    worlds: dict[int, fashion.World], settings: Settings, device: torch.device, *, arm: str, lr: float
) -> DataFrame:
    """All seeds and strengths of one arm."""
    labelled = {seed: world.pool for seed, world in worlds.items()}
    table = fashion.run_arm(
        arm, settings["strengths"][arm], labelled, worlds, lr=lr, steps=settings["steps"], device=device
    )
    return table.assign(images=settings["images"])


STUDY = Study(
    name="fashion_strict",
    question="Does a teacher that has seen only the student's own images help more than weight decay?",
    page="back/results",
    scales=SCALES,
    key=("images", "arm", "strength", "lr"),
    judged=("accuracy", "nll"),
    units=units,
    prepare=prepare,
    compute=compute,
)
