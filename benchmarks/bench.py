"""What the engine and the losses cost, beside the code that everybody writes.

One thread, CPU time, medians of repeats in which the competitors take turns: numbers hold on a
machine that is busy with something else. Prints a table and writes benchmarks/latest.json, a list
of rows: `name`, `ratio` (how many times the other takes as long), `cpu_seconds` (ours),
`other_cpu_seconds`, `compared_with`, `remark`, `versions`.
"""

import json
import os
import platform
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
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdcourse.data import Batch, digits, split
from kdcourse.losses import distillation_loss, hard_loss
from kdcourse.metrics import accuracy
from kdcourse.models import mlp
from kdcourse.softmax import tempered_softmax
from kdcourse.training import grid, order, train

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
        "ratio": round(statistics.median(map(truediv, other, ours)), 2),
        "cpu_seconds": float(f"{statistics.median(ours):.4g}"),
        "other_cpu_seconds": float(f"{statistics.median(other):.4g}"),
        "compared_with": compared_with,
        "remark": remark,
        "versions": VERSIONS,
    }


# -- 160 students ---------------------------------------------------------------------------------


def student() -> nn.Module:
    return mlp(64, 16, 10)


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


def engine(data: Batch, teacher: nn.Module, test: Batch, runs: dict) -> Tensor:
    """Logits [runs, n, classes] of all students; the teacher answers once."""
    with torch.inference_mode():
        taught = data.with_teacher(teacher(data.inputs))
    settings = {"lr": LR, "epochs": EPOCHS, "batch": BATCH, "soft_weight": SOFT_WEIGHT}
    return train(student, taught, distil, **runs, **settings).logits(test.inputs)


def tutorial(data: Batch, teacher: nn.Module, test: Batch, seed: int, temperature: float) -> Tensor:
    """Logits [n, classes] of one student: DataLoader, and the teacher in every step."""
    torch.manual_seed(seed)
    model = student()
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
        return model(test.inputs)


def cached(data: Batch, teacher: nn.Module, test: Batch, seed: int, temperature: float) -> Tensor:
    """The same with what a careful programmer changes first: the teacher answers once, and rows are
    taken from tensors."""
    torch.manual_seed(seed)
    model = student()
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
        return model(test.inputs)


def rows(data: Batch, seed: int) -> list[list[int]]:
    steps = -(-EPOCHS * len(data) // BATCH)
    return order(len(data), BATCH, steps, seed).tolist()


def make_teacher(data: Batch) -> nn.Module:
    labels = lambda logits, batch: hard_loss(logits, batch.targets)  # noqa: E731
    return train(lambda: mlp(64, 256, 10), data, labels, epochs=30, engine="loop")[0]


def sweeps() -> list[dict]:
    data, test = split(digits(), [1000, 797], seed=0)
    teacher = make_teacher(data)
    runs = grid(temperature=TEMPERATURES, seeds=SEEDS)
    count, images = len(runs["seeds"]), len(test)
    engine(data, teacher, test, grid(temperature=[1.0], seeds=[0]))  # first call: imports
    seconds: dict[str, list[float]] = {"engine": [], "tutorial": [], "cached": []}
    worst = 0.0
    for repeat in range(REPEATS):
        spent, together = cpu_seconds(lambda: engine(data, teacher, test, runs))
        seconds["engine"].append(spent)
        for name, loop in (("tutorial", tutorial), ("cached", cached)):
            spent = 0.0
            # Other students in each repeat, spread over seeds and temperatures.
            for run in range(repeat, count, -(-count // SAMPLED)):
                settings = (runs["seeds"][run], runs["temperature"][run])
                one, logits = cpu_seconds(lambda s=settings, f=loop: f(data, teacher, test, *s))
                spent += one
                gap = accuracy(logits, test.targets) - accuracy(together[run], test.targets)
                worst = max(worst, abs(gap.item()) * images)
            seconds[name].append(spent * count / SAMPLED)
    if worst > 1.01:
        sys.exit(f"bench: accuracies differ by {worst:.1f} of {images} images, 1 is allowed")
    remark = (
        f"{count} students 64-16-10, {len(TEMPERATURES)} temperatures x {len(SEEDS)} seeds, batch "
        f"{BATCH}, {EPOCHS} epochs of {len(data)} digits; the loop is measured on {SAMPLED} "
        f"students in each of {REPEATS} repeats and scaled to {count}; accuracies differ by at most "
        f"{worst:.0f} of {images} test images"
    )
    tutorial_text = "the tutorial's loop: DataLoader, teacher (64-256-10) in every step, F.kl_div, Adam"
    cached_text = "the same loop with the teacher's logits cached and rows taken from tensors"
    return [
        row("sweep_160", seconds["engine"], seconds["tutorial"], tutorial_text, remark),
        row("sweep_160_cached", seconds["engine"], seconds["cached"], cached_text, remark),
    ]


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


def show(table: list[dict]) -> None:
    print(f"\n{'':36}{'ratio':>7}{'ours':>11}{'other':>11}   CPU seconds, one thread")
    for one in table:
        print(
            f"{one['name']:<36}{one['ratio']:>6.1f}x{one['cpu_seconds']:>11.3g}"
            f"{one['other_cpu_seconds']:>11.3g}   {one['compared_with']}"
        )
    print(f"\n{table[0]['remark']}\n{', '.join(f'{k} {v}' for k, v in VERSIONS.items())}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    rows_of_table = sweeps() + functions()
    show(rows_of_table)
    LATEST.write_text(json.dumps(rows_of_table, indent=2, ensure_ascii=False) + "\n")
    print(f"written: {LATEST}")
