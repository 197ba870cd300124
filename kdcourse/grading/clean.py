"""A notebook, asked in a clean process: for a learner's own check. Not a sandbox, and no mark.

What only a deleted cell made right, or the order in which cells were run, shows here. `traceback` runs one answer
without a net and says where it fell: only on request.
"""

import os
import subprocess
import sys
import traceback as tb
from collections.abc import Sequence

from . import asking
from .judge import drawn
from .notebook import Notebook
from .questions import QUESTIONS
from .runner import RUNS, Failure
from .spec import Function, Question


def answers(raw: bytes, questions: Sequence[Question], seed: int, limit: float = 60.0) -> list[object]:
    """One entry a question, ready for `judge`; `limit`: seconds for each process that is asked."""

    def talk(request: bytes, count: int) -> tuple[list[bytes], str]:
        data, why = _run(["kdcourse.grading.child"], request, limit)
        messages = []
        while len(data) >= (end := 4 + int.from_bytes(data[:4], "little")):
            messages.append(data[4:end])
            data = data[end:]
        return messages, why

    return asking.answers(raw, questions, seed, talk)


def traceback(raw: bytes, question: Function) -> str:
    """Where an answer fell, in the notebook's own lines; "" if it did not."""
    return _run([__name__, question.id], raw, 60.0)[0].decode("utf-8", "replace")


def _run(module: list[str], data: bytes, limit: float) -> tuple[bytes, str]:
    """What a new process said to these bytes, and why there may not be more of it."""
    # -P: a torch.py beside the notebook is not taken for torch
    command = [sys.executable, "-P", "-m", *module]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        done = subprocess.run(command, input=data, timeout=limit, env=environment, **pipes)
    except subprocess.TimeoutExpired as late:
        return late.stdout or b"", f"it took more than {limit:g} seconds. Does a loop never end?"
    return done.stdout, f"it ended the process that asked it (exit status {done.returncode})."


def _fall(raw: bytes, question: Function) -> str:
    try:
        notebook = Notebook(raw)
        answer = notebook.function(notebook.namespace(), question.name)
        for probe in drawn(question, 0):
            RUNS[question.run](answer, dict(probe.arguments), question.grads if probe.grads else (), True)
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
    os.write(private, _fall(sys.stdin.buffer.read(), QUESTIONS[sys.argv[1]]).encode("utf-8", "replace"))
