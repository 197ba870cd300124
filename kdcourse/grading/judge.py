"""The judge: from what was seen to a verdict. Pure: the same numbers always get the same verdict.

A mistake is named only if every observable on every probe equals what the reference gives with that mistake
switched on. So a name is a finding, never a guess; an answer that matches none gets a counterexample.
"""

import functools
import threading
from dataclasses import dataclass

import numpy as np
import torch

from .runner import Failure, Seen, call_text, number_text, observe
from .spec import Choice, Function, Number, Order, Probe, Question, Switch

CONVENTION = "convention:"  # before the name of a switch that a class has on and an answer has not
_one_at_a_time = threading.Lock()  # to observe is to silence warnings, and that is for the whole process
FLOOR = 0.01  # tolerances are relative to the largest expected entry, but never to less than this


@dataclass(frozen=True)
class Verdict:
    """`state`: "correct", "wrong", "unanswered" or "no verdict".

    `line`: the summary, the counterexample or the reason. `names` and `switches`: the mistakes, if they were found.
    """

    state: str
    line: str
    names: tuple[str, ...] = ()
    switches: tuple[Switch, ...] = ()


@functools.cache
def drawn(question: Function, seed: int) -> tuple[Probe, ...]:
    """The probes of this seed."""
    with torch.device("cpu"):
        return tuple(question.probes(torch.Generator().manual_seed(seed)))


@functools.cache
def expected(question: Function, seed: int, index: int, on: frozenset[str] = frozenset()) -> Seen:
    """What a float64 answer with exactly these mistakes shows on one probe."""
    probes, reference = drawn(question, seed)[index : index + 1], functools.partial(question.reference, on=on)
    with _one_at_a_time:
        seen = observe(reference, probes, run=question.run, grads=question.grads, dtype=torch.float64, once=True)
    if isinstance(seen, Failure):
        raise RuntimeError(f"expected: the reference of {question.id} fails with {set(on)}: {seen.reason}")
    return seen[0]


def distance(got: Seen, want: Seen, rtol: float) -> float:
    """How far apart two answers are on one probe, in tolerances, at the observable where they differ most."""
    if got.keys() != want.keys():
        return np.inf
    return max(_distance(got[name], want[name], rtol) for name in want)


def _distance(got: np.ndarray, want: np.ndarray, rtol: float) -> float:
    if got.size == want.size == 1:  # a number and [number] are the same answer
        got = got.reshape(want.shape)
    if got.shape != want.shape:
        return np.inf
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    scale = max(np.abs(want[finite]).max(initial=0.0), FLOOR)
    return np.abs(got[finite] - want[finite]).max(initial=0.0) / (rtol * scale)


def judge(question: Question, answer: object, seed: int = 0, truth: frozenset[str] = frozenset()) -> Verdict:
    """The verdict on an answer: for a function, what `observe` returned; for the other kinds, what was typed.

    `truth`: a class's own convention, as the switches that are on in it. An answer without them is wrong there.
    """
    if answer is ... or answer is None:
        return Verdict("unanswered", "not started.")
    if isinstance(answer, Failure):
        return Verdict(answer.state, answer.reason)
    if not isinstance(question, Function):
        return _judge_quiz(question, answer)
    with np.errstate(all="ignore"):  # an answer may hold infinities; the verdict says so
        return _judge_function(question, answer, seed, truth)


def _judge_function(question: Function, seen: list[Seen], seed: int, truth: frozenset[str]) -> Verdict:
    probes, sets = drawn(question, seed), question.apart_from(truth)

    def is_match(index: int, on: frozenset[str] = truth) -> bool:
        return distance(seen[index], expected(question, seed, index, on), question.rtol) <= 1

    right = [is_match(index) for index in range(len(probes))]
    if all(right):
        what = "the student's parameters agree" if question.run == "train" else "values agree"
        what = "value and gradients agree" if question.grads else what
        heats = [probe.arguments["temperature"] for probe in probes if "temperature" in probe.arguments]
        reach = f", T from {min(heats):g} to {max(heats):g}" if heats else ""
        return Verdict("correct", f"{what} on {len(probes)} probes{reach}.")
    order = sorted(range(len(probes)), key=right.__getitem__)  # where the answer is wrong tells most, so first
    found = next((on ^ truth for on in sets if all(is_match(index, on) for index in order)), frozenset())
    made = {  # a convention that is on in the class and not in the answer is a mistake too
        f"{CONVENTION}{name}" if name in truth else name: _left_out(switch) if name in truth else switch
        for name, switch in question.switches.items()
        if name in found
    }
    line = _counterexample(question, probes, seen, [expected(question, seed, i, truth) for i in range(len(probes))])
    return Verdict("wrong", line, tuple(made), tuple(made.values()))


def _left_out(switch: Switch) -> Switch:
    says = f"your answer does not follow this class's convention: here {switch.says}"
    return Switch(says, "What is agreed on in your class?", "The public solution is another convention than yours.")


def _counterexample(question: Function, probes: tuple[Probe, ...], seen: list[Seen], want: list[Seen]) -> str:
    """The smallest property that fails, with one input, what came and what should have come."""
    for probe, got, right in zip(probes, seen, want, strict=True):
        value, target = got["value"], right["value"]
        if value.shape != target.shape and not value.size == target.size == 1:
            return f"returns shape {list(value.shape)}, should be {list(target.shape)}, for {call_text(probe)}."
        if not np.issubdtype(value.dtype, np.floating) and (target % 1).any():  # no whole number can be right here
            return f"returns {value.dtype} numbers, should be floating point, for {call_text(probe)}."
        if not np.isfinite(value).all() and np.isfinite(target).all():
            return f"{_compare(value, target)} for {call_text(probe)}."
        for name in got:
            if name.startswith("changed:") and not np.array_equal(got[name], right[name]):
                return f"it changes {name[8:]} in place; afterwards that is no longer what it was."
        if got["repeat"].any():
            return f"gives two different answers to the same input, {call_text(probe)}."
        if question.rows_sum_to_one and np.abs(value.sum(-1) - 1).max() > 1e-3:
            worst = value.sum(-1).flat[np.abs(value.sum(-1) - 1).argmax()]
            return f"each row should sum to 1; one sums to {worst:.4g}, for {call_text(probe)}."
        if probe.like and _distance(value, before := seen[probe.like[0]]["value"], 10 * question.rtol) > 1:
            return f"{probe.like[1]}, but it goes from {number_text(before)} to {number_text(value)}."

    right = [_distance(got["value"], w["value"], question.rtol) <= 1 for got, w in zip(seen, want, strict=True)]
    if all(right):
        for probe, got, w in zip(probes, seen, want, strict=True):
            for name, target in w.items():
                if name.startswith("grad:") and _distance(got[name], target, question.rtol) > 1:
                    what = f"the value is right. But the gradient with respect to {name[5:]}"
                    if not target.any():
                        return f"{what} should be zero and reaches {np.abs(got[name]).max():.4g}."
                    if not got[name].any():
                        return f"{what} is zero: was it cut off (detach, no_grad, item)?"
                    return f"{what} is not: {_compare(got[name], target, 'gradient')} for {call_text(probe)}."
    wrong = right.index(False)
    here, comparison = probes[wrong], _compare(seen[wrong]["value"], want[wrong]["value"])
    for probe in (probe for probe, is_right in zip(probes, right, strict=True) if is_right):
        differs = [(name, a, b) for (name, a), b in zip(probe.arguments.items(), here.arguments.values(), strict=True)
                   if (a is not b if isinstance(a, torch.Tensor) else a != b)]  # fmt: skip
        if len(differs) == 1 and isinstance(differs[0][1], int | float):
            name, there, at = differs[0]
            name = "T" if name == "temperature" else name
            return f"right at {name} = {there:g}. At {name} = {at:g} {comparison}."
    pairs = [(got["value"], w["value"]) for got, w in zip(seen, want, strict=True)]
    ratios = np.concatenate([(a / b).ravel() for a, b in pairs if (np.abs(b) > FLOOR).all()] or [np.zeros(1)])
    if ratios.any() and np.ptp(ratios) <= 1e-3 * abs(ratios.mean()):
        return f"every value is {ratios.mean():.4g} times what it should be: {comparison}."
    return f"{comparison} for {call_text(here)}."


def _compare(got: np.ndarray, want: np.ndarray, what: str = "value") -> str:
    """Got and expected: all of a small value, else the entry that is furthest off."""
    if got.size == want.size == 1:
        got, want = got.reshape(()), want.reshape(())
    elif want.size > 6:
        at = np.unravel_index(np.nan_to_num(np.abs(got - want), nan=np.inf).argmax(), want.shape)
        entry = ", ".join(map(str, at))
        return f"entry [{entry}] of your {what} is {got[at]:.4g} and should be {want[at]:.4g}"
    return f"your {what} is {number_text(got)} and should be {number_text(want)}"


def _judge_quiz(question: Choice | Number | Order, answer: object) -> Verdict:
    if isinstance(question, Choice):
        letter = str(answer).strip().lower()
        if letter not in question.options:
            return Verdict("no verdict", f"the answer is one of {', '.join(question.options)}, got {answer!r}.")
        return Verdict("correct" if letter == question.right else "wrong", f"{letter}. {question.options[letter]}")
    if isinstance(question, Order):
        given = [str(item) for item in answer] if isinstance(answer, list | tuple | str) else []
        if sorted(given) != sorted(question.items):
            letters = ", ".join(sorted(question.items))
            return Verdict("no verdict", f"the answer lists each of {letters} once, got {answer!r}.")
        rank = [question.items.index(item) for item in given]
        for before, after in zip(rank, rank[1:], strict=False):
            if before > after:  # reasons[after] says why item `after` precedes the next, which precedes or is `before`
                line = f"{question.items[before]} cannot come before {question.items[after]}: {question.reasons[after]}"
                return Verdict("wrong", line)
        return Verdict("correct", f"{', '.join(given)}.")
    try:
        value = float(answer)
    except (TypeError, ValueError, OverflowError):
        return Verdict("no verdict", f"the answer is one number, got {answer!r}.")
    if abs(value - question.value) <= question.rtol * abs(question.value):
        return Verdict("correct", f"{question.value:.4g}. {question.because}")
    if not np.isfinite(value):
        return Verdict("wrong", f"{value} is not a finite number.")
    line = f"{value:.4g} is too {'large' if value > question.value else 'small'}."
    for target, switch in question.mistakes:
        if abs(value - target) <= question.rtol * abs(target):
            return Verdict("wrong", line, (switch.says,), (switch,))
    return Verdict("wrong", line)
