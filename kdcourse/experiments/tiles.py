"""Can a student say how unsure it is? One digit among nine tiles of fragments, and four questions.

The four questions: is the answer wrong, is no digit there, are there two, is half of it hidden? For each seed the
digits are cut anew: a pool of 1,000, validation 200, test 597. A student has 500 fixed composites, the digits of which
are the first 500 of the pool. Teacher A has seen all 1,000 digits, in new composites at each step; teacher B the
student's 500 composites and no others. Settings come from a pilot on other seeds of the same digits.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pandas import DataFrame
from torch import Tensor, nn

from kdcourse import data, losses, metrics, models, schedules
from kdcourse.attention import AttentionStudent, attention_loss, dirichlet_loss, hydra_loss, mean_of_members
from kdcourse.calibration import fit_temperature
from kdcourse.data import Batch
from kdcourse.experiments.study import Settings, Study, Unit
from kdcourse.softmax import entropy, tempered_log_softmax
from kdcourse.training import Students, grid, train

TEMPERATURE = 2.0
MEMBERS = 4
BATCH = 64
FOREIGN = ("none", "two", "occluded")
SCORES = ("entropy", "map", "both", "knowledge", "distance")
# Columns that an arm may lack: a network without a map, one answer alone, validation labels that were trained on.
OPTIONAL = (
    *(f"{question}_{score}" for score in SCORES[1:] for question in ("wrong", *FOREIGN)),
    *("hit", "mass", "val_nll", "fitted", "nll_fitted"),
)

# --- networks ---------------------------------------------------------------------------------------------------------


def per_tile(*widths: int) -> nn.Module:
    """The same small network for every tile: [batch, 9, 64] -> tokens [batch, 9, features]."""
    return nn.Sequential(models.mlp(*widths), nn.ReLU())


def student(pool: str = "attention", heads: int = 1, members: int = 1) -> AttentionStudent:
    """5,050 parameters with one head and one member."""
    return AttentionStudent(per_tile(64, 48, 32), 32, heads=heads, members=members, pool=pool)


def teacher() -> AttentionStudent:
    """One member of a teacher, 17,482 parameters."""
    return AttentionStudent(per_tile(64, 128, 64), 64, heads=4)


def all_pixels(width: int) -> nn.Module:
    """A network that sees 576 pixels and no tiles."""
    return nn.Sequential(nn.Flatten(), *models.mlp(576, width, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "attention": student,
    "attention, 4 heads": partial(student, heads=4),
    "attention, 4 members": partial(student, members=MEMBERS),
    "max": partial(student, "max"),
    "mean": partial(student, "mean"),
    "all pixels, 8": partial(all_pixels, 8),
    "all pixels, 64": partial(all_pixels, 64),
}

# --- who has seen what ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """One seed. `tile` is where the digit of each of the student's own composites, or of the test's, stands."""

    pool: Batch
    own: Batch
    own_tile: Tensor
    validation: Batch
    test: Batch
    test_tile: Tensor
    foreign: dict[str, Batch]


def cut(seed: int, images: int = 500, tests: int = 1_000, chimeras: bool = True) -> World:
    """The composites of a seed. All fragments come from the pool, at test time too."""
    pool, valid, test = data.split(data.digits(), [1_000, 200, 597], seed)
    generator = torch.Generator().manual_seed(seed)

    def composed(digits: Batch, show: str = "one") -> tuple[Batch, Tensor]:
        inputs, tile = data.composites(digits.inputs, pool.inputs, generator, show, chimeras)
        return Batch(inputs, digits.targets[: len(inputs)]), tile

    def drawn() -> Batch:
        return test[torch.randint(len(test), (tests,), generator=generator)]

    own, own_tile = composed(pool[:images])
    validation, _ = composed(valid[torch.arange(400) % 200])
    shown, test_tile = composed(drawn())
    first = drawn()
    others = (first.targets[:, None] != test.targets).float()
    second = test[torch.multinomial(others, 1, generator=generator)[:, 0]]  # of another class
    two = Batch(torch.cat([first.inputs, second.inputs]), torch.cat([first.targets, second.targets]))
    foreign = {"none": composed(drawn(), "none")[0], "two": composed(two, "two")[0]}
    foreign["occluded"] = composed(drawn(), "occluded")[0]
    return World(pool, own, own_tile, validation, shown, test_tile, foreign)


def new_composites(digits: Tensor, generator: torch.Generator) -> Tensor:
    """A batch of digits, each among fragments of the others."""
    return data.composites(digits, digits, generator)[0]


def fit(
    model: Callable[[], nn.Module], images: dict[int, Batch], loss: Callable, *, steps: int, **more: Any
) -> Students:
    """The recipe of every network here: Adam, cosine to 0, batches of 64."""
    recipe = {"lr": 3e-3, "lr_schedule": schedules.cosine(1, 0, steps), "batch": BATCH, "chunk": 30} | more
    if "seeds" not in recipe:
        recipe["seeds"] = list(images)
    return train(model, images, loss, steps=steps, **recipe)


def train_teachers(worlds: dict[int, World], which: str, *, steps: int, **more: Any) -> dict[int, list[nn.Module]]:
    """For each seed the members of teacher A or B."""
    numbers = {seed: [1_000 * seed + member for member in range(MEMBERS)] for seed in worlds}
    more = more | ({"augment": new_composites} if which == "A" else {})
    images = {n: worlds[seed].pool if which == "A" else worlds[seed].own for seed in worlds for n in numbers[seed]}
    trained = iter(fit(teacher, images, labels, steps=steps, **more))
    return {seed: [next(trained).eval() for _ in own] for seed, own in numbers.items()}


def taught(batch: Batch, members: Sequence[nn.Module]) -> Batch:
    """The batch with the log of the members' mean probability, and the mean map of members and heads, [n, 9]."""
    seen = read(members, batch.inputs)
    return batch.with_teacher(seen.logits, seen.map)


def taught_by_each(batch: Batch, members: Sequence[nn.Module]) -> Batch:
    """The batch with the logits of each member, [n, members, classes], and the mean map."""
    seen = read(members, batch.inputs)
    return batch.with_teacher(seen.member_logits, seen.map)


# What the attention of the student is pulled to: (the teacher's map [n, 9], the true tile [n]) -> [n, 9].
MAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "teacher": lambda shown, tile: shown,
    "blurred": lambda shown, tile: 0.9 * shown + 0.1 / 9,
    "flat": lambda shown, tile: torch.full_like(shown, 1 / 9),
    "true tile": lambda shown, tile: F.one_hot(tile, 9).to(shown),
    "true tile, blurred": lambda shown, tile: 0.015 + 0.865 * F.one_hot(tile, 9).to(shown),
    "another image": lambda shown, tile: shown.roll(1, 0),
}

# --- losses -----------------------------------------------------------------------------------------------------------


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits, which come first."""
    return output[0] if isinstance(output, tuple) else output


def labels(output, batch):
    return losses.hard_loss(first(output), batch.targets)


def smoothed(output, batch, smoothing):
    logits = first(output)
    even = -tempered_log_softmax(logits).mean(-1)
    return (1 - smoothing) * losses.hard_loss(logits, batch.targets) + smoothing * even


def distilled(output, batch, temperature=TEMPERATURE):
    return losses.soft_loss(first(output), batch.teacher_logits, temperature)


def logit_mse(output, batch):
    """The limit of high temperatures."""
    gap = first(output) - batch.teacher_logits
    return (gap - gap.mean(-1, keepdim=True)).square().mean(-1) / 2


def mapped(output, batch, soft_weight, map_weight, temperature=TEMPERATURE):
    """The teacher or the labels, and the pull of a map."""
    answer = losses.distillation_loss(
        first(output), batch.teacher_logits, batch.targets, temperature=temperature, soft_weight=soft_weight
    )
    return answer + map_weight * attention_loss(output[-1], batch.teacher_features)


def map_mse(output, batch, map_weight):
    gap = output[-1].mean(-2) - batch.teacher_features
    return distilled(output, batch) + map_weight * gap.square().sum(-1)


def sharpened(output, batch, sharpness):
    return labels(output, batch) + sharpness * entropy(output[-1]).mean(-1)


def by_label(output, batch):
    """Each member learns from the labels."""
    return losses.hard_loss(output[1], batch.targets.unsqueeze(-1)).mean(-1)


def by_member(output, batch, map_weight):
    """Each member learns from its own member of the teacher, the attention from their mean map."""
    answer = hydra_loss(output[1], batch.teacher_logits, TEMPERATURE)
    return answer + map_weight * attention_loss(output[-1], batch.teacher_features)


def by_dirichlet(output, batch, temperature):
    return dirichlet_loss(first(output), batch.teacher_logits, temperature)


# --- what a network says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Answers on n inputs; of an ensemble, or several heads, the mean map."""

    logits: Tensor
    member_logits: Tensor  # [n, members, classes]; one member is a member, too
    map: Tensor | None  # [n, tokens]
    pooled: Tensor | None  # [n, features]


def read(nets: Sequence[nn.Module], inputs: Tensor) -> Reading:
    """One network, or the members of an ensemble."""
    answers, maps, pooled = [], [], None
    with torch.no_grad():
        for net in nets:
            if isinstance(net, AttentionStudent):
                pooled, weights = net.pooled(inputs)
                answers.append(net.head(pooled).unflatten(-1, (net.members, -1)))
                maps += [] if weights is None else [weights.mean(-2)]
            else:
                answers.append(net(inputs).unsqueeze(-2))
    member_logits = torch.cat(answers, -2)
    logits = mean_of_members(member_logits) if member_logits.shape[-2] > 1 else member_logits[:, 0]
    return Reading(
        logits,
        member_logits,
        torch.stack(maps).mean(0) if maps else None,
        pooled if len(nets) == 1 else None,  # several nets share no features
    )


def uncertainties(seen: Reading, known: Reading, dirichlet: bool = False) -> dict[str, Tensor]:
    """Scores of each input, [n]; high is unsure. `known` are the student's own composites."""
    scores = {"entropy": entropy(tempered_log_softmax(seen.logits).exp())}
    if seen.map is not None:
        scores["map"] = entropy(seen.map)
        scores["both"] = scores["entropy"] + scores["map"]
    if dirichlet:
        scores["knowledge"] = metrics.dirichlet_parts(seen.logits.exp())[2]
    elif seen.member_logits.shape[-2] > 1:
        scores["knowledge"] = metrics.uncertainty_parts(seen.member_logits)[2]
    if seen.pooled is not None:
        near = F.normalize(seen.pooled, dim=-1) @ F.normalize(known.pooled, dim=-1).T
        scores["distance"] = 1 - near.topk(3).values.mean(-1)  # to the three nearest
    return scores


def judge(
    nets: Sequence[nn.Module],
    world: World,
    teacher_logits: Tensor,
    *,
    dirichlet: bool = False,
    validated: bool = True,
) -> dict[str, float]:
    """One row of the study. `validated` says that the network has not trained on the validation composites."""
    parts = {"own": world.own, "validation": world.validation, "test": world.test} | world.foreign
    seen = {name: read(nets, batch.inputs) for name, batch in parts.items()}
    unsure = {name: uncertainties(seen[name], seen["own"], dirichlet) for name in ("test", *FOREIGN)}
    logits, targets = seen["test"].logits, world.test.targets
    right = logits.argmax(-1) == targets
    row = metrics.scores(logits, targets, teacher_logits)
    row["aurc"] = metrics.aurc(-unsure["test"]["entropy"], right)
    row["accuracy_occluded"] = metrics.accuracy(seen["occluded"].logits, world.foreign["occluded"].targets)
    row |= dict.fromkeys(("val_nll", "fitted", "nll_fitted"), torch.nan)
    if validated:
        own = seen["validation"].logits, world.validation.targets
        row["val_nll"], (row["fitted"], _) = metrics.nll(*own), fit_temperature(*own)
        row["nll_fitted"] = metrics.nll(logits / row["fitted"], targets)
    shown = seen["test"].map
    row["hit"] = torch.nan if shown is None else (shown.argmax(-1) == world.test_tile).float().mean()
    row["mass"] = torch.nan if shown is None else shown.gather(-1, world.test_tile[:, None]).mean()
    for score in SCORES:
        for question in ("wrong", *FOREIGN):
            row[f"{question}_{score}"] = torch.nan
            if score in unsure["test"]:
                inside, outside = unsure["test"][score], unsure.get(question, {}).get(score)
                if outside is None:
                    row[f"{question}_{score}"] = metrics.auroc(inside, ~right)
                else:
                    foreign = torch.arange(len(inside) + len(outside)) >= len(inside)
                    row[f"{question}_{score}"] = metrics.auroc(torch.cat([inside, outside]), foreign)
    return {name: float(value) for name, value in row.items()}


# --- the arms ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """How a student is trained: its network, what it sees, the loss. Lists in `tries` are chosen on validation."""

    network: str
    loss: Callable
    settings: dict[str, Any] = field(default_factory=dict)
    images: str = "own"  # own, "own and validation", "stream"
    map: str = "teacher"
    teacher: str = "A"
    each: bool = False  # the logits of each member
    chimeras: bool = True
    tries: tuple[dict[str, list[float]], ...] = ({},)


RATES = {"lr": [1e-3, 3e-3, 1e-2]}
DECAYS = {"weight_decay": [0.1, 0.3, 1.0, 3.0, 10.0]}
SMOOTHINGS = {"smoothing": [0.03, 0.1, 0.2]}
TEMPERATURES = {"temperature": [1.0, 4.0, 8.0, 16.0, 32.0]}


def _arms() -> dict[str, Arm]:
    arms = {}
    for pool in ("attention", "max", "mean"):
        arms[f"{pool}, labels"] = Arm(pool, labels)
        arms[f"{pool}, labels, rates"] = Arm(pool, labels, tries=(RATES,))
        arms[f"{pool}, labels, weight decay"] = Arm(pool, labels, tries=(DECAYS,))
        arms[f"{pool}, labels, smoothed"] = Arm(pool, smoothed, tries=(SMOOTHINGS,))
        arms[f"{pool}, labels, no chimeras"] = Arm(pool, labels, tries=(RATES, DECAYS), chimeras=False)
        arms[f"{pool}, KD"] = Arm(pool, distilled)
        arms[f"{pool}, KD, temperatures"] = Arm(pool, distilled, tries=(TEMPERATURES,))
        arms[f"{pool}, KD, logit MSE"] = Arm(pool, logit_mse)
        arms[f"{pool}, KD from B"] = Arm(pool, distilled, teacher="B")
        arms[f"{pool}, KD from B, temperatures"] = Arm(pool, distilled, tries=(TEMPERATURES,), teacher="B")
    for base, soft, temperature in (("labels", 0.0, 1.0), ("KD", 1.0, TEMPERATURE), ("KD at T = 8", 1.0, 8.0)):
        for name, shown, weight in (
            ("map", "teacher", 1.0),
            ("blurred map", "blurred", 1.0),
            ("flat", "flat", 0.03),
            ("true tile", "true tile", 1.0),
            ("blurred true tile", "true tile, blurred", 1.0),
        ):
            pull = {"soft_weight": soft, "map_weight": weight, "temperature": temperature}
            arms[f"attention, {base} + {name}"] = Arm("attention", mapped, pull, map=shown)
    wholly, faintly = ({"soft_weight": 1.0, "map_weight": weight} for weight in (1.0, 0.03))
    arms["attention, labels + sharper"] = Arm("attention", sharpened, {"sharpness": 0.3})
    arms["attention, KD + another image's map"] = Arm("attention", mapped, wholly, map="another image")
    arms["attention, KD + map, MSE"] = Arm("attention", map_mse, {"map_weight": 10.0})
    arms["attention, KD + map, from B"] = Arm("attention", mapped, wholly, teacher="B")
    arms["attention, KD + flat, from B"] = Arm("attention", mapped, faintly, map="flat", teacher="B")
    arms["attention, labels, and validation's"] = Arm("attention", labels, images="own and validation")
    arms["attention, labels, teacher's data"] = Arm("attention", labels, images="stream")
    arms["attention, labels, ensemble of four"] = Arm("attention", labels, images="ensemble")
    heads, members = "attention, 4 heads", "attention, 4 members"
    arms[f"{heads}, labels"] = Arm(heads, labels)
    arms[f"{heads}, KD"] = Arm(heads, distilled)
    arms[f"{heads}, KD + map"] = Arm(heads, mapped, wholly)
    arms[f"{members}, labels"] = Arm(members, by_label)
    arms[f"{members}, KD"] = Arm(members, by_member, {"map_weight": 0.0}, each=True)
    arms[f"{members}, KD + map"] = Arm(members, by_member, {"map_weight": 1.0}, each=True)
    cooling = {"temperature": "cooling"}
    arms["attention, KD, cooling"] = Arm("attention", distilled, cooling)
    arms["attention, Dirichlet"] = Arm("attention", by_dirichlet, cooling, each=True)
    for width in (8, 64):
        arms[f"all pixels, {width}, labels"] = Arm(f"all pixels, {width}", labels)
        arms[f"all pixels, {width}, KD"] = Arm(f"all pixels, {width}", distilled)
    return arms


ARMS = _arms()
TEACHERS = ("teacher A", "teacher A, one member", "teacher B", "teacher B, one member")

SCALES = {
    "smoke": {
        "seeds": [1400, 1401],
        "steps": 4,
        "teacher_steps": {"A": 4, "B": 4},
        "images": 100,
        "tests": 120,
        "arms": [
            "teacher A",
            "max, labels, weight decay",
            "attention, labels, teacher's data",
            "attention, labels, ensemble of four",
            "attention, KD + map, from B",
            "attention, 4 members, KD + map",
            "attention, Dirichlet",
        ],
    },
    "cpu": {
        "seeds": list(range(1400, 1410)),
        "steps": 600,
        "teacher_steps": {"A": 600, "B": 300},
        "images": 500,
        "tests": 1_000,
        "arms": [*TEACHERS, *ARMS],
    },
}


@dataclass(frozen=True)
class Shared:
    """Worlds of all seeds, with and without chimeras, and the teachers, who know only the former."""

    worlds: dict[bool, dict[int, World]]
    teachers: dict[str, dict[int, list[nn.Module]]]


def prepare(settings: Settings, device: torch.device) -> tuple[Shared, dict[str, float]]:
    worlds = {
        chimeras: {seed: cut(seed, settings["images"], settings["tests"], chimeras) for seed in settings["seeds"]}
        for chimeras in (True, False)
    }
    teachers = {
        which: train_teachers(worlds[True], which, steps=steps, device=device)
        for which, steps in settings["teacher_steps"].items()
    }
    facts = {
        "teacher_parameters": MEMBERS * models.count_parameters(teacher()),
        "student_parameters": models.count_parameters(student()),
    }
    for which, own in teachers.items():
        tests = {seed: world.test for seed, world in worlds[True].items()}
        right = [metrics.accuracy(read(own[seed], test.inputs).logits, test.targets) for seed, test in tests.items()]
        facts[f"teacher_{which}_accuracy"] = torch.stack(right).mean().item()
    return Shared(worlds, teachers), facts


def units(settings: Settings) -> list[Unit]:
    """One for each arm: all seeds and tries."""
    each = len(settings["seeds"]) * settings["steps"] * BATCH
    return [Unit(arm, {"arm": arm}, _runs(arm) * each) for arm in settings["arms"]]


def _runs(arm: str) -> int:
    if arm in TEACHERS:
        return 0
    copies = MEMBERS if ARMS[arm].images == "ensemble" else 1
    return copies * sum(len(next(iter(grid(**tries).values()), [0])) for tries in ARMS[arm].tries)


def compute(shared: Shared, settings: Settings, device: torch.device, *, arm: str) -> DataFrame:
    """All seeds and tries of one arm, or the teachers themselves."""
    own = ARMS.get(arm)
    worlds = shared.worlds[own is None or own.chimeras]
    teachers = shared.teachers[arm[8] if own is None else own.teacher]
    rows = []
    for seed, nets, columns in _trained(own, worlds, teachers, settings, device) if own else _members(arm, teachers):
        scores = judge(
            nets,
            worlds[seed],
            read(teachers[seed], worlds[seed].test.inputs).logits,
            dirichlet=own is not None and own.loss is by_dirichlet,
            validated=own is None or own.images != "own and validation",
        )
        plain = {"arm": arm, "seed": seed, "lr": 3e-3, "strength": 0.0, "frozen_at": torch.nan}
        plain["parameters"] = sum(models.count_parameters(net) for net in nets)
        rows.append(plain | columns | scores)
    return DataFrame(rows)


Trained = Iterable[tuple[int, list[nn.Module], dict[str, float]]]  # seed, network or members, how it was trained


def _members(arm: str, teachers: dict[int, list[nn.Module]]) -> Trained:
    for seed, members in teachers.items():
        yield seed, members[:1] if "one member" in arm else members, {}


def _trained(
    arm: Arm, worlds: dict[int, World], teachers: dict[int, list[nn.Module]], settings: Settings, device: torch.device
) -> Trained:
    images = {seed: images_of(arm, world, teachers[seed]) for seed, world in worlds.items()}
    more = {"steps": settings["steps"], "device": device} | arm.settings
    if arm.settings.get("temperature") == "cooling":
        more["temperature"] = schedules.linear(10.0, 1.0, settings["steps"] // 2)
    if arm.images == "stream":
        more["augment"] = new_composites
    if arm.images == "ensemble":
        images = {1_000 * seed + member: batch for seed, batch in images.items() for member in range(MEMBERS)}
        students = iter(fit(NETWORKS[arm.network], images, arm.loss, **more))
        for seed in worlds:
            yield seed, [next(students).eval() for _ in range(MEMBERS)], {}
        return
    for tries in arm.tries:
        students = fit(NETWORKS[arm.network], images, arm.loss, **more, **grid(seeds=list(images), **tries))
        knob = next((name for name in tries if name != "lr"), None)
        for run, row in enumerate(students.table.to_dict("records")):
            columns = {"lr": row["lr"], "strength": row.get(knob, 0.0), "frozen_at": row["frozen_at"]}
            yield row["seed"], [students[run].eval()], columns


def images_of(arm: Arm, world: World, members: Sequence[nn.Module]) -> Batch:
    """What a student of this arm is trained on."""
    if arm.images == "stream":
        return world.pool
    if arm.images == "own and validation":
        parts = (world.own, world.validation)
        return Batch(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
    if arm.loss in (labels, smoothed, sharpened, by_label):
        return world.own
    batch = (taught_by_each if arm.each else taught)(world.own, members)
    return batch.with_teacher(batch.teacher_logits, MAPS[arm.map](batch.teacher_features, world.own_tile))


STUDY = Study(
    name="tiles",
    question="What do attention, its distillation, and distillation add to what a student knows of its uncertainty?",
    page="14_attention_uncertainty",
    scales=SCALES,
    key=("arm", "lr", "strength"),
    judged=("accuracy", "nll", "wrong_entropy", "two_entropy"),
    units=units,
    prepare=prepare,
    compute=compute,
    optional=OPTIONAL,
)
