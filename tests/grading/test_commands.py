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


def test_env_says_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    result = kdcourse("env")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        assert line.startswith(("✓ ", "    get it: ")) or (line.startswith("✗ ") and after.startswith("    get it: "))
    for what in ("bubblewrap", "Chromium", "Fashion-MNIST", "user namespaces"):
        assert re.search(rf"✗ .*{what}", result.output)
    assert "apt-get install bubblewrap" in result.output and "✓ PyTorch" in result.output
    monkeypatch.setattr(course, "machine", lambda: iter([(True, "all", "")]))
    assert kdcourse("env").exit_code == 0


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
    assert (
        'check(\\"04.4\\", distillation_loss, truth=\\"no_T2\\")' in (copy / "exercises/04_the_loss.ipynb").read_text()
    )
    paths = os.pathsep.join([str(copy), *(path for path in sys.path if path and Path(path).resolve() != ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "kdcourse.cli", "check", "exercises/04_the_loss.ipynb"],
        cwd=copy, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout.count("○") == 12, done.stdout + done.stderr
    for again, words in ((copy, "is not empty"), (tmp_path / "b", "no question '09.9'")):
        more = ("--truth", "09.9=x") if again != copy else ()
        refused = kdcourse("release", again, *more)
        assert refused.exit_code == 2 and (words in refused.output or "must be one of" in refused.output)


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
    assert kdcourse("explain", tmp_path / "out", "ada", "04.4").exit_code == 3


@pytest.mark.usefixtures("in_no_sandbox")
def test_wrong_use_of_grade_is_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "class/ada").mkdir(parents=True)
    (tmp_path / "class/bela").mkdir()
    out = ("--out", tmp_path / "out")
    for words, arguments in {
        "which exercise?": (tmp_path / "class", *out),
        "must be one of": (tmp_path / "class", *out, "--exercise", "99"),
        "such as 04.4=no_T2; got 'no_T2'": (tmp_path / "class", *out, "--exercise", "04", "--truth", "no_T2"),
        "points of 04.4: a number, got 'x'": (tmp_path / "class", *out, "--exercise", "04", "--points", "04.4=x"),
        "must lie outside": (tmp_path / "class", "--out", tmp_path / "class/out", "--exercise", "04"),
        "for one student, got 2": (tmp_path / "class", *out, "--exercise", "04", "--gradescope", tmp_path / "r.json"),
        "there is no": (tmp_path / "nowhere", *out, "--exercise", "04"),
    }.items():
        result = kdcourse("grade", *arguments)
        assert result.exit_code == 2 and words in result.output, (words, result.output)
        assert len(result.output.splitlines()) == 1


def test_each_command_says_its_exit_codes() -> None:
    for command in ("check", "hint", "env", "release", "sample", "grade", "explain"):
        result = kdcourse(command, "--help")
        assert result.exit_code == 0 and "Exit codes: 0" in result.output, command
