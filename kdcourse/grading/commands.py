"""The commands of the grader: they parse, call and print; what they do is done elsewhere."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import classroom, clean, course, report
from .jail import Jail, Refused
from .judge import Verdict, judge
from .live import feedback
from .spec import Function, Question

NOT_RIGHT, WRONG_USE, MISSING, INTERRUPTED = 1, 2, 3, 130

Notebook = Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="Such as 04_the_loss.ipynb.")]
Id = Annotated[str, typer.Argument(metavar="QUESTION", help="A question's number, such as 04.4.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder that `kdcourse grade` wrote.")]
Truth = Annotated[
    list[str],
    typer.Option(metavar="ID=NAME", help="Your class's own convention: 04.4=no_T2 makes the loss without T² right, "
                 "and the public solution a named mistake. May be given several times."),
]  # fmt: skip


def add_to(app: typer.Typer) -> None:
    for command in (check, hint, env, release, sample, grade, explain):
        app.command()(command)


def check(
    notebook: Notebook,
    name: Annotated[bool, typer.Option("--name", help="Name each mistake; without it, a counterexample.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an answer fell.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs; it has the names.")] = False,
    truth: Truth = [],  # noqa: B006
) -> None:
    """Ask a notebook all its questions, in a clean process.

    The exercise is the number that starts the file's name (04_the_loss.ipynb); in a file without one, the questions
    that its cells check. Only functions, classes, imports and literals of the notebook are used; other lines are not
    run. The process is clean, but no sandbox: check your own notebooks, not a stranger's. What it says is no mark.

    Exit codes: 0 all right; 1 something is wrong, not started or without a verdict; 2 wrong use, or no notebook.
    """
    with _plain():
        raw = classroom.read(notebook.resolve())
        questions = course.questions_of(notebook.name, raw)
        conventions = _truth(truth)
        given = clean.answers(raw, questions, 0)
        verdicts = [
            judge(question, answer, truth=frozenset(conventions.get(question.id, ())))
            for question, answer in zip(questions, given, strict=True)
        ]
    right = sum(verdict.state == "correct" for verdict in verdicts)
    if as_json:
        pairs = zip(questions, verdicts, strict=True)
        entries = {q.id: {"state": v.state, "line": v.line, "names": v.names} for q, v in pairs}
        typer.echo(json.dumps({"right": right, "of": len(questions), "questions": entries}, indent=1))
    else:
        for question, verdict in zip(questions, verdicts, strict=True):
            typer.echo(_line(question, verdict, name))
            if traceback and verdict.state == "no verdict" and isinstance(question, Function):
                typer.echo(clean.traceback(raw, question, 0).rstrip())
        typer.echo(f"\n{right} of {len(questions)} are right. Asked in a clean process: not sandboxed, not a mark.")
        if any(verdict.names for verdict in verdicts) and not name:
            typer.echo("--name names the mistakes.")
        if any(verdict.state == "no verdict" for verdict in verdicts) and not traceback:
            typer.echo("--traceback shows where an answer fell.")
    raise typer.Exit(0 if right == len(questions) else NOT_RIGHT)


def hint(
    id: Id, number: Annotated[int, typer.Argument(metavar="[NUMBER]", help="Which hint; each tells more.")] = 1
) -> None:
    """Print a hint: the first one, or the one you ask for.

    Hints are taken from the exercise's notebook, where they are folded away above the cell: from the course's
    exercises/, else from exercises/ here.

    Exit codes: 0 printed; 2 there is no such question or hint.
    """
    with _plain():
        found = course.hints(id)
        if not found:
            raise ValueError(f"{id} has no hint in its notebook; chapter {id[:2]} has what it needs")
        if not 1 <= number <= len(found):
            raise ValueError(f"{id} has {len(found)} hint{'s' * (len(found) > 1)}, got {number}")
    more = f"Hint {number} of {len(found)}."
    more += f" The next: kdcourse hint {id} {number + 1}" if number < len(found) else ""
    typer.echo(f"{found[number - 1]}\n\n{more}")


def env() -> None:
    """Say what is missing on this machine, and how to get it.

    Exit codes: 0 all is there; 1 something is missing.
    """
    complete = True
    for there, what, how in course.machine():
        typer.echo(f"✓ {what}" if there else f"✗ {what}\n    get it: {how}")
        complete &= there
    raise typer.Exit(0 if complete else NOT_RIGHT)


def release(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    truth: Truth = [],  # noqa: B006
) -> None:
    """Write a course's copy without solutions, to hand out.

    In it: exercises/ (made anew from the solutions, so none is solved by accident), the package kdcourse, which
    students need to run and check them, a short README, and the licences. Left out: solutions/, tests/ (which hold
    right and wrong answers to every question), the book and the benchmarks.

    The package stays whole: `check` compares with references, and the book's own losses are in it, so a student who
    wants to copy can. That is why `check` gives no marks. A mark comes from `kdcourse grade`: fresh inputs, in a
    sandbox without kdcourse. And with --truth the public solution is a named mistake; the checks in the copy are then
    told of your convention.

    Exit codes: 0 written; 2 wrong use.
    """
    with _plain():
        names = course.release(target, _truth(truth))
    typer.echo(f"{target}: {', '.join(names)}. No solution is in exercises/.")


def sample(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
) -> None:
    """Write a class to try `kdcourse grade` on: right, wrong, unfinished, broken and hostile submissions.

    Exit codes: 0 written; 2 wrong use.
    """
    with _plain():
        names = course.sample(target)
    typer.echo(f"{target}: {len(names)} students. Next: kdcourse grade {target} --out marks")


def grade(
    submissions: Annotated[
        Path, typer.Argument(metavar="SUBMISSIONS", help="A folder with a folder, a git clone or an .ipynb a student.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="OUT", help="Where marks and pages are written; a second run goes on there.")
    ],
    exercise: Annotated[str, typer.Option(metavar="04", help="Its number; else from the notebooks' names.")] = "",
    in_flight: Annotated[int, typer.Option(metavar="N", min=1, help="How many are asked at the same time.")] = 2,
    points: Annotated[list[str], typer.Option(metavar="ID=N", help="Such as 04.4=3; other questions: 1.")] = [],  # noqa: B006
    truth: Truth = [],  # noqa: B006
    final: Annotated[bool, typer.Option("--final", help="All marks are final: show the secret in the report.")] = False,
    gradescope: Annotated[Path | None, typer.Option(metavar="FILE", help="One student: its results.json.")] = None,
    classroom50: Annotated[Path | None, typer.Option(metavar="FILE", help="One student: its result.json.")] = None,
) -> None:
    """Grade a class in the sandbox: marks and pages.

    A student is a folder, a git clone or an .ipynb in SUBMISSIONS, and is called as that is. In a folder the notebook
    whose name starts with the exercise's number is taken. Links, files that are no notebooks and notebooks over 2 MB
    get no verdict and stand on a list for you, as does every answer that ends its process.

    OUT/marks.csv has a row a student. OUT/class.html says what to teach again, OUT/students/NAME.html what a student
    got and why, OUT/students/NAME.json the same for programs. OUT/secret is where the inputs come from: keep it to
    yourself until all marks are final. A run that was ended, in whatever way, goes on when it is started again; only
    what changed is graded again: a notebook, the grader, or an option. Delete a NAME.json to grade that student again.

    Exit codes: 0 marks.csv is complete; 2 wrong use; 3 the sandbox is not to be had here, with the remedy; 130
    interrupted.
    """
    torch.set_num_threads(1)
    with _plain():
        if out.resolve().is_relative_to(submissions.resolve()):
            raise ValueError("--out must lie outside SUBMISSIONS, or it would be a student")
        exercise = exercise or classroom.exercise_of(submissions)
        worth = {id: _number(id, text) for id, text in _pairs(points)}
        settings = classroom.Settings(exercise, worth, _truth(truth))
        found, aside = classroom.find(submissions, exercise)
        if (gradescope or classroom50) and len(found) != 1:
            raise ValueError(f"--gradescope and --classroom50 are for one student, got {len(found)}")
        with Jail() as jail, _progress(len(found)) as done:
            records = classroom.grade(found, out, settings, jail, in_flight, done)
        secret = classroom.secret_of(out).hex() if final else ""
        for record in records:
            classroom.write(out / "students" / f"{classroom.stem(record['name'])}.html", report.student_page(record))
        classroom.write(out / "class.html", report.class_page(records, settings, aside, secret))
        classroom.write(out / "marks.csv", classroom.marks(records, settings))
        if gradescope:
            classroom.write(gradescope, json.dumps(classroom.gradescope(records[0]), indent=1))
        if classroom50:
            classroom.write(classroom50, json.dumps(classroom.classroom50(records[0], os.environ), indent=1))
    human = [record["name"] for record in records if classroom.without_verdict(record)]
    typer.echo(f"{len(records)} graded: {out / 'class.html'}, {out / 'marks.csv'}")
    if human:
        typer.echo(f"{len(human)} with an answer that got no verdict; the page lists them for you.")


def explain(
    out: Out,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in marks.csv.")],
    id: Id,
    notebook: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the student's notebook is now.")] = None,
) -> None:
    """Answer an appeal: inputs, what came, what was expected.

    The inputs are printed as Python, to be run in the student's notebook. They are the class's inputs: show them when
    the marks are final.

    Exit codes: 0 explained; 2 no such student or question, or the notebook has changed; 3 no sandbox here.
    """
    torch.set_num_threads(1)
    with _plain(), Jail() as jail:
        typer.echo("\n".join(classroom.explain(out, name, id, jail, notebook)))


def _line(question: Question, verdict: Verdict, name: bool) -> str:
    title = f"{question.id} {question.name}" if isinstance(question, Function) else question.id
    if verdict.state == "correct":
        return f"{report.MARK[verdict.state]} {title}: {verdict.line}"
    return f"{report.MARK[verdict.state]} {title}: {feedback(question, verdict, 3 if name else 1)[0]}"


def _pairs(options: Iterable[str]) -> Iterator[tuple[str, str]]:
    for option in options:
        id, equals, value = option.partition("=")
        if not (equals and value):
            raise ValueError(f"an option of this kind is ID=VALUE, such as 04.4=no_T2; got {option!r}")
        yield id, value


def _number(id: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"points of {id}: a number, got {text!r}") from None


def _truth(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    conventions: dict[str, tuple[str, ...]] = {}
    for id, value in _pairs(options):
        conventions[id] = (*conventions.get(id, ()), value)
    for id, names in conventions.items():
        classroom.Settings(id[:2], truth={id: names})  # says what is wrong with it
    return conventions


@contextmanager
def _progress(total: int) -> Iterator:
    columns = (TextColumn("grading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


@contextmanager
def _plain() -> Iterator[None]:
    """What a user can mend is one line, not a traceback."""
    try:
        yield
    except Refused as error:
        typer.echo(f"kdcourse: {error}", err=True)
        raise typer.Exit(MISSING) from None
    except (ValueError, OSError) as error:
        typer.echo(f"kdcourse: {error}", err=True)
        raise typer.Exit(WRONG_USE) from None
    except KeyboardInterrupt:
        typer.echo("kdcourse: interrupted; all that is finished is recorded, and the same command goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
