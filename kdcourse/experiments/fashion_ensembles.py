"""The main arms of `ensembles` on Fashion-MNIST: 1,000 labelled images a seed, a third of the learning rate."""

from dataclasses import replace

from kdcourse.experiments import ensembles
from kdcourse.experiments.ensembles import RECIPES, REMEDIES

ARMS = [
    *(("members", "none", recipe) for recipe in ("plain", "mixing")),
    *(("one net", "none", recipe) for recipe in RECIPES),
    ("MC dropout", "none", "dropout"),
    *((f"one net, {remedy}", "none", "plain") for remedy in REMEDIES if remedy != "reconstruction"),
    *((arm, "plain", "plain") for arm in ("EnD, T = 1", "EnD, T = 3")),
    *((arm, t, "mixing") for t in ("plain", "mixing") for arm in ("EnD, T = 3", "Hydra", "Dirichlet")),
    *(("KD from one member", teacher, "mixing") for teacher in ("plain", "mixing")),
    ("pixels", "none", "plain"),
]
IMAGES = {"side": 28, "lr": 1e-3}
SCALES = {
    "smoke": ensembles.SCALES["smoke"] | IMAGES,
    "cpu": ensembles.SCALES["cpu"]
    | IMAGES
    | {"images": {"train": 1_000, "validation": 1_000, "test": 2_000}, "seeds": list(range(500, 505)), "arms": ARMS},
}

STUDY = replace(
    ensembles.STUDY,
    name="fashion_ensembles",
    question="Does what digits show of ensembles and their students hold on Fashion-MNIST?",
    scales=SCALES,
)
