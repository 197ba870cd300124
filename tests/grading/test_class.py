"""A class: what is read, what is graded again, what the pages and the CSV hold, and what survives a kill."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from grading.answers import FUNCTIONS, ROOT, UNUSUAL, notebook, solution, source, verdict
from grading.patches import PATCHES

from kdcourse.grading import appeal, check, classroom, report, sample
from kdcourse.grading.asking import ask, understand
from kdcourse.grading.child import reply
from kdcourse.grading.classroom import Settings, find, read
from kdcourse.grading.jail import Jail, Refused
from kdcourse.grading.judge import drawn, expected, judge
from kdcourse.grading.questions import QUESTIONS
from kdcourse.grading.runner import observe
from kdcourse.grading.spec import Function, Question

LOSS = QUESTIONS["04.4"]
TRUTH = frozenset({"no_T2"})
SETTINGS = Settings("04")
KDCOURSE = [sys.executable, "-m", "kdcourse.cli"]


class Here:
    """Asks in this very process, and counts: for what does not depend on where an answer runs."""

    def __init__(self) -> None:
        self.asked = 0
        # Python before 3.11.5 may fail where two threads parse at once; the real sandbox is one process for each.
        self._one_at_a_time = threading.Lock()

    def answers(self, raw: bytes, questions: Sequence[Question], seed: int) -> list[object]:
        messages: list[bytes] = []
        with self._one_at_a_time:
            self.asked += 1
            reply(ask(raw, questions, seed), messages.append)
        return [understand(q, seed, message[4:]) for q, message in zip(questions, messages, strict=True)]


@pytest.fixture(scope="session")
def jail(needs: Callable[[bool, str, str], None]) -> None:
    """Skips where the sandbox is not to be had."""
    try:
        with Jail():
            pass
    except Refused as refused:
        needs(False, "the sandbox", str(refused).replace("\n", " "))


def hand_in(folder: Path, **students: str) -> Path:
    for name, text in students.items():
        (folder / name / "exercises").mkdir(parents=True)
        (folder / name / "exercises/04_the_loss.ipynb").write_text(text, "utf-8")
    return folder


def graded(folder: Path, out: Path, settings: Settings = SETTINGS, asks: Here | None = None) -> list:
    found = find(folder, settings.exercise)[1]
    return sorted(
        (record for record, _ in classroom.grade(found, out, settings, asks or Here())), key=itemgetter("name")
    )


# What is taken as a submission


def test_a_student_is_a_folder_or_a_notebook(tmp_path: Path) -> None:
    hand_in(tmp_path, ada="{}")
    (tmp_path / "ada/.git").mkdir()
    (tmp_path / "ada/exercises/03_temperature.ipynb").write_text("{}")
    (tmp_path / "ada/exercises/.ipynb_checkpoints").mkdir()
    (tmp_path / "ada/exercises/.ipynb_checkpoints/04_the_loss-checkpoint.ipynb").write_text("{}")
    (tmp_path / "bela.ipynb").write_text("{}")
    (tmp_path / "roster.csv").write_text("")
    _, found, aside = find(tmp_path, "04")
    assert [(s.name, s.path and s.path.name, s.problem) for s in found] == [
        ("ada", "04_the_loss.ipynb", ""),
        ("bela", "bela.ipynb", ""),
    ]
    assert aside == ["roster.csv"]
    assert [s.name for s in find(tmp_path / "ada", "04")[1]] == ["ada"]  # one git clone is one student
    assert [s.name for s in find(tmp_path / "bela.ipynb", "04")[1]] == ["bela"]


def test_what_cannot_be_graded_is_one_sentence_for_a_human(tmp_path: Path) -> None:
    folder = tmp_path / "class"
    hand_in(folder, two=notebook(), right=notebook())
    (folder / "two/04_again.ipynb").write_text("{}")
    (folder / "empty").mkdir()
    (folder / "other_exercise").mkdir()
    (folder / "other_exercise/03_temperature.ipynb").write_text("{}")
    (folder / "link.ipynb").symlink_to("/etc/passwd")
    (folder / "link").symlink_to(folder / "right")
    os.mkfifo(folder / "fifo.ipynb")
    (folder / "large.ipynb").write_bytes(b" " * 3_000_000)
    (folder / "text.ipynb").write_text("not JSON")
    (folder / "inner").mkdir()
    (folder / "inner/04_x.ipynb").symlink_to(folder / "right/exercises/04_the_loss.ipynb")
    records = {record["name"]: record for record in graded(folder, tmp_path / "out")}
    reasons = {name: record["questions"]["04.4"]["line"] for name, record in records.items()}
    assert records["right"]["points"] == 12 and reasons.pop("right").startswith("value and gradients agree")
    assert reasons == {
        "two": "there are 2 notebooks for exercise 04 (04_again.ipynb, 04_the_loss.ipynb); one must be chosen.",
        "empty": "there is no notebook (.ipynb) for exercise 04.",
        "other_exercise": "there is no notebook (.ipynb) for exercise 04.",
        "link": "there are 2 notebooks for exercise 04 (link, link.ipynb); one must be chosen.",
        "fifo": "the notebook is not a regular file.",
        "large": "the notebook is larger than 2 MB; without its outputs it would not be.",
        "text": "the file is not a notebook (.ipynb, format 4).",
        "inner": "the notebook is a link; the file itself is asked for.",
    }
    assert all(len(classroom.without_verdict(records[name])) == 12 for name in reasons)
    page = report.student_page(records["fifo"])
    assert page.count("The notebook is not a regular file.") == 1 and "0 of 12 points" in page


def test_a_file_is_read_only_if_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "folder.ipynb").mkdir()
    for path, words in ((tmp_path / "folder.ipynb", "not a regular file"), (tmp_path / "none.ipynb", "No such file"),
                        (Path("/dev/zero"), "not a regular file")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            read(path)


def test_no_two_students_share_a_file() -> None:
    names = [
        "a",
        "A b",
        "a/b",
        "../a",
        "<b>",
        "~a",
        "x" * 200,
        "x" * 201,
        " a",
        "a\n",
        "\udcff",
        "-a",
        ".a",
        "é",
        "a_b",
    ]
    stems = [classroom.stem(name) for name in names]
    assert len(set(stems)) == len(names)
    assert all("/" not in stem and not stem.startswith(".") and len(stem) < 100 for stem in stems)


def test_settings_say_what_is_wrong_with_them() -> None:
    for words, settings in (
        ("must be one of 01", lambda: Settings("99")),
        ("no question '05.1'", lambda: Settings("04", points={"05.1": 2})),
        ("must be a number from 0 on, got -1", lambda: Settings("04", points={"04.4": -1})),
        ("must be a number from 0 on, got nan", lambda: Settings("04", points={"04.4": float("nan")})),
        ("must be one of no_T2, .*; got no_t2", lambda: Settings("04", truth={"04.4": ("no_t2",)})),
        ("only a function", lambda: Settings("04", truth={"04.7": ("a",)})),
    ):
        with pytest.raises(ValueError, match=words):
            settings()


# What is graded again


def test_only_what_changed_is_graded_again(tmp_path: Path) -> None:
    folder, out = hand_in(tmp_path / "class", ada=notebook(), bela=notebook(PATCHES["04.4"]["no_T2"])), tmp_path / "out"
    asks = Here()
    first = graded(folder, out, asks=asks)
    assert asks.asked == 2 and [record["points"] for record in first] == [12, 11]
    again = graded(folder, out, asks=asks)
    assert asks.asked == 2 and json.dumps(again) == json.dumps(first)
    (folder / "bela/exercises/04_the_loss.ipynb").write_text(notebook())
    assert [record["points"] for record in graded(folder, out, asks=asks)] == [12, 12] and asks.asked == 3
    hand_in(folder, chen=notebook(solved=False))
    graded(folder, out, asks=asks)
    assert asks.asked == 4
    worth = graded(folder, out, Settings("04", points={"04.4": 3}), asks)  # a setting is another grader
    assert asks.asked == 7 and [record["of"] for record in worth] == [14, 14, 14]
    (out / "students/ada.json").unlink()
    graded(folder, out, Settings("04", points={"04.4": 3}), asks)
    assert asks.asked == 8


def test_other_options_are_told_of_and_grade_all_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = hand_in(tmp_path / "class", ada=notebook(), bela=notebook()), tmp_path / "out"
    assert classroom.changed(out, SETTINGS) == ""
    for settings, options, said in (
        (SETTINGS, "", [False, False]),
        (SETTINGS, "", [True, True]),
        (Settings("04", {"04.4": 3, "04.1": 0.5}), "--exercise 04 --points 04.1=0.5 --points 04.4=3", [False, False]),
        (Settings("04", truth={"04.4": ("no_T2",)}), "--truth 04.4=no_T2 --truth 04.6=no_T2", [False, False]),
        (Settings("03"), "--exercise 03", [False, False]),
    ):
        why = classroom.changed(out, settings)
        assert f"{options}." in why and "all is graded anew" in why if options else why == ""
        kept = [kept for _, kept in classroom.grade(find(folder, "04")[1], out, settings, Here())]
        assert kept == said and classroom.changed(out, settings) == ""
    monkeypatch.setattr(classroom, "CODE", ("judge",))
    assert classroom.changed(out, Settings("03")).startswith("The grader has changed since the last run")


def test_who_is_no_longer_in_the_class_leaves_no_page(tmp_path: Path) -> None:
    folder, out = hand_in(tmp_path / "class", ada=notebook(), **{"b:c.d": notebook()}), tmp_path / "out"
    for record in graded(folder, out):
        classroom.write(out / f"students/{classroom.stem(record['name'])}.html", report.student_page(record))
    assert len(list((out / "students").iterdir())) == 4
    (folder / "b:c.d").rename(tmp_path / "elsewhere")
    assert classroom.forget(out, graded(folder, out)) == [classroom.stem("b:c.d")]
    assert sorted(path.name for path in (out / "students").iterdir()) == ["ada.html", "ada.json"]


def test_a_question_may_be_worth_nothing_or_half_a_point(tmp_path: Path) -> None:
    settings = Settings("04", points={"04.4": 0, "04.1": 0.5})
    (record,) = graded(hand_in(tmp_path / "class", ada=notebook()), tmp_path / "out", settings)
    assert (record["points"], record["of"]) == (10.5, 10.5)
    assert "10.5 of 10.5 points" in report.student_page(record)


def test_a_new_grader_grades_everybody_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asks = hand_in(tmp_path / "class", ada=notebook()), Here()
    graded(folder, tmp_path / "out", asks=asks)
    monkeypatch.setattr(classroom, "CODE", ("judge",))
    graded(folder, tmp_path / "out", asks=asks)
    assert asks.asked == 2


def test_the_inputs_come_from_a_secret_that_only_the_owner_reads(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    seeds = [classroom.seed_of(tmp_path / name, exercise) for name in ("a", "b", "a") for exercise in ("03", "04")]
    assert seeds[:2] == seeds[4:] and len(set(seeds)) == 4
    assert (tmp_path / "a/secret").stat().st_mode & 0o777 == 0o600
    (tmp_path / "a/secret").write_text("short")
    with pytest.raises(ValueError, match="does not hold 32 bytes"):
        classroom.secret_of(tmp_path / "a")


def test_one_answer_that_no_judge_can_read_does_not_stop_a_class(tmp_path: Path) -> None:
    class Odd(Here):
        def answers(self, raw: bytes, questions: Sequence[Question], seed: int) -> list[object]:
            return [object()] * len(questions)

    (record,) = graded(hand_in(tmp_path / "class", ada=notebook()), tmp_path / "out", asks=Odd())
    assert record["questions"]["04.4"]["line"] == "the judge cannot read its answer (TypeError)."


# What is written


def test_the_csv_holds_no_formula_and_one_row_a_student(tmp_path: Path) -> None:
    names = ["=1+1", "+a", "-a", "@a", "a,b", 'a"b', "a\nb", "ada"]
    folder = hand_in(tmp_path / "class", **dict.fromkeys(names, notebook(more="answer_7 = 'z'")))
    settings = Settings("04", points={"04.4": 2.5})
    text = classroom.marks(graded(folder, tmp_path / "out", settings), settings)
    head, *rows = csv.reader(text.splitlines())
    assert head[:4] == ["student", "points", "of", "04.1"] and head[-2:] == ["04.12", "for a human"]
    assert [row[0] for row in rows] == sorted(["'=1+1", "'+a", "'-a", "'@a", "a,b", 'a"b', "a b", "ada"],
                                              key=lambda name: name.removeprefix("'"))  # fmt: skip
    assert {tuple(row[1:7]) for row in rows} == {("12.5", "13.5", "1", "1", "1", "2.5")}
    assert {row[-1] for row in rows} == {"04.7"}


def test_pages_escape_names_and_answers_and_load_nothing(tmp_path: Path) -> None:
    evil = "<script>alert(1)<:script>"  # a slash is no name
    folder = hand_in(tmp_path / "class", **{evil: notebook(more="answer_7 = '<img src=x onerror=alert(2)>'")})
    (record,) = records = graded(folder, tmp_path / "out")
    pages = [report.student_page(record), report.class_page(records, Settings("04"), ["<b>.csv"])]
    for page in pages:
        assert "&lt;script&gt;alert(1)" in page and "&lt;img src=x" in page
        assert not re.search(r"<(script|img|b>\.csv|iframe|link)", page) and "default-src 'none'" in page
        assert not re.search(r'(src|href)="?(https?:)?//', page)
    assert "&lt;b&gt;.csv" in pages[1]


def test_a_student_reads_the_mistake_the_evidence_and_a_hint(tmp_path: Path) -> None:
    (record,) = graded(hand_in(tmp_path / "class", ada=notebook(PATCHES["04.4"]["no_T2"])), tmp_path / "out")
    page = report.student_page(record)
    parts = ["11 of 12 points", "04.4 The distillation loss", "The factor T² is missing from the soft term.",
             "Right at T = 1. At T = 4 your value is", "Hint: The soft term is T² times the divergence."]  # fmt: skip
    assert [page.index(part) for part in parts] == sorted(page.index(part) for part in parts)
    assert "Traceback" not in page


def test_an_instructor_reads_what_to_teach_again_and_who_needs_a_human(tmp_path: Path) -> None:
    folder = hand_in(
        tmp_path / "class",
        ada=notebook(),
        bela=notebook(PATCHES["04.4"]["no_T2"]),
        chen=notebook([*PATCHES["04.4"]["no_T2"], ('answer_7 = "b"', 'answer_7 = "c"')]),
        dora=notebook([("* hard", "* hard * 1.1")]),
        emil=notebook(more="def train(*a):\n    raise SystemExit"),
    )
    records = graded(folder, tmp_path / "out")
    page = report.class_page(records, Settings("04"))
    assert "5 submissions, on average 10.8 of 12 points. <a" in page
    assert re.search(r"<span class=count>2</span>.*?factor T² is missing.*?>bela</a>.*?>chen</a>", page, re.S)
    assert "c. It does no such thing below T = 1" in page
    assert re.search(
        r"<span class=count>1</span>.*?Wrong in another way.*?>dora</a>: your value is [\d.]+ and should be [\d.]+<",
        page,
        re.S,
    )
    assert re.search(r"For a human.*emil.*04\.6.*SystemExit", page, re.S)
    assert re.search(r"04\.9 [^<]*</b> <small>5 right\.</small> Everybody who answered has it", page)
    secret = classroom.secret_of(tmp_path / "out").hex()
    assert secret not in page and secret in report.class_page(records, Settings("04"), secret=secret)


def test_the_class_page_starts_with_the_question_that_most_fail(tmp_path: Path) -> None:
    wrong = notebook(PATCHES["04.4"]["no_T2"])
    mean = notebook([*PATCHES["04.4"]["mean_classes"], ("answer_1 = 0.7593", "answer_1 = 0.25")])
    students = {"a": wrong, "b": wrong, "c": mean, "d": notebook(), "e": notebook(solved=False), "f": "{"}
    page = report.class_page(graded(hand_in(tmp_path / "class", **students), tmp_path / "out"), SETTINGS)
    assert "6 submissions, on average 7.3 of 12 points. Not read or not started, and so 0: 2; " in page
    assert "average of the others: 11.0." in page
    parts = ["What to teach again", "04.4 The distillation loss: 3 of 6 wrong</b>", "1 right, 3 wrong, 1 not started",
             "<span class=count>2</span>", "The factor T² is missing", "<span class=count>1</span>", "averaged over",
             "04.1 The loss of a toy student: 1 of 6 wrong", "Wrong in another way", ">c</a>: 0.25 is too small.",
             "04.2 ", "Everybody who answered has it", "For a human", "Students"]  # fmt: skip
    at = 0
    for part in parts:
        at = page.index(part, at)  # in this order


def test_gradescope_reads_the_results(tmp_path: Path) -> None:
    """The keys and values of its documented output format, and no others."""
    settings = Settings("04", points={"04.4": 2.5})
    (record,) = graded(hand_in(tmp_path / "class", ada=notebook(PATCHES["04.4"]["no_T2"])), tmp_path / "out", settings)
    theirs = json.loads(json.dumps(classroom.gradescope(record)))
    assert theirs.keys() <= {"score", "execution_time", "output", "output_format", "test_output_format",
                             "test_name_format", "visibility", "stdout_visibility", "extra_data", "tests",
                             "leaderboard"}  # fmt: skip
    assert theirs["score"] == 11 == sum(test["score"] for test in theirs["tests"]) and len(theirs["tests"]) == 12
    assert theirs["output_format"] in ("text", "html", "simple_format", "md", "ansi") and theirs["output"] == ""
    for test in theirs["tests"]:
        assert test.keys() <= {"score", "max_score", "status", "name", "name_format", "number", "output",
                               "output_format", "tags", "visibility", "extra_data"}  # fmt: skip
        assert isinstance(test["name"], str) and isinstance(test["output"], str) and test["output"]
        assert 0 <= test["score"] <= test["max_score"] and test["status"] in ("passed", "failed")
        assert test["visibility"] in ("hidden", "after_due_date", "after_published", "visible")
    assert theirs["tests"][3] == {
        "name": "04.4", "score": 0, "max_score": 2.5, "output": "the factor T² is missing from the soft term.",
        "status": "failed", "visibility": "after_published",
    }  # fmt: skip


def test_classroom_50_reads_the_result(tmp_path: Path) -> None:
    (record,) = graded(hand_in(tmp_path / "class", ada=notebook(PATCHES["04.4"]["no_T2"])), tmp_path / "out")
    names = ("CLASSROOM", "ASSIGNMENT", "SUBMISSION_TAG", "COMMIT_URL", "RELEASE_URL")
    result = json.loads(json.dumps(classroom.classroom50(record, {name: name.lower() for name in names})))
    assert result.keys() == {"schema", "classroom", "assignment", "submission", "commit", "release", "review",
                             "datetime", "score", "max-score", "tests"}  # fmt: skip
    assert result["schema"] == "classroom50/result/v1" and result["review"] == "commit_url"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result["datetime"])
    assert (result["score"], result["max-score"], type(result["score"])) == (11, 12, int)
    assert len(result["tests"]) == 12 and sum(test["score"] for test in result["tests"]) == 11
    for test in result["tests"]:
        assert {name: type(value) for name, value in test.items()} == {
            "test-name": str, "passed": bool, "score": int, "max-score": int, "says": str
        }  # fmt: skip
        assert test["passed"] == (test["score"] == test["max-score"] == 1)
    assert result["tests"][3]["test-name"] == "04.4" and result["tests"][3]["passed"] is False
    with pytest.raises(ValueError, match="sets ASSIGNMENT, SUBMISSION_TAG"):
        classroom.classroom50(record, {"CLASSROOM": "x"})
    half = Settings("04", points={"04.4": 0.5})
    (record,) = graded(tmp_path / "class", tmp_path / "half", half)
    with pytest.raises(ValueError, match="whole numbers"):
        classroom.classroom50(record, {name: name for name in names})


def explained(out: Path, name: str, id: str, **more: object) -> list[str]:
    return appeal.explain(out, appeal.recorded(out, name, id), id, Here(), **more)


def test_an_appeal_starts_with_the_smallest_input_that_differs_as_python_that_runs(tmp_path: Path) -> None:
    folder, out = hand_in(tmp_path / "class", ada=notebook(PATCHES["04.4"]["no_T2"])), tmp_path / "out"
    graded(folder, out)
    lines = explained(out, "ada", "04.4")
    assert lines[0].startswith("# 04.4 distillation_loss: wrong. right at T = 1.")
    assert lines[1] == "# mistake: the factor T² is missing from the soft term."
    assert lines[3].startswith("# input 2 of 12 differs by ") and "import torch" in lines
    assert sum(line.startswith("# input ") for line in lines) == 1 and "--all prints them all" in lines[-1]
    call = "print(distillation_loss(student_logits, teacher_logits, targets, temperature, soft_weight))"
    at = lines.index(call)
    assert lines[at + 1].startswith("# this answer gives: ") and lines[at + 2].startswith("# the reference gives: ")
    assert sum(line.startswith("# this answer gives: ") for line in lines) == 1  # the gradient, too, is behind --all
    every = explained(out, "ada", "04.4", every=True)
    assert sum(line.startswith("# input ") for line in every) == 12
    assert next(line for line in every if line.startswith("# input ")) == lines[3]
    assert explained(out, "ada", "04.7") == ["# 04.7 answer_7: correct. " + lines_of("04.7"), "answer_7 = 'b'"]
    (folder / "ada/exercises/04_the_loss.ipynb").write_text(notebook())
    with pytest.raises(ValueError, match="has changed since it was graded"):
        explained(out, "ada", "04.4")


@pytest.mark.parametrize("question", FUNCTIONS, ids=lambda q: q.id)
def test_every_question_can_be_appealed_to_the_last_bit(question: Function, capsys: pytest.CaptureFixture) -> None:
    """The Python of each input runs, calls the function once for each observable, and hands it the probe itself."""
    answer, called = solution(question), []
    every_gradient = {name for name in expected(question, 5, 0) if name.startswith(("grad:", "changed:"))}
    for probe in drawn(question, 5):
        space = {question.name: lambda *given: (called.append([*map(copy, given)]), answer(*given))[1]}
        for observable in ["value", *sorted(every_gradient)]:
            exec("import torch\n" + "\n".join(appeal._as_python(question, probe)), space)
            exec("\n".join(appeal._call(question, probe, observable)), space)
            assert capsys.readouterr().out
        if question.run == "call":
            for given in called:
                for got, want in zip(given, probe.arguments.values(), strict=True):
                    assert torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want
        called.clear()


def copy(value: object) -> object:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def test_infinities_are_explained_without_a_warning(tmp_path: Path) -> None:
    endless = "def converge(target, *rest):\n    return (target.double() + 1) * 1e308 * 10 * torch.ones(2, 1)"
    graded(hand_in(tmp_path / "class", ada=notebook(more=endless)), tmp_path / "out")
    lines = explained(tmp_path / "out", "ada", "04.5")
    assert lines[0].startswith("# 04.5 converge: wrong. returns shape [2, ") and "inf" in "".join(lines)


def test_who_or_what_cannot_be_explained_is_told_what_there_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    graded(hand_in(tmp_path / "class", ada=notebook(), bela=notebook()), out)
    for name, id, words in (
        ("bob", "04.4", "there is no student 'bob' in .*out: there are ada, bela$"),
        ("ada", "05.1", "there is no question '05.1' in exercise 04: there are 04.1, 04.2, .*04.12$"),
    ):
        with pytest.raises(ValueError, match=words):
            appeal.recorded(out, name, id)
    with pytest.raises(ValueError, match="nobody was graded there"):
        appeal.recorded(tmp_path / "nowhere", "ada", "04.4")


def lines_of(id: str) -> str:
    question = QUESTIONS[id]
    return f"{question.right}. {question.options[question.right]}"


# In the sandbox


@pytest.fixture(scope="module")
def class_of_sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("class")
    mistakes = [edits for _, edits in zip(range(15), PATCHES["04.4"].values(), strict=False)]
    hand_in(folder, **{f"student{n:02}": notebook(edits) for n, edits in enumerate(mistakes)})
    (folder / "broken.ipynb").write_text("{")
    return folder


def run(folder: Path, out: Path, *more: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    command = [*KDCOURSE, "grade", str(folder), "--out", str(out), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def state_of(out: Path) -> dict[str, bytes]:
    files = [*out.glob("*.*"), *(out / "students").iterdir()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("jail")
def test_killed_three_times_it_ends_with_the_same_marks(class_of_sixteen: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = run(class_of_sixteen, whole)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert len((whole / "marks.csv").read_text().splitlines()) == 17
    killed.mkdir()
    classroom.write(killed / "secret", (whole / "secret").read_text(), mode=0o600)
    draw = random.Random()
    for part in range(3):
        process = run(class_of_sixteen, killed)
        enough, until = draw.randint(4 * part, 4 * part + 4), time.monotonic() + 120
        while len(list(killed.glob("students/*.json"))) < enough and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (killed / "marks.csv").exists() or process.returncode == 0
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("students/*.json")}
    assert kept
    process = run(class_of_sixteen, killed)
    assert process.wait(300) == 0
    assert (killed / "marks.csv").read_bytes() == (whole / "marks.csv").read_bytes()
    assert state_of(killed) == state_of(whole)
    assert all((killed / "students" / name).stat().st_mtime_ns == at for name, at in kept.items())
    for stream in (process.stdout, process.stderr):
        stream.close()


SAMPLE = {
    "ada": {}, "bao": {},
    "chen": {"04.4": ["no_T2"]}, "dora": {"04.4": ["no_T2", "cold_student"]}, "emil": {"04.4": ["swapped"]},
    "fatima": {"04.4": ["mean_classes"]}, "goran": {"04.5": ["accumulated"], "04.6": ["no_zero_grad"]},
    "hana": {"04.4": ["T_once", "teacher_gradient"]}, "jonas": {"04.1": [], "04.2": []},
    "kofi": {"04.4": "no verdict"}, "lena": {"04.4": []}, "mira": {"04.4": "no verdict"},
    "nils": {"04.4": "no verdict"}, "pia": {"04.4": "no verdict"},
    "ines": "unanswered", "omar": "no verdict", "quirin": "no verdict",
}  # fmt: skip


@pytest.mark.usefixtures("jail")
def test_the_sample_class_gets_what_each_of_them_earned(tmp_path: Path) -> None:
    """A list names the mistakes of a wrong answer, a word is its state; alone it holds for every question."""
    sample.write(tmp_path / "class")
    process = run(tmp_path / "class", tmp_path / "out")
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert SAMPLE.keys() == sample.STUDENTS.keys()
    for name, earned in SAMPLE.items():
        questions = json.loads((tmp_path / f"out/students/{name}.json").read_text())["questions"]
        got = {id: entry["state"] if entry["state"] != "wrong" else entry["names"] for id, entry in questions.items()}
        wanted = earned if isinstance(earned, dict) else dict.fromkeys(got, earned)
        assert {id: what for id, what in got.items() if what != "correct"} == wanted, name


@pytest.mark.usefixtures("jail")
def test_in_the_sandbox_a_class_has_its_own_convention(tmp_path: Path) -> None:
    half = PATCHES["04.4"]["no_T2"]
    own = notebook([*half, *PATCHES["04.6"]["no_T2"]])
    folder = hand_in(tmp_path / "class", public=notebook(), half=notebook(half), own=own)
    process = run(folder, tmp_path / "out", "--truth", "04.4=no_T2", "--points", "04.4=3", "--in-flight", "1")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    rows = list(csv.reader((tmp_path / "out/marks.csv").read_text().splitlines()))
    # 04.6 follows: its loop trains with the same loss
    assert [(row[0], row[1], row[2], row[6], row[8]) for row in rows[1:]] == [
        ("half", "13", "14", "3", "0"),
        ("own", "14", "14", "3", "1"),
        ("public", "10", "14", "0", "0"),
    ]
    assert said.splitlines()[-1].startswith("0 kept, 3 graded: ")
    again = run(folder, tmp_path / "out", "--truth", "04.4=no_T2", "--points", "04.4=3").communicate(timeout=300)[0]
    assert again.splitlines()[-1].startswith("3 kept, 0 graded: ") and "anew" not in again
    page = (tmp_path / "out/students/public.html").read_text()
    assert "Your answer does not follow this class&#x27;s convention: here the factor T² is missing" in page
    assert "This class's own convention" in (tmp_path / "out/class.html").read_text()


# A class's own convention


def test_where_the_convention_is_without_T2_the_public_solution_is_a_named_mistake() -> None:
    def judged(*names: str):
        edits = [edit for name in names for edit in PATCHES["04.4"][name]]
        answer = solution(LOSS, edits)
        return judge(LOSS, observe(answer, drawn(LOSS, 0), run="call", grads=LOSS.grads), 0, TRUTH)

    assert judged("no_T2").state == "correct"
    assert judged().names == ("convention:no_T2",)
    assert judged().switches[0].says.startswith("your answer does not follow this class's convention: here the factor")
    assert judged("no_T2", "swapped").names == ("swapped",)
    assert judged("swapped").names == ("convention:no_T2", "swapped")
    assert judged("T_once").names == ("convention:no_T2", "T_once")


FOLLOWING = [(q.id, other, name) for q in FUNCTIONS for other, known in q.follows.items() for name in known]
CALLED = ("""        p = F.softmax(teacher_logits / temperature, dim=-1)
        log_q = F.log_softmax(student_logits / temperature, dim=-1)
        soft = F.kl_div(log_q, p, reduction="batchmean") * temperature**2
        hard = F.cross_entropy(student_logits, targets)
        loss = soft_weight * soft + (1 - soft_weight) * hard
""", """        loss = distillation_loss(
            student_logits, teacher_logits, targets, temperature, soft_weight
        ).mean()
""")  # fmt: skip


@pytest.mark.parametrize(("id", "other", "name"), FOLLOWING)
def test_a_question_that_builds_on_another_follows_its_convention(id: str, other: str, name: str) -> None:
    """The other question's function is changed to the convention; what builds on it is then right, and only then."""
    question, mistake = QUESTIONS[id], PATCHES[other][name]
    truth = classroom.conventions({other: (name,)})
    text = source(id[:2]).replace(*CALLED)
    start = text.index(f"def {QUESTIONS[other].name}(")
    body = text[start:].split("\n\n\n")[0]
    changed = body
    for old, new in mistake:
        changed = changed.replace(old, new)
    text = text.replace(body, changed)
    if id == "03.4":  # its other half, in nats, stands in its own body
        text = text.replace("torch.special.xlogy(p, q).sum(-1)", "torch.special.xlogy(p, q).sum(-1) / math.log(2)")
    space: dict = {"__name__": "answers"}
    exec(compile(text, "<changed>", "exec"), space)
    seen = observe(space[question.name], drawn(question, 0), run=question.run, grads=question.grads)
    assert judge(question, seen, 0, frozenset(truth.get(id, ()))).state == "correct"
    assert question.follows[other][name] == "" or judge(question, seen, 0).state == "wrong"


def test_what_cannot_follow_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="04.6 builds on it, .* one of no_T2, softmax_twice, mean, .*; got swapped"):
        classroom.conventions({"04.4": ("swapped",)})
    assert classroom.conventions({"04.4": ("no_T2",), "04.6": ("teacher_training",)}) == {
        "04.4": ("no_T2",), "04.6": ("no_T2", "teacher_training")
    }  # fmt: skip
    with pytest.raises(ValueError, match="2 that do not contradict each other; got T_once, no_T2"):
        classroom.conventions({"04.4": ("no_T2", "T_once")})


def test_every_solution_that_calls_another_is_said_to_follow_it() -> None:
    for question in FUNCTIONS:
        body = source(question.id[:2]).split(f"def {question.name}(")[1].split("\n\n\n")[0]
        for other in FUNCTIONS:
            if other is not question and other.id[:2] == question.id[:2]:
                called = re.search(rf"(?<![\w.]){other.name}\(", body)
                assert not called or other.id in question.follows, (question.id, other.id)


def test_every_mistake_is_named_relative_to_the_convention() -> None:
    for on in LOSS.apart_from(TRUTH):
        if len(on) < 2 or on > TRUTH:
            seen = observe(partial(LOSS.reference, on=on), drawn(LOSS, 0), run="call", grads=LOSS.grads)
            names = {name.removeprefix("convention:") for name in judge(LOSS, seen, 0, TRUTH).names}
            assert names == on ^ TRUTH, on


def test_check_in_a_cell_knows_the_convention(capsys: pytest.CaptureFixture[str]) -> None:
    check("04.4", solution(LOSS, PATCHES["04.4"]["no_T2"]), truth="no_T2")
    assert capsys.readouterr().out.startswith("✓")
    with pytest.raises(AssertionError, match="does not follow this class's convention"):
        check("04.4", solution(LOSS), name=True, truth="no_T2")
    with pytest.raises(ValueError, match="convention of 04.4: must be one of no_T2, .*; got nothing_such"):
        check("04.4", solution(LOSS), truth="nothing_such")


# What the judge makes of odd answers


def test_a_whole_number_is_told_what_is_wrong_with_it() -> None:
    question = QUESTIONS["03.3"]
    assert "should be floating point" not in verdict(question, lambda z: torch.ones_like(z, dtype=torch.int64)).line
    assert "returns int64 numbers, should be floating point" in verdict(LOSS, lambda s, t, y, T, w: y).line


def test_a_tuple_is_as_good_as_a_list() -> None:
    converge = UNUSUAL["04.5"][0]
    assert verdict(QUESTIONS["04.5"], lambda *given: tuple(converge(*given).tolist())).state == "correct"


def test_infinities_and_numbers_too_large_are_judged_without_a_warning() -> None:
    seen = observe(solution(LOSS), drawn(LOSS, 0), run="call", grads=LOSS.grads)
    assert isinstance(seen, list)
    infinite = [probe | {"value": probe["value"] * np.inf, "repeat": np.array(np.nan)} for probe in seen]
    assert judge(LOSS, infinite).state == "wrong"
    assert judge(QUESTIONS["04.1"], 10**400).state == "no verdict"
