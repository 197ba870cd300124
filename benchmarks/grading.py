"""What it costs to grade a class: `grade_500`, called by bench.py. Root is refused a sandbox and gets no row."""

import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kdcourse.grading import clean
from kdcourse.grading.jail import Jail, Refused
from kdcourse.grading.judge import judge
from kdcourse.grading.make import make
from kdcourse.grading.questions import QUESTIONS

SOLUTION = Path(__file__).parents[1] / "solutions" / "04_the_loss.md"
ASKED = [QUESTIONS[number] for number in ("04.4", "04.5", "04.6", "04.1")]
COUNT, SAMPLED, IN_FLIGHT = 500, 8, 2


def grade_500(row: Callable[..., dict]) -> list[dict]:
    """A class of 500 in the sandbox, beside a fresh process for each submission. `row` is bench.py's."""
    submissions = a_class()
    try:
        ours, wall, start = in_the_sandbox(submissions * (COUNT // len(submissions)))
    except Refused as refusal:
        print(f"bench: no row grade_500: {str(refusal).splitlines()[0]}")
        return []
    other = in_fresh_processes(submissions * (SAMPLED // len(submissions))) * COUNT / SAMPLED
    remark = (
        f"{COUNT} notebooks of chapter 04, a quarter right, a quarter not started; three functions and a number "
        f"asked of each; the sandbox's start ({start:.2g} s on the wall), the judge and all processes included; "
        f"{wall:.3g} s on the wall, {IN_FLIGHT} in flight on {os.cpu_count()} cores; measured once; fresh processes "
        f"are measured on {SAMPLED} and scaled"
    )
    text = "a Python process for each notebook, which imports torch, without a sandbox"
    rows = [row("grade_500", [ours], [other], text, remark) | {"wall_seconds": float(f"{wall:.4g}")}]
    spent = nbgrader(submissions[0])
    if spent is not None:
        remark = f"{COUNT} notebooks as in grade_500; nbgrader autograde measured on {SAMPLED} of them and scaled"
        rows.append(row("grade_500_nbgrader", [ours], [spent * COUNT], "nbgrader 0.9.6 autograde", remark))
    return rows


def a_class() -> list[bytes]:
    """One that is right, two with a mistake, one that is not started."""
    solved, stub = (nbformat.writes(make(SOLUTION, solved=solved)) for solved in (True, False))
    wrong = (solved.replace("temperature**2 * ", ""), solved.replace(".detach()", ""))
    return [text.encode() for text in (solved, *wrong, stub)]


def in_the_sandbox(submissions: list[bytes]) -> tuple[float, float, float]:
    """CPU seconds in all; seconds on the wall, with those that the start took."""
    spent, wall = time.process_time(), time.perf_counter()
    with Jail() as jail, ThreadPoolExecutor(IN_FLIGHT) as pool:
        start = time.perf_counter() - wall
        answers = pool.map(lambda raw: jail.answers(raw, ASKED, seed=1), submissions)
        found = Counter(tuple(judge(q, a, seed=1).line for q, a in zip(ASKED, of, strict=True)) for of in answers)
        inside = below(os.getpid())
    if len(found) != 4 or set(found.values()) != {len(submissions) // 4}:
        raise AssertionError(f"grade_500: each kind of notebook must be judged alike, got {found}")
    return time.process_time() - spent + inside, time.perf_counter() - wall, start


def in_fresh_processes(submissions: list[bytes]) -> float:
    def seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime + time.process_time()

    start = seconds()
    for raw in submissions:
        for question, entry in zip(ASKED, clean.answers(raw, ASKED, seed=1), strict=True):
            judge(question, entry, 1)
    return seconds() - start


def nbgrader(submission: bytes) -> float | None:
    """CPU seconds a notebook of `nbgrader autograde`, the same answers asked by cells with assert; None without it.

    It is installed into _build/nbgrader, for this alone, and sees the packages of this environment.
    """
    place = Path(__file__).parents[1] / "_build" / "nbgrader"
    try:
        if not (place / "bin" / "nbgrader").exists():
            venv.create(place, clear=True, with_pip=True)
            subprocess.run([place / "bin/pip", "install", "-q", "nbgrader==0.9.6"], check=True, capture_output=True)
        packages = sysconfig.get_path("purelib", "venv", vars={"base": str(place), "platbase": str(place)})
        Path(packages, "course.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"bench: nbgrader cannot be installed: {error}")
        return None
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder)
        (course / "source/04").mkdir(parents=True)
        graded = nbformat.reads(submission.decode(), 4)
        for cell in graded.cells:  # our own checks, and the marks of our own stubs
            cell.source = re.sub(r"^ *(check\(|from kdcourse|# (BEGIN|END) SOLUTION).*$", "", cell.source, flags=re.M)
        graded.cells += [_graded(number) for number in ("04.4", "04.5", "04.6", "04.1")]
        nbformat.write(graded, course / "source/04/04_the_loss.ipynb")
        _nbgrader(place, course, "generate_assignment", "04")
        for student in range(SAMPLED):
            target = course / f"submitted/student{student}/04"
            shutil.copytree(course / "release/04", target)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        _nbgrader(place, course, "autograde", "04")
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        outputs = [path.read_text("utf-8") for path in course.glob("autograded/*/04/*.ipynb")]
        if len(outputs) != SAMPLED or any('"output_type": "error"' in text for text in outputs):
            raise AssertionError("nbgrader: every notebook must be graded, and be right")
    return (spent.ru_utime + spent.ru_stime - used.ru_utime - used.ru_stime) / SAMPLED


def _graded(number: str) -> NotebookNode:
    """A cell of nbgrader's for one answer: it asks for something, and asserts."""
    source = {
        "04.4": "v = distillation_loss(torch.tensor([[1., 0, -1]]), torch.tensor([[2., 1.5, -1]]), torch.tensor([1]),"
                " 4.0, 0.75)\nassert abs(v.item() - 0.46652) < 1e-4",
        "04.5": "p = torch.tensor([0.7, 0.2, 0.1])\nassert abs(converge(p, torch.zeros(3), 1.0, 500) - p).max() < 1e-3",
        "04.6": "s, t = nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))\n"
                "o = torch.optim.SGD(s.parameters(), lr=0.1)\n"
                "train(s, t, [(torch.randn(4, 2), torch.randint(3, (4,)))], o, 2.0, 0.5)",
        "04.1": "assert answer_1 > 0",
    }[number]  # fmt: skip
    cell = nbformat.v4.new_code_cell(source)
    mark = {"grade": True, "solution": False, "locked": True, "points": 1, "schema_version": 3, "task": False}
    cell.metadata["nbgrader"] = mark | {"grade_id": f"question-{number.replace('.', '-')}", "cell_type": "code"}
    return cell


def _nbgrader(place: Path, course: Path, *command: str) -> None:
    done = subprocess.run(
        [place / "bin/nbgrader", *command, "--force", "--course-dir", str(course)],
        capture_output=True, text=True, env=os.environ | {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"nbgrader {command[0]}: {done.stderr[-2000:]}")


def below(pid: int) -> float:
    """CPU seconds of all that descends from a process, ended or not; bubblewrap does not hand them to its parent."""
    children: dict[int, list[tuple[int, float]]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks = sum(map(int, fields[11:15]))
        children.setdefault(int(fields[1]), []).append((int(name), ticks / os.sysconf("SC_CLK_TCK")))
    total, rest = 0.0, [pid]
    while rest:
        for child, seconds in children.get(rest.pop(), []):
            total += seconds
            rest.append(child)
    return total
