"""A notebook, asked in a clean process: for a learner's own check. Not a sandbox, and no mark.

What only a deleted cell made right, or the order in which cells were run, shows here. `traceback` runs one answer
without a net and says where it fell: only on request.
"""

import os
import struct
import subprocess
import sys
import traceback as tb
from collections.abc import Iterator, Sequence

from .asking import ask, understand
from .judge import drawn
from .notebook import Notebook
from .questions import QUESTIONS
from .runner import RUNS, Failure
from .spec import Function, Question


def answers(raw: bytes, questions: Sequence[Question], seed: int, limit: float = 60.0) -> list[object]:
    """One entry a question, ready for `judge`; `limit`: seconds for each process that is asked.

    A question that ends its process gets no verdict, and those after it are asked again in a new process.
    """
    known: list[object] = []
    while len(known) < len(questions):
        asked = questions[len(known) :]
        data, reason = _run(["kdcourse.grading.child"], ask(raw, asked, seed), limit)
        known += [understand(q, seed, message) for q, message in zip(asked, _messages(data), strict=False)]
        if len(known) < len(questions):
            known.append(Failure("no verdict", reason))
    return known


def traceback(raw: bytes, question: Function, seed: int, limit: float = 60.0) -> str:
    """Where an answer fell, in the notebook's own lines; "" if it did not."""
    return _run([__name__, question.id, str(seed)], raw, limit)[0].decode("utf-8", "replace")


def _run(module: list[str], data: bytes, limit: float) -> tuple[bytes, str]:
    """What a new process said to these bytes, and why there may not be more of it."""
    try:
        done = subprocess.run(
            # -P: a torch.py beside the notebook is not taken for torch
            [sys.executable, "-P", "-m", *module],
            input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return late.stdout or b"", f"it took more than {limit:g} seconds. Does a loop never end?"
    return done.stdout, f"it ended the process that asked it (exit status {done.returncode})."


def _messages(data: bytes) -> Iterator[bytes]:
    """The complete messages of a reply."""
    while len(data) >= 4:
        (size,) = struct.unpack("<I", data[:4])
        if len(data) < 4 + size:
            return
        yield data[4 : 4 + size]
        data = data[4 + size :]


def _fall(raw: bytes, question: Function, seed: int) -> str:
    try:
        notebook = Notebook(raw)
        answer = notebook.function(notebook.namespace(), question.name)
        for probe in drawn(question, seed):
            RUNS[question.run](answer, dict(probe.arguments), question.grads if probe.grads else ())
    except Failure:
        return ""
    except BaseException as error:  # whatever it is, it is the learner's
        while error.__traceback__ and not error.__traceback__.tb_frame.f_code.co_filename.startswith("<cell"):
            error.__traceback__ = error.__traceback__.tb_next
        return "".join(tb.format_exception(error))
    return ""


if __name__ == "__main__":
    private = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the answer prints goes nowhere
    asked = QUESTIONS[sys.argv[1]]
    assert isinstance(asked, Function)
    os.write(private, _fall(sys.stdin.buffer.read(), asked, int(sys.argv[2])).encode("utf-8", "replace"))
