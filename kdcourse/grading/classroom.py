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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .asking import printable
from .judge import Verdict, distance, drawn, expected, judge
from .questions import QUESTIONS
from .runner import Failure
from .spec import Choice, Function, Order, Probe, Question

LARGEST = 2_000_000  # bytes of a notebook
LOOKED_AT = 5_000  # files of one submission
CODE = "asking child classroom frames jail judge notebook runner spec zygote questions/*".split()
Record = dict[str, Any]


class Asks(Protocol):
    """What the jail does: a notebook's answers, ready for `judge`."""

    def answers(self, raw: bytes, questions: Sequence[Question], seed: int) -> list[object]: ...


@dataclass(frozen=True)
class Settings:
    """What is graded, and how. `points`: where not 1; `truth`: a class's own conventions (see `judge`)."""

    exercise: str
    points: dict[str, float] = field(default_factory=dict)
    truth: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.questions:
            known = ", ".join(sorted({id[:2] for id in QUESTIONS}))
            raise ValueError(f"exercise: must be one of {known}; got {self.exercise!r}")
        for id in [*self.points, *self.truth]:
            if id not in [question.id for question in self.questions]:
                raise ValueError(f"exercise {self.exercise} has no question {id!r}")
        for id, points in self.points.items():
            if not 0 < points < 1e6:
                raise ValueError(f"points of {id}: must be positive, got {points:g}")
        for id, names in self.truth.items():
            question = QUESTIONS[id]
            if not isinstance(question, Function):
                raise ValueError(f"truth of {id}: only a function to write can have a convention")
            question.apart_from(frozenset(names))

    @property
    def questions(self) -> list[Question]:
        return [question for id, question in QUESTIONS.items() if id[:2] == self.exercise]

    def of(self, id: str) -> float:
        return self.points.get(id, 1.0)


@dataclass(frozen=True)
class Submission:
    """A student's notebook, or why there is none."""

    name: str
    path: Path | None = None
    problem: str = ""


def find(source: Path, exercise: str) -> tuple[list[Submission], list[str]]:
    """The submissions in a folder, sorted by name, and the names that were left aside.

    One .ipynb or one folder (a git clone, say) a student. A single .ipynb or a single git clone is one student.
    In a folder, the notebook whose name starts with the exercise's number is taken; else the only one without a number.
    """
    if not source.exists():
        raise ValueError(f"there is no {source}")
    source = source.resolve()
    single = source.is_file() or (source / ".git").exists()
    held: dict[str, list[Path]] = {}
    problems, aside = {}, []
    for entry in sorted([source] if single else source.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            name, notebooks = entry.name, _notebooks(entry)
            if notebooks is None:
                problems[name] = f"the folder holds more than {LOOKED_AT:,} files; none was looked at."
        elif entry.suffix == ".ipynb" or entry.is_symlink():
            name, notebooks = entry.name.removesuffix(".ipynb"), [entry]
        else:
            aside.append(entry.name)
            continue
        held.setdefault(name, []).extend(notebooks or [])
    found = []
    for name in sorted(held):
        path, problem = _chosen(held[name], exercise)
        found.append(Submission(name, path, problems.get(name, problem)))
    return found, aside


def exercise_of(source: Path) -> str:
    """The exercise whose number starts the notebooks' names, where they agree."""
    folders = [source, *(path for path in source.iterdir() if not path.is_symlink())] if source.is_dir() else []
    paths = [path for folder in folders if folder.is_dir() for path in _notebooks(folder) or []] or [source]
    numbers = {found[0] for path in paths if (found := re.match(r"\d\d(?!\d)", path.name))}
    if len(numbers) != 1:
        raise ValueError("which exercise? --exercise 04, say; the notebooks' names do not start with one number")
    return numbers.pop()


def _notebooks(folder: Path) -> list[Path] | None:
    """All notebooks of a folder, links not followed; None where there are too many files to look at."""
    walk = os.walk(folder)
    files = []
    for base, folders, names in walk:
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += list(islice((Path(base, name) for name in names), LOOKED_AT + 1 - len(files)))
        if len(files) > LOOKED_AT:
            return None
    return [path for path in files if path.suffix == ".ipynb" and not path.name.startswith(".")]


def _chosen(notebooks: list[Path], exercise: str) -> tuple[Path | None, str]:
    named = [path for path in notebooks if re.match(rf"{exercise}(?!\d)", path.name)]
    pool = named or [path for path in notebooks if not re.match(r"\d\d_", path.name)]
    if len(pool) == 1:
        return pool[0], ""
    if not pool:
        return None, f"there is no notebook (.ipynb) for exercise {exercise}."
    names = ", ".join(sorted(path.name for path in pool)[:3])
    return None, f"there are {len(pool)} notebooks for exercise {exercise} ({printable(names)}); one must be chosen."


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
    found: Sequence[Submission],
    out: Path,
    settings: Settings,
    jail: Asks,
    in_flight: int = 2,
    done: Callable[[], object] = lambda: None,
) -> list[Record]:
    """A record for each submission, written to OUT/students as soon as it is known; `done` is called after each.

    A record that is there, of the same notebook and the same grader, is taken as it is.
    """
    if len({stem(submission.name) for submission in found}) < len(found) or not found:
        raise ValueError("grade: there must be submissions, each with a name of its own")
    (out / "students").mkdir(parents=True, exist_ok=True)
    seed, grader = seed_of(out, settings.exercise), _grader(out, settings)
    for question in settings.questions:  # before there are threads: what a right answer shows
        if isinstance(question, Function):
            for index in range(len(drawn(question, seed))):
                expected(question, seed, index, frozenset(settings.truth.get(question.id, ())))
                expected(question, seed, index)

    def asked(submission: Submission) -> tuple[Record, list[object] | None]:
        """The record, complete as it was; or begun, with the answers to be judged."""
        try:
            raw = read(submission.path) if submission.path else b""
            problem = submission.problem
        except ValueError as error:
            raw, problem = b"", str(error)
        known = load(out, submission.name)
        digest = hashlib.sha256(problem.encode("utf-8", "replace") if problem else raw).hexdigest()
        record = {
            "name": submission.name, "exercise": settings.exercise, "file": str(submission.path or ""),
            "problem": problem, "notebook": digest, "grader": grader, "truth": settings.truth,
        }  # fmt: skip
        if known and all(known[key] == record[key] for key in ("file", "problem", "notebook", "grader")):
            return known, None
        if problem:
            return record, [Failure("no verdict", problem)] * len(settings.questions)
        return record, jail.answers(raw, settings.questions, seed)

    records = []
    with ThreadPoolExecutor(in_flight) as pool:
        try:
            for future in as_completed([pool.submit(asked, submission) for submission in found]):
                record, given = future.result()
                if given is not None:
                    _complete(record, settings, given, seed)
                    write(_file(out, record["name"]), json.dumps(record, indent=1) + "\n")
                records.append(record)
                done()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(records, key=lambda record: record["name"])


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
        record["questions"][question.id] = {
            "state": verdict.state, "line": printable(verdict.line), "names": verdict.names,
            "says": says, "hints": [switch.hint for switch in verdict.switches],
            "points": settings.of(question.id) * (verdict.state == "correct"), "of": settings.of(question.id),
        }  # fmt: skip
    for key in ("points", "of"):
        record[key] = sum(entry[key] for entry in record["questions"].values())


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
    try:
        secret = bytes.fromhex(file.read_text("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise ValueError(f"{file} does not hold 32 bytes; without the class's secret its marks cannot be made again")
    return secret


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
        points = [f"{record['questions'][id]['points']:g}" for id in ids]
        cells = [printable(record["name"]), f"{record['points']:g}", f"{record['of']:g}", *points]
        rows.writerow([_inert(cell) for cell in [*cells, " ".join(without_verdict(record))]])
    return text.getvalue()


def _inert(cell: str) -> str:
    return "'" + cell if cell[:1] in ("=", "+", "-", "@") else cell


def gradescope(record: Record) -> dict[str, Any]:
    """One student's results.json: https://gradescope-autograders.readthedocs.io/en/latest/specs/#output-format."""
    tests = [
        {"name": id, "score": entry["points"], "max_score": entry["of"], "output": sentence(entry),
         "status": "passed" if entry["state"] == "correct" else "failed", "visibility": "after_published"}
        for id, entry in record["questions"].items()
    ]  # fmt: skip
    return {"score": record["points"], "output": record["problem"], "output_format": "text", "tests": tests}


def classroom50(record: Record, environment: dict[str, str] | os._Environ) -> dict[str, Any]:
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


def explain(out: Path, name: str, id: str, jail: Asks, file: Path | None = None) -> list[str]:
    """For an appeal: the inputs, what came, what was expected, and the mistake, reproduced from the notebook.

    `file`: the notebook, where it is no longer where it was graded; its bytes must be the same.
    """
    record = load(out, name)
    if not record or id not in record["questions"]:
        raise ValueError(f"explain: there is no {id} of {printable(name)!r} in {out / 'students'}")
    if record["problem"]:
        return [f"no verdict: {record['problem']}"]
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
    lines = [f"{id} {question.name}: {verdict.state}. {verdict.line}"]
    lines += [f"mistake: {switch.says}." for switch in verdict.switches]
    if not isinstance(question, Function) or isinstance(answer, Failure):
        return lines if isinstance(answer, Failure) else [*lines, f"answer: {answer!r}"]
    for index, (probe, seen) in enumerate(zip(drawn(question, seed), answer, strict=True)):
        want = expected(question, seed, index, truth)
        gap = distance(seen, want, question.rtol)
        lines += ["", f"probe {index + 1}: {'agrees' if gap <= 1 else f'differs, {gap:.4g} tolerances'}"]
        lines += _as_python(probe)
        for key in want:  # the value, and what else differs
            if key == "value" or distance({key: seen[key]}, {key: want[key]}, question.rtol) > 1:
                what = key.replace("grad:", "gradient by ").replace("changed:", "changes ")
                lines += [_numbers(f"  {what}: came ", seen[key]), _numbers(f"  {' ' * len(what)}  want ", want[key])]
    return lines


def _as_python(probe: Probe) -> list[str]:
    """The inputs, to be copied into a notebook."""
    return [
        _numbers(f"  {name} = torch.tensor(", value.numpy()) + ")"
        if isinstance(value, torch.Tensor)
        else f"  {name} = {value}"
        for name, value in probe.arguments.items()
    ]


def _numbers(before: str, value: np.ndarray) -> str:
    options = {"separator": ", ", "threshold": 10**6, "max_line_width": 100, "floatmode": "unique"}
    shown = value.astype(np.float32) if value.dtype.kind == "f" else value
    return before + np.array2string(shown, prefix=before, **options)
