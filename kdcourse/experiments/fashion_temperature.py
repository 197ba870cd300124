"""Which temperature, for how many images? The gain over hard labels on Fashion-MNIST, beside every cheaper rival.

The numbers of steps and the learning rates of each set were chosen in a pilot on other seeds; the number of steps is
fixed, so at 20,000 images part of what a high temperature loses is time. The page chooses learning rate and
temperature on validation images and reports the test images.
"""

import torch
from pandas import DataFrame

from kdcourse.experiments import fashion
from kdcourse.experiments.study import Settings, Study, Unit

TEMPERATURES = [0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def budget(steps: int, lr: list[float], weight_decay: list[float], pseudo_decay: list[float]) -> dict:
    """Steps and learning rates of every arm, and the strengths of each."""
    strengths = {
        "hard labels": [0.0],
        "hard labels, a quarter of the steps": [0.0],
        "weight decay": weight_decay,
        "label smoothing": [0.05, 0.1],
        "pseudo-labels": pseudo_decay,
        "logit MSE": [0.0],
        "distilled": TEMPERATURES,
    }
    return {"steps": steps, "lr": lr, "strengths": strengths}


SCALES = {
    "smoke": {
        "split": fashion.SMOKE_SPLIT,
        "teacher": fashion.SMOKE_TEACHER,
        "seeds": [300, 301],
        "images": {"100": {"steps": 8, "lr": [3e-3], "strengths": {"hard labels": [0.0], "distilled": [1.0, 4.0]}}},
    },
    "cpu": {
        "split": fashion.SPLIT,
        "teacher": fashion.TEACHER,
        "seeds": list(range(300, 310)),
        "images": {
            "100": budget(1_000, [3e-4, 1e-3, 3e-3], [0.3, 1.0, 3.0, 10.0], [0.0, 0.3]),
            "500": budget(1_000, [1e-3, 3e-3, 1e-2], [0.3, 1.0, 3.0, 10.0], [0.0, 0.3]),
            "2000": budget(1_000, [3e-3, 1e-2, 3e-2], [0.1, 0.3, 1.0, 3.0], [0.0, 0.3]),
            "20000": budget(3_000, [3e-3, 1e-2, 3e-2], [0.03, 0.1, 0.3], [0.0]),
        },
    },
}


def units(settings: Settings) -> list[Unit]:
    """One for each number of images, arm and learning rate: all seeds and strengths together."""
    return [
        Unit(
            f"{images} images, {arm}, lr {lr:g}",
            {"images": int(images), "arm": arm, "lr": lr},
            len(strengths) * len(settings["seeds"]) * fashion.steps_of(arm, part["steps"]) * fashion.BATCH,
        )
        for images, part in settings["images"].items()
        for arm, strengths in part["strengths"].items()
        for lr in part["lr"]
    ]


def compute(
    world: fashion.World, settings: Settings, device: torch.device, *, images: int, arm: str, lr: float
) -> DataFrame:
    """All seeds and strengths of one arm."""
    part = settings["images"][str(images)]
    labelled = world.labelled(images, settings["seeds"])
    strengths = part["strengths"][arm]
    table = fashion.run_arm(arm, strengths, labelled, world, lr=lr, steps=part["steps"], device=device)
    return table.assign(images=images)


STUDY = Study(
    name="fashion_temperature",
    question="How does the best temperature depend on the number of images, on the metric, and on the rivals?",
    page="05_choosing_the_temperature",
    scales=SCALES,
    key=("images", "arm", "strength", "lr"),
    judged=("accuracy", "nll"),
    units=units,
    prepare=fashion.prepare,
    compute=compute,
)
