"""`check`: the judge, asked from a notebook cell. It coaches; it gives no marks."""

import inspect
from collections.abc import Callable

from .judge import Verdict, drawn, judge
from .questions import QUESTIONS
from .runner import Failure, observe
from .spec import Function, Question, shown_in

_attempts: dict[tuple[str, tuple[str, ...]], list[object]] = {}  # (question, mistakes) -> the answers that made them


class Mistake(AssertionError):
    """A wrong answer. A notebook shows its two lines; pytest and nbval see a cell that failed."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for this instead of printing a traceback
        return str(self).splitlines()


def check(question: str | Callable, answer: object = ..., *, name: bool = False, truth: str = "") -> None:
    """Is this answer right? Says so in one line, or raises `Mistake` with two.

    `check("04.4", distillation_loss)`; a function may also come alone: `check(distillation_loss)`.
    The same mistake is met with a counterexample first, then with a question, then by its name;
    `name=True` gives the name at once. Running an unchanged answer again does not count as an attempt.
    `truth`: your class's own convention, where it has one, such as "no_T2".
    """
    if callable(question):
        answer, called = question, getattr(question, "__name__", "")
        question = next((q.id for q in QUESTIONS.values() if isinstance(q, Function) and q.name == called), "")
        if not question:
            raise ValueError(f'check: no question asks for a function {called!r}; say which: check("04.4", {called})')
    if question not in QUESTIONS:
        raise ValueError(f"check: the question's number stands above its cell, such as '04.4'; got {question!r}")
    asked, observed = QUESTIONS[question], answer
    if isinstance(asked, Function) and callable(answer):
        observed = observe(answer, drawn(asked, 0), run=asked.run, grads=asked.grads)
    elif isinstance(asked, Function) and answer is not ...:
        observed = Failure("no verdict", f"{asked.id} asks for a function, got {answer!r}.")
    verdict = judge(asked, observed, truth=frozenset(truth.replace(",", " ").split()))
    title = asked.name if isinstance(asked, Function) else asked.id
    if verdict.state == "correct":
        print(f"✓ {title}: {verdict.line}")
        return
    made = _attempts.setdefault((asked.id, verdict.names), [])  # the different answers with exactly these mistakes
    if (attempt := (_source(answer), repr(observed))) not in made:
        made.append(attempt)
    raise Mistake(f"✗ {title}: " + "\n  ".join(feedback(asked, verdict, 3 if name else min(len(made), 3))))


def _source(answer: object) -> str:
    try:
        return inspect.getsource(answer)
    except (OSError, TypeError):
        code = getattr(answer, "__code__", None)
        return repr(code.co_code) if code else repr(answer)


def feedback(question: Question, verdict: Verdict, stage: int) -> tuple[str, str]:
    """Two lines: what to know now, and where to go from here."""
    where, switches = shown_in(question.id), verdict.switches
    if verdict.state == "no verdict":
        return verdict.line, "So nothing was judged."
    if not switches:
        return verdict.line, f"Where to look: {where}, and the hint above if there is one."
    more = f" ({len(switches)} mistakes in all.)" if len(switches) > 1 else ""
    if stage == 1:
        return verdict.line + more, f'(check("{question.id}", {question.name}, name=True) names the mistake.)'
    if stage == 2:
        return switches[0].question + more, f"{where[0].upper()}{where[1:]} shows it."
    return _listed([s.says + "." for s in switches]), _listed([s.hint for s in switches])


def _listed(sentences: list[str]) -> str:
    return sentences[0] if len(sentences) == 1 else " ".join(f"({i}) {s}" for i, s in enumerate(sentences, 1))
