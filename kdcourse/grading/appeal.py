"""An appeal: what a submission was asked, what it answered and what was expected, as Python that can be run."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from .asking import printable
from .classroom import Record, load, read, seed_of
from .jail import Jail
from .judge import distance, drawn, expected, judge
from .questions import QUESTIONS
from .runner import Failure
from .spec import Function, Probe

# How an observable is seen by hand; {0} is the call, {1} the argument. The weights are those of `runner`.
SHOWN = {
    "value": "print({0})",
    "repeat": "print(float(not torch.equal({0}, {0})))",
    "changed": "before = {1}.clone(); {0}; print(float(not torch.equal({1}, before)))",
    "grad": """{1}.requires_grad_()
value = {0}
weights = torch.linspace(1, 2, value.numel()).reshape(value.shape)
print(torch.autograd.grad((value * weights).sum() + 0 * {1}.sum(), {1})[0])""",
}
TRAIN = """student = torch.nn.Linear(student_weight.shape[1], len(student_weight), bias=False)
student.weight.data = student_weight.clone()
hidden = torch.nn.Linear(hidden_weight.shape[1], len(hidden_weight), bias=False)
last = torch.nn.Linear(teacher_weight.shape[1], len(teacher_weight), bias=False)
hidden.weight.data, last.weight.data = hidden_weight.clone(), teacher_weight.clone()
teacher = torch.nn.Sequential(hidden, torch.nn.BatchNorm1d(len(hidden_weight)), last)
optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate)
{0}(student, teacher, list(zip(inputs, targets))[:batches], optimizer, temperature, soft_weight)"""
TRAINED = {
    "value": "print(student.weight.data)",
    "changed": "print(float(teacher[1].num_batches_tracked > 0))",
    "grad": "print(torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() "
    "for p in teacher.parameters()]))",
}


def recorded(out: Path, name: str, id: str) -> Record:
    """A student's record, if it has this question; else ValueError, which says what there is."""
    if not (record := load(out, name)):
        names = sorted(json.loads(file.read_text("utf-8"))["name"] for file in out.glob("students/*.json"))
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        there = f"there are {', '.join(map(printable, names[:20]))}{more}" if names else "nobody was graded there"
        raise ValueError(f"there is no student {printable(name)!r} in {out}: {there}")
    if id not in (ids := list(record["questions"])):
        raise ValueError(f"there is no question {id!r} in exercise {record['exercise']}: there are {', '.join(ids)}")
    return record


@np.errstate(all="ignore")  # an answer may hold infinities
def explain(out: Path, record: Record, id: str, jail: Jail, file: Path | None = None, every: bool = False) -> list[str]:
    """Python that shows the smallest input on which an answer is wrong, or with `every` all inputs.

    `file`: the notebook, where it is no longer where it was graded; its bytes must be the same.
    """
    if record["problem"]:
        return [f"# no verdict: {record['problem']}"]
    file = file or Path(record["file"])
    try:
        raw = read(file)
    except ValueError as error:
        raise ValueError(f"explain: {file}: {error} Is it elsewhere? --notebook FILE") from None
    if hashlib.sha256(raw).hexdigest() != record["notebook"]:
        raise ValueError(f"explain: {file} has changed since it was graded; grade again, then explain")
    question, seed = QUESTIONS[id], seed_of(out, record["exercise"])
    truth = frozenset(record["truth"].get(id, ()))
    (answer,) = jail.answers(raw, [question], seed)
    verdict = judge(question, answer, seed, truth)
    lines = [f"# {id} {question.name}: {verdict.state}. {printable(verdict.line)}"]
    lines += [f"# mistake: {switch.says}." for switch in verdict.switches]
    if isinstance(answer, Failure):
        return lines
    if not isinstance(question, Function):
        return [*lines, f"{question.name} = {answer!r}"]
    probes, count = drawn(question, seed), len(answer)
    want = [expected(question, seed, index, truth) for index in range(count)]
    gaps = [distance(*pair, question.rtol) for pair in zip(answer, want, strict=True)]
    size = [sum(getattr(value, "nbytes", 0) for value in probe.arguments.values()) for probe in probes]
    order = sorted(range(count), key=lambda index: (gaps[index] <= 1, size[index]))
    for index in order if every else order[:1]:
        verb = "agrees" if gaps[index] <= 1 else f"differs by {gaps[index]:.4g} tolerances"
        lines += ["", f"# input {index + 1} of {count} {verb}", "import torch", *_as_python(question, probes[index])]
        seen = answer[index]
        off = [key for key, right in want[index].items() if distance({key: seen[key]}, {key: right}, question.rtol) > 1]
        for key in (off or ["value"]) if every else (off or ["value"])[:1]:
            lines += [*_call(question, probes[index], key), _numbers("# this answer gives: ", seen[key]),
                      _numbers("# the reference gives: ", want[index][key])]  # fmt: skip
    wrong = sum(gap > 1 for gap in gaps)
    return [*lines, "", f"# {wrong} of {count} inputs differ.{'' if every else ' --all prints them all.'}"]


def _as_python(question: Function, probe: Probe) -> list[str]:
    lines = [
        _numbers(f"{name} = torch.tensor(", value.numpy()) + ")" if isinstance(value, torch.Tensor)
        else f"{name} = {value!r}"
        for name, value in probe.arguments.items()
    ]  # fmt: skip
    return [*lines, TRAIN.format(question.name)] if question.run == "train" else lines


def _call(question: Function, probe: Probe, observable: str) -> list[str]:
    """How to see this observable, once the inputs are there."""
    kind, _, argument = observable.partition(":")
    if question.run == "train":
        return [TRAINED.get(kind, "# trained again, it gives something else")]
    return SHOWN[kind].format(f"{question.name}({', '.join(probe.arguments)})", argument).split("\n")


def _numbers(before: str, value: np.ndarray) -> str:
    options = {"separator": ", ", "threshold": 10**6, "max_line_width": 100, "floatmode": "unique"}
    shown = value.astype(np.float32) if value.dtype.kind == "f" else value
    text = before + np.array2string(shown, prefix=before, **options)
    return text.replace("\n ", "\n#") if before.startswith("#") else text
