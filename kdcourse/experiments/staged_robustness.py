"""Stages and an adversary, each alone and both together: at equal steps, and at equal passes.

A pass is one forward and backward through the student; an attack of five steps costs five. Robust digits as in
`robust_digits`, a robust teacher, a student 64-16-16-10 with 200 images. Every arm has four tries of weight decay;
trial seeds choose by robust accuracy on validation images, and new seeds are trained and judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pandas import DataFrame
from torch import Tensor, nn

from kdcourse import data
from kdcourse.data import Batch
from kdcourse.experiments.adversaries import Loss, Stack, attacks, together, train_stack, withstands
from kdcourse.experiments.robust_digits import TEACHER, adversarial_training, copied, labels, pixels, rslad
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.methods.hints import hint_loss

SCALES = {
    "smoke": {
        "seeds": [2100, 2101],
        "trial_seeds": [2090, 2091],
        "images": 40,
        "radius": 0.15,
        "unit": 2,
        "attack_steps": 2,
        "restarts": 1,
        "weight_decays": [0.0, 1.0],
    },
    "cpu": {
        "seeds": list(range(2100, 2110)),
        "trial_seeds": list(range(2090, 2094)),
        "images": 200,
        "radius": 0.15,
        "unit": 100,
        "attack_steps": 20,
        "restarts": 3,
        "weight_decays": [0.0, 0.3, 1.0, 3.0],
    },
}
STUDENT, WIDTH = (64, 16, 16, 10), 128


def hidden(students: Stack, inputs: Tensor, depth: int) -> Tensor:
    """The layer after so many ReLUs: [runs, batch, units]."""
    layer = (inputs - students.mean) / students.spread
    for weight, bias in zip(students.weights[:depth], students.biases[:depth], strict=True):
        layer = torch.baddbmm(bias, layer, weight).relu()
    return layer


class Hinted(Stack):
    """Students of two hidden layers, and a regressor of each that reads the second one; it starts small."""

    def __init__(self, widths: Sequence[int], seeds: Sequence[int], features: int, **scaling: float) -> None:
        super().__init__(widths, seeds, **scaling)
        draws = [torch.randn(widths[2], features, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.regressor = nn.Parameter(0.02 * torch.stack(draws))
        self.level = nn.Parameter(torch.zeros(len(seeds), 1, features))

    def guess(self, inputs: Tensor) -> Tensor:
        """What the regressors make of the second layer: [runs, batch, features]."""
        return torch.baddbmm(self.level, hidden(self, inputs, 2), self.regressor)


def hints(radius: float, knob: float) -> Loss:
    """The teacher's second layer on clean images."""
    return lambda students, batch, generator: hint_loss(students.guess(batch.inputs), batch.teacher_features)


def with_features(images: Batch, teachers: Stack) -> Batch:
    """Images [runs, n, ...] with the teachers' logits and second layers, each unit standardised."""
    with torch.no_grad():
        layer = hidden(teachers, images.inputs, 2)
        layer = (layer - layer.mean(1, keepdim=True)) / (layer.std(1, keepdim=True) + 1e-3)
        return Batch.trusted(
            inputs=images.inputs,
            targets=images.targets,
            teacher_logits=teachers(images.inputs),
            teacher_features=layer,
        )


@dataclass(frozen=True)
class Stage:
    """A loss made from radius and knob, for so many hundreds of steps of so many passes."""

    loss: Callable[[float, float], Loss]
    hundreds: float
    passes: int


def _at(loss: Callable[[float, float], Loss], passes: int) -> Callable[[float], Stage]:
    return lambda hundreds: Stage(loss, hundreds, passes)


HINTS, CLEAN, LABELS, ATTACKED, RIVAL = (
    _at(hints, 1), _at(copied, 1), _at(labels, 1), _at(rslad, 7), _at(adversarial_training, 6),
)  # fmt: skip
ARMS: dict[str, list[Stage]] = {
    # 600 steps each
    "distilled": [CLEAN(6)],
    "hints, distilled": [HINTS(3), CLEAN(3)],
    "attacked": [ATTACKED(6)],
    "hints, attacked": [HINTS(3), ATTACKED(3)],
    "attacked, restarted": [ATTACKED(3), ATTACKED(3)],
    # 4,200 passes each, those of "attacked"
    "distilled, 4200": [CLEAN(42)],
    "hints, distilled, 4200": [HINTS(3), CLEAN(39)],
    "hints, attacked, 4200": [HINTS(3), ATTACKED(39 / 7)],
    "distilled, attacked, 4200": [CLEAN(3), ATTACKED(39 / 7)],
    # without a teacher
    "labels attacked": [RIVAL(6)],
    "labels attacked, 4200": [RIVAL(7)],
    "labels, labels attacked, 4200": [LABELS(3), RIVAL(6.5)],
}


def steps_of(stage: Stage, settings: Settings) -> int:
    """The stage's steps at this scale."""
    return int(stage.hundreds * settings["unit"])


def units(settings: Settings) -> list[Unit]:
    """One for each arm."""
    runs = len(settings["seeds"]) + len(settings["trial_seeds"]) * len(settings["weight_decays"])
    return [
        Unit(arm, {"arm": arm}, 64 * runs * sum(steps_of(stage, settings) for stage in stages))
        for arm, stages in ARMS.items()
    ]


@dataclass(frozen=True)
class World:
    """For each seed its images with what the robust teacher shows of them; how pixels are standardised."""

    labelled: dict[int, Batch]
    validation: dict[int, Batch]
    test: dict[int, Batch]
    scaling: dict[str, float]


def prepare(settings: Settings, device: torch.device) -> tuple[World, dict[str, float]]:
    """A robust teacher for each seed, of 1,000 images, and its accuracy on test images."""
    everything, scaling = pixels()
    seeds = [*settings["trial_seeds"], *settings["seeds"]]
    parts = {seed: data.split(everything, [1000, 200, 597], seed) for seed in seeds}
    pool, validation, test = ({seed: part[i] for seed, part in parts.items()} for i in range(3))
    loss = adversarial_training(settings["radius"], 0.0)
    steps = 6 * settings["unit"]
    teachers = train_stack(Stack(TEACHER, seeds, **scaling), pool, loss, seeds=seeds, lr=1e-2, steps=steps)
    shown = with_features(together(pool, seeds), teachers)
    few = slice(settings["images"])
    labelled = {seed: shown[run, few] for run, seed in enumerate(seeds)}
    asked = together(test, seeds)
    clean, robust = shares(teachers, asked, settings)
    facts = {"teacher_clean": clean.mean().item(), "teacher_robust": robust.mean().item()}
    return World(labelled, validation, test, scaling), facts


def shares(students: Stack, asked: Batch, settings: Settings) -> tuple[Tensor, Tensor]:
    """Right on clean images, and under PGD on two losses with restarts: two of [runs]."""
    ball = {"radius": settings["radius"], "steps": settings["attack_steps"], "restarts": settings["restarts"]}
    views = (view for _, view in attacks(students, asked.inputs, asked.targets, **ball))
    clean = withstands(students, iter([asked.inputs]), asked.targets)
    return tuple(right.double().mean(-1) for right in (clean, clean & withstands(students, views, asked.targets)))


def compute(world: World, settings: Settings, device: torch.device, *, arm: str) -> DataFrame:
    """Choose weight decay on the trial seeds, train the new ones, attack them."""
    decays, trial, seeds = settings["weight_decays"], settings["trial_seeds"], settings["seeds"]
    runs = [seed for _ in decays for seed in trial]
    each = torch.tensor(decays).repeat_interleave(len(trial))
    _, robust = shares(trained(world, settings, arm, runs, each), together(world.validation, runs), settings)
    mean = robust.view(len(decays), -1).mean(1)
    decay = decays[mean.argmax().item()]
    clean, robust = shares(trained(world, settings, arm, seeds, decay), together(world.test, seeds), settings)
    stages = ARMS[arm]
    return DataFrame(
        {
            "seed": seeds,
            "arm": arm,
            "weight_decay": decay,
            "trial": mean.max().item(),
            "steps": sum(steps_of(stage, settings) for stage in stages),
            "passes": sum(stage.passes * steps_of(stage, settings) for stage in stages),
            "clean": clean.tolist(),
            "robust": robust.tolist(),
        }
    )


def trained(world: World, settings: Settings, arm: str, seeds: Sequence[int], weight_decay: float | Tensor) -> Hinted:
    """One stage after the other; each starts its optimiser and its learning rate anew."""
    students = Hinted(STUDENT, seeds, WIDTH, **world.scaling)
    for stage in ARMS[arm]:
        loss, steps = stage.loss(settings["radius"], 1.0), steps_of(stage, settings)
        train_stack(students, world.labelled, loss, seeds=seeds, lr=1e-2, steps=steps, weight_decay=weight_decay)
    return students


STUDY = Study(
    name="staged_robustness",
    question="Do stages, an attack or both make a better student at equal steps, and at equal passes?",
    page="11_adversarial_sequential",
    scales=SCALES,
    key=("arm",),
    judged=("clean", "robust"),
    units=units,
    prepare=prepare,
    compute=compute,
)
