"""Assistants and generations on Fashion-MNIST: does a detour beat the same steps spent on one network?

A row's `steps` counts all steps that its last network needed, those of assistants and earlier generations included.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from pandas import DataFrame
from torch import Tensor, nn

from kdcourse import models
from kdcourse.data import Batch
from kdcourse.experiments import distilled, fashion, hard_only
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.training import Students

GENERATIONS, MEMBERS = 3, 4
SCALES = {
    "smoke": {
        "split": fashion.SMOKE_SPLIT,
        "teacher": fashion.SMOKE_TEACHER,
        "seeds": [440, 441],
        "images": 100,
        "steps": 8,
        "lr": 3e-3,
        "temperatures": [2.0],
        "generation": {"temperature": 2.0, "soft_weight": 0.5},
        "weight_decay": [1.0],
        "smoothing": [0.1],
    },
    "cpu": {
        "split": fashion.SPLIT,
        "teacher": fashion.TEACHER,
        "seeds": list(range(440, 450)),
        "images": 500,
        "steps": 1_000,
        "lr": 3e-3,
        "temperatures": [1.0, 2.0, 4.0, 8.0],
        "generation": {"temperature": 2.0, "soft_weight": 0.5},
        "weight_decay": [0.3, 1.0, 3.0, 10.0],
        "smoothing": [0.05, 0.1, 0.2],
    },
}
Fit = Callable[..., Students]


def assistant() -> nn.Sequential:
    """784-64-10, 50,890 parameters: between the convolutional teacher and the student 784-16-10."""
    return models.mlp(784, 64, 10)


def taught(images: dict[int, Batch], students: Students) -> dict[int, Batch]:
    """The same images with the answers of each seed's own network."""
    answers = students.logits({seed: batch.inputs for seed, batch in images.items()})
    return {seed: batch.with_teacher(answers[run]) for run, (seed, batch) in enumerate(images.items())}


def generations(world: fashion.World, settings: Settings, device: torch.device) -> DataFrame:
    """A student that teaches a student of its own kind, again and again; and what else the steps could buy."""
    images, steps = world.labelled(settings["images"], settings["seeds"]), settings["steps"]
    fit: Fit = partial(fashion.train_students, lr=[settings["lr"]], device=device)
    one = {name: [value] for name, value in settings["generation"].items()}
    rows, own = [], fit(images, hard_only, steps=steps)
    rows.append(fashion.score(own, world).assign(arm="generation 0", strength=0.0, steps=steps))
    for number in range(1, GENERATIONS + 1):
        own = fit(taught(images, own), distilled, steps=steps, **one)
        scored = fashion.score(own, world).assign(arm=f"generation {number}", strength=0.0)
        rows.append(scored.assign(steps=steps * (number + 1)))
    for arm, settings_of_arm in {
        "weight decay": {"weight_decay": settings["weight_decay"]},
        "label smoothing": {"smoothing": settings["smoothing"]},
    }.items():
        ((name, strengths),) = settings_of_arm.items()
        rivals = fit(images, fashion.ARMS[arm][0], steps=steps, **{name: strengths})
        rows.append(fashion.score(rivals, world).assign(arm=arm, strength=rivals.table[name], steps=steps))
    longer = fit(images, hard_only, steps=MEMBERS * steps)
    rows.append(fashion.score(longer, world).assign(arm="more steps", strength=0.0, steps=MEMBERS * steps))
    crowd = ensemble(fit, images, steps)
    pupils = fit(crowd, distilled, steps=steps, temperature=settings["temperatures"])
    scored = fashion.score(pupils, world).assign(arm="student of an ensemble", strength=pupils.table.temperature)
    rows.append(scored.assign(steps=(MEMBERS + 1) * steps))
    return pd.concat(rows, ignore_index=True)


def ensemble(fit: Fit, images: dict[int, Batch], steps: int) -> dict[int, Batch]:
    """The images with the log of the mean probabilities of networks that differ in their start alone."""
    members: list[Tensor] = []
    for member in range(MEMBERS):
        ours = {1_000 * seed + member: batch for seed, batch in images.items()}
        learnt = fit(ours, hard_only, steps=steps)
        members.append(learnt.logits({seed: batch.inputs for seed, batch in ours.items()}).log_softmax(-1))
    mean = torch.stack(members).logsumexp(0)
    return {seed: batch.with_teacher(mean[run]) for run, (seed, batch) in enumerate(images.items())}


def assistants(world: fashion.World, settings: Settings, device: torch.device) -> DataFrame:
    """Teacher to student, with and without a network of middle size between them; each T for the whole chain."""
    images, steps = world.labelled(settings["images"], settings["seeds"]), settings["steps"]
    fit: Fit = partial(fashion.train_students, lr=[settings["lr"]], device=device)
    rows = []
    for arm, longer in (("direct", 1), ("direct, the assistant's steps added", 2)):
        direct = fit(images, distilled, steps=longer * steps, temperature=settings["temperatures"])
        scored = fashion.score(direct, world).assign(arm=arm, strength=direct.table.temperature)
        rows.append(scored.assign(steps=longer * steps))
    for temperature in settings["temperatures"]:
        between = fit(images, distilled, steps=steps, network=assistant, temperature=[temperature])
        pupils = fit(taught(images, between), distilled, steps=steps, temperature=[temperature])
        for arm, students, total in (("the assistant itself", between, steps), ("by an assistant", pupils, 2 * steps)):
            rows.append(fashion.score(students, world).assign(arm=arm, strength=temperature, steps=total))
    return pd.concat(rows, ignore_index=True)


CHAINS = {"generations": generations, "assistants": assistants}


def units(settings: Settings) -> list[Unit]:
    """One for each kind of chain."""
    tries = len(settings["temperatures"])
    networks = {
        "generations": 1 + GENERATIONS + 2 * MEMBERS + tries + len(settings["weight_decay"] + settings["smoothing"]),
        "assistants": 5 * tries,
    }
    each = len(settings["seeds"]) * settings["steps"] * fashion.BATCH
    return [Unit(kind, {"kind": kind}, networks[kind] * each) for kind in CHAINS]


def compute(world: fashion.World, settings: Settings, device: torch.device, *, kind: str) -> DataFrame:
    """One kind of chain."""
    return CHAINS[kind](world, settings, device).assign(kind=kind)


STUDY = Study(
    name="fashion_chains",
    question="Do teacher assistants or generations beat the same number of steps spent on one student?",
    page="10_sequential_distillation",
    scales=SCALES,
    key=("kind", "arm", "strength"),
    judged=("accuracy", "nll"),
    units=units,
    prepare=fashion.prepare,
    compute=compute,
)
