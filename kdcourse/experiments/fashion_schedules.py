"""Should the temperature change during training? Constants and schedules at equal compute, on Fashion-MNIST.

Every schedule gets the same images, starts, orders, steps and two learning rates. The 1,000 steps count as 20 epochs
of 50, which is what "per epoch" in a rule means here.
"""

import math
from collections.abc import Callable

import torch
from pandas import DataFrame

from kdcourse import losses
from kdcourse.experiments import distilled, fashion
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.schedules import Schedule, constant, cosine, exponential, linear

EPOCHS = 20


def tenth_per_epoch(steps: int, floor: float) -> Schedule:
    """10, then a tenth of it after each epoch."""
    return lambda step: max(10.0 ** (1 - step * EPOCHS // steps), floor)


def sigmoid(steps: int) -> Schedule:
    """1 / (1 + exp(-0.1 epoch)): from 0.5 up to 0.87."""
    return lambda step: 1 / (1 + math.exp(-0.1 * (step * EPOCHS // steps)))


def without_t_squared(logits, batch, temperature):
    """The soft loss without its factor."""
    return losses.soft_loss(logits, batch.teacher_logits, temperature) / temperature**2


# name: what makes the schedule of so many steps, and the loss
SCHEDULES: dict[str, tuple[Callable[[int], Schedule], Callable]] = {
    **{f"constant {value:g}": (lambda steps, value=value: constant(value), distilled)
       for value in (0.5, 1.0, 2.0, 3.0, 4.0, 8.0, 16.0)},
    "linear 8 to 1": (lambda steps: linear(8.0, 1.0, steps), distilled),
    "linear 4 to 1": (lambda steps: linear(4.0, 1.0, steps), distilled),
    "linear 1 to 8": (lambda steps: linear(1.0, 8.0, steps), distilled),
    "cosine 8 to 1": (lambda steps: cosine(8.0, 1.0, steps), distilled),
    "cosine 4 to 1": (lambda steps: cosine(4.0, 1.0, steps), distilled),
    "exponential 8, floor 1": (lambda steps: exponential(8.0, math.exp(-4 / steps), 1.0), distilled),
    "a tenth per epoch, floor 1": (lambda steps: tenth_per_epoch(steps, 1.0), distilled),
    "a tenth per epoch": (lambda steps: tenth_per_epoch(steps, 0.0), distilled),
    "a tenth per epoch, without T²": (lambda steps: tenth_per_epoch(steps, 0.0), without_t_squared),
    "sigmoid": (sigmoid, distilled),
    "sigmoid, without T²": (sigmoid, without_t_squared),
}  # fmt: skip
SCALES = {
    "smoke": {
        "split": fashion.SMOKE_SPLIT,
        "teacher": fashion.SMOKE_TEACHER,
        "seeds": [320, 321],
        "steps": 20,
        "lr": {"100": [3e-3]},
        "schedules": ["constant 4", "linear 8 to 1", "a tenth per epoch"],
    },
    "cpu": {
        "split": fashion.SPLIT,
        "teacher": fashion.TEACHER,
        "seeds": list(range(320, 330)),
        "steps": 1_000,
        "lr": {"500": [1e-3, 3e-3], "2000": [3e-3, 1e-2]},
        "schedules": list(SCHEDULES),
    },
}


def units(settings: Settings) -> list[Unit]:
    """One for each number of images and schedule: all seeds and learning rates together."""
    return [
        Unit(
            f"{images} images, {schedule}",
            {"images": int(images), "schedule": schedule},
            len(rates) * len(settings["seeds"]) * settings["steps"] * fashion.BATCH,
        )
        for images, rates in settings["lr"].items()
        for schedule in settings["schedules"]
    ]


def compute(world: fashion.World, settings: Settings, device: torch.device, *, images: int, schedule: str) -> DataFrame:
    """One schedule."""
    make, loss = SCHEDULES[schedule]
    students = fashion.train_students(
        world.labelled(images, settings["seeds"]),
        loss,
        lr=settings["lr"][str(images)],
        steps=settings["steps"],
        temperature=make(settings["steps"]),
        device=device,
    )
    return fashion.score(students, world).assign(schedule=schedule, images=images)


STUDY = Study(
    name="fashion_schedules",
    question="Does a temperature that changes during training beat the best constant one?",
    page="06_schedules",
    scales=SCALES,
    key=("images", "schedule", "lr"),
    judged=("accuracy", "nll"),
    units=units,
    prepare=fashion.prepare,
    compute=compute,
)
