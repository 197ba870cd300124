"""What the engine and the losses cost, beside the code that everybody writes.

One thread, CPU time, medians of repeats in which the competitors take turns: numbers hold on a
machine that is busy with something else. Prints two tables and writes benchmarks/latest.json, a list
of rows: `name`, `ratio` (how many times the other takes as long), `cpu_seconds` (ours),
`other_cpu_seconds`, `compared_with`, `remark`, `versions`. The rows `runs N` compare N students in a
process of their own with a step that does its matrix products alone, at the machine's peak; they have
`peak_megabytes`, what training added to the process, and `milliseconds_per_run` besides.
"""

import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from operator import truediv
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import numpy
import torch
import torch.nn.functional as F
from grading import grade_500
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from kdcourse.data import Batch, digits, split
from kdcourse.losses import distillation_loss, hard_loss
from kdcourse.metrics import accuracy
from kdcourse.models import convnet, count_parameters, mlp
from kdcourse.softmax import tempered_softmax
from kdcourse.training import Model, grid, order, train

torch.set_num_threads(1)
SEEDS, TEMPERATURES = range(10), [float(2 ** (k / 3)) for k in range(16)]  # 1 to 32
EPOCHS, BATCH, LR, SOFT_WEIGHT = 20, 64, 3e-3, 0.9
REPEATS, SAMPLED = 7, 4
LATEST = Path(__file__).parent / "latest.json"
VERSIONS = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "numpy": numpy.__version__,
    "machine": platform.machine(),
}


def cpu_seconds(run: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def row(name: str, ours: list[float], other: list[float], compared_with: str, remark: str) -> dict:
    return {
        "name": name,
        # Repeat by repeat: what slows one competitor down slows its neighbour in time as well.
        "ratio": float(f"{statistics.median(map(truediv, other, ours)):.3g}"),
        "cpu_seconds": float(f"{statistics.median(ours):.4g}"),
        "other_cpu_seconds": float(f"{statistics.median(other):.4g}"),
        "compared_with": compared_with,
        "remark": remark,
        "versions": VERSIONS,
    }


# -- 160 students ---------------------------------------------------------------------------------


student = partial(mlp, 64, 16, 10)
small_convnet = partial(convnet, channels=1, size=8, width=8)


def distil(logits: Tensor, batch: Batch, temperature: Tensor, soft_weight: Tensor) -> Tensor:
    return distillation_loss(
        logits, batch.teacher_logits, batch.targets, temperature=temperature, soft_weight=soft_weight
    )


def kd_loss(logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The loss of every tutorial, composed from torch.nn.functional."""
    soft = F.kl_div(
        F.log_softmax(logits / temperature, dim=-1),
        F.softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
    )
    hard = F.cross_entropy(logits, targets)
    return SOFT_WEIGHT * temperature**2 * soft + (1 - SOFT_WEIGHT) * hard


def engine(model: Model, data: Batch, teacher: nn.Module, test: Batch, runs: dict) -> Tensor:
    """Logits [runs, n, classes] of all students; the teacher answers once."""
    settings = {"lr": LR, "epochs": EPOCHS, "batch": BATCH, "soft_weight": SOFT_WEIGHT}
    return train(model, data, distil, teacher=teacher, **runs, **settings).logits(test.inputs)


def tutorial(make: Model, data: Batch, teacher: nn.Module, test: Batch, seed: int, temperature: float) -> Tensor:
    """Logits [n, classes] of one student: DataLoader, and the teacher in every step."""
    torch.manual_seed(seed)
    model = make()
    adam = torch.optim.Adam(model.parameters(), lr=LR)
    # The rows of the engine instead of shuffle=True, so that the answers can be compared.
    loader = DataLoader(TensorDataset(data.inputs, data.targets), batch_sampler=rows(data, seed))
    for inputs, targets in loader:
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        loss = kd_loss(model(inputs), teacher_logits, targets, temperature)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.inference_mode():
        return model.eval()(test.inputs)


def cached(make: Model, data: Batch, teacher: nn.Module, test: Batch, seed: int, temperature: float) -> Tensor:
    """The same with what a careful programmer changes first: the teacher answers once, and rows are
    taken from tensors."""
    torch.manual_seed(seed)
    model = make()
    adam = torch.optim.Adam(model.parameters(), lr=LR)
    with torch.inference_mode():
        answers = teacher(data.inputs)
    answers = answers.clone()
    for index in torch.tensor(rows(data, seed)):
        loss = kd_loss(model(data.inputs[index]), answers[index], data.targets[index], temperature)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.inference_mode():
        return model.eval()(test.inputs)


def rows(data: Batch, seed: int) -> list[list[int]]:
    steps = -(-EPOCHS * len(data) // BATCH)
    return order(len(data), BATCH, steps, seed).tolist()


def a_task() -> tuple[Batch, nn.Module, Batch]:
    """Training digits, a teacher of 256 hidden units, test digits."""
    data, test = split(digits(), [1000, 797], seed=0)
    labels = lambda logits, batch: hard_loss(logits, batch.targets)  # noqa: E731
    return data, train(lambda: mlp(64, 256, 10), data, labels, epochs=30, engine="loop")[0], test


def images(data: Batch, teacher: nn.Module) -> tuple[Batch, nn.Module]:
    """The same as images, [n, 1, 8, 8]."""
    return Batch(data.inputs.unflatten(1, (1, 8, 8)), data.targets), nn.Sequential(nn.Flatten(), teacher)


def sweeps() -> list[dict]:
    data, teacher, test = a_task()
    pictures, seeing = images(data, teacher)
    wide, narrow = grid(temperature=TEMPERATURES, seeds=SEEDS), grid(temperature=TEMPERATURES[::4], seeds=SEEDS)
    flat = data, teacher, test
    seen = pictures, seeing, images(test, teacher)[0]
    tutorial_text = "the tutorial's loop: DataLoader, teacher (64-256-10) in every step, F.kl_div, Adam"
    cached_text = "the same loop with the teacher's logits cached and rows taken from tensors"
    return [
        *sweep("sweep_160", student, flat, wide, {"": (tutorial, tutorial_text), "_cached": (cached, cached_text)}),
        *sweep("convnet_40", small_convnet, seen, narrow, {"": (tutorial, tutorial_text)}),
    ]


def sweep(name: str, model: Model, task: tuple, runs: dict, loops: dict) -> list[dict]:
    """The engine beside each of the loops, which train some of the students in each repeat."""
    count, test = len(runs["seeds"]), task[2]
    engine(model, *task, grid(temperature=[1.0], seeds=[0]))  # first call: imports
    ours: list[float] = []
    others: dict[str, list[float]] = {suffix: [] for suffix in loops}
    worst = 0.0
    for repeat in range(REPEATS):
        spent, together = cpu_seconds(lambda: engine(model, *task, runs))
        ours.append(spent)
        for suffix, (loop, _) in loops.items():
            spent = 0.0
            # Other students in each repeat, spread over seeds and temperatures.
            for run in range(repeat, count, -(-count // SAMPLED)):
                settings = (runs["seeds"][run], runs["temperature"][run])
                one, logits = cpu_seconds(lambda s=settings, f=loop: f(model, *task, *s))
                spent += one
                gap = accuracy(logits, test.targets) - accuracy(together[run], test.targets)
                worst = max(worst, abs(gap.item()) * len(test))
            others[suffix].append(spent * count / SAMPLED)
    if worst > 1.01:
        sys.exit(f"bench: {name}: accuracies differ by {worst:.1f} of {len(test)} images, 1 is allowed")
    remark = (
        f"{count} students of {count_parameters(model())} parameters, {count // len(SEEDS)} temperatures x "
        f"{len(SEEDS)} seeds, batch {BATCH}, {EPOCHS} epochs of {len(task[0])} digits; the loop is measured on "
        f"{SAMPLED} students in each of {REPEATS} repeats and scaled to {count}; accuracies differ by at most "
        f"{worst:.0f} of {len(test)} test images"
    )
    return [row(name + suffix, ours, others[suffix], text, remark) for suffix, (_, text) in loops.items()]


# -- from 1 to 640 students -----------------------------------------------------------------------


def growth() -> list[dict]:
    """Each number of students in two processes of its own, so that memory and the first call's cost are its own."""
    task = a_task()
    flops, peak = matrix_flops(task[0]), peak_flops()
    table = []
    for count in (1, 10, 40, 160, 640):
        seconds, megabytes = zip(*(in_new_process(train_alone, count, task) for _ in range(2)), strict=True)
        products = [count * flops / peak] * len(seconds)
        table.append(
            row(f"runs {count}", seconds, products, f"its matrix products alone at {peak / 1e9:.0f} GFLOP/s", GROWTH)
            | {
                "peak_megabytes": round(max(megabytes)),
                "milliseconds_per_run": float(f"{1e3 * statistics.median(seconds) / count:.4g}"),
            }
        )
    return table


GROWTH = (
    "sweep_160 with other numbers of students, each in a process of its own; ratio 1 would be a step of nothing but "
    "matrix products at the peak of this machine, measured on matrices of 1024 x 1024"
)


def in_new_process(function: Callable, *arguments: object) -> object:
    # Not "spawn": Linux counts the parent's memory at that moment as the child's peak.
    with multiprocessing.get_context("forkserver").Pool(1) as alone:
        return alone.apply(function, arguments)


def train_alone(count: int, task: tuple) -> tuple[float, float]:
    """CPU seconds of `count` students, the first call of a process, and the megabytes that they added at the peak."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seeds = [seed % len(SEEDS) for seed in range(count)]
    runs = {"temperature": [TEMPERATURES[i // len(SEEDS) % len(TEMPERATURES)] for i in range(count)], "seeds": seeds}
    seconds, _ = cpu_seconds(lambda: engine(student, *task, runs))
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def matrix_flops(data: Batch) -> float:
    """Floating-point operations of the matrix products in one student's training."""
    with FlopCounterMode(display=False) as counter:
        student()(data.inputs[:BATCH]).sum().backward()
    return counter.get_total_flops() * len(rows(data, seed=0))


def peak_flops(size: int = 1024) -> float:
    """The best that this machine's matrix product reaches on one thread, operations a second."""
    matrix = torch.randn(size, size)
    return 2 * size**3 / min(cpu_seconds(lambda: matrix @ matrix)[0] for _ in range(20))


# -- the functions --------------------------------------------------------------------------------


def functions() -> list[dict]:
    """tempered_softmax and distillation_loss, forward and backward, beside torch's own functions."""
    table = []
    temperature = 4.0
    for shape in ((64, 10), (160, 64, 10), (4096, 1000)):
        generator = torch.Generator().manual_seed(0)
        logits, teacher, weights = torch.randn(3, *shape, generator=generator)
        targets = torch.randint(shape[-1], shape[:-1], generator=generator)
        flat = targets.flatten()

        def theirs(z: Tensor, teacher=teacher, flat=flat) -> Tensor:
            return kd_loss(z.flatten(0, -2), teacher.flatten(0, -2), flat, temperature)

        def ours(z: Tensor, teacher=teacher, targets=targets) -> Tensor:
            settings = {"temperature": temperature, "soft_weight": SOFT_WEIGHT}
            return distillation_loss(z, teacher, targets, **settings).mean()

        pairs = {
            "tempered_softmax": (
                lambda z, w=weights: (tempered_softmax(z, temperature) * w).sum(),
                lambda z, w=weights: (F.softmax(z / temperature, dim=-1) * w).sum(),
                "F.softmax(z / T, dim=-1)",
            ),
            "distillation_loss": (ours, theirs, "F.kl_div, F.log_softmax, F.softmax, F.cross_entropy"),
        }
        for name, (own, peer, text) in pairs.items():
            calls = [partial(gradient, function, logits) for function in (own, peer)]
            torch.testing.assert_close(*(call() for call in calls))
            times = take_turns(*calls)
            label = f"{name} {list(shape)}"
            table.append(row(label, *times, text, "forward and backward, float32, T = 4, in turns"))
    return table


def gradient(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    z = logits.detach().requires_grad_()
    return torch.autograd.grad(function(z), z)[0]


def take_turns(*competitors: Callable[[], object], repeats: int = 15) -> list[list[float]]:
    """CPU seconds of one call of each, repeat by repeat, from runs of about 30 ms that alternate."""
    once = max(cpu_seconds(competitors[0])[0] for _ in range(2))
    calls = max(1, round(0.03 / max(once, 1e-6)))
    times: list[list[float]] = [[] for _ in competitors]
    for _ in range(repeats):
        for competitor, spent in zip(competitors, times, strict=True):
            total, _ = cpu_seconds(lambda run=competitor: [run() for _ in range(calls)])
            spent.append(total / calls)
    return times


def show(table: list[dict], growing: list[dict]) -> None:
    print(f"\n{'':36}{'ratio':>7}{'ours':>11}{'other':>11}   CPU seconds, one thread")
    for one in table:
        print(
            f"{one['name']:<36}{one['ratio']:>6.1f}x{one['cpu_seconds']:>11.3g}"
            f"{one['other_cpu_seconds']:>11.3g}   {one['compared_with']}"
        )
    print(f"\n{'students':>8}{'CPU seconds':>14}{'ms a run':>11}{'MB more':>10}{'of the peak':>13}")
    for one in growing:
        print(
            f"{one['name'].split()[1]:>8}{one['cpu_seconds']:>14.3g}{one['milliseconds_per_run']:>11.3g}"
            f"{one['peak_megabytes']:>10.0f}{one['ratio']:>12.1%}   {one['compared_with']}"
        )
    print(f"\n{table[0]['remark']}\n{', '.join(f'{k} {v}' for k, v in VERSIONS.items())}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    compared, growing = sweeps() + functions() + grade_500(row), growth()
    show(compared, growing)
    LATEST.write_text(json.dumps(compared + growing, indent=2, ensure_ascii=False) + "\n")
    print(f"written: {LATEST}")
