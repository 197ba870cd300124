"""One submission, questioned: what runs inside the sandbox, and outside it for a learner's own check.

The request holds the notebook, and for each question the name of a function and its inputs. The reply is a message
for each question: a length (u32) and frames. There is nothing else here to read: no expected value, no list of
mistakes, no seed.
"""

import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .frames import Value, pack, unpack
from .notebook import Notebook
from .runner import Failure, observe
from .spec import Probe


def request(raw: bytes, asked: Sequence[tuple[str, str, str, tuple[str, ...], Sequence[Probe]]]) -> bytes:
    """The notebook and, for each question, its id, the name to look for, how to run it, gradients and inputs.

    A question without a way to run it ("") wants the literal of that name.
    """
    return pack(_requested(raw, asked))


def _requested(raw: bytes, asked: Sequence[tuple]) -> Iterator[tuple[str, Value]]:
    yield "notebook", np.frombuffer(raw, "|u1")
    for question, name, run, grads, probes in asked:
        yield f"{question}|name", name
        yield f"{question}|run", run
        yield f"{question}|grads", ",".join(grads)
        for number, probe in enumerate(probes):
            yield f"{question}|{number}|grads", int(probe.grads)
            for key, value in probe.arguments.items():
                yield f"{question}|{number}|{key}", value.numpy() if isinstance(value, torch.Tensor) else value


def reply(data: bytes, send: Callable[[bytes], object]) -> None:
    """Answer a request, a message a question, sent as soon as it is known."""
    items = unpack(data)
    raw = next(items)[1].tobytes()
    questions: dict[str, dict[str, Any]] = {}
    for name, value in items:
        question, *rest = name.split("|")
        asked = questions.setdefault(question, {"probes": {}})
        if len(rest) == 1:
            asked[rest[0]] = value
        else:
            asked["probes"].setdefault(int(rest[0]), {})[rest[1]] = value
    try:
        notebook = Notebook(raw)
        space = notebook.namespace()
    except Failure as failure:
        for _ in questions:
            send(_message(_seen(failure)))
        return
    for asked in questions.values():
        send(_message(_answered(notebook, space, asked)))


def _answered(notebook: Notebook, space: dict[str, Any], asked: dict[str, Any]) -> Iterator[tuple[str, Value]]:
    if not asked["run"]:
        try:
            value = notebook.value(space, asked["name"])
            number = isinstance(value, torch.Tensor | np.generic | np.ndarray)
            yield (
                ("unanswered", "not started.") if value is ... else ("literal", repr(value.item() if number else value))
            )
        except Failure as failure:
            yield from _seen(failure)
        except Exception as error:
            yield "no verdict", f"{asked['name']} is not a letter, a number or a list ({type(error).__name__})."
        return
    probes = [
        Probe({key: _argument(value) for key, value in given.items() if key != "grads"}, grads=bool(given["grads"]))
        for given in asked["probes"].values()
    ]
    grads = tuple(filter(None, asked["grads"].split(",")))
    try:
        answer = notebook.function(space, asked["name"])
        seen = observe(answer, probes, run=asked["run"], grads=grads)
    except Failure as failure:
        seen = failure
    yield from _seen(seen)


def _seen(seen: Any) -> Iterator[tuple[str, Value]]:
    if isinstance(seen, Failure):
        yield seen.state, seen.reason
        return
    for number, probe in enumerate(seen):
        for name, value in probe.items():
            yield f"{number}|{name}", value


def _argument(value: Value) -> Any:
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def _message(frames: Iterator[tuple[str, Value]]) -> bytes:
    content = pack(frames)
    return struct.pack("<I", len(content)) + content


def main() -> None:
    """A request on stdin, the reply on stdout; what the answers print goes nowhere."""
    private = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(1)
    with os.fdopen(private, "wb", buffering=0) as out:
        reply(sys.stdin.buffer.read(), out.write)


if __name__ == "__main__":
    main()
