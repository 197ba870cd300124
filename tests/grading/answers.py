"""Answers for the tests to hand in: the public solutions, edits of them, stubs, and unusual right ones."""

import functools
import linecache
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch
import torch.nn.functional as F
from grading import ch05, ch06, ch07, ch08, ch09, ch10, ch11, ch12, ch13, ch14, ch15, ch16, ch17, ch18, ch22

from kdcourse.grading.judge import Verdict, drawn, judge
from kdcourse.grading.make import make
from kdcourse.grading.questions import QUESTIONS
from kdcourse.grading.runner import observe
from kdcourse.grading.spec import Function

ROOT = Path(__file__).parents[2]
FUNCTIONS = [question for question in QUESTIONS.values() if isinstance(question, Function)]
SOLUTIONS = {path.name[:2]: path for path in sorted((ROOT / "solutions").glob("*.md"))}


def verdict(question: Function, answer: Callable[..., Any], seed: int = 0) -> Verdict:
    """As `check` judges, without its words."""
    seen = observe(answer, drawn(question, seed), run=question.run, grads=question.grads)
    return judge(question, seen, seed)


@functools.cache
def source(chapter: str, solved: bool = True) -> str:
    """A notebook's imports and functions as one text; checks and quiz answers left out."""
    cells = make(SOLUTIONS[chapter], solved=solved).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    return "\n\n\n".join(cell for cell in code if "check(" not in cell and "answer_" not in cell)


def notebook(edits: Sequence[tuple[str, str]] = (), solved: bool = True, more: str = "", chapter: str = "04") -> str:
    """A solution as a notebook file, edited; `more` is a cell after its last."""
    made = make(SOLUTIONS[chapter], solved=solved)
    for old, new in edits:
        assert any(old in cell.source for cell in made.cells), old
        for cell in made.cells:
            cell.source = cell.source.replace(old, new)
    made.cells += [nbformat.v4.new_code_cell(more)] if more else []
    return nbformat.writes(made)


def solution(question: Function, edits: list[tuple[str, str]] = [], solved: bool = True) -> Callable[..., Any]:  # noqa: B006
    """The function of the public solution, with edits made within its own text."""
    text = source(question.id[:2], solved)
    start = text.index(f"def {question.name}(")
    before, body = text[:start], text[start:].split("\n\n\n")[0] + "\n"
    for old, new in edits:
        assert body.count(old), f"{question.id}: {old!r} is not in the solution"
        body = body.replace(old, new)
    text, name = before + body, f"<{question.name} {hash(body)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)  # as a notebook's cells are
    space: dict[str, Any] = {"__name__": "answers"}
    exec(compile(text, name, "exec"), space)
    return space[question.name]


def _loss_kl_div(student_logits, teacher_logits, targets, temperature, soft_weight):
    p = F.softmax(teacher_logits.detach() / temperature, dim=1)
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    soft = F.kl_div(log_q, p, reduction="none").sum(dim=1) * temperature * temperature
    return torch.lerp(F.cross_entropy(student_logits, targets, reduction="none"), soft, soft_weight)


def _loss_double_einsum(s, t, y, T, w):  # other names, float64, the teacher cut off by no_grad
    with torch.no_grad():
        p = torch.softmax(t.double() / T, -1)
    gap = torch.where(p > 0, p.log(), 0) - torch.log_softmax(s.double() / T, -1)
    hard = -torch.log_softmax(s.double(), -1).gather(-1, y[:, None]).squeeze(-1)
    return w * T**2 * torch.einsum("bc,bc->b", p, gap) + (1 - w) * hard


def _loss_by_example(student_logits, teacher_logits, targets, *, temperature, soft_weight):
    rows = []
    for s, t, y in zip(student_logits, teacher_logits, targets, strict=True):
        p, q = ((z / temperature).softmax(0) for z in (t.detach(), s))
        soft = temperature**2 * torch.distributions.kl_divergence(
            torch.distributions.Categorical(p), torch.distributions.Categorical(q)
        )
        rows.append(soft_weight * soft - (1 - soft_weight) * s.log_softmax(0)[y])
    return torch.stack(rows)


def _loss_kdcourse(student_logits, teacher_logits, targets, temperature, soft_weight):
    from kdcourse.losses import distillation_loss

    return distillation_loss(student_logits, teacher_logits, targets, temperature=temperature, soft_weight=soft_weight)


def _converge_closed_form(target, start, learning_rate, steps):
    for _ in range(steps):
        start = start - learning_rate * (start.softmax(-1) - target)
    return start.softmax(-1)


def _converge_cross_entropy(target, start, learning_rate, steps):
    student = torch.nn.Parameter(start[None].double().clone())
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(F.cross_entropy(student, target[None].double()), student)
        student.data -= learning_rate * gradient
    return student.detach().softmax(-1)[0]


def _converge_numpy(target, start, learning_rate, steps):
    z, p = start.numpy().astype(float), target.numpy()
    for _ in range(steps):
        q = np.exp(z - z.max())
        z = z - learning_rate * (q / q.sum() - p)
    return np.exp(z) / np.exp(z).sum()


def _train_detach(student, teacher, batches, optimizer, T, w):
    teacher.train(False)
    for x, y in batches:
        student.zero_grad(set_to_none=False)
        _loss_kl_div(student(x), teacher(x).detach(), y, T, w).mean().backward()
        optimizer.step()


def _train_frozen(student, teacher, batches, optimizer, temperature, soft_weight):
    teacher = teacher.eval().requires_grad_(False)
    for x, y in batches:
        loss = _loss_double_einsum(student(x), teacher(x), y, temperature, soft_weight).sum() / len(y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _train_teacher_first(student, teacher, batches, optimizer, temperature, soft_weight):
    with torch.no_grad():
        said = [teacher.eval()(x) for x, _ in batches]
    for (x, y), logits in zip(batches, said, strict=True):
        optimizer.zero_grad()
        _loss_by_example(student(x), logits, y, temperature=temperature, soft_weight=soft_weight).mean().backward()
        optimizer.step()
    teacher.train()


UNUSUAL: dict[str, list[Callable[..., Any]]] = {
    "01.6": [
        lambda alone, distilled, teacher: 1 - (teacher - distilled) / (teacher - alone),
        lambda a, d, t: torch.tensor([d - a]) / torch.tensor([t - a]),
        lambda a, d, t: np.float32(d - a) / np.float32(t - a),
    ],
    "02.6": [
        lambda logits, targets: F.cross_entropy(logits, targets, reduction="none"),
        lambda z, y: torch.logsumexp(z.double(), 1) - z.double().gather(1, y[:, None])[:, 0],
        lambda z, y: -torch.einsum("bc,bc->b", F.one_hot(y, z.shape[1]).float(), z.log_softmax(1)),
    ],
    "02.7": [
        lambda w, x, y, lr: w - lr * ((x @ w.T).softmax(-1) - torch.eye(len(w))[y]).T @ x / len(y),
        lambda w, x, y, lr: w.double() - lr * torch.func.grad(
            lambda v: F.cross_entropy(x.double() @ v.T, y))(w.double()),
        lambda w, x, y, lr: w + lr * torch.stack(
            [torch.outer(F.one_hot(c, len(w)) - (w @ row).softmax(0), row) for row, c in zip(x, y, strict=True)]
        ).mean(0),
    ],
    "03.1": [
        lambda logits, temperature: F.softmax(logits / temperature, dim=-1),
        lambda z, T: (z.double() / T - torch.logsumexp(z.double() / T, -1, keepdim=True)).exp(),
        lambda z, T: torch.softmax((z - z.mean(-1, keepdim=True)) * (1 / T), z.ndim - 1),
    ],
    "03.2": [
        lambda probs: torch.special.entr(probs).sum(-1),
        lambda p: -torch.einsum("...c,...c->...", p, p.clamp(min=1e-30).log()),
        lambda p: -(p.double() * p.double().log()).nansum(-1),
        lambda p: -(p * torch.where(p > 0, p, 1).log()).sum(-1),
    ],
    "03.3": [
        lambda logits: torch.softmax(logits / 1e-3, dim=-1),
        lambda z: (w := (z >= z.max(-1, keepdim=True).values).double()) / w.sum(-1, keepdim=True),
        lambda z: F.normalize((z - z.amax(-1, keepdim=True) == 0).float(), p=1, dim=-1),
    ],
    "03.4": [
        lambda p, q: F.kl_div(q.log(), p, reduction="none").sum(-1),
        lambda p, q: torch.special.rel_entr(p, q).sum(-1) if hasattr(torch.special, "rel_entr")
        else (p.double() * (p.double() / q).clamp(min=1e-300).log()).sum(-1),
        lambda p, q: torch.special.entr(p).sum(-1).neg() - torch.einsum("...c,...c->...", p, q.log()),
    ],
    "04.4": [_loss_kl_div, _loss_double_einsum, _loss_by_example, _loss_kdcourse],
    "04.5": [_converge_closed_form, _converge_cross_entropy, _converge_numpy],
    "04.6": [_train_detach, _train_frozen, _train_teacher_first],
}  # fmt: skip
UNUSUAL |= ch05.UNUSUAL
UNUSUAL |= ch06.UNUSUAL
UNUSUAL |= ch07.UNUSUAL
UNUSUAL |= ch08.UNUSUAL
UNUSUAL |= ch09.UNUSUAL
UNUSUAL |= ch10.UNUSUAL
UNUSUAL |= ch11.UNUSUAL
UNUSUAL |= ch12.UNUSUAL
UNUSUAL |= ch13.UNUSUAL
UNUSUAL |= ch14.UNUSUAL
UNUSUAL |= ch15.UNUSUAL
UNUSUAL |= ch16.UNUSUAL
UNUSUAL |= ch17.UNUSUAL
UNUSUAL |= ch18.UNUSUAL
UNUSUAL |= ch22.UNUSUAL
