"""Runs an answer on probes and writes down what can be seen. Holds nothing secret and judges nothing."""

import inspect
import linecache
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .spec import Probe

Seen = dict[str, np.ndarray]  # the observables of one probe: "value", "grad:NAME", "changed:NAME", "repeat", ...


class Failure(Exception):
    """Nothing to judge: `state` is "unanswered" or "no verdict", `reason` one plain sentence."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(state, reason)
        self.state, self.reason = state, reason


def observe(
    answer: Callable[..., Any], probes: Sequence[Probe], *, run: str = "call", grads: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32, once: bool = False,
) -> list[Seen] | Failure:  # fmt: skip
    """Call `answer` on each probe, twice (a reference: once), and return what was seen; or why nothing was."""
    seen = []
    # The context costs as much as the answer's own arithmetic, so it is entered only where it changes something.
    device = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    try:
        for probe in probes:
            arguments = {
                name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
                for name, value in probe.arguments.items()
            }
            # a learner's F.kl_div may warn; the verdict says more than the warning does
            with device, torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seen.append(RUNS[run](answer, arguments, grads if probe.grads else (), once))
    except Failure as failure:
        return failure
    except (Exception, SystemExit) as error:  # whatever it is, it is the learner's, and said in one sentence
        if isinstance(error, NotImplementedError) and str(error).startswith("about "):  # our stub's, not torch's
            return Failure("unanswered", f"not started ({error}).")
        return Failure("no verdict", _sentence(error, answer, probe))
    return seen


def _run_call(answer: Callable[..., Any], arguments: dict[str, Any], grads: tuple[str, ...], once: bool) -> Seen:
    """A pure function: its value, gradients, whether its inputs changed, whether it repeats itself."""
    leaves = {name: arguments[name].clone().requires_grad_() for name in grads}
    values = []
    for differentiated in [leaves] if once else [{}, leaves]:
        # clones, not the leaves: an answer that writes into its input must get its own sentence, not autograd's
        given = {k: v.clone() if isinstance(v, Tensor) else v for k, v in (arguments | differentiated).items()}
        value = _call(answer, given)
        values.append(_array(value))
    seen = {"value": values[0], "repeat": _differ(values)}
    for name, before in arguments.items():
        if isinstance(before, Tensor):
            seen[f"changed:{name}"] = np.array(float(not torch.equal(before, given[name])))
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if leaves and isinstance(value, Tensor) and value.requires_grad:
        # weights that differ from entry to entry: the plain sum of a softmax has no gradient
        weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
        found = torch.autograd.grad((value * weights).sum(), list(leaves.values()), allow_unused=True)
    for (name, leaf), grad in zip(leaves.items(), found, strict=True):
        seen[f"grad:{name}"] = _array(torch.zeros_like(leaf) if grad is None else grad)
    return seen


def _run_train(answer: Callable[..., Any], a: dict[str, Any], grads: tuple[str, ...], once: bool) -> Seen:
    """A training loop `answer(student, teacher, batches, optimizer, temperature, soft_weight)`.

    Seen: the student's parameters afterwards, and whether the teacher (linear, batch norm, linear; left in
    training mode, as a fresh module is) was changed or was given gradients.
    """

    def linear(weight: Tensor) -> nn.Linear:
        module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        module.weight.data.copy_(weight)
        return module

    values = []
    for _ in range(1 if once else 2):
        student = linear(a["student_weight"])
        norm = nn.BatchNorm1d(len(a["hidden_weight"]), dtype=a["hidden_weight"].dtype)
        teacher = nn.Sequential(linear(a["hidden_weight"]), norm, linear(a["teacher_weight"]))
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        optimizer = torch.optim.SGD(student.parameters(), lr=a["learning_rate"])
        batches = list(zip(a["inputs"].clone(), a["targets"].clone(), strict=True))[: a["batches"]]
        answer(student, teacher, batches, optimizer, a["temperature"], a["soft_weight"])
        values.append(_array(student.weight.detach()))
    changed = any(not torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    teacher_grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in teacher.parameters()]
    return {
        "value": values[0],
        "repeat": _differ(values),
        "changed:teacher": np.array(float(changed)),
        "grad:teacher": _array(torch.cat([grad.flatten() for grad in teacher_grads])),
    }


RUNS = {"call": _run_call, "train": _run_train}


def _differ(values: list[np.ndarray]) -> np.ndarray:
    """1 where a second call says something else; some kernels of torch add in another order each time."""
    first, again = values[0], values[-1]
    same = first.shape == again.shape and np.allclose(first, again, rtol=1e-5, atol=1e-6, equal_nan=True)
    return np.array(float(not same))


def _call(answer: Callable[..., Any], given: dict[str, Any]) -> Any:
    """By keyword where the answer kept the parameters' names, else in order."""
    try:
        parameters = set(inspect.signature(answer).parameters)
    except (TypeError, ValueError):
        parameters = set()
    return answer(**given) if parameters >= set(given) else answer(*given.values())


def _array(value: Any) -> np.ndarray:
    if value is None or value is ...:
        raise Failure("unanswered", "not started: it returns nothing. (Is there a `return`?)")
    if not isinstance(value, Tensor | np.ndarray | np.generic | int | float | list | tuple):
        raise Failure("no verdict", f"returns a {type(value).__name__}; a tensor is asked for.")
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    return torch.as_tensor(value).detach().cpu().numpy().copy()


def _sentence(error: BaseException, answer: Callable[..., Any], probe: Probe) -> str:
    """What happened, and in which of the learner's own lines."""
    where, frame = "", error.__traceback__
    home = getattr(getattr(answer, "__code__", None), "co_filename", None)
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == home:
            line = linecache.getline(home, frame.tb_lineno).strip()
            where = f", in line {frame.tb_lineno} of its cell" + (f": `{line}`" if line else "")
        frame = frame.tb_next
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}. The call was {call_text(probe)}."


def call_text(probe: Probe) -> str:
    """A probe's arguments as a learner would type them; large tensors by their shape."""

    def shown(name: str, value: Any) -> str:
        if isinstance(value, Tensor) and value.numel() > 6:
            return f"{name} of shape {list(value.shape)}"
        return f"{name} = " + (number_text(value.numpy()) if isinstance(value, Tensor) else f"{value:g}")

    return "(" + ", ".join(shown(name, value) for name, value in probe.arguments.items()) + ")"


def number_text(value: np.ndarray) -> str:
    """Four significant digits; brackets as in Python."""
    if value.ndim == 0:
        return f"{value.item():.4g}"
    return "[" + ", ".join(number_text(entry) for entry in value) + "]"
