"""The judge's side of a conversation with a submission: what is asked, and what the bytes that come back say."""

import ast
from collections.abc import Iterable

import numpy as np

from .child import request
from .frames import unpack
from .judge import drawn, expected
from .runner import Failure, Seen
from .spec import Function, Question

STATES = ("unanswered", "no verdict")  # all that a submission may say in words; a verdict it cannot


def ask(raw: bytes, questions: Iterable[Question], seed: int) -> bytes:
    """The request for a notebook's answers to these questions."""
    return request(raw, [_asked(question, seed) for question in questions])


def _asked(question: Question, seed: int) -> tuple:
    if isinstance(question, Function):
        return question.id, question.name, question.run, question.grads, drawn(question, seed)
    return question.id, question.name, "", (), ()


def understand(question: Question, seed: int, message: bytes) -> list[Seen] | Failure | object:
    """A reply as `judge` wants it; whatever is not as it should be is a `Failure`, never an exception."""
    try:
        items = list(unpack(message))
    except (ValueError, UnicodeDecodeError) as error:
        return Failure("no verdict", f"its answer cannot be read: {error}.")
    if len(items) == 1 and items[0][0] in STATES and isinstance(items[0][1], str):
        return Failure(items[0][0], printable(items[0][1]))
    if not isinstance(question, Function):
        return _literal(items)
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


def _literal(items: list) -> object:
    try:
        ((name, text),) = items
        if name == "literal" and len(text) <= 300:
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        pass
    return Failure("no verdict", "the answer is not a letter, a number or a list.")


def printable(text: str) -> str:
    """What a submission said, safe to show: one line, no control or direction characters."""
    return "".join(character if character.isprintable() else " " for character in text)[:300]
