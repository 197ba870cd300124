"""Does a robust teacher make a more robust student than the best training without a teacher?

Digits with pixels in [0, 1], an attacker that may move every pixel by 0.15. Two columns: 100 images and a wide student,
where adversarial training overfits, and all 1,000 images and a narrow one, where it does not. Every arm has twenty
tries; the trial seeds choose by robust accuracy on their validation images, and new seeds are trained and judged.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pandas import DataFrame
from torch import Tensor

from kdcourse import data
from kdcourse.data import Batch
from kdcourse.experiments.adversaries import Loss, Stack, attacks, together, train_stack, withstands
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.losses import hard_loss, soft_loss
from kdcourse.methods.attacks import margin_loss, pgd, random_search, random_start
from kdcourse.methods.robust import ard_loss, rslad_loss, trades_loss
from kdcourse.softmax import tempered_log_softmax, tempered_softmax

SCALES = {
    "smoke": {
        "seeds": [1200, 1201],
        "trial_seeds": [1190, 1191],
        "students": [[20, 8]],
        "radius": 0.15,
        "radii": [0.05, 0.5],
        "steps": 3,
        "attack_steps": 2,
        "restarts": 1,
        "tries": 3,
        "weight_decays": {"clean": [1.0, 3.0], "attacked": [0.0, 1.0]},
    },
    "cpu": {
        "seeds": list(range(1200, 1208)),
        "trial_seeds": list(range(1190, 1194)),
        "students": [[100, 64], [1000, 16]],  # images, hidden units
        "radius": 0.15,
        "radii": [0.1, 0.15, 0.2, 0.3, 0.5],
        "steps": 600,
        "attack_steps": 20,
        "restarts": 3,
        "tries": 300,
        "weight_decays": {"clean": [0.0, 1.0, 3.0, 10.0, 30.0], "attacked": [0.0, 0.1, 0.3, 1.0, 3.0]},
    },
}
TEACHER = (64, 128, 128, 10)


@dataclass(frozen=True)
class Arm:
    """A loss made from a radius and one knob; what is tried for it, and which teacher answers."""

    loss: Callable[[float, float], Loss]
    rates: Sequence[float] = (1e-2,)
    knobs: Sequence[float] = (0.0,)
    decays: str = "attacked"  # which of the settings' weight decays
    teacher: str = "robust"
    longer: int = 1  # times the steps


def moved(students: Stack, images: Tensor, raised: Loss, radius: float, generator: torch.Generator) -> Tensor:
    """The attack of the training: five steps of half the radius on raised(logits), from a random start."""
    start = random_start(images, radius, generator)
    ball = {"radius": radius, "steps": 5, "step_size": radius / 2}
    return pgd(lambda x: raised(students(x)), images, **ball, start=start)


def away_from(answer: Tensor) -> Callable[[Tensor], Tensor]:
    """Cross-entropy with these logits as the target, at T = 1: the gradient is that of KL, at half the price."""
    p = tempered_softmax(answer.detach())
    return lambda logits: -(p * tempered_log_softmax(logits)).sum(-1)


def labels(radius: float, knob: float) -> Loss:
    """Labels on clean images."""
    return lambda students, batch, generator: hard_loss(students(batch.inputs), batch.targets)


def copied(radius: float, knob: float) -> Loss:
    """A teacher on clean images, at the temperature `knob`."""
    return lambda students, batch, generator: soft_loss(students(batch.inputs), batch.teacher_logits, knob)


def adversarial_training(radius: float, knob: float) -> Loss:
    """Labels on attacked images."""

    def loss(students: Stack, batch: Batch, generator: torch.Generator) -> Tensor:
        views = moved(students, batch.inputs, lambda z: hard_loss(z, batch.targets), radius, generator)
        return hard_loss(students(views), batch.targets)

    return loss


def trades(radius: float, knob: float) -> Loss:
    """Labels on clean images, and the same answer on attacked ones with the weight `knob`."""

    def loss(students: Stack, batch: Batch, generator: torch.Generator) -> Tensor:
        clean = students(batch.inputs)
        views = moved(students, batch.inputs, away_from(clean), radius, generator)
        return trades_loss(clean, students(views), batch.targets, weight=knob)

    return loss


def ard(radius: float, knob: float) -> Loss:
    """The teacher's clean answer on attacked images, at the temperature `knob`; no term on clean images."""

    def loss(students: Stack, batch: Batch, generator: torch.Generator) -> Tensor:
        views = moved(students, batch.inputs, lambda z: hard_loss(z, batch.targets), radius, generator)
        answer = students(views)
        return ard_loss(answer, answer, batch.teacher_logits, batch.targets, temperature=knob, soft_weight=1.0)

    return loss


def rslad(radius: float, knob: float) -> Loss:
    """The teacher's clean answer on both, and the attack away from that answer."""

    def loss(students: Stack, batch: Batch, generator: torch.Generator) -> Tensor:
        views = moved(students, batch.inputs, away_from(batch.teacher_logits), radius, generator)
        return rslad_loss(students(batch.inputs), students(views), batch.teacher_logits)

    return loss


RATES = (2.5e-3, 7e-3, 2e-2, 6e-2)
TEMPERATURES = (1.0, 2.5, 8.0, 32.0)
ARMS = {
    "labels, clean": Arm(labels, rates=RATES, decays="clean"),
    "robust teacher, clean": Arm(copied, knobs=(0.5, 1.0, 4.0, 12.0), decays="clean"),
    "adversarial training": Arm(adversarial_training, rates=RATES),
    "adversarial training, twice the steps": Arm(adversarial_training, rates=RATES, longer=2),
    "TRADES": Arm(trades, knobs=(0.5, 2.0, 6.0, 15.0)),
    "ARD": Arm(ard, knobs=TEMPERATURES),
    "ARD, natural teacher": Arm(ard, knobs=TEMPERATURES, teacher="natural"),
    "RSLAD": Arm(rslad, rates=RATES),
}


@dataclass(frozen=True)
class World:
    """For each seed its images with the answers of its two teachers; how pixels are standardised; other students."""

    pool: dict[str, dict[int, Batch]]
    validation: dict[int, Batch]
    test: dict[int, Batch]
    scaling: dict[str, float]
    others: dict[int, Stack]  # by the number of images: students of the test seeds that lend their attacks


def pixels() -> tuple[Batch, dict[str, float]]:
    """The digits with pixels in [0, 1], and the mean and spread that standardise them again."""
    digits = data.digits()
    low, high = digits.inputs.min().item(), digits.inputs.max().item()
    unit = ((digits.inputs - low) / (high - low)).clamp(0, 1)
    return Batch(unit, digits.targets), {"mean": -low / (high - low), "spread": 1 / (high - low)}


def units(settings: Settings) -> list[Unit]:
    """One for each size of student and arm."""
    examples = settings["steps"] * 64 * len(settings["seeds"])
    return [
        Unit(f"{images} images, {arm}", {"images": images, "hidden": hidden, "arm": arm}, examples * ARMS[arm].longer)
        for images, hidden in settings["students"]
        for arm in ARMS
    ]


def prepare(settings: Settings, device: torch.device) -> tuple[World, dict[str, float]]:
    """A robust and a natural teacher for each seed, both of 1,000 images, and their accuracies on test images."""
    everything, scaling = pixels()
    seeds, radius = [*settings["trial_seeds"], *settings["seeds"]], settings["radius"]
    parts = {seed: data.split(everything, [1000, 200, 597], seed) for seed in seeds}
    pool, validation, test = ({seed: part[i] for seed, part in parts.items()} for i in range(3))
    recipe = {"seeds": seeds, "lr": 1e-2, "steps": settings["steps"]}
    taught, facts, asked = {}, {}, together(test, seeds)
    for name, arm in (("robust", adversarial_training), ("natural", labels)):
        teachers = train_stack(Stack(TEACHER, seeds, **scaling), pool, arm(radius, 0.0), **recipe)
        with torch.no_grad():
            logits = teachers(together(pool, seeds).inputs)
        taught[name] = {seed: pool[seed].with_teacher(logits[run]) for run, seed in enumerate(seeds)}
        facts[f"{name}_teacher_clean"] = _share(withstands(teachers, iter([asked.inputs]), asked.targets)).mean().item()
        facts[f"{name}_teacher_robust"] = _share(_white(teachers, asked, settings, radius)[0]).mean().item()
    world, others = World(taught, validation, test, scaling, {}), [seed + 1000 for seed in settings["seeds"]]
    for images, hidden in settings["students"]:
        few = {other: pool[other - 1000][:images] for other in others}
        stack, loss = Stack((64, hidden, 10), others, **scaling), adversarial_training(radius, 0.0)
        world.others[images] = train_stack(
            stack, few, loss, seeds=others, lr=1e-2, weight_decay=1.0, steps=settings["steps"]
        )
    return world, facts


def compute(world: World, settings: Settings, device: torch.device, *, images: int, hidden: int, arm: str) -> DataFrame:
    """Choose on the trial seeds, train the new ones, and let every attack loose on them."""
    chosen, best = {}, -1.0
    trial, decays = settings["trial_seeds"], settings["weight_decays"][ARMS[arm].decays]
    for rate, knob in itertools.product(ARMS[arm].rates, ARMS[arm].knobs):
        runs = [(decay, seed) for decay in decays for seed in trial]
        seeds = [seed for _, seed in runs]
        decay = torch.tensor([decay for decay, _ in runs])
        students = _trained(world, settings, images, hidden, arm, seeds=seeds, lr=rate, knob=knob, weight_decay=decay)
        asked = together(world.validation, seeds)
        robust = _share(_white(students, asked, settings, settings["radius"])[0]).view(len(decays), -1).mean(1)
        for own, value in zip(decays, robust.tolist(), strict=True):
            if value > best:
                chosen, best = {"lr": rate, "weight_decay": own, "knob": knob}, value
    students = _trained(world, settings, images, hidden, arm, seeds=settings["seeds"], **chosen)
    judged = judge(students, world.others[images], together(world.test, settings["seeds"]), settings)
    columns = {name: right.tolist() for name, right in judged.items()}
    return DataFrame({"seed": settings["seeds"], "images": images, "arm": arm, **chosen, "trial": best, **columns})


def judge(students: Stack, other: Stack, asked: Batch, settings: Settings) -> dict[str, Tensor]:
    """Share of images that are right, [runs]: on `clean` images, and under attacks at the radius of the training.

    cross_entropy, margin     PGD on this loss, with restarts
    long                      PGD on both, five times the steps, one restart
    black_box                 random search, which sees no gradient
    transfer                  PGD on both against another student
    robust                    under all of these: the number that counts
    at_0.05, ...              PGD on both losses, with restarts, at other radii
    """
    radius, images, targets = settings["radius"], asked.inputs, asked.targets
    white, by_loss = _white(students, asked, settings, radius)
    search = random_search(
        lambda x: margin_loss(students(x), targets),
        images,
        radius=radius,
        steps=settings["tries"],
        generator=torch.Generator().manual_seed(2),
    )
    ball = {"radius": radius, "restarts": 1}
    longer = attacks(students, images, targets, steps=5 * settings["attack_steps"], **ball)
    lent = attacks(other, images, targets, steps=settings["attack_steps"], **ball)
    right = by_loss | {
        "clean": withstands(students, iter([images]), targets),
        "long": withstands(students, (view for _, view in longer), targets),
        "black_box": withstands(students, iter([search]), targets),
        "transfer": withstands(students, (view for _, view in lent), targets),
    }
    right["robust"] = torch.stack([white, *right.values()]).all(0)
    for other_radius in settings["radii"]:
        same = other_radius == radius
        right[f"at_{other_radius}"] = white if same else _white(students, asked, settings, other_radius)[0]
    return {name: _share(value) for name, value in right.items()}


def _trained(
    world: World,
    settings: Settings,
    images: int,
    hidden: int,
    arm: str,
    *,
    seeds: list[int],
    lr: float,
    knob: float,
    weight_decay: float | Tensor,
) -> Stack:
    few = {seed: world.pool[ARMS[arm].teacher][seed][:images] for seed in seeds}
    stack, loss = Stack((64, hidden, 10), seeds, **world.scaling), ARMS[arm].loss(settings["radius"], knob)
    steps = settings["steps"] * ARMS[arm].longer
    return train_stack(stack, few, loss, seeds=seeds, lr=lr, steps=steps, weight_decay=weight_decay)


def _white(students: Stack, asked: Batch, settings: Settings, radius: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Right under PGD on both losses, [runs, n], and under each of them."""
    ball = {"radius": radius, "steps": settings["attack_steps"], "restarts": settings["restarts"]}
    views: dict[str, list[Tensor]] = {"cross_entropy": [], "margin": []}
    for name, view in attacks(students, asked.inputs, asked.targets, **ball):
        views[name.replace("-", "_")].append(view)
    by_loss = {name: withstands(students, iter(own), asked.targets) for name, own in views.items()}
    return by_loss["cross_entropy"] & by_loss["margin"], by_loss


def _share(right: Tensor) -> Tensor:
    return right.double().mean(-1)


STUDY = Study(
    name="robust_digits",
    question="Does a robust teacher make a more robust student than the best training without a teacher?",
    page="09_adversarial_distillation",
    scales=SCALES,
    key=("images", "arm"),
    judged=("clean", "robust"),
    units=units,
    prepare=prepare,
    compute=compute,
)
