"""A mistake gets its own name, and nothing else gets one."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from grading.answers import FUNCTIONS, UNUSUAL, solution, verdict
from grading.patches import PATCHES

from kdcourse.grading.judge import distance, drawn, expected, judge
from kdcourse.grading.questions import QUESTIONS
from kdcourse.grading.spec import Choice, Function, Number, Order

each_function = pytest.mark.parametrize("question", FUNCTIONS, ids=lambda question: question.name)


@each_function
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_public_solution_is_right(question: Function, seed: int) -> None:
    assert verdict(question, solution(question), seed).state == "correct"


@each_function
@pytest.mark.parametrize("seed", [0, 7])
def test_unusual_right_answers_are_right(question: Function, seed: int) -> None:
    assert len(UNUSUAL[question.id]) >= 3
    for answer in UNUSUAL[question.id]:
        assert verdict(question, answer, seed).line == verdict(question, solution(question), seed).line


@pytest.mark.parametrize(("spread", "state"), [(1e-6, "correct"), (1e-2, "wrong")])
def test_calls_may_differ_by_rounding_and_by_no_more(spread: float, state: str) -> None:
    question = next(one for one in FUNCTIONS if one.id == "14.1")
    pool, calls = solution(question), itertools.count()

    def unsteady(tokens: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return pool(tokens, scores, mask) * (1 + spread * (next(calls) % 2))

    assert verdict(question, unsteady).state == state


@each_function
def test_the_stub_is_not_started(question: Function) -> None:
    result = verdict(question, solution(question, solved=False))
    assert result.state == "unanswered" and result.line.startswith("not started (about")


@each_function
def test_every_mistake_patched_into_the_solution_gets_its_name(question: Function) -> None:
    assert PATCHES[question.id].keys() == question.switches.keys()
    got = {name: verdict(question, solution(question, edits)).names for name, edits in PATCHES[question.id].items()}
    assert got == {name: (name,) for name in question.switches}


@each_function
def test_every_set_of_mistakes_gets_its_names_under_two_seeds(question: Function) -> None:
    for on in question.mistakes():
        for seed in (0, 3) if len(on) == 1 else (0,):
            result = verdict(question, functools.partial(question.reference, on=on), seed)
            assert (result.state, frozenset(result.names)) == ("wrong", on)


@each_function
def test_sets_of_mistakes_are_50_tolerances_apart(question: Function) -> None:
    """Else an answer might be given the wrong name. What cannot be told apart is declared in Switch.clashes."""
    sets = [frozenset(), *question.mistakes()]
    probes = range(len(drawn(question, 0)))
    for a, b in itertools.combinations(sets, 2):
        gaps = (distance(expected(question, 0, i, a), expected(question, 0, i, b), question.rtol) for i in probes)
        assert any(gap >= 50 for gap in gaps), f"{set(a) or 'the truth'} and {set(b)} look alike"


def test_the_flagships_know_ten_mistakes_and_three_may_hide_nothing() -> None:
    assert len(QUESTIONS["04.4"].switches) >= 10
    for question in FUNCTIONS:
        assert len(drawn(question, 0)) >= 3
        for switch in question.switches.values():
            assert switch.says and switch.question.endswith("?") or "." in switch.question
            assert switch.hint and not switch.says.endswith(".")


@pytest.mark.parametrize(("weight", "hidden"), [(0.9, 7), (0.5, 8)])
def test_at_temperature_1_as_many_mistakes_hide_as_question_04_11_says(weight: float, hidden: int) -> None:
    question = QUESTIONS["04.4"]
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    arguments = (student, teacher, torch.tensor([0, 1, 2, 1]), 1.0, weight)
    right = question.reference(*arguments)
    # the value alone, as a reader's own test compares it; log_target and the like are seen at any T
    same = [
        name for name in question.switches
        if name != "teacher_gradient"
        and (wrong := question.reference(*arguments, on={name})).shape == right.shape
        and torch.allclose(wrong, right)
    ]  # fmt: skip
    assert len(same) == hidden, same


def _other_wrong_answers(question: Function, generator: torch.Generator) -> list[Callable[..., Any]]:
    """Right answers, spoilt in ways that no switch describes."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    def after(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
        if question.run == "call":
            return lambda *given: change(torch.as_tensor(question.reference(*given)))

        def train(student: torch.nn.Module, *rest: Any) -> None:
            question.reference(student, *rest)
            student.weight.data = change(student.weight.data)

        return train

    factors = [draw(0.3, 0.95) for _ in range(4)] + [draw(1.05, 3) for _ in range(4)] + [0.99, 1.01, -0.7]
    answers = [after(lambda value, f=f: value * f) for f in factors]
    shifts = [draw(0.05, 1) for _ in range(7)]
    answers += [after(lambda value, s=s: value + s) for s in shifts[:4]]
    answers += [after(lambda value, s=s: value + s * torch.randn(value.shape)) for s in shifts[4:]]
    answers += [after(lambda value, p=p: value.abs() ** p + 1e-2) for p in (0.5, 1.5, 2, 3)]
    answers += [
        after(torch.zeros_like),
        after(lambda value: torch.rand(value.shape)),
        after(torch.sin),
    ]
    if question.run == "call":
        names = list(drawn(question, 0)[0].arguments)
        for name in sorted({"temperature", "soft_weight", "learning_rate"} & set(names)):
            at = names.index(name)
            for power in (0.5, 1.5, 3.0, -0.5, draw(1.1, 1.9)):
                answers.append(
                    lambda *given, at=at, power=power: question.reference(
                        *given[:at], given[at] ** power if given[at] else 0.5, *given[at + 1 :]
                    )
                )
    return answers


def test_200_other_wrong_answers_get_no_name_and_none_passes() -> None:
    generator, tried = torch.Generator().manual_seed(0), 0
    for question in FUNCTIONS:
        for number, answer in enumerate(_other_wrong_answers(question, generator)):
            result = verdict(question, answer)
            assert (result.state, result.names) == ("wrong", ()), f"{question.name} {number}: {result}"
            assert result.line
            tried += 1
    assert tried >= 200


def test_wrong_powers_of_T_in_the_soft_term_get_no_name() -> None:
    question = QUESTIONS["04.4"]
    for power in (0.5, 1.5, 2.5, 3, -1, -2):
        edit = [("temperature**2", f"temperature**{power}")]
        assert verdict(question, solution(question, edit)).names == ()


def test_choices_have_a_reason_for_every_letter_and_one_is_right() -> None:
    for question in QUESTIONS.values():
        if isinstance(question, Choice):
            for letter, why in question.options.items():
                result = judge(question, f" {letter.upper()}")
                assert result.state == ("correct" if letter == question.right else "wrong")
                assert why in result.line and len(why) > 20
            assert judge(question, "e").state == "no verdict"
            assert judge(question, ...).state == "unanswered"


def test_numbers_name_their_mistakes_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    for question in QUESTIONS.values():
        if isinstance(question, Number):
            assert judge(question, torch.tensor(question.value)).state == "correct"
            assert judge(question, f"{question.value:.4g}").state == "correct"
            for wrong, switch in question.mistakes:
                assert judge(question, wrong).switches == (switch,)
            values = [question.value, *(wrong for wrong, _ in question.mistakes)]
            for a, b in itertools.combinations(values, 2):  # 50 would be more than numbers of one size allow
                assert abs(a - b) > 5 * question.rtol * max(abs(a), abs(b)), (question.id, a, b)
            for factor in 0.1 + 3 * torch.rand(20, generator=generator):
                value = question.value * factor.item()
                if all(abs(value - other) > 0.01 * abs(other) for other in values):
                    assert judge(question, value).names == ()
            assert judge(question, float("nan")).state == "wrong"
            assert judge(question, "many").state == "no verdict"


def test_an_order_is_right_in_one_way_and_otherwise_told_a_pair() -> None:
    for question in QUESTIONS.values():
        if isinstance(question, Order):
            assert len(question.reasons) == len(question.items) - 1
            for given in itertools.permutations(question.items):
                result = judge(question, "".join(given))
                assert (result.state == "correct") == (given == question.items)
                if result.state == "wrong":
                    after, before = result.line[0], result.line.split("cannot come before ")[1][0]
                    assert question.items.index(after) > question.items.index(before)
            assert judge(question, "ab").state == "no verdict"
