"""What a learner reads. The messages are the product, so the tests read them too."""

import dataclasses
import itertools
import json
import time

import pytest
import torch
import torch.nn.functional as F
from grading.answers import solution, verdict

from kdcourse.grading import Mistake, check, live
from kdcourse.grading.judge import drawn
from kdcourse.grading.notebook import Notebook
from kdcourse.grading.questions import QUESTIONS

LOSS = QUESTIONS["04.4"]


@pytest.fixture(autouse=True)
def _fresh_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_attempts", {})


def said(question, answer, **options) -> str:
    with pytest.raises(Mistake) as mistake:
        check(question, answer, **options)
    assert len(str(mistake.value).splitlines()) == 2
    assert mistake.value._render_traceback_() == str(mistake.value).splitlines()
    return str(mistake.value)


def without_T2(number: int = 0):
    return solution(LOSS, [("temperature**2 * ", ""), ("hard =", f"# attempt {number}\n    hard =")])


def test_a_right_answer_is_told_what_was_compared(capsys) -> None:
    assert check("04.4", solution(LOSS)) is None
    expected = "✓ distillation_loss: value and gradients agree on 12 probes, T from 0.5 to 20.\n"
    assert capsys.readouterr().out == expected
    check(solution(LOSS))  # by its own name
    assert capsys.readouterr().out == expected


def test_feedback_grows_from_a_counterexample_to_a_question_to_the_name() -> None:
    first, second, third, fourth = (said("04.4", without_T2(attempt)) for attempt in range(4))
    assert first.startswith(
        "✗ distillation_loss: right at T = 1. At T = 4 your value is 0.3591 and should be 0.4665.\n"
    )
    assert "name=True" in first and "T²" not in first
    assert "What happens to its gradient when T doubles?\n  Chapter 04" in second
    assert third == fourth == (
        "✗ distillation_loss: the factor T² is missing from the soft term.\n"
        "  The soft term is T² times the divergence."
    )  # fmt: skip


def test_the_same_answer_again_is_not_an_attempt() -> None:
    assert len({said("04.4", without_T2()) for _ in range(4)}) == 1


def test_each_mistake_has_its_own_attempts() -> None:
    said("04.4", without_T2(0))
    said("04.4", without_T2(1))
    assert "your value is" in said("04.4", solution(LOSS, [("(1 - soft_weight) * hard", "hard")]))


def test_the_name_comes_at_once_on_request() -> None:
    assert "T² is missing" in said("04.4", without_T2(), name=True)


def test_two_mistakes_are_counted_then_listed() -> None:
    answer = solution(LOSS, [("temperature**2 * ", ""), (".detach()", "")])
    assert "(2 mistakes in all.)" in said("04.4", answer)
    named = said("04.4", answer, name=True)
    assert "(1) the factor T² is missing from the soft term. (2) gradients flow into the teacher." in named


def test_the_broken_loop_of_04_6_has_the_five_mistakes_that_its_text_promises() -> None:
    broken = solution(QUESTIONS["04.6"]).__globals__["broken"]
    assert len(verdict(QUESTIONS["04.6"], broken).names) == 5


CASES = {
    "shape": (lambda s, t, y, T, w: (s - t), "returns shape [1, 3], should be [1]"),
    "integers": (lambda s, t, y, T, w: y, "returns int64 numbers, should be floating point"),
    "changed": (lambda s, t, y, T, w: (s.div_(T), LOSS.reference(s * T, t, y, T, w))[1],
                "it changes student_logits in place"),
    "random": (lambda s, t, y, T, w: torch.rand(len(s)), "gives two different answers to the same input"),
    "shift": (lambda s, t, y, T, w: s.sum(-1) * 0.1,
              "adding 3 to all of the student's logits must change nothing, but it goes from [0] to [0.9]"),
    "cut": (lambda s, t, y, T, w: LOSS.reference(s.detach(), t, y, T, w),
            "gradient with respect to student_logits is zero: was it cut off"),
    "gradient": (lambda s, t, y, T, w: LOSS.reference(s, t, y, T, w) + (s - s.detach()).sum(-1),
                 "the value is right. But the gradient with respect to student_logits is not: your gradient is ["),
    "teacher": (lambda s, t, y, T, w: LOSS.reference(s, t, y, T, w) + (t - t.detach())[:, 0],
                "gradient with respect to teacher_logits should be zero and reaches 1"),
    "ratio": (lambda s, t, y, T, w: 1.25 * LOSS.reference(s, t, y, T, w),
              "every value is 1.25 times what it should be"),
    "half": (lambda s, t, y, T, w: LOSS.reference(s.half(), t.half(), y, T, w), "should be"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_answer_without_a_name_gets_the_smallest_property_that_fails(case: str) -> None:
    answer, words = CASES[case]
    assert words in said("04.4", answer)


def test_softmax_is_told_about_rows_shifts_and_overflow() -> None:
    assert "each row should sum to 1; one sums to 1.881" in said("03.1", lambda z, T: torch.sigmoid(z))
    assert "adding 3 to all logits must change nothing" in said("03.1", lambda z, T: (z**2 / T).softmax(-1))
    naive = said("03.1", lambda z, T: F.normalize((z / T).exp(), p=1, dim=-1))
    assert "your value is [[nan, 0, 0], [" in naive and "should be [[1, 0, 0], [0, 1, 0]]" in naive


def test_what_cannot_be_judged_says_why_in_one_sentence() -> None:
    def division(student_logits, teacher_logits, targets, temperature, soft_weight):
        return 1 / 0

    told = said("04.4", division)
    assert "ZeroDivisionError: division by zero, in line" in told and "`return 1 / 0`" in told
    assert "So nothing was judged." in told
    assert "returns a str; a tensor is asked for." in said("04.4", lambda s, t, y, T, w: "0.4")
    assert "asks for a function, got 3." in said("04.4", 3)
    assert "the answer is one of a, b, c, d, got 'z'." in said("01.1", "z")
    assert "the answer lists each of a, b, c, d once, got 'ca'." in said("02.5", "ca")


def test_not_started_is_told_apart_from_wrong() -> None:
    assert "✗ distillation_loss: not started (about 5 lines)." in said("04.4", solution(LOSS, solved=False))
    assert "not started: it returns nothing. (Is there a `return`?)" in said("04.4", lambda s, t, y, T, w: None)
    assert "✗ 01.1: not started." in said("01.1", ...)


def test_quiz_answers_are_told_why(capsys) -> None:
    assert "✗ 01.1: b. That is pruning" in said("01.1", "b")
    assert "✗ 02.5: d cannot come before a: there is nothing to differentiate" in said("02.5", "cdab")
    assert said("04.1", 0.3298).startswith("✗ 04.1: 0.3298 is too small.\n")  # never the value itself
    assert "Which base does math.log have" in said("04.1", 0.32977)
    assert "the logarithm is to base 10." in said("04.1", 0.3297)
    assert "✗ 04.1: 0.16 is too small.\n" in said("04.1", 0.16)
    check("04.1", 0.7593)
    assert capsys.readouterr().out.startswith("✓ 04.1: 0.7593.")


def test_an_unknown_question_is_an_error_that_helps() -> None:
    with pytest.raises(ValueError, match="the question's number stands above its cell, such as '04.4'; got '99.1'"):
        check("99.1", 3)
    with pytest.raises(ValueError, match="no question asks for a function 'said'"):
        check(said)


def test_a_check_takes_less_than_200_ms_after_the_first() -> None:
    said("04.4", without_T2())
    seconds = []
    for edits in (
        [("temperature**2", "temperature")],
        [(".detach()", "")],
        [("log_p - log_q", "log_p - 2 * log_q")],
    ):
        start = time.process_time()
        said("04.4", solution(LOSS, edits))
        seconds.append(time.process_time() - start)
    assert sorted(seconds)[1] < 0.2, seconds


def test_an_unknown_mistake_costs_one_run_of_the_reference_for_each_set() -> None:
    question, calls = QUESTIONS["05.1"], []
    counted = dataclasses.replace(question, reference=lambda *a, **k: (calls.append(1), question.reference(*a, **k))[1])
    answer = solution(question)
    assert verdict(counted, lambda *given: torch.as_tensor(answer(*given)) * 1.37).names == ()
    assert len(calls) <= len(drawn(counted, 0)) + len(counted.apart_from())


def test_the_grader_leaves_the_learners_random_numbers_alone() -> None:
    for question in ("04.4", "04.6"):
        before = torch.get_rng_state()
        verdict(QUESTIONS[question], solution(QUESTIONS[question]))
        assert torch.equal(before, torch.get_rng_state())


def test_the_reference_is_the_packages_own_loss() -> None:
    losses = pytest.importorskip("kdcourse.losses")
    generator = torch.Generator().manual_seed(0)
    for T, weight in itertools.product((0.5, 1.0, 8.0), (0.0, 0.3, 1.0)):
        student, teacher = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
        targets = torch.tensor([0, 5, 2, 2])
        ours = losses.distillation_loss(student, teacher, targets, temperature=T, soft_weight=weight)
        torch.testing.assert_close(LOSS.reference(student, teacher, targets, T, weight), ours)


def test_a_notebook_keeps_its_literals_in_whatever_form() -> None:
    """Also several at once; and a name that only a call would make is dropped with the reason."""
    cells = ["PAD, (BOS, EOS) = 0, (1, 2)\nA, B = 3, 4\n[C] = [5]\nD = E = 6", "F, G = len('ab'), 7\ntorch.x, H = 1, 2"]
    raw = json.dumps({"cells": [{"cell_type": "code", "source": [source]} for source in cells]}).encode()
    notebook = Notebook(raw)
    space = notebook.namespace()
    assert [space.get(name) for name in "ABCDE"] == [3, 4, 5, 6, 6]
    assert "G" not in space and "line 1 of cell 2 is a call" in notebook.dropped["G"]
    assert "H" not in space and "torch" not in space
    assert notebook.value(space, "A") == 3
