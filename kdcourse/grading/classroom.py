"""A class: its submissions, graded several at a time into one record a student.

Of a submission only bytes are read, and it answers in the jail. A record carries a digest of the notebook and one of
the grader, so a run that was killed goes on, and only what changed is graded again. The inputs of all questions are
drawn from one seed, HMAC(secret, exercise): the same for the whole class, known to nobody before.
"""

import csv
import errno
import hashlib
import hmac
import io
import json
import os
import platform
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .asking import printable
from .jail import Jail
from .judge import Verdict, judge
from .questions import QUESTIONS
from .runner import Failure
from .spec import Choice, Function, Order, Question

LARGEST = 2_000_000  # bytes of a notebook
CODE = "asking child classroom frames jail judge notebook runner spec zygote questions/*".split()
EXPECTED = "a folder, a git clone or an .ipynb for each student"
Truth = Mapping[str, tuple[str, ...]]
Record = dict[str, Any]


def conventions(truth: Truth) -> dict[str, tuple[str, ...]]:
    """A class's own conventions, carried on to the questions that follow another's; ValueError where that cannot be."""
    functions = {id: question for id, question in QUESTIONS.items() if isinstance(question, Function)}
    for id, names in truth.items():
        if id not in functions:
            raise ValueError(f"truth of {id}: only a function to write can have a convention")
        functions[id].apart_from(frozenset(names))
    carried = dict(truth)
    for id, question in functions.items():
        for other, known in question.follows.items():
            for name in truth.get(other, ()):
                if name not in known:
                    raise ValueError(f"truth of {other}: {id} builds on it, and can be judged only where the "
                                     f"convention is one of {', '.join(known)}; got {name}")  # fmt: skip
                if known[name]:
                    carried[id] = tuple(sorted({*carried.get(id, ()), known[name]}))
                    question.apart_from(frozenset(carried[id]))
    return carried


@dataclass(frozen=True)
class Settings:
    """What is graded, and how. `points`: where not 1; `truth`: a class's own conventions (see `judge`)."""

    exercise: str
    points: dict[str, float] = field(default_factory=dict)
    truth: Truth = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = [question.id for question in self.questions]
        if not ids:
            known = ", ".join(sorted({id[:2] for id in QUESTIONS}))
            raise ValueError(f"exercise: must be one of {known}; got {self.exercise!r}")
        for id in [*self.points, *self.truth]:
            if id not in ids:
                raise ValueError(f"exercise {self.exercise} has no question {id!r}; it has {ids[0]} to {ids[-1]}")
        for id, points in self.points.items():
            if not 0 <= points < 1e6:
                raise ValueError(f"points of {id}: must be a number from 0 on, got {points:g}")
        object.__setattr__(self, "truth", conventions(self.truth))

    def __str__(self) -> str:
        """As options of the command."""
        parts = [f"--points {id}={points:g}" for id, points in sorted(self.points.items())]
        parts += [f"--truth {id}={name}" for id, names in sorted(self.truth.items()) for name in names]
        return " ".join([f"--exercise {self.exercise}", *parts])

    @property
    def questions(self) -> list[Question]:
        return [question for id, question in QUESTIONS.items() if id[:2] == self.exercise]


@dataclass(frozen=True)
class Submission:
    """A student's notebook, or why there is none."""

    name: str
    path: Path | None = None
    problem: str = ""


def find(source: Path, exercise: str = "") -> tuple[str, list[Submission], list[str]]:
    """The exercise; the submissions in a folder, sorted by name; the names that were left aside.

    One .ipynb or one folder (a git clone, say) a student. A single .ipynb or a single git clone is one student.
    In a folder, the notebook whose name starts with the exercise's number is taken; else the only one without a number.
    """
    if not source.exists():
        raise ValueError(f"there is no {source}; submissions are {EXPECTED}, in one folder")
    source = source.resolve()
    single = source.is_file() or (source / ".git").exists()
    held: dict[str, list[Path]] = {}
    aside = []
    for entry in sorted([source] if single else source.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            paths = (path for path in entry.rglob("*.ipynb") if "/." not in f"/{path.relative_to(entry)}")
            held.setdefault(entry.name, []).extend(sorted(paths))
        elif entry.suffix == ".ipynb" or entry.is_symlink():
            held.setdefault(entry.name.removesuffix(".ipynb"), []).append(entry)
        else:
            aside.append(entry.name)
    if not held:
        raise ValueError(f"{source} holds no submissions: {EXPECTED} is expected in it")
    ours = {path.stem for path in (Path(__file__).parents[2] / "exercises").glob("*.ipynb")}
    if not single and len(ours & held.keys()) > 1:
        raise ValueError(f"{source} holds the course's exercises, not a class: what is graded is a folder with "
                         f"{EXPECTED}. `kdcourse sample DIR` writes a class to try")  # fmt: skip
    if not exercise:
        paths = [path for notebooks in held.values() for path in notebooks]
        numbers = {found[0] for path in paths if (found := re.match(r"\d\d(?!\d)", path.name))}
        if len(numbers) != 1:
            raise ValueError("which exercise? --exercise 04, say; the notebooks' names do not start with one number")
        exercise = numbers.pop()
    return exercise, [_chosen(name, held[name], exercise) for name in sorted(held)], aside


def _chosen(name: str, notebooks: list[Path], exercise: str) -> Submission:
    named = [path for path in notebooks if re.match(rf"{exercise}(?!\d)", path.name)]
    pool = named or [path for path in notebooks if not re.match(r"\d\d_", path.name)]
    if len(pool) == 1:
        return Submission(name, pool[0])
    if not pool:
        return Submission(name, None, f"there is no notebook (.ipynb) for exercise {exercise}.")
    names = printable(", ".join(sorted(path.name for path in pool)[:3]))
    problem = f"there are {len(pool)} notebooks for exercise {exercise} ({names}); one must be chosen."
    return Submission(name, None, problem)


def read(path: Path) -> bytes:
    """The bytes of a notebook; ValueError where it is a link, no regular file, or too large."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("the notebook is a link; the file itself is asked for.") from None
        raise ValueError(f"the notebook cannot be read: {error.strerror}.") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("the notebook is not a regular file.")
        with open(handle, "rb", closefd=False) as file:
            raw = file.read(LARGEST + 1)
    finally:
        os.close(handle)
    if len(raw) > LARGEST:
        raise ValueError("the notebook is larger than 2 MB; without its outputs it would not be.")
    return raw


def grade(
    found: Sequence[Submission], out: Path, settings: Settings, jail: Jail, in_flight: int = 2
) -> Iterator[tuple[Record, bool]]:
    """A record for each submission, written to OUT/students as soon as it is known; and whether it was there before.

    A record that is there, of the same notebook and the same grader, is kept as it is.
    """
    (out / "students").mkdir(parents=True, exist_ok=True)
    seed, grader = seed_of(out, settings.exercise), _grader(out, settings)

    def asked(submission: Submission) -> tuple[Record, list[object] | None]:
        """The record, complete as it was; or begun, with the answers to be judged."""
        raw, problem = b"", submission.problem
        try:
            raw = read(submission.path) if submission.path else b""
        except ValueError as error:
            problem = str(error)
        record = {
            "name": submission.name, "exercise": settings.exercise, "file": str(submission.path or ""),
            "problem": problem, "notebook": hashlib.sha256(problem.encode("utf-8", "replace") or raw).hexdigest(),
            "grader": grader, "options": str(settings), "truth": settings.truth,
        }  # fmt: skip
        known = load(out, submission.name)
        if known and all(known[key] == record[key] for key in ("file", "problem", "notebook", "grader")):
            return known, None
        if problem:
            return record, [Failure("no verdict", problem)] * len(settings.questions)
        return record, jail.answers(raw, settings.questions, seed)

    with ThreadPoolExecutor(in_flight) as pool:
        try:
            for future in as_completed([pool.submit(asked, submission) for submission in found]):
                record, given = future.result()
                if given is not None:
                    _complete(record, settings, given, seed)
                    write(_file(out, record["name"]), json.dumps(record, indent=1) + "\n")
                yield record, given is None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _complete(record: Record, settings: Settings, given: list[object], seed: int) -> None:
    record["questions"] = {}
    for question, answer in zip(settings.questions, given, strict=True):
        try:
            verdict = judge(question, answer, seed, frozenset(settings.truth.get(question.id, ())))
        except Exception as error:  # one submission must not stop a class; a human looks at it
            verdict = Verdict("no verdict", f"the judge cannot read its answer ({type(error).__name__}).")
        says = [switch.says for switch in verdict.switches]
        if verdict.state == "wrong" and isinstance(question, Choice | Order):
            says = [verdict.line]  # the letter, or the pair, is the mistake
        points = settings.points.get(question.id, 1.0)
        record["questions"][question.id] = {
            "state": verdict.state, "line": printable(verdict.line), "names": verdict.names,
            "says": says, "hints": [switch.hint for switch in verdict.switches],
            "points": points * (verdict.state == "correct"), "of": points,
        }  # fmt: skip
    for key in ("points", "of"):
        record[key] = sum(entry[key] for entry in record["questions"].values())


def changed(out: Path, settings: Settings) -> str:
    """Why records of the last run in this folder will not be kept, in a sentence; "" if they may be."""
    records = [json.loads(file.read_text("utf-8")) for file in sorted((out / "students").glob("*.json"))]
    grader = _grader(out, settings) if records else ""
    for record in records:
        if record.get("options", str(settings)) != str(settings):
            return f"The options have changed, so all is graded anew. Before: {record['options']}. Now: {settings}."
        if record["grader"] != grader:
            return "The grader has changed since the last run (the course, torch or Python), so all is graded anew."
    return ""


def forget(out: Path, records: Sequence[Record]) -> list[str]:
    """Remove the records and pages of students whose submission is no longer there; whose they were."""
    kept = {stem(record["name"]) for record in records}
    ours = [path for path in sorted((out / "students").iterdir()) if path.suffix in (".json", ".html", ".draft")]
    gone = [path for path in ours if path.stem not in kept]
    for path in gone:
        path.unlink()
    return [path.stem for path in gone if path.suffix == ".json"]


def without_verdict(record: Record) -> list[str]:
    """The questions that a human must look at."""
    return [id for id, entry in record["questions"].items() if entry["state"] == "no verdict"]


def seed_of(out: Path, exercise: str) -> int:
    digest = hmac.digest(secret_of(out), exercise.encode(), "sha256")
    return int.from_bytes(digest[:8]) >> 1


def secret_of(out: Path) -> bytes:
    """The class's 32 random bytes, made when they are first asked for; readable by the owner alone."""
    file = out / "secret"
    if not file.exists():
        write(file, secrets.token_bytes(32).hex() + "\n", mode=0o600)
    if not re.fullmatch(r"[0-9a-f]{64}\s*", text := file.read_text("utf-8", "replace")):
        raise ValueError(f"{file} does not hold 32 bytes; without the class's secret its marks cannot be made again")
    return bytes.fromhex(text)


def _grader(out: Path, settings: Settings) -> str:
    """A digest of all that a mark depends on but the notebook."""
    here = Path(__file__).parent
    code = [path.read_bytes() for name in CODE for path in sorted(here.glob(f"{name}.py"))]
    versions = f"{platform.python_version()} {torch.__version__} {np.__version__}"
    parts = [*code, secret_of(out), versions.encode(), json.dumps(asdict(settings), sort_keys=True).encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def stem(name: str) -> str:
    """A student's name as a file's name; another alphabet where it must be changed, so that no two meet."""
    safe = re.sub(r"[^\w.@+ -]", "_", name)[:60].strip(" .")
    if safe == name:
        return name
    return f"~{safe}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _file(out: Path, name: str) -> Path:
    return out / "students" / f"{stem(name)}.json"


def load(out: Path, name: str) -> Record | None:
    """A student's record, if there is one."""
    try:
        record = json.loads(_file(out, name).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return record if record["name"] == name else None


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """All of it or nothing, also when the process is killed."""
    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8", newline="") as target:
        target.write(text)
    draft.replace(file)


def marks(records: Sequence[Record], settings: Settings) -> str:
    """The class as CSV: a row a student; what a spreadsheet would take for a formula is quoted."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    ids = [question.id for question in settings.questions]
    rows.writerow(["student", "points", "of", *ids, "for a human"])
    for record in records:
        points = [record["points"], record["of"], *(record["questions"][id]["points"] for id in ids)]
        cells = [printable(record["name"]), *(f"{number:g}" for number in points), " ".join(without_verdict(record))]
        rows.writerow(["'" + cell if cell[:1] in ("=", "+", "-", "@") else cell for cell in cells])
    return text.getvalue()


def gradescope(record: Record) -> dict[str, Any]:
    """One student's results.json: https://gradescope-autograders.readthedocs.io/en/latest/specs/#output-format."""
    tests = [
        {"name": id, "score": entry["points"], "max_score": entry["of"], "output": sentence(entry),
         "status": "passed" if entry["state"] == "correct" else "failed", "visibility": "after_published"}
        for id, entry in record["questions"].items()
    ]  # fmt: skip
    return {"score": record["points"], "output": record["problem"], "output_format": "text", "tests": tests}


def classroom50(record: Record, environment: Mapping[str, str]) -> dict[str, Any]:
    """One student's result.json, schema classroom50/result/v1; `environment`: what Classroom 50's runner sets.

    https://github.com/foundation50/classroom50/wiki/Advanced-Autograding#the-resultjson-contract (whole points).
    """
    keys = {"classroom": "CLASSROOM", "assignment": "ASSIGNMENT", "submission": "SUBMISSION_TAG",
            "commit": "COMMIT_URL", "release": "RELEASE_URL"}  # fmt: skip
    absent = [key for key in keys.values() if key not in environment]
    if absent:
        raise ValueError(f"classroom50: its runner sets {', '.join(absent)}; here they are not set")
    if any(entry["of"] % 1 for entry in record["questions"].values()):
        raise ValueError("classroom50: points must be whole numbers there")
    tests = [
        {"test-name": id, "passed": entry["state"] == "correct", "score": int(entry["points"]),
         "max-score": int(entry["of"]), "says": sentence(entry)}
        for id, entry in record["questions"].items()
    ]  # fmt: skip
    return {
        "schema": "classroom50/result/v1", **{name: environment[key] for name, key in keys.items()},
        "review": environment.get("REVIEW_URL") or environment["COMMIT_URL"],
        "datetime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "score": int(record["points"]), "max-score": int(record["of"]), "tests": tests,
    }  # fmt: skip


def sentence(entry: dict[str, Any]) -> str:
    """A verdict in one sentence: the mistake where it has a name, else what was seen."""
    return ". Also: ".join(entry["says"]) + "." if entry["names"] else entry["line"]
