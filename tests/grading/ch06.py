"""Exercise 06: unusual right answers, and each mistake as an edit of the public solution."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kdcourse import losses as course
from kdcourse import schedules


def _geometric_step_by_step(start, end, steps, step):
    value = np.float64(start)
    for _ in range(min(step, steps)):
        value *= (end / start) ** (1 / steps)
    return value


def _plateau_kdcourse(losses, start, factor, patience, band, floor):
    rule = schedules.plateau(start, factor, patience, improvement=band, floor=floor)
    state, values = rule.initial(like=torch.zeros((), dtype=torch.float64)), []
    for loss in losses.double():
        state = rule.update(state, loss)
        values.append(state["value"])
    return torch.stack(values)


def _plateau_list(losses, start, factor, patience, band, floor):  # counts gains' positions, returns a plain list
    best, since, lowered, out = losses[0].item(), 0, 0, []
    for i, loss in enumerate(losses):
        if i and loss.item() < best - band:
            best, since = loss.item(), i
        elif i - since == patience:
            lowered, since = lowered + 1, i
        out.append(max(start * factor**lowered, floor))
    return out


def _plateau_numpy(losses, start, factor, patience, band, floor):
    T, best, left = start, np.inf, patience
    out = np.empty(len(losses))
    for i, loss in enumerate(losses.numpy().astype(float)):
        left = patience if (gain := best - loss > band) else left - 1
        best = loss if gain else best
        if not left:
            T, left = max(T * factor, floor), patience
        out[i] = T
    return out


def _mended_tensor(student_logits, teacher_logits, per_epoch, floor):
    steps = torch.arange(len(student_logits))
    T = (10.0 * 10.0 ** -(steps // per_epoch)).clamp(min=floor)
    return course.soft_loss(student_logits, teacher_logits, T[:, None]).mean(-1)


def _mended_counter(z, v, per_epoch, floor):
    T, out = 10.0, []
    for step in range(len(z)):
        if step and step % per_epoch == 0:
            T = max(T / 10, floor)
        T = max(T, floor)
        p = torch.softmax(v[step].double() / T, -1)
        gap = p.log() - torch.log_softmax(z[step].double() / T, -1)
        out.append(T * T * torch.where(p > 0, p * gap, 0).sum() / len(p))
    return torch.stack(out)


def _mended_list(student_logits, teacher_logits, per_epoch, floor):
    rule = schedules.step(10.0, 0.1, every=per_epoch, floor=min(floor, 10.0))
    pairs = zip(student_logits, teacher_logits, strict=True)
    return torch.stack([course.soft_loss(z, v, rule(n)).mean() for n, (z, v) in enumerate(pairs)])


def _slope_difference(student_logits, teacher_logits, temperature):
    z, v, h = student_logits.double(), teacher_logits.double(), 1e-5

    def value(T):
        p = torch.softmax(v / T, -1)
        return T**2 * (p * (p.log() - torch.log_softmax(z / T, -1))).sum(-1).mean()

    return (value(temperature + h) - value(temperature - h)) / (2 * h)


def _slope_backward(z, v, T):
    leaf = torch.nn.Parameter(torch.tensor(T, dtype=torch.float64))
    p, log_q = F.softmax(v.double() / leaf, 1), F.log_softmax(z.double() / leaf, 1)
    (F.kl_div(log_q, p, reduction="batchmean") * leaf.square()).backward()
    return leaf.grad.item()


def _slope_func(student_logits, teacher_logits, temperature):
    def value(T):
        return course.soft_loss(student_logits.double(), teacher_logits.double(), T).mean()

    return torch.func.grad(value)(torch.tensor(temperature, dtype=torch.float64))


UNUSUAL: dict[str, list[Callable[..., Any]]] = {
    "06.1": [
        _geometric_step_by_step,
        lambda a, b, n, k: a ** (1 - min(k, n) / n) * b ** (min(k, n) / n),
        lambda a, b, n, k: torch.lerp(torch.tensor(a).log(), torch.tensor(b).log(), min(1, k / n)).exp(),
        lambda start, end, steps, step: math.exp(np.interp(step, [0, steps], [math.log(start), math.log(end)])),
    ],
    "06.2": [_plateau_kdcourse, _plateau_list, _plateau_numpy],
    "06.3": [_mended_tensor, _mended_counter, _mended_list],
    "06.4": [_slope_difference, _slope_backward, _slope_func],
    "06.5": [
        lambda logits: F.layer_norm(logits, logits.shape[-1:], eps=0),
        lambda z: (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True),
        lambda z: torch.stack([(row - row.mean()) * len(row) ** 0.5 / (row - row.mean()).norm() for row in z]),
        lambda z: schedules.standardise(z.double()),
    ],
}  # fmt: skip

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "06.1": {
        "linear": [("start * (end / start) ** progress", "start + (end - start) * progress")],
        "goes_on": [("min(step / steps, 1.0)", "step / steps")],
        "one_short": [("step / steps", "step / (steps - 1)")],
        "whole_numbers": [("step / steps", "step // steps")],
        "swapped": [("start * (end / start)", "end * (start / end)")],
        "own_rate": [("start * (end / start) ** progress", "start * math.exp(-progress)")],
    },
    "06.2": {
        "one_more": [("waited >= patience", "waited > patience")],
        "every_time": [("            waited = 0\n        values", "        values")],
        "keeps_waiting": [("best, waited = loss, 0", "best = loss")],
        "last": [("        if waited >= patience", "        best = loss\n        if waited >= patience")],
        "no_band": [("best - band", "best")],
        "creeping_best": [("            waited += 1", "            waited += 1\n            best = min(best, loss)")],
        "no_floor": [("max(factor * value, floor)", "factor * value")],
        "raised": [("factor * value", "value / factor")],
        "upwards": [("best, waited, values = start, math.inf", "best, waited, values = start, -math.inf"),
                    ("loss < best - band", "loss > best + band")],
        "before": [("        values.append(value)\n", ""),
                   ("        if loss <", "        values.append(value)\n        if loss <")],
    },
    "06.3": {
        "each_step": [("(step // per_epoch)", "step")],
        "no_floor": [("max(10.0 / 10 ** (step // per_epoch), floor)", "10.0 / 10 ** (step // per_epoch)")],
        "ceiling": [("max(10.0", "min(10.0")],
        "no_T2": [("temperature**2 * value", "value")],
        "cold_student": [("z / temperature", "z")],
        "too_early": [("step // per_epoch", "(step + 1) // per_epoch")],
    },
    "06.4": {
        "no_T2": [("T**2 * ", "")],
        "square_fixed": [("T**2 * ", "T.detach()**2 * ")],
        "teacher_fixed": [("log_p = F.log_softmax(teacher_logits / T, dim=-1)",
                           "log_p = F.log_softmax(teacher_logits / T, dim=-1).detach()")],
        "log_T": [("T = torch.tensor(float(temperature), requires_grad=True)",
                   "leaf = torch.tensor(float(temperature)).log().requires_grad_()\n    T = leaf.exp()"),
                  ("each.mean(), T)", "each.mean(), leaf)")],
        "sum": [("each.mean()", "each.sum()")],
        "sign": [("return gradient", "return -gradient")],
    },
    "06.5": {
        "not_centred": [("return centred /", "return logits /")],
        "variance": [(".sqrt()", "")],
        "one_less": [("centred.square().mean(-1, keepdim=True).sqrt()", "logits.std(-1, keepdim=True)")],
        "first_axis": [("mean(-1,", "mean(0,")],
        "over_everything": [("logits.mean(-1, keepdim=True)", "logits.mean()"),
                            ("mean(-1, keepdim=True)", "mean()")],
    },
}  # fmt: skip
