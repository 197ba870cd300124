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
from rich.progress import track

from . import appeal, classroom, clean, course, report
from .jail import Jail, Refused
from .judge import judge
from .live import feedback
from .spec import Function

NOT_RIGHT, WRONG_USE, MISSING, INTERRUPTED = 1, 2, 3, 130

Notebook = Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="Such as 04_the_loss.ipynb.")]
Id = Annotated[str, typer.Argument(metavar="QUESTION", help="A question's number, such as 04.4.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")]
Points = Annotated[
    list[str] | None,
    typer.Option(metavar="ID=N", help="Points of a question, such as 04.4=3: a number from 0 on; of the others: 1."),
]
Truth = Annotated[
    list[str] | None,
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
    truth: Truth = None,
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
        conventions = {**course.told(raw), **_truth(truth)}
        given = zip(questions, clean.answers(raw, questions, 0), strict=True)
        judged = [(q, judge(q, answer, truth=frozenset(conventions.get(q.id, ())))) for q, answer in given]
    right = sum(verdict.state == "correct" for _, verdict in judged)
    if as_json:
        entries = {q.id: {"state": v.state, "line": v.line, "names": v.names} for q, v in judged}
        typer.echo(json.dumps({"right": right, "of": len(judged), "questions": entries}, indent=1))
    else:
        for question, verdict in judged:
            title = f"{question.id} {question.name}" if isinstance(question, Function) else question.id
            line = verdict.line if verdict.state == "correct" else feedback(question, verdict, 3 if name else 1)[0]
            typer.echo(f"{report.MARK[verdict.state]} {title}: {line}")
            if traceback and verdict.state == "no verdict" and isinstance(question, Function):
                typer.echo(clean.traceback(raw, question).rstrip())
        typer.echo(f"\n{right} of {len(judged)} are right. Asked in a clean process: not sandboxed, not a mark.")
        if any(verdict.names for _, verdict in judged) and not name:
            typer.echo("--name names the mistakes.")
        if any(verdict.state == "no verdict" for _, verdict in judged) and not traceback:
            typer.echo("--traceback shows where an answer fell.")
    raise typer.Exit(0 if right == len(judged) else NOT_RIGHT)


def hint(
    id: Id, number: Annotated[int, typer.Argument(metavar="[NUMBER]", help="Which hint; each tells more.")] = 1
) -> None:
    """Print a hint, as the exercise's notebook has it: the first one, or the one you ask for.

    Exit codes: 0 printed; 2 there is no such question or hint.
    """
    with _plain():
        found = course.hints(id)
        if not 1 <= number <= len(found):
            raise ValueError(f"{id} has {len(found)} hint{'s' * (len(found) > 1)}, got {number}")
    more = f" The next: kdcourse hint {id} {number + 1}" if number < len(found) else ""
    typer.echo(f"{found[number - 1]}\n\nHint {number} of {len(found)}.{more}")


def env() -> None:
    """Say what is missing on this machine, what it is for, and how to get it.

    Exit codes: 0 all is there that the course needs to be read, solved and graded (○: wanted only for what it says);
    1 something of that is missing.
    """
    complete = True
    for there, needed, what, how in course.machine():
        typer.echo(f"✓ {what}" if there else f"{'✗' if needed else '○'} {what}\n    get it: {how}")
        complete &= there or not needed
    raise typer.Exit(0 if complete else NOT_RIGHT)


def release(target: Folder, truth: Truth = None) -> None:
    """Write a course's copy to hand out: exercises, the package that they need, a short README, and the licences.

    The package has the references and the book's losses in it: so `check` gives no marks. With --truth the texts and
    the checks of the copy tell your convention, and the public solution is a named mistake.

    Exit codes: 0 written; 2 wrong use.
    """
    with _plain():
        names = course.release(target, _truth(truth))
    typer.echo(f"{target}: {', '.join(names)}. No solution is in exercises/.")


def sample(target: Folder) -> None:
    """Write a class to try `kdcourse grade` on: right, wrong, unfinished, broken and hostile submissions.

    Exit codes: 0 written; 2 wrong use.
    """
    with _plain():
        course.new_folder(target, "sample")
        from .sample import STUDENTS, write

        write(target)
    typer.echo(f"{target}: {len(STUDENTS)} students. Next: kdcourse grade {target} --out marks")


def grade(
    submissions: Annotated[
        Path, typer.Argument(metavar="SUBMISSIONS", help="A folder with a folder, a git clone or an .ipynb a student.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="OUT", help="Where marks and pages are written; a second run goes on there.")
    ],
    exercise: Annotated[str, typer.Option(metavar="04", help="Its number; else from the notebooks' names.")] = "",
    in_flight: Annotated[int, typer.Option(metavar="N", min=1, help="How many are asked at the same time.")] = 2,
    points: Points = None,
    truth: Truth = None,
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
    yourself until all marks are final. A second run goes on where the first was ended; only what changed is graded
    again: a notebook, the grader, or an option. What OUT holds of students who left SUBMISSIONS is removed.

    Exit codes: 0 marks.csv is complete; 2 wrong use; 3 the sandbox is not to be had here, with the remedy; 130
    interrupted.
    """
    torch.set_num_threads(1)
    with _plain():
        if out.resolve().is_relative_to(submissions.resolve()):
            raise ValueError("--out must lie outside SUBMISSIONS, or it would be a student")
        exercise, found, aside = classroom.find(submissions, exercise)
        worth = {id: _points(id, text) for id, text in _pairs("--points", "04.4=3", points)}
        settings = classroom.Settings(exercise, worth, _truth(truth))
        if (gradescope or classroom50) and len(found) != 1:
            raise ValueError(f"--gradescope and --classroom50 are for one student, got {len(found)}")
        with Jail() as jail:
            if said := classroom.changed(out, settings):
                typer.echo(said)
            going = classroom.grade(found, out, settings, jail, in_flight)
            shown = {"total": len(found), "console": Console(stderr=True), "transient": True}
            done = sorted(track(going, "grading", **shown), key=lambda pair: pair[0]["name"])
        records, kept = [record for record, _ in done], sum(was_kept for _, was_kept in done)
        if gone := classroom.forget(out, records):
            typer.echo(f"No longer in {submissions}, and so removed: {', '.join(gone)}")
        secret = classroom.secret_of(out).hex() if final else ""
        for record in records:
            classroom.write(out / "students" / f"{classroom.stem(record['name'])}.html", report.student_page(record))
        classroom.write(out / "class.html", report.class_page(records, settings, aside, secret))
        classroom.write(out / "marks.csv", classroom.marks(records, settings))
        if gradescope:
            classroom.write(gradescope, json.dumps(classroom.gradescope(records[0]), indent=1))
        if classroom50:
            classroom.write(classroom50, json.dumps(classroom.classroom50(records[0], os.environ), indent=1))
    if human := sum(bool(classroom.without_verdict(record)) for record in records):
        typer.echo(f"{human} with an answer that got no verdict; the page lists them for you.")
    typer.echo(f"{kept} kept, {len(records) - kept} graded: {out / 'class.html'}, {out / 'marks.csv'}")


def explain(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that `kdcourse grade` wrote.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in marks.csv.")],
    id: Id,
    notebook: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the student's notebook is now.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All inputs, not only the smallest that differs.")] = False,
) -> None:
    """Answer an appeal: the smallest input on which the answer is wrong, what came, and what was expected.

    It is printed as Python, to be run below the student's answer. It is an input of the class: show it when the marks
    are final.

    Exit codes: 0 explained; 2 no such student or question, or the notebook has changed; 3 no sandbox here.
    """
    torch.set_num_threads(1)
    with _plain():
        record = appeal.recorded(out, name, id)
        with Jail() as jail:
            typer.echo("\n".join(appeal.explain(out, record, id, jail, notebook, every)))


def _pairs(option: str, example: str, given: Iterable[str] | None) -> Iterator[tuple[str, str]]:
    for text in given or ():
        id, equals, value = text.partition("=")
        if not (equals and value):
            raise ValueError(f"{option} is a question's number and a value, such as {example}; got {text!r}")
        yield id, value


def _points(id: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"points of {id}: must be a number from 0 on, got {text!r}") from None


def _truth(options: Iterable[str] | None) -> dict[str, tuple[str, ...]]:
    given: dict[str, tuple[str, ...]] = {}
    for id, name in _pairs("--truth", "04.4=no_T2", options):
        given[id] = (*given.get(id, ()), name)
    return classroom.conventions(given)


@contextmanager
def _plain() -> Iterator[None]:
    """What a user can mend is one line, not a traceback."""
    try:
        yield
    except Refused as error:
        said, code = str(error), MISSING
    except ModuleNotFoundError as error:
        said, code = f"this needs {error.name}: pip install 'kdcourse[grade]'", WRONG_USE
    except (ValueError, OSError) as error:
        said, code = str(error), WRONG_USE
    except KeyboardInterrupt:
        said, code = "interrupted; all that is finished is recorded, and the same command goes on", INTERRUPTED
    else:
        return
    typer.echo(f"kdcourse: {said}", err=True)
    raise typer.Exit(code)
