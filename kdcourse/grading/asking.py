"""The judge's side of a conversation with a submission: what is asked, and what the bytes that come back say."""

import ast
import json
from collections.abc import Callable, Sequence

import numpy as np

from .frames import unpack
from .judge import drawn, expected
from .runner import Failure, Seen
from .spec import Function, Question

STATES = ("unanswered", "no verdict")  # all that a submission may say in words; a verdict it cannot


def answers(
    raw: bytes, questions: Sequence[Question], seed: int, talk: Callable[[bytes, int], tuple[Sequence[bytes], str]]
) -> list[object]:
    """What a notebook's bytes answer, one entry a question, as `judge` wants it.

    `talk`: what a new process says to a request, at most so many messages; where it is fewer, also why. A question
    that ends its process gets no verdict, and those after it are asked again in another.
    """
    known: list[object] = []
    while len(known) < len(questions):
        asked = questions[len(known) :]
        messages, why = talk(ask(raw, asked, seed), len(asked))
        known += [understand(question, seed, said) for question, said in zip(asked, messages, strict=False)]
        if len(known) < len(questions):
            known.append(Failure("no verdict", why))
    return known


def ask(raw: bytes, questions: Sequence[Question], seed: int) -> bytes:
    """The request for a notebook's answers to these questions."""
    asked = [
        {"name": q.name, "run": q.run, "grads": q.grads, "probes": [[p.arguments, p.grads] for p in drawn(q, seed)]}
        if isinstance(q, Function)
        else {"name": q.name}
        for q in questions
    ]
    return json.dumps([raw.decode("latin-1"), asked], default=lambda tensor: {"tensor": tensor.tolist()}).encode()


def understand(question: Question, seed: int, message: bytes) -> list[Seen] | Failure | object:
    """A reply as `judge` wants it; whatever is not as it should be is a `Failure`, never an exception."""
    try:
        items = list(unpack(message))
    except (ValueError, UnicodeDecodeError) as error:
        return Failure("no verdict", f"its answer cannot be read: {error}.")
    if len(items) == 1 and items[0][0] in STATES and isinstance(items[0][1], str):
        return Failure(items[0][0], printable(items[0][1]))
    if not isinstance(question, Function):
        try:
            ((name, text),) = items
            if name == "literal" and len(text) <= 300:
                return ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            pass
        return Failure("no verdict", "the answer is not a letter, a number or a list.")
    seen: list[Seen] = [{} for _ in drawn(question, seed)]
    for name, value in items:
        number, _, observable = name.partition("|")
        fits = number.isdecimal() and int(number) < len(seen) and isinstance(value, np.ndarray)
        if not fits or observable in seen[int(number)]:
            return Failure("no verdict", "its answer holds what was not asked for.")
        seen[int(number)][observable] = value
    for number, got in enumerate(seen):
        want = expected(question, seed, number)
        # `observe` gives all but the value the shapes that they should have; what was forged may have others
        if got.keys() != want.keys() or any(got[k].shape != want[k].shape for k in want if k != "value"):
            return Failure("no verdict", "its answer is not complete.")
    return seen


def printable(text: str) -> str:
    """What a submission said, safe to show: one line, no control or direction characters."""
    return "".join(character if character.isprintable() else " " for character in text)[:300]
