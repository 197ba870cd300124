"""One loop for any loss: many students, each with its own seed and settings, trained side by side.

`train(..., engine="loop")` is the loop of every tutorial, one student after the other.
`engine="vmap"` takes the same steps for all students at once: a step is one computation over stacked parameters,
written down once and replayed. Both give the same numbers, to rounding. The loop knows no method: what is trained is
the loss's business. In this order: `train` and what it returns; the settings, batches and notes of some runs; the two
engines. Runs are trained in chunks, which `chunks` sends elsewhere and keeps.
"""

import copy
import functools
import hashlib
import itertools
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.adam import adam

from kdcourse.chunks import Folder, Part, train_each
from kdcourse.data import Batch

if TYPE_CHECKING:
    from pandas import DataFrame

Model = Callable[[], nn.Module]
Loss = Callable[..., Tensor]
Data = Batch | Mapping[int, Batch]
Axis = Any  # a number, a schedule or a rule for all runs; a list with one of these for each; a tensor [steps, runs]
Tensors = dict[str, Tensor]


def train(
    model: Model | Mapping[str, Model],
    data: Data,
    loss: Loss,
    *,
    seeds: int | Iterable[int] = 0,
    lr: Axis = 3e-3,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int = 64,
    optimizer: str = "adam",
    weight_decay: Axis = 0.0,
    momentum: float = 0.9,
    lr_schedule: Callable[[int], float] | None = None,
    transfer: Data | None = None,
    transfer_batch: int = 128,
    teacher: nn.Module | Mapping[int, nn.Module] | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    evaluate: Data | None = None,
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
    every: int | None = None,
    watch: str = "loss",
    stop: Any = None,
    chunk: int = 160,
    engine: str = "vmap",
    keep: str | os.PathLike | None = None,
    executor: Executor | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    **hyper: Axis,
) -> "Students":
    """Train a batch of students; student r has the r-th seed, learning rate, temperature, ...

    model     makes one nn.Module that maps [batch, ...] to [batch, classes]; called for each seed, after
              `torch.manual_seed(seed)`. {name: model} for several shapes, and then `network=` names each run's. A
              module may return a tuple, the logits first: the loss gets all of it.
    data      a Batch, or {seed: Batch} where each seed has its own data, all of one length.
    loss      loss(logits, batch, **hyper) -> [batch] for ONE run, in ordinary PyTorch; the loop takes the mean.
    seeds, lr, weight_decay, **hyper    a number for all runs, one value a run, or (not for seeds) a schedule: a
              function of the step. A value of a list may be a schedule too, and a tensor may be [steps, runs]. A rule,
              such as schedules.plateau, answers to training. `grid` makes the product of several lists.
    steps     optimiser steps; or `epochs`, passes over the data. Equal seeds share initial parameters and the order of
              the examples, so that runs differ in one thing only.
    optimizer "adam" (weight decay decoupled, as in AdamW) or "sgd" (with `momentum`); the learning rate of a step is
              lr * lr_schedule(step).
    transfer  a second stream: each step also draws `transfer_batch` of these examples, the loss sees all rows and
              `batch.labelled`, and the means of the two streams are added.
    teacher   a module or {seed: module} that fills `batch.teacher_logits`, in evaluation mode: once, or, where
              augment(inputs, generator) makes a new view of each batch, for the view that the student sees.
    evaluate  data for metrics={name: f(logits [..., n, classes], targets) -> [...]}; each `every` steps (without it: a
              pass over the data) they go to `Students.curves`, and rules decide by `watch`: "loss", the training loss
              since the last decision, or the name of a metric; less is better.
    stop      a rule, such as schedules.early_stopping: a run whose value is 0 keeps its parameters from there; column
              `stopped_at` of the table names the step.
    chunk     runs trained together; results do not depend on it beyond rounding. (Only a parameter that changes no
              output, such as a bias before batch norm, is moved by rounding alone, and Adam makes its steps large.)
    engine    "vmap", "loop", or "auto": each chunk times some steps of both and goes on with the faster (column
              `engine`).
    keep      a folder: each finished chunk is written there at once, and the same call goes on after the last of them.
    executor  trains chunks elsewhere: any concurrent.futures executor, also Dask's `Client().get_executor()`. What a
              notebook or a script defines travels if cloudpickle is installed; else model, loss and the like must be
              importable. With processes, use the start method "spawn".

    A run whose loss or gradient stops being finite keeps the parameters that it had before that step; column
    `frozen_at` of the table names the step.
    """
    counts = {"batch": batch, "transfer_batch": transfer_batch, "chunk": chunk, "every": 1 if every is None else every}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"train: {name} must be at least 1, got {value}")
    streams = [(data, batch)] + ([(transfer, transfer_batch)] if transfer is not None else [])
    examples = [_check_stream(one) for one, _ in streams]
    if (steps is None) == (epochs is None):
        raise ValueError(f"train: give either steps or epochs, got {steps=} and {epochs=}")
    if steps is None:
        steps = math.ceil(epochs * examples[0] / batch)
    if steps < 1:
        raise ValueError(f"train: steps must be at least 1, got {steps}")
    metrics, networks = dict(metrics or {}), model if isinstance(model, Mapping) else {"": model}
    for name, value, known in (
        ("engine", engine, ("vmap", "loop", "auto")),
        ("optimizer", optimizer, ("adam", "sgd")),
        ("watch", watch, ("loss", *metrics)),
    ):
        if value not in known:
            raise ValueError(f"train: {name} must be one of {', '.join(known)}, got {value!r}")
    if (evaluate is None) != (not metrics):
        raise ValueError(f"train: evaluate and metrics go together, got {'metrics' if metrics else 'evaluate'} alone")

    if isinstance(model, Mapping):
        hyper.setdefault("network", next(iter(networks)))
    settings = _Settings({"seed": seeds, "lr": lr, "weight_decay": weight_decay, **hyper}, steps, networks)
    for one, _ in streams if evaluate is None else [*streams, (evaluate, 0)]:
        missing = [seed for seed in settings.seeds if not isinstance(one, Batch) and seed not in one]
        if missing:
            raise ValueError(f"train: data has no seed {missing[0]}, only {sorted(one)}")
    if teacher is not None and augment is None:
        streams = [(_taught(one, teacher, settings.seeds), size) for one, size in streams]
        teacher = None
    if every is None and (metrics or settings.rules or stop is not None):
        every = math.ceil(examples[0] / batch)
    job = _Job(
        model=networks[""] if "" in networks else None,
        streams=streams,
        loss=loss,
        settings=settings,
        steps=steps,
        optimizer=optimizer,
        momentum=momentum,
        rates=[float(lr_schedule(step)) if lr_schedule else 1.0 for step in range(steps)],
        teacher=teacher,
        augment=augment,
        evaluate=evaluate,
        metrics=metrics,
        every=every,
        watch=watch,
        stop=stop,
        engine=engine,
        device=str(device or "cpu"),
    )
    groups = {name: [r for r, own in enumerate(settings.networks) if own == name] for name in networks}
    jobs = {
        (name, i): job.only(runs[i : i + chunk], networks[name])
        for name, runs in groups.items()
        for i in range(0, len(runs), chunk)
    }
    folder = None if keep is None else Folder(Path(keep), vars(job) | {"model": networks, "chunk": chunk})
    parts = train_each(_train, jobs, folder, executor, progress)
    return Students(
        [
            _Group(runs, networks[name], [parts[key] for key in jobs if key[0] == name], job.device)
            for name, runs in groups.items()
            if runs
        ],
        settings,
        steps,
        stopping=stop is not None,
        timed=engine == "auto",
    )


def grid(**axes: Iterable[Any]) -> dict[str, list[Any]]:
    """The product of the given lists, a list a name, ready for `train(**grid(...))`.

    >>> grid(temperature=[1.0, 4.0], seeds=range(2))
    {'temperature': [1.0, 1.0, 4.0, 4.0], 'seeds': [0, 1, 0, 1]}
    """
    rows = list(itertools.product(*axes.values()))
    return {name: [row[i] for row in rows] for i, name in enumerate(axes)}


def order(examples: int, batch: int, steps: int, seed: int) -> Tensor:
    """The rows of each step, [steps, batch]: shuffled passes over the data, one after the other.

    Every batch is full: one that reaches the end of a pass goes on with the next.
    """
    generator = torch.Generator().manual_seed(seed)
    passes = math.ceil(steps * batch / examples)
    rows = torch.cat([torch.randperm(examples, generator=generator) for _ in range(passes)])
    return rows[: steps * batch].view(steps, batch)


class Students:
    """Trained students. `students[r]` is student r as an ordinary module.

    `table` has a row for each: its settings, the loss of its last step, `frozen_at`. `losses` is [steps, runs], the
    training loss of each step, NaN after a run froze or stopped. `curves` is what was measured each `every` steps.
    `parameters` and `buffers` are the stacked states, if all students have one network.
    """

    def __init__(self, groups: list["_Group"], settings: "_Settings", steps: int, stopping: bool, timed: bool) -> None:
        self.groups = groups
        place = torch.tensor([run for group in groups for run in group.runs]).argsort()
        merged = lambda name: torch.cat([part[name] for g in groups for part in g.parts], -1)[..., place]  # noqa: E731
        self.losses, frozen, stopped = merged("losses"), merged("frozen_at"), merged("stopped_at")
        # [moments, runs]; a chunk whose runs had all stopped is shorter.
        moments = max(part["curves"].shape[1] for group in groups for part in group.parts)
        for part in (part for group in groups for part in group.parts):
            part["curves"] = _longer(part["curves"], moments)
        self._moments = dict(zip(groups[0].parts[0]["names"], merged("curves"), strict=True))
        last = torch.where(stopped.isnan(), steps, stopped).long() - 1
        self.columns = settings.columns() | {"loss": self.losses.gather(0, last[None])[0], "frozen_at": frozen}
        self._settings = list(settings.columns())
        if stopping:
            self.columns["stopped_at"] = stopped
        if timed:
            engines = [part["engine"] for group in groups for part in group.parts for _ in part["frozen_at"]]
            self.columns["engine"] = [engines[i] for i in place]
        broken = frozen.isfinite().nonzero().flatten().tolist()
        if broken:
            warnings.warn(
                f"train: loss or gradient was not finite in {len(broken)} of {len(self)} runs, which "
                f"keep their last parameters (column frozen_at): runs {broken[:10]}",
                stacklevel=3,
            )

    def __len__(self) -> int:
        return self.losses.shape[1]

    def __getitem__(self, run: int) -> nn.Module:
        run = range(len(self))[run]
        group = next(group for group in self.groups if run in group.runs)
        module, row = copy.deepcopy(group.skeleton), group.runs.index(run)
        with torch.no_grad():
            for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
                value.copy_((group.parameters if name in group.parameters else group.buffers)[name][row])
        return module

    @property
    def parameters(self) -> Tensors:
        return self._only("parameters").parameters

    @property
    def buffers(self) -> Tensors:
        return self._only("buffers").buffers

    @property
    def skeleton(self) -> nn.Module:
        return self._only("skeleton").skeleton

    @property
    def table(self) -> "DataFrame":
        """One row for each run (needs pandas)."""
        from pandas import DataFrame

        return DataFrame({k: v.tolist() if isinstance(v, Tensor) else v for k, v in self.columns.items()})

    @property
    def curves(self) -> "DataFrame":
        """A row for each run and moment: settings, run, step, training loss since the last moment, metrics."""
        from pandas import DataFrame

        if "step" not in self._moments:
            raise ValueError("Students.curves: nothing was measured on the way; give every= (and evaluate=) to train")
        long = DataFrame({name: value.T.flatten().tolist() for name, value in self._moments.items()})
        runs = torch.arange(len(self)).repeat_interleave(len(self._moments["step"])).tolist()
        long = self.table[self._settings].loc[runs].reset_index(drop=True).assign(run=runs, **long)
        return long.dropna(subset="step").astype({"step": int}).reset_index(drop=True)

    def logits(self, inputs: Tensor | Mapping[int, Tensor]) -> Tensor:
        """Answers of all students in evaluation mode: [runs, n, classes].

        `inputs` are [n, ...] for all students, or {seed: [n, ...]}.
        """
        rows, answers = [], []
        for group in self.groups:
            own = inputs
            if not isinstance(inputs, Tensor):
                own = torch.stack([inputs[self.columns["seed"][run]] for run in group.runs])
            rows += group.runs
            with _one_thread():
                answers.append(_answers(group.skeleton, group.parameters, group.buffers, own, own is inputs).cpu())
        return answers[0] if len(answers) == 1 else torch.cat(answers)[torch.tensor(rows).argsort()]

    def _only(self, what: str) -> "_Group":
        if len(self.groups) > 1:
            raise ValueError(f"Students: {what} of several networks cannot be stacked; take students[run]")
        return self.groups[0]


class _Group:
    """The students of one network, stacked."""

    def __init__(self, runs: list[int], model: Model, parts: list[Part], device: str) -> None:
        self.runs, self.parts = runs, parts
        self.parameters, self.buffers = (
            {name: torch.cat([part[kind][name] for part in parts]).to(device) for name in parts[0][kind]}
            for kind in ("parameters", "buffers")
        )
        # A chunk from another process or a file brings no module along.
        skeletons = [part.pop("skeleton") for part in parts if "skeleton" in part] or [_make(model, 0)]
        self.skeleton = skeletons[0].to(device).eval()


# -- the settings, batches and notes of some runs -------------------------------------------------


class _Settings:
    """The settings of each run: constant, given for each step, or following a rule."""

    def __init__(self, settings: dict[str, Axis], steps: int, networks: Iterable[str]) -> None:
        lists = {name: _listed(value) for name, value in settings.items()}
        lengths = {k: v.shape[1] if isinstance(v, Tensor) else len(v) for k, v in lists.items()}
        lengths = {name: length for name, length in lengths.items() if length != 1}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ValueError(f"train: settings with a value for each run must agree in length, got {lengths}")
        self.count = max(lengths.values(), default=1)
        self.constant: Tensors = {}
        self.timed: Tensors = {}  # [steps, runs]
        self.rules: dict[str, list[tuple[Any, Tensor]]] = {}  # a rule and a mask [runs]
        self.table: dict[str, list[Any]] = {}
        for name, values in lists.items():
            if isinstance(values, Tensor):
                if len(values) != steps:
                    shape = tuple(values.shape)
                    raise ValueError(f"train: {name} must be [steps, runs] with {steps} steps, got {shape}")
                values = [functools.partial(_entry, column) for column in values.float().unbind(1)]
                labels = ["schedule"] * self.count
            else:
                labels = [_label(value, len(values)) for value in values]
            repeat = self.count if len(values) == 1 else 1
            self.table[name] = labels[: self.count] * (repeat if len(labels) == 1 else 1)
            if name not in ("seed", "network"):
                self._place(name, values * repeat, steps)
        self.seeds = [int(seed) for seed in self.table["seed"]]
        self.table["seed"] = self.seeds
        self.networks = self.table.get("network", [next(iter(networks))] * self.count)
        for own in self.networks:
            if own not in networks:
                raise ValueError(f"train: network must be one of {', '.join(networks)}, got {own!r}")

    def _place(self, name: str, values: list[Any], steps: int) -> None:
        """Numbers are checked here, once: a loss cannot look at them inside `vmap`."""
        paths = {}
        for run, value in enumerate(values):
            if id(value) in paths:
                continue
            if hasattr(value, "decide"):
                paths[id(value)] = torch.full((steps,), value.first["value"])
                _check_values(name, [value.first["value"], value.lowest, value.highest], "rule's value")
                mask = torch.tensor([other is value for other in values])
                self.rules.setdefault(name, []).append((value, mask))
            elif callable(value):
                path = [float(value(step)) for step in range(steps)]
                _check_values(name, path, "value")
                paths[id(value)] = torch.tensor(path)
            else:
                _check_values(name, {run: float(value)}, "value")
        if not paths:
            self.constant[name] = torch.tensor([float(value) for value in values])
        elif len({id(value) for value in values}) == 1:
            self.timed[name] = paths[id(values[0])][:, None].expand(-1, len(values))
        else:
            columns = [paths[id(v)] if id(v) in paths else torch.full((steps,), float(v)) for v in values]
            self.timed[name] = torch.stack(columns, dim=1)

    def __len__(self) -> int:
        return self.count

    def columns(self) -> dict[str, list]:
        return self.table

    def ever(self, name: str) -> bool:
        """Is the setting anything but 0 at any time?"""
        return name in self.rules or bool(self.timed.get(name, self.constant.get(name)).any())

    def only(self, runs: list[int]) -> "_Settings":
        part = copy.copy(self)
        part.count, index = len(runs), torch.tensor(runs)
        part.seeds = [self.seeds[r] for r in runs]
        part.constant = {name: value[index] for name, value in self.constant.items()}
        part.timed = {name: value[:, index] for name, value in self.timed.items()}
        rules = {name: [(rule, mask[index]) for rule, mask in rules] for name, rules in self.rules.items()}
        part.rules = {name: own for name, all in rules.items() if (own := [one for one in all if one[1].any()])}
        part.table = part.networks = None
        return part


def _listed(value: Axis) -> list[Any] | Tensor:
    """One entry for all runs or one for each; a tensor [steps, runs] stays as it is."""
    if isinstance(value, Tensor):
        if value.ndim > 2:
            raise ValueError(f"train: a setting must be [runs] or [steps, runs], got {tuple(value.shape)}")
        return value if value.ndim == 2 else value.reshape(-1).tolist()
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _entry(path: Tensor, step: int) -> float:
    return path[step].item()


def _label(value: Any, count: int) -> Any:
    """What the table shows of a setting: a number, or, among several, the name of a schedule."""
    if not callable(value) and not hasattr(value, "decide"):
        return value
    return "schedule" if count == 1 else getattr(value, "name", getattr(value, "__name__", "schedule"))


def _check_values(name: str, values: Iterable[float] | dict[int, float], what: str) -> None:
    """The rules of the course's settings."""
    rules = {
        "temperature": ("positive and finite", lambda v: 0 < v < math.inf),
        "soft_weight": ("between 0 and 1", lambda v: 0 <= v <= 1),
    }
    rule, holds = rules.get(name, ("finite", math.isfinite))
    for i, value in values.items() if isinstance(values, dict) else enumerate(values):
        if not holds(value):
            raise ValueError(f"train: {name} must be {rule}, got {value!r} ({what} {i})")


@dataclass(frozen=True)
class _Job:
    """All that some runs need, wherever they are trained."""

    model: Model
    streams: list[tuple[Data, int]]
    loss: Loss
    settings: _Settings
    steps: int
    optimizer: str
    momentum: float
    rates: list[float]
    teacher: nn.Module | Mapping[int, nn.Module] | None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None
    evaluate: Data | None
    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]]
    every: int | None
    watch: str
    stop: Any
    engine: str
    device: str

    def only(self, runs: list[int], model: Model | None = None) -> "_Job":
        """Some of the runs, with no more of the data than they need."""
        settings = self.settings.only(runs)
        own = lambda one: {s: one[s] for s in settings.seeds} if isinstance(one, Mapping) else one  # noqa: E731
        return replace(
            self,
            model=model or self.model,
            settings=settings,
            streams=[(own(one), size) for one, size in self.streams],
            evaluate=own(self.evaluate),
            teacher=own(self.teacher),
        )


def _check_stream(data: Data) -> int:
    """The number of examples that every seed has."""
    sets = [data] if isinstance(data, Batch) else list(data.values())
    if len({len(one) for one in sets}) != 1 or not len(sets[0]):
        raise ValueError(
            f"train: every seed needs the same number of examples, at least one, got {[len(one) for one in sets]}"
        )
    for name in ("teacher_logits", "teacher_features"):
        if len({getattr(one, name) is None for one in sets}) != 1:
            raise ValueError(f"train: {name} must be there for every seed or for none")
    return len(sets[0])


class _Batches:
    """The batch of each run at each step: rows of a pool, perhaps seen anew and answered by a teacher."""

    def __init__(self, job: _Job) -> None:
        self.augment, self.device = job.augment, torch.device(job.device)
        seeds = job.settings.seeds
        self.seeds = list(dict.fromkeys(seeds))  # each once
        self.place = torch.tensor([self.seeds.index(seed) for seed in seeds], device=self.device)  # [runs]
        self.sizes = [size for _, size in job.streams]
        self.pools, self.rows = [], []  # rows: [steps, seeds, batch]
        for data, size in job.streams:
            sets = {seed: data if isinstance(data, Batch) else data[seed] for seed in self.seeds}
            # The same object is stored once: seeds that share data share memory.
            unique = list({id(one): one for one in sets.values()}.values())
            examples = len(unique[0])
            start = {id(one): i * examples for i, one in enumerate(unique)}
            rows = {s: start[id(one)] + order(examples, size, job.steps, s) for s, one in sets.items()}
            self.rows.append(torch.stack([rows[seed] for seed in self.seeds], dim=1).to(self.device))
            fields = [field for field, value in vars(unique[0]).items() if value is not None]
            joined = {k: [getattr(one, k) for one in unique] for k in fields}
            self.pools.append({k: (torch.cat(v) if len(v) > 1 else v[0]).to(self.device) for k, v in joined.items()})
        self.teacher = None
        if job.teacher is not None:
            teachers = job.teacher if isinstance(job.teacher, Mapping) else dict.fromkeys(self.seeds, job.teacher)
            copies = {id(one): copy.deepcopy(one).to(self.device).eval() for one in teachers.values()}
            self.teacher = {seed: copies[id(one)] for seed, one in teachers.items()}

    def at(self, step: int, run: int | None = None) -> list[Tensors]:
        """For each stream its fields, [runs, batch, ...]; `run` picks one run.

        Runs of one seed share a batch, so it is taken, and seen anew, once for each seed.
        """
        if run is None:
            seeds, which = self.seeds, slice(None)
        else:
            which = self.place[run : run + 1]
            seeds = [self.seeds[which.item()]]
        drawn = []
        for number, (pool, rows) in enumerate(zip(self.pools, self.rows, strict=True)):
            part = self._take(pool, rows[step, which])
            if self.augment is not None:
                views = []
                for seed, inputs in zip(seeds, part["inputs"], strict=True):
                    # A view depends on seed, stream and step alone, so a run sees the same in any company.
                    key = hashlib.sha256(f"{seed} {number} {step}".encode()).digest()
                    generator = torch.Generator(self.device).manual_seed(int.from_bytes(key[:6], "big"))
                    views.append(self.augment(inputs, generator))
                part["inputs"] = torch.stack(views)
                if self.teacher is not None:
                    answers = [
                        _teacher_logits(self.teacher[seed], view) for seed, view in zip(seeds, views, strict=True)
                    ]
                    part["teacher_logits"] = torch.stack(answers)
            if run is None and len(self.place) > len(seeds):
                part = {name: value.index_select(0, self.place) for name, value in part.items()}
            drawn.append(part)
        return drawn

    @staticmethod
    def _take(pool: Tensors, rows: Tensor) -> Tensors:
        """Rows [..., batch] of every field; a flat index is the fast one."""
        flat = rows.reshape(-1)
        return {k: v.index_select(0, flat).unflatten(0, rows.shape) for k, v in pool.items()}


class _Notes:
    """Settings of some runs at each step, and what becomes of the runs on the way: losses, curves, rules, stops."""

    def __init__(self, job: _Job, run: int | None = None) -> None:
        self.job = job if run is None else job.only([run])
        settings, device = self.job.settings, torch.device(job.device)
        self.constant = {name: value.to(device) for name, value in settings.constant.items()}
        self.timed = {name: value.to(device) for name, value in settings.timed.items()}
        like = torch.zeros(len(settings), device=device)
        self.rules = {
            name: [(rule, mask.to(device), rule.initial(like)) for rule, mask in rules]
            for name, rules in settings.rules.items()
        }
        self.stop = self.job.stop and self.job.stop.initial(like)
        self.losses: list[Tensor] = []
        self.curves: list[Tensor] = []
        self.alive, self.frozen_at, self.stopped_at = like == 0, like + torch.nan, like + torch.nan
        self.names = ("step", "loss", *job.metrics) if job.every else ()
        if job.evaluate is not None:
            tests = [job.evaluate if isinstance(job.evaluate, Batch) else job.evaluate[s] for s in settings.seeds]
            self.shared = isinstance(job.evaluate, Batch)
            stack = lambda name: torch.stack([getattr(one, name) for one in tests])  # noqa: E731
            inputs, targets = (tests[0].inputs, tests[0].targets) if self.shared else map(stack, ("inputs", "targets"))
            self.inputs, self.targets = inputs.to(device), targets.to(device)

    def settings(self, step: int) -> Tensors:
        """All settings at a step, a value a run."""
        values = self.constant | {name: path[step] for name, path in self.timed.items()}
        for name, rules in self.rules.items():
            for _, mask, state in rules:
                values[name] = torch.where(mask, state["value"], values[name])
        return values

    def add(self, step: int, losses: Tensor, finite: Tensor) -> Tensor:
        """Note the losses of a step, before its update; which runs go on: [runs]."""
        fine = self.alive & finite
        self.losses.append(torch.where(fine, losses, torch.nan))
        self.frozen_at = torch.where(self.alive & ~finite, step, self.frozen_at)
        self.alive = fine
        return fine

    def look(self, step: int, answers: Callable[[Tensor, bool], Tensor]) -> bool:
        """Measure and decide, after an update, if it is time to; False if no run goes on."""
        job = self.job
        if not job.every or ((step + 1) % job.every and step + 1 < job.steps):
            return True
        since = step % job.every + 1
        seen = {"loss": torch.stack(self.losses[-since:]).mean(0)}
        if job.evaluate is not None:
            logits = answers(self.inputs, self.shared)
            seen |= {name: metric(logits, self.targets) for name, metric in job.metrics.items()}
        now = torch.full_like(seen["loss"], step + 1)
        row = torch.stack([now, *(seen[name].to(now) for name in self.names[1:])])
        self.curves.append(torch.where(self.alive, row, torch.nan))
        for name, rules in self.rules.items():
            self.rules[name] = [(rule, mask, rule.update(state, seen[job.watch])) for rule, mask, state in rules]
        if job.stop is not None and step + 1 < job.steps:
            self.stop = job.stop.update(self.stop, seen[job.watch])
            ends = self.alive & (self.stop["value"] == 0)
            self.stopped_at = torch.where(ends, step + 1, self.stopped_at)
            self.alive = self.alive & ~ends
        return bool(self.alive.any())

    def part(self) -> Part:
        """Losses [steps, runs], curves [names, moments, runs], and where runs ended."""
        ended = torch.full((self.job.steps - len(self.losses), len(self.alive)), torch.nan)
        losses = torch.cat([torch.stack(self.losses).cpu(), ended])
        curves = (
            torch.stack(self.curves, dim=1).cpu() if self.curves else torch.empty(len(self.names), 0, len(self.alive))
        )
        marks = {"frozen_at": self.frozen_at.cpu(), "stopped_at": self.stopped_at.cpu()}
        return {"losses": losses, "curves": curves, "names": list(self.names), **marks}


def _longer(curves: Tensor, moments: int) -> Tensor:
    """Curves [names, moments, runs] with NaN for the moments that these runs did not reach."""
    return nn.functional.pad(curves, (0, 0, 0, moments - curves.shape[1]), value=math.nan)


# -- the two engines ------------------------------------------------------------------------------


def _train(job: _Job) -> Part:
    """Train the runs of a job by the engine it asks for."""
    with _one_thread():
        if job.engine == "loop":
            return _train_loop(job)
        if job.engine == "vmap":
            return _train_vmap(job)
        clock: list[float] = []
        _train_loop(replace(job.only([0]), engine="loop"), clock)
        return _train_vmap(job, limit=_fastest(clock) * len(job.settings)) or _train_loop(job)


TRIAL = 4  # steps


def _fastest(clock: list[float]) -> float:
    return min((after - before for before, after in itertools.pairwise(clock)), default=math.inf)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()  # the traced step computes gradients itself; recording its operations would only cost time
def _train_vmap(job: _Job, limit: float | None = None) -> Part | None:
    """All runs side by side; None if a step takes longer than `limit` seconds, told by the first few."""
    device, notes, batches = torch.device(job.device), _Notes(job), _Batches(job)
    made = {seed: _make(job.model, seed) for seed in batches.seeds}
    modules = [made[seed] for seed in job.settings.seeds]
    skeleton = copy.deepcopy(modules[0]).to(device)
    resting = copy.deepcopy(skeleton).eval()
    parameters, buffers = (
        {name: value.detach().clone(memory_format=torch.contiguous_format).to(device) for name, value in part.items()}
        for part in stack_module_state(modules)
    )
    update = _Optimizer(job.optimizer, job.momentum, job.settings.ever("weight_decay"), parameters)
    take_step, clock = None, []
    for step in range(job.steps):
        if limit is not None and step <= TRIAL:
            clock.append(_now(device))
            if step == TRIAL and _fastest(clock[1:]) > limit:
                return None
        hyper = notes.settings(step)
        lr, weight_decay = hyper.pop("lr") * job.rates[step], hyper.pop("weight_decay")
        drawn = batches.at(step)
        if take_step is None:
            take_step = _traced(_run_loss(skeleton, job.loss, batches.sizes), parameters, buffers, drawn, hyper)
        before = {name: value.clone() for name, value in buffers.items()}
        gradients, losses = take_step(parameters, buffers, drawn, hyper)
        finite = losses.isfinite()
        for value in gradients.values():
            finite = finite & value.reshape(len(finite), -1).sum(1).isfinite()
        alive = notes.add(step, losses, finite)
        update.step(parameters, gradients, lr, weight_decay, alive)
        for name, value in buffers.items():
            value.copy_(torch.where(_like(alive, value), value, before[name]))
        if not notes.look(step, lambda inputs, shared: _answers(resting, parameters, buffers, inputs, shared)):
            break
    states = {"parameters": parameters, "buffers": buffers}
    states = {kind: {name: value.cpu() for name, value in state.items()} for kind, state in states.items()}
    return states | notes.part() | {"engine": "vmap", "skeleton": skeleton}


def _train_loop(job: _Job, clock: list[float] | None = None) -> Part:
    """The tutorial's loop with torch's own optimisers: slow, and the oracle of the tests. A clock ends it early."""
    device, batches = torch.device(job.device), _Batches(job)
    modules, parts = [], []
    for run, seed in enumerate(job.settings.seeds):
        module, notes = _make(job.model, seed).to(device), _Notes(job, run)
        if job.optimizer == "adam":
            torch_optimizer = torch.optim.AdamW(module.parameters())
        else:
            torch_optimizer = torch.optim.SGD(module.parameters(), momentum=job.momentum)

        def answers(inputs: Tensor, shared: bool, module: nn.Module = module) -> Tensor:
            return _teacher_logits(module, inputs if shared else inputs[0])[None]

        for step in range(job.steps if clock is None else min(job.steps, TRIAL)):
            if clock is not None:
                clock.append(_now(device))
            hyper = {name: value[0] for name, value in notes.settings(step).items()}
            lr, weight_decay = float(hyper.pop("lr")) * job.rates[step], float(hyper.pop("weight_decay"))
            drawn = [{k: v[0] for k, v in part.items()} for part in batches.at(step, run)]
            before = copy.deepcopy(module.state_dict())
            value = _mean_loss(module, job.loss, drawn, batches.sizes, hyper)
            torch_optimizer.zero_grad()
            value.backward()
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            finite = torch.stack([t.detach().isfinite().all() for t in [value, *gradients]]).all()
            if not notes.add(step, value.detach()[None], finite[None]):
                module.load_state_dict(before)
                break
            for group in torch_optimizer.param_groups:
                group["lr"], group["weight_decay"] = lr, weight_decay
            torch_optimizer.step()
            if not notes.look(step, answers):
                break
        modules.append(module)
        parts.append(notes.part())
    moments = max(part["curves"].shape[1] for part in parts)
    for part in parts:
        part["curves"] = _longer(part["curves"], moments)
    parameters, buffers = (
        {name: value.detach().cpu() for name, value in part.items()} for part in stack_module_state(modules)
    )
    joined = {k: torch.cat([part[k] for part in parts], -1) for k in parts[0] if k != "names"}
    states = {"parameters": parameters, "buffers": buffers, "names": parts[0]["names"]}
    return states | joined | {"engine": "loop", "skeleton": copy.deepcopy(modules[0])}


def _run_loss(skeleton: nn.Module, loss: Loss, sizes: list[int]):
    """The mean loss of one run as a function of its parameters."""

    def run_loss(parameters: Tensors, buffers: Tensors, drawn: list[Tensors], hyper: Tensors):
        def network(inputs: Tensor) -> Tensor:
            return functional_call(skeleton, (parameters, buffers), (inputs,))

        return _mean_loss(network, loss, drawn, sizes, hyper)

    return run_loss


def _traced(run_loss, parameters: Tensors, buffers: Tensors, drawn: list[Tensors], hyper: Tensors):
    """A step of all runs, written down once; where that fails, as it is."""
    gradient = vmap(grad_and_value(run_loss))
    # On copies: a module's buffers are written in place, and tracing must not count as a step.
    copies = {name: value.clone() for name, value in buffers.items()}
    try:
        with _making:
            # "fake": shapes alone go through the step, once; with real tensors each operation would cost a new mode.
            trace = make_fx(gradient, tracing_mode="fake", _allow_non_fake_inputs=True)
            return _tidied(trace(parameters, copies, drawn, hyper))
    except (ValueError, TypeError):
        raise
    except RuntimeError as error:
        if "randomness" in str(error):
            raise ValueError(
                "train: model and loss must not draw from the global random numbers, which runs would share; "
                'take models.SeededDropout for dropout, or engine="loop"'
            ) from error
        return gradient


def _tidied(step: GraphModule) -> GraphModule:
    """The same step in fewer and faster operations."""
    aten, graph = torch.ops.aten, step.graph
    views = (aten.view.default, aten._unsafe_view.default)
    in_order = any(node.target is aten.as_strided.default for node in graph.nodes)  # counts on the order in memory
    for node in graph.nodes:
        same = None
        if node.target in (*views, aten.alias.default, aten.expand.default):
            # A fifth of all operations return their argument as it is.
            if node.args[0].meta["val"].shape == node.meta["val"].shape:
                same = node.args[0]
            elif node.target in views:
                node.target = aten.reshape.default
        elif node.target is aten.permute.default and node.args[0].target is aten.permute.default:
            inner, outer = node.args[0].args[1], node.args[1]
            if [inner[axis] for axis in outer] == list(range(len(outer))):
                same = node.args[0].args[0]
        elif node.target is aten.mul.Scalar and node.args[1] == 1:  # from `addmm`
            same = node.args[0]
        elif node.target is aten.bmm.default and node.meta["val"].shape[-1] < 16 and not in_order:
            # A narrow product, such as that of a last layer, takes a CPU a third of the time as its transpose.
            with graph.inserting_before(node):
                left, right = (graph.call_function(aten.transpose.int, (factor, 1, 2)) for factor in node.args)
                turned = graph.call_function(aten.bmm.default, (right, left))
                same = graph.call_function(aten.transpose.int, (turned, 1, 2))
            same.meta = node.meta
        if same is not None:
            node.replace_all_uses_with(same)
            graph.erase_node(node)
    for node in reversed(graph.nodes):
        if node.target in (aten.permute.default, aten.select.int) and not node.users:
            graph.erase_node(node)
    step.recompile()
    return step


def _mean_loss(network, loss: Loss, drawn: list[Tensors], sizes: list[int], hyper: Tensors):
    """The mean of each stream, added; the network sees both streams in one forward pass."""
    fields = {name: [part.get(name) for part in drawn] for name in drawn[0] | drawn[-1]}
    missing = [name for name, parts in fields.items() if any(part is None for part in parts)]
    if missing:
        raise ValueError(f"train: data and transfer must both have {', '.join(missing)}, or none")
    merged = {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in fields.items()}
    if len(sizes) > 1:
        merged["labelled"] = torch.arange(sum(sizes), device=merged["inputs"].device) < sizes[0]
    output = network(merged["inputs"])
    logits = output[0] if isinstance(output, tuple) else output
    if logits.ndim != 2:
        raise ValueError(f"train: the model must map a batch to [batch, classes], got {tuple(logits.shape)}")
    losses = loss(output, Batch.trusted(**merged), **hyper)
    if losses.shape != logits.shape[:1]:
        raise ValueError(
            f"train: the loss must return one number for each of {len(logits)} examples, got shape "
            f"{tuple(losses.shape)}"
        )
    return losses.mean() if len(sizes) == 1 else sum(part.mean() for part in losses.split(sizes))


class _Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), and SGD.

    Every run has its own learning rate and weight decay, which torch.optim cannot do for stacked parameters: torch's
    Adam makes the step of rate 1, and each run goes its own share of it. A run that is not alive does not move.
    """

    def __init__(self, name: str, momentum: float, decays: bool, parameters: Tensors) -> None:
        self.name, self.momentum, self.decays = name, momentum, decays
        self.first = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.second, self.unit_step = ({k: torch.zeros_like(v) for k, v in parameters.items()} for _ in range(2))
        self.counts = [torch.zeros((), device=value.device) for value in parameters.values()]

    def step(self, parameters: Tensors, gradients: Tensors, lr: Tensor, weight_decay: Tensor, alive: Tensor) -> None:
        lr = lr * alive
        # `torch.where` on every gradient would cost more than Adam itself; but to look at `alive` would stall a GPU.
        if alive.is_cuda or not alive.all():
            gradients = {name: torch.where(_like(alive, grad), grad, 0.0) for name, grad in gradients.items()}
        if self.name == "adam":
            states = [[state[name] for name in parameters] for state in (self.first, self.second)]
            steps = [self.unit_step[name].zero_() for name in parameters]
            # The fused kernel walks through memory and looks at no strides.
            grads = [gradients[name].contiguous() for name in parameters]
            adam(steps, grads, *states, [], self.counts, fused=True, **ADAM)
        for name, parameter in parameters.items():
            rate = _like(lr, parameter)
            if self.name == "adam":
                if self.decays:
                    parameter.mul_(1 - rate * _like(weight_decay, parameter))
                parameter.addcmul_(self.unit_step[name], rate)
            else:
                grad = gradients[name] + _like(weight_decay, parameter) * parameter if self.decays else gradients[name]
                parameter.sub_(rate * self.first[name].mul_(self.momentum).add_(grad))


ADAM = {"lr": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    """One value a run, [runs], shaped to broadcast against a stacked parameter [runs, ...]."""
    return values.view(-1, *[1] * (parameter.ndim - 1))


def _answers(skeleton: nn.Module, parameters: Tensors, buffers: Tensors, inputs: Tensor, shared: bool) -> Tensor:
    """Logits [runs, n, classes] of stacked students; `inputs` are [n, ...], or [runs, n, ...] if not shared."""

    def answer(parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor:
        output = functional_call(skeleton, (parameters, buffers), (inputs,))
        return output[0] if isinstance(output, tuple) else output

    with torch.no_grad():
        device = next(iter(parameters.values())).device
        # A few runs at a time: what stays in the cache is twice as fast as what needs fresh memory.
        side_by_side = vmap(answer, in_dims=(0, 0, None if shared else 0), chunk_size=16)
        return side_by_side(parameters, buffers, inputs.to(device))


def _teacher_logits(module: nn.Module, inputs: Tensor) -> Tensor:
    """Logits of one module in evaluation mode, without a gradient; its mode is restored."""
    was_training = module.training
    with torch.no_grad():
        output = module.eval()(inputs)
    module.train(was_training)
    return output[0] if isinstance(output, tuple) else output


def _taught(data: Data, teacher: nn.Module | Mapping[int, nn.Module], seeds: list[int]) -> Data:
    """Data with the teacher's logits: inputs that never change are answered once."""
    if isinstance(data, Batch) and isinstance(teacher, nn.Module):
        return data.with_teacher(_teacher_logits(teacher, data.inputs))
    done: dict[tuple[int, int], Batch] = {}
    taught = {}
    for seed in seeds:
        batch = data if isinstance(data, Batch) else data[seed]
        module = teacher if isinstance(teacher, nn.Module) else teacher[seed]
        key = id(batch), id(module)
        done[key] = done.get(key) or batch.with_teacher(_teacher_logits(module, batch.inputs))
        taught[seed] = done[key]
    return taught


_making = threading.RLock()  # seeds of new modules and tracing are global; an executor may use threads


def _make(model: Model, seed: int) -> nn.Module:
    with _making, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model()


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread costs more than it gives where single operations take microseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
