"""What it costs to grade a class: `grade_500`, called by bench.py. Root is refused a sandbox and gets no row."""

import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

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
    return [row("grade_500", [ours], [other], text, remark) | {"wall_seconds": float(f"{wall:.4g}")}]


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
