"""The sandbox, attacked. Beside each attack the right solution goes through the same sandbox, and must pass."""

import json
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from grading.attacks import ATTACKS, FILES, HEAD, LEAVES, RIGHT, SEES, Attack, answer

from kdcourse.grading import jail as module
from kdcourse.grading.asking import ask, understand
from kdcourse.grading.frames import pack
from kdcourse.grading.jail import Jail, Refused
from kdcourse.grading.judge import Verdict, drawn, expected, judge
from kdcourse.grading.questions import QUESTIONS
from kdcourse.grading.runner import Failure

SEED = 20261121
LOSS, CONVERGE, NUMBER = QUESTIONS["04.4"], QUESTIONS["04.5"], QUESTIONS["04.1"]
SECONDS = 4.0
CONVERGE_RIGHT = """
def converge(target, start, learning_rate, steps):
    for _ in range(steps):
        start = start - learning_rate * (start.softmax(-1) - target)
    return start.softmax(-1)
"""


def notebook(*cells: str) -> bytes:
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells]}).encode()


def verdicts(jail: Jail, raw: bytes, *questions) -> list[Verdict]:
    found = jail.answers(raw, questions or (LOSS,), SEED)
    return [judge(question, entry, SEED) for question, entry in zip(questions or (LOSS,), found, strict=True)]


def states(jail: Jail, raw: bytes, *questions) -> list[str]:
    return [verdict.state for verdict in verdicts(jail, raw, *questions)]


def below(pid: int) -> set[int]:
    """The processes that descend from this one."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def soon(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def can_jail(needs) -> None:
    needs(platform.system() == "Linux", "Linux", "the sandbox is bubblewrap")
    needs(os.getuid() != 0, "an ordinary user", "the sandbox refuses root; runuser -u NAME -- make test")
    needs(shutil.which("bwrap") is not None, "bubblewrap", "sudo apt-get install bubblewrap")


@pytest.fixture(scope="module")
def jail(can_jail, needs) -> Iterator[Jail]:
    try:
        jail = Jail(SECONDS).__enter__()
    except Refused as refusal:
        needs(False, "namespaces for ordinary users", str(refusal))
    with jail:
        yield jail
        assert soon(lambda: len(below(jail._process.pid)) == 2)
        inside = below(jail._process.pid) | {jail._process.pid}
    assert soon(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in inside))


@pytest.fixture(scope="module")
def attacked(jail: Jail) -> dict[str, tuple[Verdict, Verdict]]:
    """Each attack and, right after it, the right solution; four such pairs in flight, so neighbours are there."""

    def pair(attack: Attack) -> tuple[Verdict, Verdict]:
        return verdicts(jail, notebook(attack.code))[0], verdicts(jail, notebook(RIGHT))[0]

    with ThreadPoolExecutor(4) as pool:
        return dict(zip((attack.name for attack in ATTACKS), pool.map(pair, ATTACKS), strict=True))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_earns_nothing_and_harms_nobody(attack: Attack, attacked) -> None:
    verdict, control = attacked[attack.name]
    assert (verdict.state, attack.says in verdict.line) == (attack.state, True), verdict
    assert verdict.line.isprintable() and len(verdict.line) <= 400
    assert control.state == "correct", control


def test_after_them_nothing_runs_but_the_sandbox_itself(jail: Jail, attacked) -> None:
    assert soon(lambda: len(below(jail._process.pid)) == 2)  # bubblewrap's first process, and the one that forks
    assert states(jail, notebook(RIGHT)) == ["correct"]


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_gets_no_verdict(jail: Jail, name: str) -> None:
    assert states(jail, FILES[name], LOSS, NUMBER)[0] == "no verdict"
    assert states(jail, notebook(RIGHT)) == ["correct"]


def test_a_large_notebook_is_no_matter(jail: Jail) -> None:
    assert states(jail, notebook(f"# {'x' * 20_000_000}", RIGHT)) == ["correct"]


def test_nothing_of_one_student_reaches_the_next(jail: Jail) -> None:
    assert states(jail, notebook(LEAVES)) == ["wrong"]
    assert states(jail, notebook(SEES)) == ["correct"]


def test_an_answer_that_does_not_end_costs_no_other_its_verdict(jail: Jail) -> None:
    raw = notebook("answer_1 = 0.7593", answer("while True: pass"), CONVERGE_RIGHT)
    start = time.monotonic()
    assert states(jail, raw, NUMBER, LOSS, CONVERGE, NUMBER) == ["correct", "no verdict", "correct", "correct"]
    assert time.monotonic() - start < 2 * SECONDS + 5


def test_patches_that_one_answer_makes_earn_the_next_nothing(jail: Jail) -> None:
    patches = """
def helper(*a, **k):
    torch.equal = np.array_equal = lambda *a, **k: True
    torch.Tensor.softmax = lambda z, *a, **k: torch.full_like(z, 1 / z.shape[-1])
helper_of_helpers = 1
"""
    loss = answer("helper()\nreturn zeros(student_logits)")
    raw = notebook(HEAD, patches, loss, CONVERGE_RIGHT)
    assert states(jail, raw, LOSS, CONVERGE) == ["wrong", "wrong"]
    assert states(jail, notebook(CONVERGE_RIGHT), CONVERGE) == ["correct"]


def test_an_order_to_answer_for_later_questions_is_only_numbers(jail: Jail) -> None:
    early = answer('for text in ("0.7593", "correct", "0x" + "F" * 290):\n    send(3, ("literal", text))\nos._exit(0)')
    kinds = states(jail, notebook(early, "answer_1 = 1.0"), LOSS, NUMBER, NUMBER, NUMBER, NUMBER)
    # three messages for three questions, none of them an answer to its own; the fourth is lost; the fifth is typed
    assert kinds == ["no verdict"] * 4 + ["wrong"]


def test_the_request_holds_no_expected_value() -> None:
    request = ask(notebook(RIGHT), [LOSS], SEED).decode()
    for number, probe in enumerate(drawn(LOSS, SEED)):
        assert str(probe.arguments["student_logits"].tolist()) in request
        value = expected(LOSS, SEED, number)["value"].ravel()
        for text in {repr(entry) for entry in [*value.tolist(), *value.astype("<f4").tolist()]}:
            assert text[:8] not in request, text


def test_whatever_is_sent_is_judged_without_an_error() -> None:
    numbers = np.random.default_rng(0)
    right = [dict(expected(LOSS, SEED, number)) for number in range(len(drawn(LOSS, SEED)))]
    fields = [(number, name) for number, seen in enumerate(right) for name in seen]
    odd = [
        lambda a: a.reshape(-1)[:0], lambda a: a[..., None], lambda a: np.full(a.shape, True),
        lambda a: np.full(a.shape, -(2**63)), lambda a: np.full(a.shape, 200, "|u1"),
        lambda a: np.full(a.shape, np.nan), lambda a: np.full(a.shape, 1.7e308),
        lambda a: np.full(a.shape, -np.inf), lambda a: np.zeros((1, 2, 1, 3, 1)), lambda a: a.reshape(-1)[:1],
    ]  # fmt: skip
    for _ in range(300):
        sent = {(n, k): v for n, seen in enumerate(right) for k, v in seen.items()}
        for at in numbers.integers(len(fields), size=numbers.integers(1, 5)):
            sent[fields[at]] = odd[numbers.integers(len(odd))](sent[fields[at]])
        message = pack((f"{number}|{name}", value) for (number, name), value in sent.items())
        verdict = judge(LOSS, understand(LOSS, SEED, message), SEED)
        assert verdict.state in ("wrong", "no verdict") and not verdict.names
        cut = message[: numbers.integers(len(message))] + numbers.bytes(numbers.integers(20))
        assert judge(LOSS, understand(LOSS, SEED, cut), SEED).state == "no verdict"


def test_a_sandbox_that_ends_is_started_again_once(jail: Jail, monkeypatch) -> None:
    old = jail._process
    for pid in below(old.pid):
        os.kill(pid, signal.SIGKILL)
    assert states(jail, notebook(RIGHT)) == ["correct"]
    assert jail._process is not old

    def lost(*_):
        raise module._Lost("gone")

    monkeypatch.setattr(module, "_converse", lost)
    monkeypatch.setattr(Jail, "_start", lambda self: setattr(self, "_process", old))
    monkeypatch.setattr(Jail, "_stop", lambda self: None)
    new = jail._process
    (failure,) = jail.answers(notebook(RIGHT), [LOSS], SEED)
    assert isinstance(failure, Failure) and "twice" in failure.reason
    jail._process = new
    monkeypatch.undo()
    assert states(jail, notebook(RIGHT)) == ["correct"]


def test_a_sandbox_whose_grader_is_gone_ends(can_jail, jail: Jail) -> None:
    with Jail() as other:
        assert soon(lambda: len(below(other._process.pid)) == 2)
        inside = below(other._process.pid)
        other._control.close()  # as the kernel does it when the grader is killed
        assert soon(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in inside))


def test_root_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(Refused, match="^root is refused: the limits.*runuser -u NAME -- kdcourse"), Jail():
        pass


def test_without_bubblewrap_nothing_is_graded(monkeypatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Refused, match="apt-get install bubblewrap"), Jail():
        pass


def test_without_namespaces_nothing_is_graded(monkeypatch, tmp_path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    with pytest.raises(Refused, match="uid map: Permission denied\n.*\n.*sysctl -w kernel.apparmor_restrict"), Jail():
        pass


def test_the_limit_is_a_number_of_seconds() -> None:
    with pytest.raises(ValueError, match="positive number of seconds, got 0"):
        Jail(0)


def test_the_table_is_not_shorter_than_it_was() -> None:
    assert len(ATTACKS) + len(FILES) >= 85 and len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert sum(attack.row == 0 for attack in ATTACKS) >= 25  # that came later
