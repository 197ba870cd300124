"""Experiments that several pages share, and the arithmetic of an honest comparison.

Runs of one seed share data, initial parameters and the order of the examples. So the unit of a
comparison is the difference within a seed, and its interval is the one that a claim needs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame
from scipy import stats
from torch import nn

from kdcourse import data, losses, metrics, models, schedules, training
from kdcourse.data import Batch
from kdcourse.training import Students

LOWER_IS_BETTER = ("nll", "brier", "ece", "kl")


def interval(values) -> tuple[float, float]:
    """Mean of `values` and half the width of its 95 % t interval."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise ValueError(f"interval: at least 2 values are needed, got {len(values)}")
    spread = values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * spread)


def score(students: Students, test: Mapping[int, Batch], **columns: object) -> DataFrame:
    """The students' table with a column for each metric on each seed's own test set.

    `columns` are added as they are: score(students, test, arm="distilled").
    """
    seeds = students.columns["seed"]
    logits = students.logits({seed: batch.inputs for seed, batch in test.items()})
    targets = torch.stack([test[seed].targets for seed in seeds])
    teacher = None
    if test[seeds[0]].teacher_logits is not None:
        teacher = torch.stack([test[seed].teacher_logits for seed in seeds])
    results = metrics.scores(logits, targets, teacher)
    return students.table.assign(**{name: value.numpy() for name, value in results.items()}, **columns)


def compare(
    table: DataFrame, baseline: str, by: str = "arm", metrics: tuple[str, ...] = ("accuracy", "nll")
) -> DataFrame:
    """For each arm and metric: mean, and mean difference to the baseline within a seed.

    Columns `accuracy`, `accuracy ±`, `accuracy gain`, `accuracy gain ±`, ...; a half width is that
    of a 95 % t interval over seeds. A gain is counted so that more is better.
    """
    wide = table.pivot(index="seed", columns=by)
    if wide.isna().any(axis=None) and not table.isna().any(axis=None):
        raise ValueError(f"compare: every {by} needs the same seeds")
    rows = {}
    for arm in table[by].unique():
        row = rows[arm] = {}
        for metric in metrics:
            row[metric], row[f"{metric} ±"] = interval(wide[metric][arm].to_numpy())
            sign = -1 if metric in LOWER_IS_BETTER else 1
            gain = sign * (wide[metric][arm] - wide[metric][baseline]).to_numpy()
            row[f"{metric} gain"], row[f"{metric} gain ±"] = interval(gain)
    return DataFrame.from_dict(rows, orient="index").rename_axis(by)


def readable(comparison: DataFrame, **headings: str) -> DataFrame:
    """A comparison as text, "mean ± half width": shares in per cent, their gains in points.

    Without `headings` every column; readable(c, accuracy="accuracy, %") picks and names them.
    """
    means = [name for name in comparison.columns if not name.endswith("±")]
    headings = headings or {name.replace(" ", "_"): name for name in means}
    columns = {}
    for key, heading in headings.items():
        name = key.replace("_", " ")
        share = name.split()[0] in ("accuracy", "ece", "agreement")
        scale, digits = (100, 1) if share else (1, 3)
        sign = "+" if name.endswith("gain") else ""
        columns[heading] = [
            f"{round(scale * mean, digits) + 0.0:{sign}.{digits}f} ± {scale * half:.{digits}f}"  # + 0.0: no "-0.0"
            for mean, half in zip(comparison[name], comparison[f"{name} ±"], strict=True)
        ]
    return DataFrame(columns, index=comparison.index)


@dataclass(frozen=True)
class FewLabels:
    """A set-up on digits for each seed: who has seen what.

    `labelled[seed]` are the student's images with labels and the teacher's logits,
    `validation[seed]` and `test[seed]` nobody has trained on; `pool[seed]` are all images that the
    teacher may have seen, `labelled` among them.
    """

    labelled: dict[int, Batch]
    pool: dict[int, Batch]
    validation: dict[int, Batch]
    test: dict[int, Batch]
    teachers: Students


def few_labels(seeds: range, labels: int = 100, teacher_labels: int = 1000) -> FewLabels:
    """The digits cut anew for each seed: a pool of 1,000, validation 200, test 597.

    The student's `labels` images are the first of the pool; the teacher, 64-128-10, trains on the
    first `teacher_labels` of it: Adam 3e-3, cosine to 0, 400 steps of 64.
    """
    parts = {seed: data.split(data.digits(), [1000, 200, 597], seed) for seed in seeds}
    teachers = training.train(
        partial(models.mlp, 64, 128, 10),
        {seed: pool[:teacher_labels] for seed, (pool, _, _) in parts.items()},
        hard_only,
        seeds=seeds,
        lr=3e-3,
        steps=400,
        lr_schedule=schedules.cosine(1, 0, 400),
    )
    taught = []
    for i in range(3):
        logits = teachers.logits({seed: part[i].inputs for seed, part in parts.items()})
        taught.append({seed: parts[seed][i].with_teacher(logits[run]) for run, seed in enumerate(seeds)})
    pool, validation, test = taught
    labelled = {seed: batch[:labels] for seed, batch in pool.items()}
    return FewLabels(labelled, pool, validation, test, teachers)


def small_student() -> nn.Module:
    """The student of chapters 01 and 04: 64-16-10."""
    return models.mlp(64, 16, 10)


def train_student(labelled: Mapping[int, Batch], loss: Callable, *, steps: int = 600, **settings) -> Students:
    """The student's training in chapters 01 and 04: Adam 1e-2, cosine to 0, 600 steps of 64."""
    recipe = {"lr": 1e-2, "lr_schedule": schedules.cosine(1, 0, steps), "steps": steps}
    return training.train(small_student, labelled, loss, **(recipe | settings))


def hard_only(logits, batch):
    """Labels alone."""
    return losses.hard_loss(logits, batch.targets)


def distilled(logits, batch, temperature, soft_weight=1.0):
    """The teacher's soft targets, and labels where soft_weight leaves them room."""
    return losses.distillation_loss(
        logits,
        batch.teacher_logits,
        batch.targets,
        temperature=temperature,
        soft_weight=soft_weight,
    )


def stack(*tables: DataFrame) -> DataFrame:
    """Several tables of runs as one."""
    return pd.concat(tables, ignore_index=True)
