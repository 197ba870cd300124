"""How close are a teacher's soft targets to people's, and at which temperature?

CIFAR-10H holds what about fifty people said of each of the 10,000 test images of CIFAR-10. For each seed these images
are cut anew: a teacher learns from 8,000 of them with their ordinary labels, 500 fit one temperature, and on 1,500 its
soft targets are compared with the people's. Only the results enter this project, neither images nor labels.
"""

import math

import numpy
import torch
from pandas import DataFrame
from scipy.stats import spearmanr
from torch import Tensor, nn

from kdcourse import data, metrics
from kdcourse.calibration import fit_temperature
from kdcourse.data import Batch
from kdcourse.experiments import hard_only
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.softmax import entropy, tempered_softmax
from kdcourse.training import train

SCALES = {
    "smoke": {"split": [300, 50, 100], "seeds": [520, 521], "steps": 4, "batch": 32, "temperatures": [1.0, 4.0]},
    "cpu": {
        "split": [8_000, 500, 1_500],
        "seeds": list(range(520, 530)),
        "steps": 2_500,
        "batch": 64,
        "temperatures": [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0],
    },
}
OPTIONAL = ("rank_correlation",)  # targets that never change have no order
DOUBT = 0.05  # images of which at least this share of people names another class have wrong classes to compare


def teacher() -> nn.Sequential:
    """32 x 32 colour images to 10 classes."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128 * 16, 10)),
    )


def units(settings: Settings) -> list[Unit]:
    """One for each seed."""
    return [Unit(f"seed {s}", {"seed": s}, settings["steps"] * settings["batch"]) for s in settings["seeds"]]


def prepare(settings: Settings, device: torch.device) -> tuple[Batch, dict[str, float]]:
    """All images, their labels, and as `teacher_features` the share of people who named each class."""
    folder = data.folder() / "cifar10h"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"human_labels: no CIFAR-10H in {folder}: images.npy uint8 [10000, 32, 32, 3], labels.npy, probs.npy"
        )
    images, labels, people = (
        torch.from_numpy(numpy.load(folder / f"{name}.npy")) for name in ("images", "labels", "probs")
    )
    pixels = images.permute(0, 3, 1, 2).float() / 255
    mean, spread = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    everything = Batch((pixels - mean) / spread, labels.long(), teacher_features=people.float())
    facts = {
        "people_agree_with_the_label": (people.argmax(-1) == labels).double().mean().item(),
        "entropy_of_people": entropy(people).mean().item(),
        "images_with_doubt": (_off_label(people, labels.long()) >= DOUBT).double().mean().item(),
    }
    return everything, facts


def compute(everything: Batch, settings: Settings, device: torch.device, *, seed: int) -> DataFrame:
    """The teacher of one seed at each temperature, and what stands beside it."""
    known, validation, test = data.split(everything, settings["split"], seed)
    logits = _logits(known, {"validation": validation.inputs, "test": test.inputs}, settings, seed, device)
    fitted, _ = fit_temperature(logits["validation"], validation.targets, (0.25, 16.0))
    facts = {
        "accuracy": metrics.accuracy(logits["test"], test.targets).item(),
        "fitted": fitted.item(),
    }
    softened = {("teacher", T): tempered_softmax(logits["test"], T) for T in settings["temperatures"]}
    one_hot = nn.functional.one_hot(test.targets, 10).float()
    # What one would say of an image from its label alone.
    of_class = torch.stack([known.teacher_features[known.targets == k].mean(0) for k in range(10)])
    rivals = {
        ("uniform", 0.0): torch.full_like(one_hot, 0.1),
        ("label smoothing 0.1", 0.0): 0.9 * one_hot + 0.01,
        ("people's mean for the label", 0.0): of_class[test.targets],
    }
    rows = [
        {"seed": seed, "arm": arm, "temperature": T} | facts | _compared(probabilities, test)
        for (arm, T), probabilities in (softened | rivals).items()
    ]
    return DataFrame(rows)


def _logits(
    known: Batch, inputs: dict[str, Tensor], settings: Settings, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """A teacher trained on labels; every image also mirrored."""
    up, steps = settings["steps"] // 20 + 1, settings["steps"]
    doubled = Batch(torch.cat([known.inputs, known.inputs.flip(-1)]), known.targets.repeat(2))
    students = train(
        teacher,
        doubled,
        hard_only,
        seeds=seed,
        steps=steps,
        batch=settings["batch"],
        lr=2e-3,
        weight_decay=5e-2,
        lr_schedule=lambda step: (step + 1) / up if step < up else (steps - step) / (steps - up),
        engine="loop",
        device=device,
    )
    return {name: torch.cat([students.logits(piece)[0] for piece in rows.split(500)]) for name, rows in inputs.items()}


def _compared(probabilities: Tensor, test: Batch) -> dict[str, float]:
    """KL(people ‖ targets), of all classes and of the wrong ones among images with doubt; entropies."""
    people, labels = test.teacher_features, test.targets
    doubt = _off_label(people, labels) >= DOUBT
    ours = entropy(probabilities)
    rank = spearmanr(ours.numpy(), entropy(people).numpy()).statistic if ours.std() > 1e-6 else math.nan
    return {
        "kl": _kl(people, probabilities).mean().item(),
        "kl_wrong": _kl(_wrong(people, labels)[doubt], _wrong(probabilities, labels)[doubt]).mean().item(),
        "entropy": ours.mean().item(),
        "off_label": _off_label(probabilities, labels).mean().item(),
        "rank_correlation": float(rank),
    }


def _kl(p: Tensor, q: Tensor) -> Tensor:
    # A person may name what the targets hold for impossible: float64 and the smallest float32 keep that finite.
    ratio = p.double().clamp_min(1e-38).log() - q.double().clamp_min(1e-38).log()
    return (p.double() * ratio).sum(-1)


def _off_label(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The probability of all classes but the label's."""
    return 1 - probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _wrong(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The distribution over the wrong classes: that of the label is left out, the others sum to 1."""
    rest = probabilities.double().scatter(-1, labels.unsqueeze(-1), 0.0)
    return rest / rest.sum(-1, keepdim=True).clamp_min(1e-38)


STUDY = Study(
    name="human_labels",
    question="How close are a teacher's soft targets to people's, and at which temperature?",
    page="14b_ensembles",
    scales=SCALES,
    key=("arm", "temperature"),
    judged=("kl", "kl_wrong"),
    units=units,
    prepare=prepare,
    compute=compute,
    optional=OPTIONAL,
)
