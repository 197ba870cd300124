"""The commands: exit codes, what is printed, and a course's copy that works."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from grading.answers import ROOT, SOLUTIONS, notebook
from grading.patches import PATCHES
from typer.testing import CliRunner, Result

from kdcourse.cli import app
from kdcourse.grading import clean, commands, course
from kdcourse.grading.jail import Refused
from kdcourse.grading.judge import judge
from kdcourse.grading.make import make
from kdcourse.grading.questions import QUESTIONS
from kdcourse.grading.runner import Failure
from kdcourse.grading.sample import STUDENTS

EMPTY = '{"cells": []}'
CHAPTER = [question for id, question in QUESTIONS.items() if id[:2] == "04"]


def kdcourse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "04_mine.ipynb") -> Path:
        (tmp_path / name).write_text(text, "utf-8")
        return tmp_path / name

    return write


# kdcourse check


def test_check_of_a_solution_is_0_and_says_what_it_is_worth(file: Callable[..., Path]) -> None:
    result = kdcourse("check", file(notebook()))
    assert result.exit_code == 0, result.output
    assert "✓ 04.4 distillation_loss: value and gradients agree on 12 probes" in result.output
    assert "12 of 12 are right. Asked in a clean process: not sandboxed, not a mark." in result.output


def test_check_of_a_mistake_is_1_with_one_sentence_a_question(file: Callable[..., Path]) -> None:
    path = file(notebook(PATCHES["04.4"]["no_T2"], more="def train(*a):\n    return 1 / 0"))
    result = kdcourse("check", path)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert len(lines[: lines.index("")]) == 12
    assert lines[3].startswith("✗ 04.4 distillation_loss: right at T = 1. At T = 4 your value is 0.3591")
    assert lines[5].startswith("? 04.6 train: ZeroDivisionError") and "Traceback" not in result.output
    named = kdcourse("check", path, "--name", "--traceback")
    assert "✗ 04.4 distillation_loss: the factor T² is missing from the soft term." in named.output
    assert "Traceback (most recent call last):" in named.output and "in train" in named.output
    assert "kdcourse/grading" not in named.output  # only the notebook's own lines
    assert kdcourse("check", path, "--truth", "04.4=no_T2").output.count("✓") == 11


def test_check_follows_the_convention_that_a_released_notebook_tells(file: Callable[..., Path]) -> None:
    own = [*PATCHES["04.4"]["no_T2"], ('"04.4", distillation_loss)', '"04.4", distillation_loss, truth="no_T2")')]
    assert kdcourse("check", file(notebook(own))).exit_code == 0
    result = kdcourse("check", file(notebook(own[1:])), "--name")
    assert result.exit_code == 1 and "04.4 distillation_loss: your answer does not follow this class's" in result.output


def test_check_speaks_json(file: Callable[..., Path]) -> None:
    result = kdcourse("check", file(notebook(PATCHES["04.4"]["no_T2"])), "--json")
    said = json.loads(result.output)
    assert result.exit_code == 1 and (said["right"], said["of"]) == (11, 12)
    assert said["questions"]["04.4"]["names"] == ["no_T2"] and said["questions"]["04.7"]["state"] == "correct"


def test_check_of_what_is_not_started_is_1(file: Callable[..., Path]) -> None:
    result = kdcourse("check", file(notebook(solved=False)))
    assert result.exit_code == 1 and result.output.count("○") == 12


def test_check_finds_its_questions_by_the_file_or_by_its_cells() -> None:
    raw = notebook().encode()
    assert [q.id for q in course.questions_of("04_x.ipynb", raw)] == [q.id for q in CHAPTER]
    assert [q.id for q in course.questions_of("mine.ipynb", raw)] == [q.id for q in CHAPTER]
    cells = [nbformat.v4.new_code_cell('check("03.1", f)'), nbformat.v4.new_code_cell("check('04.4', g, name=True)")]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    assert [q.id for q in course.questions_of("mine.ipynb", text.encode())] == ["03.1", "04.4"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("mine.ipynb", "{}", "not a notebook"), ("04_x.ipynb", "text", "not a notebook"),
     ("mine.ipynb", EMPTY, "it checks no question"), ("99_x.ipynb", EMPTY, "with no chapter's number"),
     ("04_none.ipynb", None, "cannot be read: No such file")],
)  # fmt: skip
def test_check_of_no_notebook_is_2(file: Callable[..., Path], name: str, text: str | None, words: str) -> None:
    path = file("{}", "other").with_name(name) if text is None else file(text, name)
    result = kdcourse("check", path)
    assert result.exit_code == 2 and words in result.output and len(result.output.splitlines()) == 1
    assert kdcourse("check", path, "--truth", "04.4").exit_code == 2
    assert kdcourse("check").exit_code == 2


def test_a_question_that_ends_its_process_does_not_cost_the_others() -> None:
    raw = notebook(more="import os\ndef converge(*a):\n    os._exit(3)\ndef train(*a):\n    while True: pass").encode()
    given = clean.answers(raw, CHAPTER, 0, limit=15)
    states = {q.id: judge(q, answer).state for q, answer in zip(CHAPTER, given, strict=True)}
    assert states.pop("04.5") == states.pop("04.6") == "no verdict" and set(states.values()) == {"correct"}
    assert [answer.reason for answer in given if isinstance(answer, Failure)] == [
        "it ended the process that asked it (exit status 3).",
        "it took more than 15 seconds. Does a loop never end?",
    ]


# kdcourse hint, env, release


def test_hints_come_from_the_notebook_one_at_a_time() -> None:
    first, second = kdcourse("hint", "04.4"), kdcourse("hint", "04.4", 2)
    assert first.exit_code == second.exit_code == 0
    assert first.output.startswith("Four lines: the student's") and "kdcourse hint 04.4 2" in first.output
    assert second.output.startswith("At T = 1 most mistakes") and second.output.endswith("Hint 2 of 2.\n")
    for arguments, words in ((("04.4", 3), "has 2 hints, got 3"), (("04.2",), "no hint in its notebook"),
                             (("4.4",), "such as 04.4; got '4.4'")):  # fmt: skip
        result = kdcourse("hint", *arguments)
        assert result.exit_code == 2 and words in result.output


def test_env_says_what_is_missing_what_for_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    result = kdcourse("env")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        told = after.startswith("    get it: ")
        assert line.startswith(("✓ ", "    get it: ")) or (line.startswith(("✗ ", "○ only ")) and told)
    for what in ("✗ grade: bubblewrap", "○ only for the book's browser tests: Chromium", "✗ grade: user namespaces",
                 "○ only to run the studies of chapters 05 and 06 again .*Fashion-MNIST", "✓ PyTorch"):  # fmt: skip
        assert re.search(what, result.output)
    assert "apt-get install bubblewrap" in result.output


def test_env_is_0_where_only_some_chapters_lack_something(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(course, "machine", lambda: iter([(True, True, "all", ""), (False, False, "only for a", "b")]))
    result = kdcourse("env")
    assert result.exit_code == 0 and result.output == "✓ all\n○ only for a\n    get it: b\n"
    monkeypatch.undo()
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    needed = {what.split(":")[0] for _, needed, what, _ in course.machine() if needed}
    assert {"solve", "read", "grade"} < needed
    monkeypatch.setattr(course, "ROOT", tmp_path)  # a student's copy is not there to grade
    assert {what.split(":")[0] for _, needed, what, _ in course.machine() if needed} == needed - {"read", "grade"}


def test_a_released_copy_holds_no_solution_and_works(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    result = kdcourse("release", copy, "--truth", "04.4=no_T2")
    assert result.exit_code == 0, result.output
    assert {path.name for path in copy.iterdir()} == {
        ".github", "exercises", "kdcourse", "pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"
    }  # fmt: skip
    assert not list(copy.rglob("__pycache__")) and not list(copy.rglob("solutions"))
    for chapter, path in SOLUTIONS.items():
        theirs = nbformat.read(copy / f"exercises/{path.stem}.ipynb", 4).cells
        for ours, cell in zip(make(SOLUTIONS[chapter], solved=True).cells, theirs, strict=True):
            for hole in re.findall(r"BEGIN SOLUTION\n(.*?)\n *# END", ours.source, re.S):
                shown = {line.strip() for line in cell.source.splitlines()}
                assert not {line.strip() for line in hole.splitlines()} & shown
    cells = [cell.source for cell in nbformat.read(copy / "exercises/04_the_loss.ipynb", 4).cells]
    assert 'check("04.4", distillation_loss, truth="no_T2")' in cells
    assert 'check("04.6", train, truth="no_T2")' in cells  # the loop trains with the same loss
    says = "**In this class** another convention is judged: the factor T² is missing from the soft term."
    told = [cell for cell in cells if says in cell]
    assert [cell.split("\n\n")[0] for cell in told] == ["## 04.4 The distillation loss", "## 04.6 Find and mend"]
    assert all(cell.split("\n\n")[1].startswith(says) for cell in told)
    assert "In this class" not in (copy / "exercises/03_temperature.ipynb").read_text()
    paths = os.pathsep.join([str(copy), *(path for path in sys.path if path and Path(path).resolve() != ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "kdcourse.cli", "check", "exercises/04_the_loss.ipynb"],
        cwd=copy, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout.count("○") == 12, done.stdout + done.stderr
    for again, words in ((copy, "is not empty"), (tmp_path / "b", "truth of 09.9: only a function")):
        more = ("--truth", "09.9=x") if again != copy else ()
        refused = kdcourse("release", again, *more)
        assert refused.exit_code == 2 and words in refused.output


def test_a_sample_class_is_written_once(tmp_path: Path) -> None:
    assert kdcourse("sample", tmp_path / "class").exit_code == 0
    assert {path.name for path in (tmp_path / "class").iterdir()} == set(STUDENTS)
    again = kdcourse("sample", tmp_path / "class")
    assert again.exit_code == 2 and "is not empty" in again.output


# kdcourse grade


@pytest.fixture
def in_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere:
        def __enter__(self):
            raise Refused("Jail: needs bubblewrap: sudo apt-get install bubblewrap")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("never entered")

    monkeypatch.setattr(commands, "Jail", Nowhere)


@pytest.mark.usefixtures("in_no_sandbox")
def test_without_the_sandbox_nothing_is_graded(tmp_path: Path) -> None:
    (tmp_path / "class/ada").mkdir(parents=True)
    result = kdcourse("grade", tmp_path / "class", "--out", tmp_path / "out", "--exercise", "04")
    assert result.exit_code == 3 and "sudo apt-get install bubblewrap" in result.output
    assert not (tmp_path / "out").exists()
    unknown = kdcourse("explain", tmp_path / "out", "ada", "04.4")  # said before a sandbox is asked for
    assert unknown.exit_code == 2 and "nobody was graded there" in unknown.output


@pytest.mark.usefixtures("in_no_sandbox")
def test_wrong_use_of_grade_is_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "class/ada").mkdir(parents=True)
    (tmp_path / "class/bela").mkdir()
    (tmp_path / "empty").mkdir()
    folder, four = tmp_path / "class", ("--exercise", "04")
    for words, arguments in {
        "kdcourse: which exercise?": (folder,),
        "kdcourse: exercise: must be one of": (folder, "--exercise", "99"),
        "--truth is a question's number and a value, such as 04.4=no_T2; got 'no_T2'": (folder, *four, "--truth=no_T2"),
        "kdcourse: convention of 04.4: must be one of no_T2, ": (folder, *four, "--truth", "04.4=no_t2"),
        "kdcourse: truth of 04.7: only a function": (folder, *four, "--truth", "04.7=a"),
        "truth of 04.4: 04.6 builds on it": (folder, *four, "--truth", "04.4=swapped"),
        "--points is a question's number and a value, such as 04.4=3; got '0'": (folder, *four, "--points", "0"),
        "points of 04.4: must be a number from 0 on, got 'x'": (folder, *four, "--points", "04.4=x"),
        "points of 04.4: must be a number from 0 on, got -1": (folder, *four, "--points", "04.4=-1"),
        "points of 04.4: must be a number from 0 on, got inf": (folder, *four, "--points", "04.4=inf"),
        "exercise 04 has no question '04.99'; it has 04.1 to 04.12": (folder, *four, "--points", "04.99=1"),
        "for one student, got 2": (folder, *four, "--gradescope", tmp_path / "r.json"),
        "nowhere; submissions are a folder, a git clone": (tmp_path / "nowhere",),
        "there is no ": (tmp_path / "nowhere", *four),
        "empty holds no submissions: a folder, a git clone": (tmp_path / "empty",),
        "holds no submissions": (tmp_path / "empty", *four),
        "exercises holds the course's exercises, not a class: ": (ROOT / "exercises",),
        "the course's exercises, not a class": (ROOT / "exercises", *four),
    }.items():
        result = kdcourse("grade", *arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2 and words in result.output, (words, result.output)
        assert len(result.output.splitlines()) == 1
    inside = kdcourse("grade", folder, "--out", tmp_path / "class/out", *four)
    assert inside.exit_code == 2 and "must lie outside" in inside.output


def test_a_class_graded_again_is_told_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """Asks in a clean process, where no sandbox is to be had."""

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None: ...

        def answers(self, raw: bytes, questions: list, seed: int) -> list[object]:
            return clean.answers(raw, questions, seed)

    monkeypatch.setattr(commands, "Jail", Here)
    for name in ("ada", "bela"):
        (tmp_path / "class" / name).mkdir(parents=True)
        (tmp_path / "class" / name / "03_mine.ipynb").write_text(notebook(chapter="03", solved=name == "ada"))
    out = tmp_path / "out"

    def said(*more: str) -> list[str]:
        result = kdcourse("grade", tmp_path / "class", "--out", out, *more)
        assert result.exit_code == 0, result.output
        return [line for line in result.stdout.splitlines() if line]  # without the progress bar's

    where = f"{out / 'class.html'}, {out / 'marks.csv'}"
    assert said() == [f"0 kept, 2 graded: {where}"]
    assert said() == [f"2 kept, 0 graded: {where}"]
    now = "Now: --exercise 03 --points 03.1=0."
    assert said("--points", "03.1=0") == [
        f"The options have changed, so all is graded anew. Before: --exercise 03. {now}", f"0 kept, 2 graded: {where}"
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "class/bela")
    assert said("--points", "03.1=0") == [
        f"No longer in {tmp_path / 'class'}, and so removed: bela", f"1 kept, 0 graded: {where}"
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "students").iterdir()) == ["ada.html", "ada.json"]
    explained = kdcourse("explain", out, "ada", "03.1")
    assert explained.exit_code == 0 and "\nimport torch\n" in explained.stdout
    exec(explained.stdout, {"tempered_softmax": lambda logits, temperature: logits})
    assert kdcourse("explain", out, "bela", "03.1").exit_code == 2


def test_each_command_says_its_exit_codes() -> None:
    for command in ("check", "hint", "env", "release", "sample", "grade", "explain"):
        result = kdcourse(command, "--help")
        assert result.exit_code == 0 and "Exit codes: 0" in result.output, command
