"""One loop for any loss: many students, each with its own seed and settings, trained side by side.

`train(..., engine="loop")` is the loop of every tutorial, one student after the other.
`engine="vmap"` takes the same steps for all students at once: a step is one computation over
stacked parameters, written down once and replayed. Both give the same numbers, to rounding.
The loop knows no method: what is trained is the loss's business.
"""

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from kdcourse.data import Batch

if TYPE_CHECKING:
    from pandas import DataFrame

Loss = Callable[..., Tensor]
Axis = float | Iterable[float] | Tensor | Callable[[int], float]
Tensors = dict[str, Tensor]


def train(
    model: Callable[[], nn.Module],
    data: Batch | Mapping[int, Batch],
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
    transfer: Batch | Mapping[int, Batch] | None = None,
    transfer_batch: int = 128,
    chunk: int = 160,
    engine: str = "vmap",
    device: str | torch.device | None = None,
    progress: bool = False,
    **hyper: Axis,
) -> "Students":
    """Train a batch of students; student r has the r-th seed, learning rate, temperature, ...

    model     makes one nn.Module that maps [batch, ...] to [batch, classes]; called once a run,
              after `torch.manual_seed(seed)`.
    data      a Batch, or {seed: Batch} where each seed has its own data, all of one length.
    loss      loss(logits, batch, **hyper) -> [batch] for ONE run, in ordinary PyTorch; the loop
              takes the mean.
    seeds, lr, weight_decay, **hyper    a number for all runs, one value a run, or (not for seeds)
              a schedule: a function of the step. `grid` makes the product of several lists.
    steps     optimiser steps; or `epochs`, passes over the data. Equal seeds share initial
              parameters and the order of the examples, so that runs differ in one thing only.
    optimizer "adam" (weight decay decoupled, as in AdamW) or "sgd" (with `momentum`); the
              learning rate of a step is lr * lr_schedule(step).
    transfer  a second stream: each step also draws `transfer_batch` of these examples, the loss
              sees all rows and `batch.labelled`, and the means of the two streams are added.
    chunk     runs trained together; results do not depend on it beyond rounding.

    A run whose loss or gradient stops being finite keeps the parameters that it had before that
    step; column `frozen_at` of the table names the step.
    """
    counts = {"batch": batch, "transfer_batch": transfer_batch, "chunk": chunk}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"train: {name} must be at least 1, got {value}")
    streams = [_Stream(data, batch)]
    if transfer is not None:
        streams.append(_Stream(transfer, transfer_batch))
    if (steps is None) == (epochs is None):
        raise ValueError(f"train: give either steps or epochs, got {steps=} and {epochs=}")
    if steps is None:
        steps = math.ceil(epochs * streams[0].examples / batch)
    if steps < 1:
        raise ValueError(f"train: steps must be at least 1, got {steps}")
    for name, value, known in (
        ("engine", engine, ("vmap", "loop")),
        ("optimizer", optimizer, ("adam", "sgd")),
    ):
        if value not in known:
            raise ValueError(f"train: {name} must be one of {', '.join(known)}, got {value!r}")

    settings = {"seed": seeds, "lr": lr, "weight_decay": weight_decay, **hyper}
    runs = _Runs(settings, steps)
    for stream in streams:
        stream.draw(runs.seeds, steps)
    device = torch.device(device or "cpu")
    run_chunk = {"vmap": _train_vmap, "loop": _train_loop}[engine]
    parts = []
    with _one_thread():
        for rows in _progress(range(len(runs)), chunk, progress):
            parts.append(
                run_chunk(
                    model, streams, loss, runs, rows, optimizer, momentum, lr_schedule, device
                )
            )
    parameters, buffers = (
        {name: torch.cat([part[i][name] for part in parts]) for name in parts[0][i]} for i in (0, 1)
    )
    curves = torch.cat([part[2] for part in parts], dim=1)
    skeleton = parts[0][3].eval()
    return Students(skeleton, parameters, buffers, curves, runs.columns())


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

    `table` has a row for each: its settings, the loss of its last step, `frozen_at`.
    `losses` is [steps, runs], the training loss of each step.
    """

    def __init__(
        self, skeleton: nn.Module, parameters: Tensors, buffers: Tensors, losses: Tensor, columns
    ) -> None:
        self.skeleton, self.parameters, self.buffers, self.losses = (
            skeleton, parameters, buffers, losses,
        )  # fmt: skip
        broken = ~losses.isfinite()
        first = torch.where(broken.any(0), broken.float().argmax(0), torch.nan)
        self.columns = columns | {"loss": losses[-1], "frozen_at": first}
        if broken.any():
            runs = broken.any(0).nonzero().flatten().tolist()
            warnings.warn(
                f"train: loss or gradient was not finite in {len(runs)} of {len(self)} runs, which "
                f"keep their last parameters (column frozen_at): runs {runs[:10]}",
                stacklevel=3,
            )

    def __len__(self) -> int:
        return self.losses.shape[1]

    def __getitem__(self, run: int) -> nn.Module:
        module = copy.deepcopy(self.skeleton)
        state = {name: value[run] for name, value in (self.parameters | self.buffers).items()}
        module.load_state_dict(state)
        return module

    @property
    def table(self) -> "DataFrame":
        """One row for each run (needs pandas)."""
        from pandas import DataFrame

        return DataFrame(
            {k: v.tolist() if isinstance(v, Tensor) else v for k, v in self.columns.items()}
        )

    def logits(self, inputs: Tensor | Mapping[int, Tensor]) -> Tensor:
        """Answers of all students in evaluation mode: [runs, n, classes].

        `inputs` are [n, ...] for all students, or {seed: [n, ...]}.
        """
        shared = isinstance(inputs, Tensor)
        if not shared:
            inputs = torch.stack([inputs[seed] for seed in self.columns["seed"]])

        def answer(parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor:
            return functional_call(self.skeleton, (parameters, buffers), (inputs,))

        with torch.no_grad(), _one_thread():
            device = next(iter(self.parameters.values())).device
            stacked = vmap(answer, in_dims=(0, 0, None if shared else 0))
            return stacked(self.parameters, self.buffers, inputs.to(device)).cpu()


class _Runs:
    """The settings of each run: columns of one length, or functions of the step."""

    def __init__(self, settings: dict[str, Axis], steps: int) -> None:
        settings = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in settings.items()}
        self.schedules = {k: v for k, v in settings.items() if callable(v)}
        lists = {k: list(v) for k, v in settings.items() if isinstance(v, Iterable)}
        lengths = {k: len(v) for k, v in lists.items() if len(v) != 1}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise ValueError(
                f"train: settings with a value for each run must agree in length, got {lengths}"
            )
        self.count = max(lengths.values(), default=1)
        self.settings: dict[str, list[float]] = {}
        for name, value in settings.items():
            if name not in self.schedules:
                column = lists.get(name, [value])
                self.settings[name] = list(column) * (self.count if len(column) == 1 else 1)
        self.seeds = [int(seed) for seed in self.settings.pop("seed")]
        for name, column in self.settings.items():
            _check_values(name, column)
        self.scheduled = {
            name: torch.tensor([float(schedule(step)) for step in range(steps)])
            for name, schedule in self.schedules.items()
        }
        for name, values in self.scheduled.items():
            _check_values(name, values.tolist())
        self.steps = steps

    def __len__(self) -> int:
        return self.count

    def columns(self) -> dict[str, list]:
        scheduled = {name: ["schedule"] * self.count for name in self.schedules}
        return {"seed": self.seeds} | self.settings | scheduled

    def constant(self, rows: range, device: torch.device) -> Tensors:
        return {
            name: torch.tensor([float(column[r]) for r in rows], device=device)
            for name, column in self.settings.items()
        }

    def at(self, step: int, constant: Tensors) -> Tensors:
        """All settings at a step, a value a run; `constant` holds those that never change."""
        if not self.scheduled:
            return constant
        like = next(iter(constant.values()), torch.empty(self.count))
        return constant | {k: v[step].to(like).expand_as(like) for k, v in self.scheduled.items()}


class _Stream:
    """Data of all seeds in one pool of rows, and which rows each seed draws at each step."""

    def __init__(self, data: Batch | Mapping[int, Batch], batch: int) -> None:
        self.data, self.batch = data, batch
        sets = [data] if isinstance(data, Batch) else list(data.values())
        if len({len(one) for one in sets}) != 1 or not len(sets[0]):
            raise ValueError(
                "train: every seed needs the same number of examples, at least one, got "
                f"{[len(one) for one in sets]}"
            )
        if len({one.teacher_logits is None for one in sets}) != 1:
            raise ValueError("train: teacher_logits must be there for every seed or for none")
        self.examples = len(sets[0])
        # The same object is stored once: seeds that share data share memory.
        unique = list({id(one): one for one in sets}.values())
        self.start = {id(one): i * self.examples for i, one in enumerate(unique)}
        self.pool = {
            name: torch.cat([getattr(one, name) for one in unique])
            for name in ("inputs", "targets", "teacher_logits")
            if getattr(sets[0], name) is not None
        }

    def draw(self, seeds: list[int], steps: int) -> None:
        self.rows = {}
        for seed in dict.fromkeys(seeds):
            if not isinstance(self.data, Batch) and seed not in self.data:
                raise ValueError(f"train: data has no seed {seed}, only {sorted(self.data)}")
            own = self.data if isinstance(self.data, Batch) else self.data[seed]
            self.rows[seed] = self.start[id(own)] + order(self.examples, self.batch, steps, seed)

    def rows_of(self, seeds: list[int]) -> Tensor:
        """[steps, runs, batch]"""
        return torch.stack([self.rows[seed] for seed in seeds], dim=1)

    def take(self, pool: Tensors, rows: Tensor) -> Tensors:
        """Rows [..., batch] of every field; a flat index is the fast one."""
        flat = rows.reshape(-1)
        return {k: v.index_select(0, flat).unflatten(0, rows.shape) for k, v in pool.items()}


def _train_vmap(model, streams, loss, runs, rows, optimizer, momentum, lr_schedule, device):
    modules = [_make(model, runs.seeds[r]) for r in rows]
    skeleton = copy.deepcopy(modules[0]).to(device)
    parameters, buffers = (
        {name: value.detach().clone().to(device) for name, value in part.items()}
        for part in stack_module_state(modules)
    )
    gradient = vmap(grad_and_value(_run_loss(skeleton, loss, [s.batch for s in streams])))
    constant = runs.constant(rows, device)
    pools = [{k: v.to(device) for k, v in stream.pool.items()} for stream in streams]
    indices = [stream.rows_of([runs.seeds[r] for r in rows]).to(device) for stream in streams]
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    stepper = _Optimizer(optimizer, momentum, parameters)
    curve = []

    def batch_at(step: int) -> list[Tensors]:
        drawn = zip(streams, pools, indices, strict=True)
        return [stream.take(pool, index[step]) for stream, pool, index in drawn]

    hyper = runs.at(0, constant)
    extra = {name: value for name, value in hyper.items() if name not in ("lr", "weight_decay")}
    # Traced on copies: a module's buffers are written in place, and tracing must not count as a
    # step.
    copies = {name: value.clone() for name, value in buffers.items()}
    traced = make_fx(gradient)(parameters, copies, batch_at(0), extra)
    for step in range(runs.steps):
        hyper = runs.at(step, constant)
        extra = {name: hyper[name] for name in extra}
        before = {name: value.clone() for name, value in buffers.items()}
        gradients, losses = traced(parameters, buffers, batch_at(step), extra)
        finite = losses.isfinite()
        for value in gradients.values():
            finite = finite & value.flatten(1).sum(1).isfinite()
        curve.append(torch.where(alive & finite, losses, torch.nan))
        alive = alive & finite
        rate = hyper["lr"] * (lr_schedule(step) if lr_schedule else 1.0)
        stepper.step(parameters, gradients, rate, hyper["weight_decay"], alive)
        for name, value in buffers.items():
            value.copy_(torch.where(_like(alive, value), value, before[name]))
    return parameters, buffers, torch.stack(curve).cpu(), skeleton


def _train_loop(model, streams, loss, runs, rows, optimizer, momentum, lr_schedule, device):
    """The tutorial's loop with torch's own optimisers: slow, and the oracle of the tests."""
    constant = runs.constant(rows, device)
    states, curves = [], []
    for i, r in enumerate(rows):
        module = _make(model, runs.seeds[r]).to(device)
        decay = float(constant["weight_decay"][i]) if "weight_decay" in constant else 0.0
        if optimizer == "adam":
            torch_optimizer = torch.optim.AdamW(module.parameters(), weight_decay=decay)
        else:
            torch_optimizer = torch.optim.SGD(
                module.parameters(), momentum=momentum, weight_decay=decay
            )
        indices = [stream.rows[runs.seeds[r]] for stream in streams]
        names = [name for name in runs.columns() if name not in ("seed", "lr", "weight_decay")]
        curve = []
        for step in range(runs.steps):
            hyper = {name: value[i] for name, value in runs.at(step, constant).items()}
            drawn = [
                {k: v.to(device) for k, v in stream.take(stream.pool, index[step]).items()}
                for stream, index in zip(streams, indices, strict=True)
            ]
            before = copy.deepcopy(module.state_dict())
            value = _mean_loss(
                module, loss, drawn, [s.batch for s in streams], {k: hyper[k] for k in names}
            )
            torch_optimizer.zero_grad()
            value.backward()
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if not all(t.isfinite().all() for t in [value, *gradients]):
                module.load_state_dict(before)
                curve += [torch.tensor(torch.nan)] * (runs.steps - step)
                break
            for group in torch_optimizer.param_groups:
                group["lr"] = float(hyper["lr"]) * (lr_schedule(step) if lr_schedule else 1.0)
                group["weight_decay"] = float(hyper["weight_decay"])
            torch_optimizer.step()
            curve.append(value.detach().cpu())
        states.append(module)
        curves.append(torch.stack(curve))
    parameters, buffers = (
        {name: value.detach() for name, value in part.items()}
        for part in stack_module_state(states)
    )
    return parameters, buffers, torch.stack(curves, dim=1), copy.deepcopy(states[0])


def _run_loss(skeleton: nn.Module, loss: Loss, sizes: list[int]):
    """The mean loss of one run as a function of its parameters."""

    def run_loss(parameters: Tensors, buffers: Tensors, drawn: list[Tensors], hyper: Tensors):
        def network(inputs: Tensor) -> Tensor:
            return functional_call(skeleton, (parameters, buffers), (inputs,))

        return _mean_loss(network, loss, drawn, sizes, hyper)

    return run_loss


def _mean_loss(network, loss: Loss, drawn: list[Tensors], sizes: list[int], hyper: Tensors):
    """The mean of each stream, added; the network sees both streams in one forward pass."""
    fields = {name: [part.get(name) for part in drawn] for name in drawn[0] | drawn[-1]}
    missing = [name for name, parts in fields.items() if any(part is None for part in parts)]
    if missing:
        raise ValueError(f"train: data and transfer must both have {', '.join(missing)}, or none")
    merged = {name: torch.cat(parts) for name, parts in fields.items()}
    if len(sizes) > 1:
        merged["labelled"] = torch.arange(sum(sizes), device=merged["inputs"].device) < sizes[0]
    logits = network(merged["inputs"])
    if logits.ndim != 2:
        raise ValueError(
            f"train: the model must map a batch to [batch, classes], got {tuple(logits.shape)}"
        )
    losses = loss(logits, Batch.trusted(**merged), **hyper)
    if losses.shape != logits.shape[:1]:
        raise ValueError(
            f"train: the loss must return one number for each of {len(logits)} examples, got shape "
            f"{tuple(losses.shape)}"
        )
    return sum(part.mean() for part in losses.split(sizes))


class _Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1; decay as in Loshchilov and Hutter 2019) and SGD.

    Every run has its own learning rate and weight decay, which torch.optim cannot do for stacked
    parameters. A run that is not alive does not move.
    """

    def __init__(self, name: str, momentum: float, parameters: Tensors) -> None:
        self.name, self.momentum, self.count = name, momentum, 0
        self.first = {k: torch.zeros_like(v) for k, v in parameters.items()}
        self.second = {k: torch.zeros_like(v) for k, v in parameters.items()}

    def step(
        self, parameters: Tensors, gradients: Tensors, lr: Tensor, weight_decay: Tensor, alive
    ) -> None:
        self.count += 1
        lr = lr * alive
        broken = not alive.all()  # `torch.where` on every gradient would cost more than Adam itself
        decays = bool(weight_decay.any())
        for name, parameter in parameters.items():
            grad = gradients[name]
            if broken:
                grad = torch.where(_like(alive, parameter), grad, 0.0)
            rate, decay = _like(lr, parameter), _like(weight_decay, parameter)
            first, second = self.first[name], self.second[name]
            if self.name == "sgd":
                if decays:
                    grad = grad + decay * parameter
                first.mul_(self.momentum).add_(grad)
                parameter.sub_(rate * first)
                continue
            if decays:
                parameter.mul_(1 - rate * decay)
            first.lerp_(grad, 0.1)
            second.mul_(0.999).addcmul_(grad, grad, value=0.001)
            scale = second.div(1 - 0.999**self.count).sqrt_().add_(1e-8)
            parameter.sub_(first.div(scale).mul_(rate / (1 - 0.9**self.count)))


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    """One value a run, [runs], shaped to broadcast against a stacked parameter [runs, ...]."""
    return values.view(-1, *[1] * (parameter.ndim - 1))


def _make(model: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model()


def _check_values(name: str, values: list[float]) -> None:
    """The rules of the course's settings; a loss cannot look at values inside `vmap`."""
    rules = {
        "temperature": ("positive and finite", lambda v: 0 < v < math.inf),
        "soft_weight": ("between 0 and 1", lambda v: 0 <= v <= 1),
    }
    rule, holds = rules.get(name, ("finite", math.isfinite))
    for run, value in enumerate(values):
        if not holds(value):
            raise ValueError(f"train: {name} must be {rule}, got {value!r} (value {run})")


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread costs more than it gives where single operations take microseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _progress(runs: range, chunk: int, shown: bool) -> Iterator[range]:
    chunks = [runs[i : i + chunk] for i in range(0, len(runs), chunk)]
    if shown:
        from tqdm import tqdm

        return iter(tqdm(chunks, desc="train", unit="chunk"))
    return iter(chunks)
