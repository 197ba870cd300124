"""What does a student keep of an ensemble's uncertainty, and what does a better recipe give without a teacher?

200 labelled digits a seed; `fashion_ensembles` repeats the main arms on Fashion-MNIST. Classes 0 to 7 are learned; 8
and 9 are foreign, and so are turned and noisy test images. Ten small networks teach; every student answers in one pass
and has about a fifth of their parameters. A recipe is what a network sees while it learns: images as they are, with
dropout, moved by a pixel or two, moved and with dropout, or mixed (clean, mixed in pairs with their labels, noisy,
moved). Settings come from a pilot on other seeds of the same digits.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from pandas import DataFrame
from torch import Generator, Tensor, nn

from kdcourse import data, losses, metrics, schedules
from kdcourse.attention import AttentionStudent, dirichlet_loss, hydra_loss, mean_of_members
from kdcourse.calibration import fit_temperature
from kdcourse.data import Batch
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.models import SeededDropout, count_parameters
from kdcourse.softmax import tempered_log_softmax, tempered_softmax
from kdcourse.training import Students, train

CLASSES, MEMBERS, DROPOUT, MC_PASSES, RECONSTRUCTION = 8, 10, 0.2, 20, 0.3
BOUNDS = (0.5, 2.0)  # of the fitted temperature: 200 images may hold no error, and then it would run away
FOREIGN = ("held", "turned", "noisy")
RECIPES = ("plain", "dropout", "shift", "dropout-shift", "mixing")
HIDDEN = {"one net": (128, 64), "member": (64, 64), "heads": (112, 56)}

REMEDIES = {
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight decay 0.3": {"weight_decay": 0.3},
    "weight decay 1": {"weight_decay": 1.0},
    "weight decay 3": {"weight_decay": 3.0},
    "weight decay 10": {"weight_decay": 10.0},
    "a quarter of the steps": {},
    "label smoothing": {"smoothing": 0.1},
    "validation labels too": {},
    "reconstruction": {},
}

# Each arm of the main table: how it learns, from a teacher of which recipe ("none": from labels), on inputs of which.
FREE = [
    *(("one net", "none", recipe) for recipe in RECIPES),
    *(("MC dropout", "none", recipe) for recipe in ("dropout", "dropout-shift")),
    *((f"one net, {remedy}", "none", "plain") for remedy in REMEDIES),
    *((f"{body}, labels", "none", "mixing") for body in ("ten heads", "attention", "mean pool")),
]
PAIRS = [
    ("plain", "plain"),
    ("plain", "mixing"),
    ("shift", "shift"),
    ("shift", "mixing"),
    ("dropout-shift", "dropout-shift"),
    ("dropout-shift", "mixing"),
    ("mixing", "mixing"),
]
TAUGHT = [
    *(
        (arm, *pair)
        for pair in PAIRS
        for arm in ("EnD, T = 1", "EnD, T = 3", "EnD and labels", "Hydra", "Dirichlet", "KD from one member")
    ),
    ("EnD, reconstruction", "plain", "mixing"),
    *((f"{body}, Hydra", teacher, "mixing") for body in ("attention", "mean pool") for teacher in ("plain", "mixing")),
]
TEACHERS = ("plain", "shift", "dropout-shift", "mixing")

SCALES = {
    "smoke": {
        "side": 8,
        "images": {"train": 40, "validation": 40, "test": 60},
        "seeds": [500, 501],
        "lr": 3e-3,
        "steps": 6,
        "plain_steps": 4,
        "batch": 24,
        "member_batch": 16,
        "arms": [["members", "none", "plain"], ["one net", "none", "mixing"], ["Hydra", "plain", "mixing"]],
    },
    "cpu": {
        "side": 8,
        "images": {"train": 200, "validation": 200, "test": 1_043},
        "seeds": list(range(500, 510)),
        "lr": 3e-3,
        "steps": 1_000,
        "plain_steps": 400,  # members without any augmentation; longer only makes them surer of what they know
        "batch": 192,
        "member_batch": 96,
        "arms": [*(("members", "none", recipe) for recipe in TEACHERS), *FREE, *TAUGHT, ("pixels", "none", "plain")],
    },
}

# --- networks ---------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """An MLP on the pixels of a row; with members > 1 (mean, member logits), with `rebuilds` (logits, pixels)."""

    def __init__(
        self, pixels: int, hidden: Sequence[int], *, members: int = 1, dropout: float = 0.0, rebuilds: bool = False
    ) -> None:
        super().__init__()
        self.pixels, self.members = pixels, members
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise((pixels, *hidden)):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), *([SeededDropout(dropout)] if dropout else [])]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden[-1], members * CLASSES)
        self.rebuild = nn.Linear(hidden[-1], pixels) if rebuilds else None

    def features(self, rows: Tensor) -> Tensor:
        return self.body(rows[..., : self.pixels])

    def forward(self, rows: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.features(rows)
        logits = self.head(features)
        if self.members > 1:
            member_logits = logits.unflatten(-1, (self.members, CLASSES))
            return mean_of_members(member_logits), member_logits
        return (logits, self.rebuild(features)) if self.rebuild is not None else logits


class Windows(nn.Module):
    """The nine 4 x 4 windows of an 8 x 8 digit as tokens [batch, 9, 64]; what each learns depends on its place."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.place = nn.Linear(16, 112), nn.Parameter(torch.randn(9, 112) / 4)
        self.narrow = nn.Linear(112, 64)

    def forward(self, rows: Tensor) -> Tensor:
        images = rows[..., :64].unflatten(-1, (8, 8))
        windows = images.unfold(-2, 4, 2).unfold(-2, 4, 2).flatten(-4, -3).flatten(-2)
        return self.narrow((self.wide(windows) + self.place).relu()).relu()


class Stacked(nn.Module):
    """The members of an ensemble, one product a layer: rows [batch, ...] -> logits [batch, members, classes]."""

    def __init__(self, members: Sequence[Net]) -> None:
        super().__init__()
        self.pixels = members[0].pixels
        layers = zip(*([m for m in net.modules() if isinstance(m, nn.Linear)] for net in members), strict=True)
        layers = list(layers)
        self.weights = nn.ParameterList([torch.stack([one.weight.detach().T for one in layer]) for layer in layers])
        self.biases = nn.ParameterList([torch.stack([one.bias.detach()[None] for one in layer]) for layer in layers])

    def forward(self, rows: Tensor) -> Tensor:
        hidden = rows[:, : self.pixels].expand(len(self.weights[0]), -1, -1)
        for last, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1 - len(self.weights)):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = hidden.relu() if last else hidden
        return hidden.transpose(0, 1)


# --- what a network sees ----------------------------------------------------------------------------------------------


def with_labels(batch: Batch) -> Batch:
    """Behind the pixels of a row its label as a distribution, so that who mixes two images mixes their labels too."""
    labels = nn.functional.one_hot(batch.targets, CLASSES).to(batch.inputs)
    return Batch(torch.cat([batch.inputs, labels], -1), batch.targets)


def view(recipe: str, side: int) -> Callable[[Tensor, Generator], Tensor] | None:
    """The augmentation of a recipe: rows -> rows, each time anew; None where images stay as they are."""
    if recipe in ("plain", "dropout"):
        return None
    return partial(_mixed if recipe == "mixing" else _half_moved, side=side)


def _half_moved(rows: Tensor, generator: Generator, side: int) -> Tensor:
    stays = torch.rand(len(rows), 1, generator=generator) < 0.5
    return torch.where(stays, rows, _moved(rows, generator, side))


def _moved(rows: Tensor, generator: Generator, side: int) -> Tensor:
    """One pixel of eight, two of twenty-eight, in one of four directions."""
    images, labels = rows[:, : side**2].unflatten(-1, (side, side)), rows[:, side**2 :]
    way = torch.randint(4, (len(rows),), generator=generator)
    far = 1 if side < 16 else 2
    moved = torch.stack([images.roll(by, axis) for axis in (1, 2) for by in (far, -far)])
    return torch.cat([moved[way, torch.arange(len(rows))].flatten(1), labels], -1)


def _mixed(rows: Tensor, generator: Generator, side: int) -> Tensor:
    """A quarter as they are, 30 % mixed in pairs, a quarter noisy, a fifth moved."""
    draw = partial(torch.rand, len(rows), 1, generator=generator)
    partners, share = rows[torch.randperm(len(rows), generator=generator)], draw()
    noise = draw() * torch.randn(len(rows), side**2, generator=generator)
    noisy = rows + nn.functional.pad(noise, (0, CLASSES))
    kind, moved = draw(), _moved(rows, generator, side)
    rows = torch.where((kind >= 0.25) & (kind < 0.55), share * rows + (1 - share) * partners, rows)
    rows = torch.where((kind >= 0.55) & (kind < 0.8), noisy, rows)
    return torch.where(kind >= 0.8, moved, rows)


# --- losses, of one run -----------------------------------------------------------------------------------------------


def from_labels(logits: Tensor, batch: Batch, smoothing: float | Tensor = 0.0) -> Tensor:
    """Cross-entropy with the labels behind the pixels."""
    labels = (1 - smoothing) * batch.inputs[:, -CLASSES:] + smoothing / CLASSES
    return -(labels * tempered_log_softmax(logits)).sum(-1)


def heads_from_labels(output: tuple[Tensor, ...], batch: Batch) -> Tensor:
    return sum(from_labels(logits, batch) for logits in output[1].unbind(1)) / MEMBERS


def from_mean(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return losses.soft_loss(logits, mean_of_members(batch.teacher_logits), temperature)


def from_mean_and_labels(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return (from_mean(logits, batch, temperature) + from_labels(logits, batch)) / 2


def from_member(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return losses.soft_loss(logits, batch.teacher_logits[:, 0], temperature)


def from_each(output: tuple[Tensor, ...], batch: Batch) -> Tensor:
    return hydra_loss(output[1], batch.teacher_logits)


def from_distribution(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return dirichlet_loss(logits, batch.teacher_logits, temperature)


def _rebuilding(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    return RECONSTRUCTION * (output[1] - batch.inputs[:, :-CLASSES]).square().mean(-1)


def labels_rebuilding(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    return from_labels(output[0], batch) + _rebuilding(output, batch)


def mean_rebuilding(output: tuple[Tensor, Tensor], batch: Batch, temperature: Tensor) -> Tensor:
    return from_mean(output[0], batch, temperature) + _rebuilding(output, batch)


LOSSES: dict[str, tuple[Callable, float | None]] = {  # and the temperature, if it is constant
    **dict.fromkeys(("one net", "MC dropout", *(f"one net, {remedy}" for remedy in REMEDIES)), (from_labels, None)),
    "one net, reconstruction": (labels_rebuilding, None),
    "ten heads, labels": (heads_from_labels, None),
    "attention, labels": (heads_from_labels, None),
    "mean pool, labels": (heads_from_labels, None),
    "EnD, T = 1": (from_mean, 1.0),
    "EnD, T = 3": (from_mean, 3.0),
    "EnD and labels": (from_mean_and_labels, 3.0),
    "EnD, reconstruction": (mean_rebuilding, 3.0),
    "KD from one member": (from_member, 3.0),
    "Hydra": (from_each, None),
    "attention, Hydra": (from_each, None),
    "mean pool, Hydra": (from_each, None),
    "Dirichlet": (from_distribution, None),
}


def network(arm: str, recipe: str, pixels: int) -> nn.Module:
    """The network of an arm: 17,096 parameters for digits where it is one net, the others about as many."""
    if "attention" in arm or "mean pool" in arm:
        how = {"pool": "attention", "heads": 2} if "attention" in arm else {"pool": "mean"}
        return AttentionStudent(Windows(), 64, CLASSES, members=MEMBERS, **how)
    dropout = DROPOUT if "dropout" in recipe else 0.0
    if arm in ("ten heads, labels", "Hydra"):
        return Net(pixels, HIDDEN["heads"], members=MEMBERS, dropout=dropout)
    return Net(pixels, HIDDEN["one net"], dropout=dropout, rebuilds="reconstruction" in arm)


# --- worlds and teachers ----------------------------------------------------------------------------------------------


@dataclass
class World:
    """One seed's images: `train`, `validation`, `test`, and the foreign ones; rows with labels behind the pixels."""

    train: Batch
    validation: Batch
    test: Batch
    foreign: dict[str, Tensor]


@dataclass
class Worlds:
    """The images of all seeds, and the teachers that have been trained so far."""

    settings: Settings
    device: torch.device
    of: dict[int, World]
    trained: dict[str, dict[int, Stacked]] = field(default_factory=dict)

    def teachers(self, recipe: str) -> dict[int, Stacked]:
        """For each seed ten networks of a recipe, trained on labels, stacked."""
        if recipe not in self.trained:
            settings, side = self.settings, self.settings["side"]
            members = {MEMBERS * seed + i: world.train for seed, world in self.of.items() for i in range(MEMBERS)}
            steps = settings["plain_steps" if recipe == "plain" else "steps"]
            students = train(
                partial(Net, side**2, HIDDEN["member"], dropout=DROPOUT if "dropout" in recipe else 0.0),
                members,
                from_labels,
                seeds=list(members),
                lr=settings["lr"],
                steps=steps,
                batch=settings["member_batch"],
                lr_schedule=schedules.cosine(1, 0, steps),
                augment=view(recipe, side),
                chunk=20,
                device=self.device,
            )
            nets = [students[run] for run in range(len(students))]
            self.trained[recipe] = {
                seed: Stacked(nets[MEMBERS * i : MEMBERS * (i + 1)]) for i, seed in enumerate(self.of)
            }
        return self.trained[recipe]


def prepare(settings: Settings, device: torch.device) -> tuple[Worlds, dict[str, float]]:
    """The images of all seeds, and the sizes of the networks."""
    pixels = settings["side"] ** 2
    images = [data.digits()] if pixels == 64 else [data.fashion_mnist(True), data.fashion_mnist(False)]
    images = [Batch(part.inputs.flatten(1), part.targets) for part in images]
    worlds = {seed: _world(images, settings["images"], seed, settings["side"]) for seed in settings["seeds"]}
    facts = {
        "members": MEMBERS,
        "parameters_of_ten_members": MEMBERS * count_parameters(Net(pixels, HIDDEN["member"])),
        "parameters_of_one_net": count_parameters(network("one net", "plain", pixels)),
    }
    return Worlds(settings, device, worlds), facts


def _world(images: list[Batch], sizes: Settings, seed: int, side: int) -> World:
    """Digits are cut into three; Fashion-MNIST has test images of its own."""
    known = [part[part.targets < CLASSES] for part in images]
    counts = [sizes["train"], sizes["validation"], sizes["test"]]
    if len(images) == 1:
        parts = data.split(known[0], counts, seed)
    else:
        parts = [*data.split(known[0], counts[:2], seed), *data.split(known[1], counts[2:], seed)]
    held = images[-1].inputs[images[-1].targets >= CLASSES]
    generator = torch.Generator().manual_seed(seed)
    held = held[torch.randperm(len(held), generator=generator)[: sizes["test"]]]
    pixels = parts[2].inputs
    foreign = {
        "held": held,
        "turned": pixels.unflatten(-1, (side, side)).rot90(1, (1, 2)).flatten(1),
        "noisy": pixels + 1.5 * torch.randn(pixels.shape, generator=generator),
    }
    foreign = {name: nn.functional.pad(rows, (0, CLASSES)) for name, rows in foreign.items()}
    return World(*(with_labels(part) for part in parts), foreign)


# --- arms -------------------------------------------------------------------------------------------------------------


def units(settings: Settings) -> list[Unit]:
    """The members of each recipe, then every arm: all seeds together."""
    found = []
    for arm, teacher, inputs in settings["arms"]:
        title = f"{arm}, {inputs}" + (f", taught by {teacher}" if teacher != "none" else "")
        examples = len(settings["seeds"]) * settings["steps"] * settings["batch"]
        if arm == "members":
            steps = settings["plain_steps" if inputs == "plain" else "steps"]
            examples = MEMBERS * len(settings["seeds"]) * steps * settings["member_batch"]
        arguments = {"arm": arm, "teacher": teacher, "inputs": inputs}
        found.append(Unit(title, arguments, 1 if arm == "pixels" else examples))
    return found


def compute(
    worlds: Worlds, settings: Settings, device: torch.device, *, arm: str, teacher: str, inputs: str
) -> DataFrame:
    """All seeds of one arm, or of the three that come from members."""
    of = worlds.of
    recipe = teacher if teacher != "none" else inputs if ["members", "none", inputs] in settings["arms"] else "plain"
    reference = worlds.teachers(recipe)
    rows = []
    if arm == "members":
        for seed, ensemble in worlds.teachers(inputs).items():
            for count, label in ((1, "one member"), (2, "two members"), (MEMBERS, "ten members")):
                answers = _answers(of[seed], lambda images, e=ensemble, n=count: e(images)[:, :n])
                size = count * count_parameters(ensemble) // MEMBERS
                rows.append(_scores(answers, of[seed], reference[seed]) | _row(seed, label, size))
    elif arm == "pixels":
        for seed, world in of.items():
            rows.append(_empty() | _row(seed, arm, 0) | _distances(world, lambda images: images[:, :-CLASSES]))
    else:
        students = _trained(worlds, arm, teacher, inputs)
        for run, seed in enumerate(of):
            net = students[run].eval()
            answer = _passes(net) if arm == "MC dropout" else _members_of(net)
            parts = _of_dirichlet if arm == "Dirichlet" else metrics.uncertainty_parts
            row = _scores(_answers(of[seed], answer), of[seed], reference[seed], parts)
            if isinstance(net, Net):
                row |= _distances(of[seed], net.eval().features)
            if arm == "one net, validation labels too":  # it has trained on what a temperature is fitted to
                row |= dict.fromkeys(("val_nll", "fitted", "at_bound", "nll_fitted", "ece_fitted"))
            # What rebuilds the pixels is not needed for an answer.
            unused = count_parameters(net.rebuild) if getattr(net, "rebuild", None) is not None else 0
            rows.append(row | _row(seed, arm, count_parameters(net) - unused))
    table = DataFrame(rows).assign(teacher=teacher, inputs=inputs)
    return table[["seed", "arm", "teacher", "inputs", "parameters", *_empty()]]


def _row(seed: int, arm: str, parameters: int) -> dict[str, object]:
    return {"seed": seed, "arm": arm, "parameters": parameters}


def _trained(worlds: Worlds, arm: str, teacher: str, inputs: str) -> Students:
    settings, side = worlds.settings, worlds.settings["side"]
    loss, temperature = LOSSES[arm]
    steps = settings["steps"] // (4 if "quarter" in arm else 1)
    hyper = {} if temperature is None else {"temperature": temperature}
    if arm == "Dirichlet":
        hyper["temperature"] = schedules.linear(10, 1, 2 * steps // 3)
    hyper |= REMEDIES.get(arm.removeprefix("one net, "), {})
    images = {seed: world.train for seed, world in worlds.of.items()}
    if arm == "one net, validation labels too":
        images = {seed: _joined(world.train, world.validation) for seed, world in worlds.of.items()}
    return train(
        partial(network, arm, inputs, side**2),
        images,
        loss,
        seeds=list(images),
        lr=settings["lr"],
        steps=steps,
        batch=settings["batch"],
        lr_schedule=schedules.cosine(1, 0, steps),
        teacher=None if teacher == "none" else worlds.teachers(teacher),
        augment=view(inputs, side),
        device=worlds.device,
        **hyper,
    )


def _joined(one: Batch, other: Batch) -> Batch:
    return Batch(torch.cat([one.inputs, other.inputs]), torch.cat([one.targets, other.targets]))


# --- scores -----------------------------------------------------------------------------------------------------------


def _members_of(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Member logits [n, members, classes]; of one answer, one member."""

    def answer(rows: Tensor) -> Tensor:
        output = net(rows)
        if not isinstance(output, tuple):
            return output.unsqueeze(1)
        return output[1] if output[1].ndim == 3 and output[1].shape[1] == MEMBERS else output[0].unsqueeze(1)

    return answer


def _passes(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Twenty passes with dropout as members."""

    def answer(rows: Tensor) -> Tensor:
        net.train()
        return torch.stack([net(rows) for _ in range(MC_PASSES)], dim=1)

    return answer


@torch.no_grad()
def _answers(world: World, answer: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Member logits on validation, test and foreign images."""
    own = {"validation": world.validation.inputs, "test": world.test.inputs}
    return {name: answer(rows) for name, rows in (own | world.foreign).items()}


def _scores(
    answers: dict[str, Tensor], world: World, reference: Stacked, parts: Callable = metrics.uncertainty_parts
) -> dict[str, float | None]:
    """What a page compares: see `_empty` for the columns. Fidelity is to the ten of `reference`."""
    logits = {name: mean_of_members(members) for name, members in answers.items()}
    test, targets = logits["test"], world.test.targets
    fitted, at_bound = fit_temperature(logits["validation"], world.validation.targets, BOUNDS)
    with torch.no_grad():
        ensemble = mean_of_members(reference(world.test.inputs))
    probabilities = tempered_softmax(test)
    row: dict[str, object] = metrics.scores(test, targets, ensemble) | {
        "val_nll": metrics.nll(logits["validation"], world.validation.targets),
        "fitted": fitted,
        "at_bound": at_bound.float(),
        "nll_fitted": metrics.nll(test / fitted, targets),
        "ece_fitted": metrics.expected_calibration_error(test / fitted, targets),
        "aurc": metrics.aurc(probabilities.amax(-1), probabilities.argmax(-1) == targets),
    }
    total, _, knowledge = parts(answers["test"])
    for name in FOREIGN:
        foreign_total, _, foreign_knowledge = parts(answers[name])
        row[f"{name}_entropy"] = _auroc(total, foreign_total)
        if parts is _of_dirichlet or answers["test"].shape[1] > 1:  # one answer has no such part
            row[f"{name}_knowledge"] = _auroc(knowledge, foreign_knowledge)
    return _empty() | {name: value.item() for name, value in row.items() if name in _empty()}


def _of_dirichlet(member_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of a Dirichlet whose concentrations are the exponentials of one answer's logits."""
    return metrics.dirichlet_parts(member_logits[:, 0].exp())


def _distances(world: World, features: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """AUROC of the mean distance to the three nearest training images, in some space of features."""
    with torch.no_grad():
        known = features(world.train.inputs)
        far = {
            name: torch.cdist(features(rows), known).topk(3, largest=False).values.mean(-1)
            for name, rows in ({"test": world.test.inputs} | world.foreign).items()
        }
    return {f"{name}_distance": _auroc(far["test"], far[name]).item() for name in FOREIGN}


def _auroc(known: Tensor, foreign: Tensor) -> Tensor:
    return metrics.auroc(torch.cat([known, foreign]), torch.arange(len(known) + len(foreign)) >= len(known))


def _empty() -> dict[str, float | None]:
    """The columns in order, without values."""
    plain = ("accuracy", "nll", "brier", "ece", "agreement", "kl", "val_nll", "fitted", "at_bound", "nll_fitted")
    more = (f"{name}_{score}" for name in FOREIGN for score in ("entropy", "knowledge", "distance"))
    return dict.fromkeys((*plain, "ece_fitted", "aurc", *more))


OPTIONAL = tuple(_empty())  # a distance in pixels has no accuracy, one answer no knowledge part


STUDY = Study(
    name="ensembles",
    question="What does a student keep of an ensemble's uncertainty, and what does a better recipe give without one?",
    page="14b_ensembles",
    scales=SCALES,
    key=("arm", "teacher", "inputs"),
    judged=("accuracy", "nll", "held_entropy"),
    units=units,
    prepare=prepare,
    compute=compute,
    optional=OPTIONAL,
)
