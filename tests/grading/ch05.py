"""Exercise 05: unusual right answers, and each mistake as an edit of the public solution."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special, stats

from kdcourse import losses as course
from kdcourse.experiments import interval


def _curves_numpy(start, inputs, teacher_logits, valid_inputs, valid_targets, temperatures, lr, momentum, steps):
    x, v = inputs.numpy().astype(float), teacher_logits.numpy().astype(float)
    out = np.empty((len(temperatures), steps + 1, 2))
    for i, T in enumerate(temperatures.tolist()):
        w, memory, p = start.numpy().astype(float), 0, special.softmax(v / T, 1)
        for k in range(steps + 1):
            q = special.softmax(x @ w.T / T, 1)
            hits = np.argmax(valid_inputs.numpy() @ w.T, 1) == valid_targets.numpy()
            out[i, k] = T**2 * special.rel_entr(p, q).sum() / len(x), np.mean(hits)
            memory = momentum * memory + T * (q - p).T @ x / len(x)
            w = w - lr * memory
    return out


def _curves_all_at_once(start, x, v, valid_inputs, valid_targets, temperatures, lr, momentum, steps):
    T = temperatures.double()[:, None, None]
    students = start.double().expand(len(temperatures), *start.shape).clone().requires_grad_()
    optimizer = torch.optim.SGD([students], lr=lr, momentum=momentum)
    losses, accuracies = [], []
    for _ in range(steps + 1):
        z = torch.einsum("nf,tcf->tnc", x.double(), students)
        loss = course.soft_loss(z, v.double(), T[..., 0]).mean(1)
        said = torch.einsum("nf,tcf->tnc", valid_inputs.double(), students).argmax(-1)
        losses.append(loss.detach())
        accuracies.append((said == valid_targets).double().mean(1))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return torch.stack([torch.stack(losses, 1), torch.stack(accuracies, 1)], dim=-1)


def _curves_modules(start, inputs, teacher_logits, valid_inputs, valid_targets, temperatures, lr, momentum, steps):
    def measured(student, T):
        gap = F.softmax(teacher_logits / T, 1).log() - F.log_softmax(student(inputs) / T, 1)
        loss = (F.softmax(teacher_logits / T, 1) * gap).sum() / len(inputs) * T * T
        with torch.no_grad():
            hits = student(valid_inputs).argmax(1).eq(valid_targets).sum() / len(valid_targets)
        return loss, hits

    table = []
    for T in temperatures:
        student = torch.nn.Linear(start.shape[1], start.shape[0], bias=False)
        student.load_state_dict({"weight": start})
        optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=momentum)
        curve = [torch.stack(measured(student, T))]
        while len(curve) <= steps:
            student.zero_grad()
            measured(student, T)[0].backward()
            optimizer.step()
            curve.append(torch.stack(measured(student, T)))
        table.append(torch.stack(curve))
    return torch.stack(table).detach()


def _curves_func(
    start, inputs, teacher_logits, valid_inputs, valid_targets, temperatures, learning_rate, momentum, steps
):
    def one(T):
        def loss(w):
            p, q = ((z / T).softmax(-1) for z in (teacher_logits, inputs @ w.T))
            return T * T * F.cross_entropy(inputs @ w.T / T, p) + T * T * (p * p.log()).sum() / len(q)

        w, memory, curve = start, torch.zeros_like(start), []
        for _ in range(steps + 1):
            gradient, value = torch.func.grad_and_value(loss)(w)
            hits = sum(int((w @ x).argmax() == y) for x, y in zip(valid_inputs, valid_targets, strict=True))
            curve.append([float(value), hits / len(valid_targets)])
            memory = memory.mul(momentum) + gradient
            w = w - learning_rate * memory
        return curve

    return [one(T) for T in temperatures]


def _report_loops(temperatures, valid, test):
    best, found = -math.inf, None
    for i, T in enumerate(temperatures.tolist()):
        for j in range(valid.shape[1]):
            mean = sum(valid[i, j].tolist()) / valid.shape[2]
            if mean > best:
                best, found = mean, [T, np.mean(test[i, j].numpy())]
    return found


def _report_flat(temperatures, valid, test):
    at = valid.double().sum(-1).flatten().argmax()
    chosen = temperatures.repeat_interleave(valid.shape[1])[at]
    return torch.tensor([chosen, test.double().flatten(0, 1)[at].mean()])


def _report_two_stages(temperatures, valid, test):
    wide, new = valid.numpy().mean(2), test.numpy().mean(2)
    rates = wide.argmax(1)
    kept = {float(T): (wide[i, r], new[i, r]) for i, (T, r) in enumerate(zip(temperatures, rates, strict=True))}
    T = max(kept, key=lambda t: kept[t][0])
    return np.array([T, kept[T][1]])


def _paired_by_hand(first, second):
    gaps = [a - b for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    n, mean = len(gaps), sum(gaps) / len(gaps)
    error = math.sqrt(sum((g - mean) ** 2 for g in gaps) / (n * (n - 1)))
    return [mean, -stats.t(n - 1).ppf(0.025) * error]


def _paired_scipy(first, second):
    low, high = stats.ttest_rel(first.double(), second.double()).confidence_interval()
    return torch.tensor([(high + low) / 2, (high - low) / 2])


def _paired_t_interval(a, b):
    gap = (a - b).numpy()
    low, high = stats.t.interval(0.95, gap.size - 1, loc=gap.mean(), scale=stats.sem(gap))
    return np.array([np.mean(gap), high - np.mean(gap)])


def _region_mask(temperatures, accuracy, chosen, margin):
    gap = (accuracy - accuracy[chosen]).double()
    half = stats.t.ppf(0.975, gap.shape[1] - 1) * gap.std(1) / gap.shape[1] ** 0.5
    mean = gap.mean(1)
    return temperatures[(mean.abs() <= half) | (mean.abs() + half < margin)]


def _region_list(temperatures, accuracy, chosen, margin):
    kept = []
    for T, row in zip(temperatures.tolist(), accuracy, strict=True):
        mean, half = interval((accuracy[chosen] - row).numpy())  # the other way round: the rule is symmetric
        if not (mean - half > 0 or mean + half < 0) or (-margin < mean - half and mean + half < margin):
            kept.append(T)
    return kept


def _region_scipy(temperatures, accuracy, chosen, margin):
    rows = accuracy.numpy().astype(float)
    others = [i for i in range(len(rows)) if i != chosen]
    ends = stats.ttest_1samp(rows[others] - rows[chosen], 0, axis=1).confidence_interval()
    inside = (ends.low * ends.high <= 0) | (np.maximum(-ends.low, ends.high) < margin)
    kept = sorted([chosen, *np.array(others)[inside]])
    return temperatures.numpy()[kept]


UNUSUAL: dict[str, list[Callable[..., Any]]] = {
    "05.1": [_curves_numpy, _curves_all_at_once, _curves_modules, _curves_func],
    "05.2": [_report_loops, _report_flat, _report_two_stages],
    "05.3": [_paired_by_hand, _paired_scipy, _paired_t_interval, lambda a, b: torch.tensor(interval(a - b))],
    "05.4": [_region_mask, _region_list, _region_scipy],
}

_LOOP = "    for T in temperatures:\n"
_FRESH = "        weight = start.clone().requires_grad_()\n"
_OPTIMIZER = "        optimizer = torch.optim.SGD([weight], learning_rate, momentum)\n"
_SHARED = (_LOOP + _FRESH, _FRESH[4:] + _LOOP)
_MEMORY = (
    _LOOP + _FRESH + _OPTIMIZER,
    _FRESH[4:] + _OPTIMIZER[4:] + _LOOP + "        weight.data.copy_(start)\n",
)
_WASTED = ("if step < steps:", "if True:")
_LOSS = """\
            log_q = F.log_softmax(inputs @ weight.T / T, dim=-1)
            loss = T**2 * F.kl_div(log_q, p, reduction="batchmean")
"""
_KEEP = """\
            hits = (valid_inputs @ weight.T).argmax(-1) == valid_targets
            curves.append([loss.item(), hits.float().mean().item()])
"""
_UPDATE = """\
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
"""
_HALF = "quantile * difference.std() / n**0.5"

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "05.1": {
        "shared": [_SHARED],
        "shared_wasted": [_SHARED, _WASTED],
        "memory": [_MEMORY],
        "memory_wasted": [_MEMORY, _WASTED],
        "no_momentum": [(", momentum)", ")")],
        "no_zero_grad": [("                optimizer.zero_grad()\n", "")],
        "no_T2": [("T**2 * ", "")],
        "cold_student": [("weight.T / T,", "weight.T,")],
        "cross_entropy": [('F.kl_div(log_q, p, reduction="batchmean")', "-(p * log_q).sum(-1).mean()")],
        "sum": [("batchmean", "sum")],
        "mean_all": [("batchmean", "mean")],
        "late": [(_LOSS + _KEEP + _UPDATE, _LOSS + _UPDATE.replace("if step < steps:", "if True:") + _LOSS + _KEEP)],
        "accuracy_late": [(_KEEP + _UPDATE, _UPDATE + _KEEP), _WASTED],
        "one_short": [("range(steps + 1)", "range(steps)")],
        "training_images": [("(valid_inputs @ weight.T).argmax(-1) == valid_targets",
                             "(inputs @ weight.T).argmax(-1) == teacher_logits.argmax(-1)")],
        "percent": [("hits.float()", "100 * hits.float()")],
        "columns": [("[loss.item(), hits.float().mean().item()]", "[hits.float().mean().item(), loss.item()]")],
        "sweep": [("reshape(len(temperatures), -1, 2)", "reshape(len(temperatures), -1, 2)[:, -1]")],
    },
    "05.2": {
        "on_test": [("valid.mean(-1)", "test.mean(-1)")],
        "luckiest": [("valid.mean(-1)", "valid.amax(-1)")],
        "one_seed": [("valid.mean(-1)", "valid[:, :, 0]")],
        "fixed_rate": [("mean.amax(1)", "mean[:, 0]"), ("mean[best].argmax()", "0")],
        "one_rate": [("best = mean.amax(1).argmax()", "rate = mean.mean(0).argmax()"),
                     ("rate = mean[best].argmax()", "best = mean[:, rate].argmax()")],
        "rates_averaged": [("mean.amax(1)", "mean.mean(1)"), ("test[best, rate]", "test[best]")],
        "rate_on_test": [("rate = mean[best]", "rate = test[best].mean(-1)")],
        "validation_score": [("test[best, rate]", "valid[best, rate]")],
        "best_seed": [("test[best, rate].mean()", "test[best, rate].max()")],
        "lowest": [("amax(1).argmax()", "amin(1).argmin()"), ("mean[best].argmax()", "mean[best].argmin()")],
        "row": [("temperatures[best]", "best")],
    },
    "05.3": {
        "unpaired": [("n - 1", "2 * n - 2"), ("difference.std()", "(first.var() + second.var()) ** 0.5")],
        "quadrature": [(f"half = {_HALF}", "one, two = (quantile * x.std() / n**0.5 for x in (first, second))\n"
                                           "    half = (one**2 + two**2) ** 0.5")],
        "population": [("difference.std()", "difference.std(correction=0)")],
        "deviation": [(" / n**0.5", "")],
        "normal": [("stats.t.ppf(0.975, n - 1)", "1.96")],
        "degrees": [("n - 1", "n")],
        "one_sided": [("0.975", "0.95")],
        "no_quantile": [("quantile * ", "")],
        "full_width": [("quantile * ", "2 * quantile * ")],
        "ends": [("[difference.mean(), half]", "[difference.mean() - half, difference.mean() + half]")],
        "exchanged": [("[difference.mean(), half]", "[half, difference.mean()]")],
        "sign": [("first - second", "second - first")],
    },
    "05.4": {
        "zero_only": [("zero or near", "zero")],
        "margin_only": [("zero or near", "near")],
        "both": [("zero or near", "zero and near")],
        "mean_margin": [("max(abs(low), abs(high))", "abs(mean)")],
        "end_in_margin": [("max(abs(low), abs(high))", "min(abs(low), abs(high))")],
        "better_too": [("low <= 0 <= high", "high >= 0")],
        "overlap": [("zero = low <= 0 <= high",
                     "one, two = (stats.t.ppf(0.975, len(row) - 1) * x.std() / len(row) ** 0.5\n"
                     "                    for x in (row, accuracy[chosen]))\n"
                     "        zero = row.mean() - one <= accuracy[chosen].mean() + two and (\n"
                     "            accuracy[chosen].mean() - two <= row.mean() + one)")],
        "unpaired": [("mean, half = paired(row, accuracy[chosen])",
                      "n, other = len(row), accuracy[chosen]\n"
                      "        mean, error = row.mean() - other.mean(), ((row.var() + other.var()) / n) ** 0.5\n"
                      "        half = stats.t.ppf(0.975, 2 * n - 2) * error")],
        "normal": [("mean, half = paired(row, accuracy[chosen])",
                    "difference = row - accuracy[chosen]\n"
                    "        mean, half = difference.mean(), 1.96 * difference.std() / len(row) ** 0.5")],
        "not_itself": [("bool(zero or near)", "bool(zero or near) and row is not accuracy[chosen] and mean != 0")],
        "told_apart": [("bool(zero or near)", "not (zero or near)")],
        "rows": [("temperatures[torch.tensor(equal)]", "torch.tensor(equal).nonzero()[:, 0]")],
    },
}  # fmt: skip
