"""A convolutional student on Fashion-MNIST: does what T does for a small MLP hold for another architecture?

The images of a seed, the teacher and the arms are those of `fashion_temperature`; in the arm "strict teacher" the
teachers are those of `fashion_strict`, which saw the student's own images and no others. A pilot on other seeds of the
same data chose the network and the number of steps; the page chooses learning rate and strength on validation images.
"""

import torch
from pandas import DataFrame
from torch import nn

from kdcourse.experiments import fashion, fashion_strict, fashion_temperature
from kdcourse.experiments.study import Settings, Study
from kdcourse.models import count_parameters

STRICT = "strict teacher"
STRENGTHS = {
    "hard labels": [0.0],
    "weight decay": [0.3, 1.0, 3.0],
    "label smoothing": [0.05, 0.1],
    "pseudo-labels": [0.0],
    "logit MSE": [0.0],
    "distilled": [0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0],
}
LR = [1e-3, 3e-3, 1e-2]
SCALES = {
    "smoke": fashion_temperature.SCALES["smoke"]
    | {
        "own_teachers": fashion_strict.SCALES["smoke"]["own_teachers"],
        "strict_images": 100,
        "seeds": [360, 361],
        "images": {"100": {"steps": 4, "lr": [3e-3], "strengths": {name: [1.0] for name in ("distilled", STRICT)}}},
    },
    "cpu": {
        "split": fashion.SPLIT,
        "teacher": fashion.TEACHER,
        "own_teachers": fashion_strict.SCALES["cpu"]["own_teachers"],
        "strict_images": 500,
        "seeds": list(range(360, 365)),
        "images": {
            "500": {"steps": 800, "lr": LR, "strengths": STRENGTHS | {STRICT: [1.0, 4.0]}},
            "2000": {"steps": 800, "lr": LR, "strengths": STRENGTHS},
        },
    },
}


def student() -> nn.Sequential:
    """Rows of 784 pixels to 10 classes by two stride-2 convolutions, 8,586 parameters."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    )


def prepare(
    settings: Settings, device: torch.device
) -> tuple[tuple[fashion.World, dict[int, fashion.World]], dict[str, float]]:
    """The world with its teacher, and each seed's with teachers of its own."""
    world, facts = fashion.prepare(settings, device)
    own, strict = fashion_strict.prepare(settings | {"images": settings["strict_images"]}, device)
    return (world, own), facts | strict | {"student_parameters": count_parameters(student())}


def compute(
    worlds: tuple[fashion.World, dict[int, fashion.World]],
    settings: Settings,
    device: torch.device,
    *,
    images: int,
    arm: str,
    lr: float,
) -> DataFrame:
    """All seeds and strengths of one arm."""
    (world, own), part = worlds, settings["images"][str(images)]
    strict = arm == STRICT
    table = fashion.run_arm(
        "distilled" if strict else arm,
        part["strengths"][arm],
        {seed: mine.pool for seed, mine in own.items()} if strict else world.labelled(images, settings["seeds"]),
        own if strict else world,
        lr=lr,
        steps=part["steps"],
        device=device,
        network=student,
    )
    return table.assign(arm=arm, images=images)


STUDY = Study(
    name="fashion_convnet",
    question="Does a convolutional student want the same T, and does it gain as much, as a small MLP?",
    page="15_image_recognition",
    scales=SCALES,
    key=("images", "arm", "strength", "lr"),
    judged=("accuracy", "nll"),
    units=fashion_temperature.units,
    prepare=prepare,
    compute=compute,
)
