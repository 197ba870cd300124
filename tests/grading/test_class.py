"""A class: what is read, what is graded again, what the pages and the CSV hold, and what survives a kill."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from grading.answers import ROOT, UNUSUAL, notebook, solution, verdict
from grading.patches import PATCHES

from kdcourse.grading import check, classroom, report, sample
from kdcourse.grading.asking import ask, understand
from kdcourse.grading.child import reply
from kdcourse.grading.classroom import Settings, find, read
from kdcourse.grading.jail import Jail, Refused
from kdcourse.grading.judge import drawn, judge
from kdcourse.grading.questions import QUESTIONS
from kdcourse.grading.runner import observe
from kdcourse.grading.spec import Question

LOSS = QUESTIONS["04.4"]
TRUTH = frozenset({"no_T2"})
KDCOURSE = [sys.executable, "-m", "kdcourse.cli"]


class Here:
    """Asks in this very process, and counts: for what does not depend on where an answer runs."""

    def __init__(self) -> None:
        self.asked = 0

    def answers(self, raw: bytes, questions: Sequence[Question], seed: int) -> list[object]:
        self.asked += 1
        messages: list[bytes] = []
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


def graded(folder: Path, out: Path, settings: Settings = Settings("04"), asks: Here | None = None) -> list:  # noqa: B008
    return classroom.grade(find(folder, settings.exercise)[0], out, settings, asks or Here())


# What is taken as a submission


def test_a_student_is_a_folder_or_a_notebook(tmp_path: Path) -> None:
    hand_in(tmp_path, ada="{}")
    (tmp_path / "ada/.git").mkdir()
    (tmp_path / "ada/exercises/03_temperature.ipynb").write_text("{}")
    (tmp_path / "ada/exercises/.ipynb_checkpoints").mkdir()
    (tmp_path / "ada/exercises/.ipynb_checkpoints/04_the_loss-checkpoint.ipynb").write_text("{}")
    (tmp_path / "bela.ipynb").write_text("{}")
    (tmp_path / "roster.csv").write_text("")
    found, aside = find(tmp_path, "04")
    assert [(s.name, s.path and s.path.name, s.problem) for s in found] == [
        ("ada", "04_the_loss.ipynb", ""),
        ("bela", "bela.ipynb", ""),
    ]
    assert aside == ["roster.csv"]
    assert [s.name for s in find(tmp_path / "ada", "04")[0]] == ["ada"]  # one git clone is one student
    assert [s.name for s in find(tmp_path / "bela.ipynb", "04")[0]] == ["bela"]


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
        ("must be positive, got -1", lambda: Settings("04", points={"04.4": -1})),
        ("must be of no_T2, .*; got no_t2", lambda: Settings("04", truth={"04.4": ("no_t2",)})),
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
    assert "5 submissions, on average" in page
    assert re.search(r"<span class=count>2</span>.*?factor T² is missing.*?>bela</a>.*?>chen</a>", page, re.S)
    assert "c. It does no such thing below T = 1" in page
    assert re.search(r"<span class=count>1</span>.*?Wrong in another way.*?>dora</a>", page, re.S)
    assert re.search(r"For a human.*emil.*04\.6.*SystemExit", page, re.S)
    assert re.search(r"04\.9 [^<]*</b> <small>5 right\.</small> Everybody who answered has it", page)
    secret = classroom.secret_of(tmp_path / "out").hex()
    assert secret not in page and secret in report.class_page(records, Settings("04"), secret=secret)


def test_adapters_write_what_the_two_services_read(tmp_path: Path) -> None:
    (record,) = graded(hand_in(tmp_path / "class", ada=notebook(PATCHES["04.4"]["no_T2"])), tmp_path / "out")
    theirs = classroom.gradescope(record)
    assert theirs["score"] == 11 and len(theirs["tests"]) == 12
    assert theirs["tests"][3] == {
        "name": "04.4", "score": 0, "max_score": 1, "output": "the factor T² is missing from the soft term.",
        "status": "failed", "visibility": "after_published",
    }  # fmt: skip
    names = ("CLASSROOM", "ASSIGNMENT", "SUBMISSION_TAG", "COMMIT_URL", "RELEASE_URL")
    result = classroom.classroom50(record, {name: name.lower() for name in names})
    assert result["schema"] == "classroom50/result/v1" and result["review"] == "commit_url"
    assert (result["score"], result["max-score"], type(result["score"])) == (11, 12, int)
    assert result["tests"][3]["test-name"] == "04.4" and result["tests"][3]["passed"] is False
    with pytest.raises(ValueError, match="sets ASSIGNMENT, SUBMISSION_TAG"):
        classroom.classroom50(record, {"CLASSROOM": "x"})


def test_an_appeal_reproduces_the_probes(tmp_path: Path) -> None:
    folder = hand_in(tmp_path / "class", ada=notebook(PATCHES["04.4"]["no_T2"]))
    graded(folder, tmp_path / "out")
    explain = partial(classroom.explain, tmp_path / "out", jail=Here())
    lines = explain("ada", "04.4")
    assert lines[0].startswith("04.4 distillation_loss: wrong. right at T = 1.")
    assert lines[1] == "mistake: the factor T² is missing from the soft term."
    at = next(i for i, line in enumerate(lines) if line.startswith("probe 3: differs, "))
    space: dict = {"torch": torch}
    given = "\n".join(lines[at + 1 : lines.index("", at)]).split("\n  value:")[0]
    exec(textwrap.dedent(given), space)
    seed = classroom.seed_of(tmp_path / "out", "04")
    probe = drawn(LOSS, seed)[2].arguments
    for name in ("student_logits", "targets"):
        assert torch.equal(space[name], probe[name])  # to the last bit
    assert any("value: came" in line for line in lines) and any("want" in line for line in lines)
    assert explain("ada", "04.7") == ["04.7 answer_7: correct. " + lines_of("04.7"), "answer: 'b'"]
    with pytest.raises(ValueError, match="there is no 04.4 of 'bob'"):
        explain("bob", "04.4")
    (folder / "ada/exercises/04_the_loss.ipynb").write_text(notebook())
    with pytest.raises(ValueError, match="has changed since it was graded"):
        explain("ada", "04.4")


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
    for name, expected in SAMPLE.items():
        questions = json.loads((tmp_path / f"out/students/{name}.json").read_text())["questions"]
        got = {id: entry["state"] if entry["state"] != "wrong" else entry["names"] for id, entry in questions.items()}
        wanted = expected if isinstance(expected, dict) else dict.fromkeys(got, expected)
        assert {id: what for id, what in got.items() if what != "correct"} == wanted, name


@pytest.mark.usefixtures("jail")
def test_in_the_sandbox_a_class_has_its_own_convention(tmp_path: Path) -> None:
    folder = hand_in(tmp_path / "class", public=notebook(), own=notebook(PATCHES["04.4"]["no_T2"]))
    process = run(folder, tmp_path / "out", "--truth", "04.4=no_T2", "--points", "04.4=3", "--in-flight", "1")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    rows = list(csv.reader((tmp_path / "out/marks.csv").read_text().splitlines()))
    assert [(row[0], row[1], row[2], row[6]) for row in rows[1:]] == [
        ("own", "14", "14", "3"),
        ("public", "11", "14", "0"),
    ]
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
    with pytest.raises(ValueError, match="convention of 04.4 must be of no_T2, .*; got nothing_such"):
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
