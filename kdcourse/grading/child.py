"""One submission, questioned: what runs inside the sandbox, and outside it for a learner's own check.

The request holds the notebook, and for each question the name of a function and its inputs. The reply is a message
for each question. There is nothing else here to read: no expected value, no list of mistakes, no seed.
"""

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from .frames import Value, pack
from .notebook import Notebook
from .runner import Failure, observe
from .spec import Probe


def reply(request: bytes, send: Callable[[bytes], object]) -> None:
    """Answer a request, a message a question, sent as soon as it is known."""
    raw, questions = json.loads(request, object_hook=_tensor)
    space: dict[str, Any] = {}
    try:
        notebook = Notebook(raw.encode("latin-1"))
        space = notebook.namespace()
    except Failure as failure:
        notebook = failure
    for asked in questions:
        try:
            content = pack(_answered(notebook, space, **asked))
        except Failure as failure:
            content = pack([(failure.state, failure.reason)])
        send(struct.pack("<I", len(content)) + content)


def _tensor(given: dict[str, Any]) -> Any:
    return torch.tensor(given["tensor"]) if given.keys() == {"tensor"} else given


def _answered(
    notebook: Notebook | Failure, space: dict[str, Any], name: str, run: str = "", grads: Any = (), probes: Any = ()
) -> Iterator[tuple[str, Value]]:
    """What is seen of the function of that name; without a way to run it, the literal of that name."""
    if isinstance(notebook, Failure):
        raise notebook
    if run:
        given = [Probe(arguments, grads=wanted) for arguments, wanted in probes]
        seen = observe(notebook.function(space, name), given, run=run, grads=tuple(grads))
        if isinstance(seen, Failure):
            raise seen
        for number, probe in enumerate(seen):
            yield from ((f"{number}|{observable}", value) for observable, value in probe.items())
        return
    value = notebook.value(space, name)
    if value is ...:
        raise Failure("unanswered", "not started.")
    try:
        yield "literal", repr(value.item() if isinstance(value, torch.Tensor | np.generic | np.ndarray) else value)
    except Exception as error:
        what = f"{name} is not a letter, a number or a list ({type(error).__name__})."
        raise Failure("no verdict", what) from None


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
