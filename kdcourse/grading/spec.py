"""What a question is: a function to write, a letter to choose, a number, or an order. No judging here.

A function question carries one reference, in float64, that can also be run with named mistakes switched on.
That one function is the answer key, the source of every diagnosis and, in the tests, a thousand wrong answers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from torch import Generator

ALONE = "*"  # Switch(clashes=(ALONE,)): this mistake hides every other, so it is named only by itself


@dataclass(frozen=True)
class Switch:
    """One mistake: its name in a sentence, a question that leads there, and where to look."""

    says: str
    question: str
    hint: str
    clashes: tuple[str, ...] = ()  # switches that it hides or contradicts: the pair is never named


@dataclass(frozen=True)
class Probe:
    """One input. Tensors are float32 or int64: the reference gets the same numbers in float64.

    `like`: (index of an earlier probe, reason): the value must equal that probe's value, for that reason.
    `grads=False`: only the value is compared (gradients say nothing where logits saturate).
    """

    arguments: dict[str, Any]
    like: tuple[int, str] | None = None
    grads: bool = True


@dataclass(frozen=True, eq=False)  # eq=False: hashed by identity, so that expected values can be cached
class Function:
    """A function to write. `reference(..., on=frozenset_of_switch_names)` takes a probe's arguments.

    `grads`: the arguments whose gradients are compared. `run`: how it is called, a name in `runner.RUNS`.
    `together`: how many mistakes at once are still named. `rtol`: relative to the largest entry.
    `follows`: question -> the conventions of that question with which this one can still be judged, each with the
    switch that it means here; "" where nothing changes here.
    """

    id: str
    name: str
    probes: Callable[[Generator], list[Probe]]
    reference: Callable[..., Any]
    switches: dict[str, Switch]
    grads: tuple[str, ...] = ()
    run: str = "call"
    rows_sum_to_one: bool = False
    together: int = 2
    rtol: float = 2e-4
    follows: dict[str, dict[str, str]] = field(default_factory=dict)

    def mistakes(self) -> Iterator[frozenset[str]]:
        """Every set of mistakes that can be named: single ones first, declared clashes left out."""
        for size in range(1, self.together + 1):
            for names in combinations(self.switches, size):
                hidden = {other for name in names for other in self.switches[name].clashes}
                if not hidden & set(names) and (size == 1 or ALONE not in hidden):
                    yield frozenset(names)

    def apart_from(self, truth: frozenset[str] = frozenset()) -> list[frozenset[str]]:
        """Every set of switches that can be told apart from a class's convention, the fewest differences first.

        For a class without one these are the mistakes. All are sets that `mistakes` knows, so none looks like another.
        """
        sets = [frozenset(), *self.mistakes()]
        if truth not in sets:
            known = f"one of {', '.join(self.switches)}, or {self.together} that do not contradict each other"
            raise ValueError(f"convention of {self.id}: must be {known}; got {', '.join(sorted(truth))}")
        return sorted((on for on in sets if on != truth), key=lambda on: len(on ^ truth))


@dataclass(frozen=True, eq=False)
class Choice:
    """One letter. `options`: letter -> why it is right or wrong; `right`: the letter."""

    id: str
    name: str
    right: str
    options: dict[str, str]


@dataclass(frozen=True, eq=False)
class Number:
    """One number. `mistakes`: the number that a mistake leads to, and the mistake."""

    id: str
    name: str
    value: float
    because: str
    mistakes: list[tuple[float, Switch]] = field(default_factory=list)
    rtol: float = 2e-3


@dataclass(frozen=True, eq=False)
class Order:
    """Items in the right order; `reasons[i]` says why item i comes before item i + 1."""

    id: str
    name: str
    items: tuple[str, ...]
    reasons: tuple[str, ...]


Question = Function | Choice | Number | Order


def shown_in(id: str) -> str:
    """Where the book has what a question needs; exercise 22 belongs to a page and not to a chapter."""
    return 'the page "Interview questions"' if id.startswith("22.") else f"chapter {id[:2]}"
