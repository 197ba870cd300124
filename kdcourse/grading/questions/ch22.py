"""Exercise 22, the self-test: the questions of the page "Interview questions", with a reason for each wrong answer."""

import math

import torch
from torch import Generator, Tensor

from ..spec import Choice, Function, Number, Order, Probe, Question, Switch


def _loss_probes(generator: Generator) -> list[Probe]:
    def pair(teacher: list[float], student: list[float]) -> Probe:
        return Probe({"teacher_probs": torch.tensor([teacher]), "student_probs": torch.tensor([student])})

    probes = [pair([0.8, 0.1, 0.1], [0.6, 0.3, 0.1])]
    for batch, classes in ((4, 3), (3, 6), (5, 4)):
        both = torch.randn(2, batch, classes, generator=generator).mul(1.5).softmax(-1)
        probes.append(Probe({"teacher_probs": both[0], "student_probs": both[1]}))
    return [*probes, pair([0.7, 0.3, 0.0, 0.0], [0.4, 0.5, 0.1, 0.0])]  # 0 log 0 counts nothing


def _loss_parts(teacher_probs: Tensor, student_probs: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    p, q = (student_probs, teacher_probs) if "reversed" in on else (teacher_probs, student_probs)
    if "softmax_again" in on:
        q = q.softmax(-1)

    def surprise(weight: Tensor, of: Tensor) -> Tensor:
        terms = -weight * of.log() if "nan_at_zero" in on else -torch.special.xlogy(weight, of)
        return terms.mean(-1) if "mean_classes" in on else terms.sum(-1)

    cross, floor = surprise(p, q), surprise(p, p)
    if "entropy_of_student" in on:
        floor = surprise(q, q)
    parts = [cross, floor, floor - cross if "sign" in on else cross - floor]
    if "exchanged" in on:
        parts[0], parts[1] = parts[1], parts[0]
    result = torch.stack(parts, -1) / (math.log(2) if "bits" in on else 1)
    return result.mean(0) if "mean_batch" in on else result


_LOSS_SWITCHES = {
    "reversed": Switch(
        "teacher and student are exchanged: the surprise at the student's answer is weighed by the teacher",
        "Whose probabilities are the weights, and whose logarithms are taken?",
        "-(teacher * student.log()).sum(-1).",
        ("entropy_of_student",),
    ),
    "softmax_again": Switch(
        "the student's probabilities go through a softmax once more",
        "What comes in here: logits, or numbers that already sum to 1?",
        "No softmax: both arguments are probabilities.",
        ("nan_at_zero",),
    ),
    "nan_at_zero": Switch(
        "a class that the teacher gives 0 makes NaN; it should count nothing",
        "What is p log q for p = 0 and q = 0, in floating point and in the limit?",
        "torch.special.xlogy(p, q) is 0 where p is 0.",
    ),
    "mean_classes": Switch(
        "the classes are averaged, not summed",
        "What does your loss become when ten classes with probability 0 are added?",
        "An expectation is a sum of weights times values: .sum(-1).",
    ),
    "entropy_of_student": Switch(
        "the entropy is the student's; the floor of the loss is the teacher's",
        "Below which number can no student bring the cross-entropy?",
        "The entropy of the target.",
    ),
    "sign": Switch(
        "the divergence has the wrong sign",
        "Which is larger, the cross-entropy or the entropy of its target?",
        "Cross-entropy minus entropy: never negative.",
    ),
    "exchanged": Switch(
        "the first two numbers are exchanged: first the cross-entropy, then the entropy",
        "In which order are the three asked for?",
        "Cross-entropy, entropy, divergence.",
    ),
    "bits": Switch(
        "the logarithm has base 2; natural logarithms are asked for",
        "By which factor do all your numbers differ from the right ones?",
        "log, not log2: the losses of PyTorch are in nats.",
    ),
    "mean_batch": Switch(
        "the examples are averaged; three numbers for each are asked for",
        "What shape should come out of [batch, classes]?",
        "Sum over the last axis, and leave the first alone.",
    ),
}  # fmt: skip


def _bill_probes(generator: Generator) -> list[Probe]:
    names = ("teacher_pass", "student_pass", "teacher_seen", "student_seen", "answers")
    fixed = [(1000.0, 100.0, 50.0, 80.0, 20.0), (90.0, 30.0, 10.0, 40.0, 5.0)]
    probes = [Probe(dict(zip(names, values, strict=True))) for values in fixed]
    for _ in range(4):
        draw = torch.rand(5, generator=generator).tolist()
        low, high = (200, 20, 300, 500, 40), (900, 100, 900, 900, 400)
        values = [float(round(a + x * (b - a))) for a, b, x in zip(low, high, draw, strict=True)]
        probes.append(Probe(dict(zip(names, values, strict=True))))
    return probes


def _break_even(
    teacher_pass: float, student_pass: float, teacher_seen: float, student_seen: float, answers: float,
    on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    step = 1.0 if "forward_only" in on else 2.0 if "backward_only" in on else 3.0
    teacher = 0.0 if "teacher_free" in on else step * teacher_pass * teacher_seen
    student = 0.0 if "student_free" in on else step * student_pass * student_seen
    asked = 0.0 if "answers_free" in on else answers * (student_pass if "student_answers" in on else teacher_pass)
    if "answers_trained" in on:
        asked *= 3.0
    saved = teacher_pass if "nothing_spent" in on else teacher_pass - student_pass
    bill = teacher + asked + student
    return torch.tensor(bill if "not_divided" in on else bill / saved, dtype=torch.float64)


_BILL_SWITCHES = {
    "forward_only": Switch(
        "a training step is counted as one forward pass",
        "What else does a training step compute, besides the loss?",
        "Forward, gradient of the inputs, gradient of the weights: about three passes.",
        ("backward_only",),
    ),
    "backward_only": Switch(
        "a training step is counted as two passes",
        "A backward pass costs about two forward passes. What comes before it?",
        "1 + 2 = 3.",
    ),
    "teacher_free": Switch(
        "the teacher's training is missing from the bill",
        "Who paid for the teacher?",
        "3 * teacher_pass * teacher_seen belongs to the bill.",
    ),
    "student_free": Switch(
        "the student's training is missing from the bill",
        "Had the teacher been used instead, would the student have been trained?",
        "3 * student_pass * student_seen belongs to the bill.",
    ),
    "answers_free": Switch(
        "the teacher's answers are missing from the bill",
        "Where do the soft targets come from, and what does one cost?",
        "answers * teacher_pass.",
        ("student_answers", "answers_trained"),
    ),
    "student_answers": Switch(
        "the answers are paid at the student's price; the teacher gives them",
        "Which network is asked for the soft targets?",
        "answers * teacher_pass.",
    ),
    "answers_trained": Switch(
        "the answers are counted like training steps; the teacher is only asked",
        "Does the teacher need a backward pass to answer?",
        "One forward pass an answer.",
    ),
    "nothing_spent": Switch(
        "a use of the student is taken to be free; it saves only the difference",
        "What does one use cost after the distillation?",
        "teacher_pass - student_pass.",
        ("not_divided",),
    ),
    "not_divided": Switch(
        "this is the bill, not the number of uses after which it is paid",
        "What does one use save?",
        "Divide the bill by what one use saves.",
    ),
}  # fmt: skip


QUESTIONS: list[Question] = [
    Choice(
        "22.1",
        "answer_1",
        "c",
        {
            "a": "No architecture changes in training, whoever gives the targets.",
            "b": "That shows copying. Whether it was worth it shows beside a student without a teacher.",
            "c": "Better than itself without a teacher, with equal tries: that is what the teacher gave.",
            "d": "Possible, and rare. A student may be well worth its teacher and stay below it.",
        },
    ),
    Choice(
        "22.2",
        "answer_2",
        "a",
        {
            "a": "The counts are the architecture's. T has moved the weights, and perhaps the accuracy.",
            "b": "Softer targets have as many entries, and the network as many weights.",
            "c": "The size would have to be chosen before: no weight is removed in training.",
            "d": "The deployed student divides by 1; and a division would cost next to nothing.",
        },
    ),
    Choice(
        "22.3",
        "answer_3",
        "d",
        {
            "a": "Dividing by T > 0 keeps the order of the logits, so the winner stays.",
            "b": "Ratios shrink towards 1: the distribution becomes more even, not more pointed.",
            "c": "The entropy grows with T: all move towards 1/3.",
            "d": "The largest falls, the smallest rises, and no two change places.",
        },
    ),
    Number(
        "22.4",
        "answer_4",
        26 / 6,
        "Centred, the difference is (3, 1, -4): 26, divided by twice the three classes.",
        [
            (
                26.0,
                Switch(
                    "this is the plain sum of squares; the limit divides it",
                    "The probabilities are near 1/N each. Where does that 1/N go?",
                    "1/(2N) times the sum of squares.",
                ),
            ),
            (
                26 / 3,
                Switch(
                    "the factor 1/2 is missing: it comes from the second-order term",
                    "What stands before the square in a Taylor series?",
                    "1/(2N) times the sum of squares.",
                ),
            ),
            (
                13.0,
                Switch(
                    "the number of classes is missing",
                    "The probabilities are near 1/N each. Where does that 1/N go?",
                    "1/(2N) times the sum of squares.",
                ),
            ),
            (
                0.0,
                Switch(
                    "this is KL without the factor: T² grows as fast as it falls",
                    "How fast does KL fall with T, and how fast does T² grow?",
                    "T² KL has a finite limit.",
                ),
            ),
        ],
    ),
    Choice(
        "22.5",
        "answer_5",
        "b",
        {
            "a": "The value of T² KL does depend on T, as the limits show.",
            "b": "(q - p)/T, and q - p falls like 1/T too: two powers, which the factor returns.",
            "c": "The teacher's targets do not see the factor; it stands outside the logarithm.",
            "d": "Adam divides each step by the gradient's size. Without labels the factor is lost on it.",
        },
    ),
    Function(
        "22.6",
        "loss_parts",
        _loss_probes,
        _loss_parts,
        _LOSS_SWITCHES,
    ),
    Number(
        "22.7",
        "answer_7",
        1.5 * math.log(2),
        "The entropy of the target, 1.5 bits, in nats. The divergence has reached 0; the cross-entropy cannot.",
        [
            (
                0.0,
                Switch(
                    "0 is the floor of the divergence, not of the cross-entropy",
                    "What is -sum p log p for this target?",
                    "The entropy of the target.",
                ),
            ),
            (
                1.5,
                Switch(
                    "this is in bits; the loss is in nats",
                    "Which logarithm does cross_entropy take?",
                    "Times log 2.",
                ),
            ),
            (
                math.log(3),
                Switch(
                    "this is the entropy of three equal classes",
                    "Is the target even?",
                    "-sum p log p with 0.5, 0.25, 0.25.",
                ),
            ),
        ],
    ),
    Order(
        "22.8",
        "answer_8",
        ("d", "b", "e", "a", "c"),
        (
            "what is best depends on the metric, so it is named before anything runs.",
            "validation can only choose among students that have been trained.",
            "the choice is made first; seeds that chose may not also judge.",
            "the interval belongs to the test scores of the new seeds.",
        ),
    ),
    Choice(
        "22.9",
        "answer_9",
        "d",
        {
            "a": "On both sides any T divides itself out: a student that matches its teacher matches it at 1.",
            "b": "A low T on both sides gives nearly hard targets: sure students, not modest ones.",
            "c": "Without T² the gradient is small. It does not tell the student to be modest.",
            "d": "Its optimum is the softened answer at T = 1: right winners, far too modest.",
        },
    ),
    Number(
        "22.10",
        "answer_10",
        math.exp(10),
        "T stands at 0.01, so the logits lie 10 apart: a pseudo-label.",
        [
            (
                math.exp(0.1),
                Switch(
                    "this is T = 1, in the second epoch",
                    "Which T has the fourth epoch, if the first has 10?",
                    "10, 1, 0.1, 0.01.",
                ),
            ),
            (
                math.e,
                Switch(
                    "this is T = 0.1, in the third epoch",
                    "Which T has the fourth epoch, if the first has 10?",
                    "10, 1, 0.1, 0.01.",
                ),
            ),
            (
                math.exp(0.01),
                Switch(
                    "this is T = 10, in the first epoch",
                    "Which T has the fourth epoch, if the first has 10?",
                    "10, 1, 0.1, 0.01.",
                ),
            ),
            (
                10.0,
                Switch(
                    "this is the difference of the logits; the softmax takes its exponential",
                    "What is the ratio of exp(a) and exp(b)?",
                    "exp(10).",
                ),
            ),
        ],
    ),
    Choice(
        "22.11",
        "answer_11",
        "a",
        {
            "a": "On T² KL the ruler shrinks with T, whatever the student is worth.",
            "b": "An inner best T would need a goal that has one. This loss falls all the way down.",
            "c": "Up is the direction of KL without the factor.",
            "d": "T has a gradient like any number; it is not zero until the networks agree.",
        },
    ),
    Number(
        "22.12",
        "answer_12",
        0.09,
        "0.9/100 against 0.1: the labels lead, where the teacher was meant to, nine to one.",
        [
            (
                9.0,
                Switch(
                    "this is what the program was meant to do",
                    "By what does the default reduction divide, besides the batch?",
                    "The soft term is divided by 100.",
                ),
            ),
            (
                0.009,
                Switch(
                    "this is the soft term's weight; the ratio to the hard term is asked for",
                    "Which weight has the hard term?",
                    "0.009 / 0.1.",
                ),
            ),
            (
                900.0,
                Switch(
                    "the classes point the other way: the default divides",
                    "Is a mean over entries larger or smaller than a mean over rows?",
                    "The soft term is divided by 100.",
                ),
            ),
        ],
    ),
    Choice(
        "22.13",
        "answer_13",
        "b",
        {
            "a": "It weighs by the student's probabilities, and a millionth of anything is little.",
            "b": "It weighs by the teacher's 0.3, times the logarithm of a huge ratio.",
            "c": "Both are 0 for a copy. This student is none, and only one of them minds much.",
            "d": "A probability that the student lacks is what one of them is for.",
        },
    ),
    Choice(
        "22.14",
        "answer_14",
        "c",
        {
            "a": "At T = 1 no power of T can be seen, nor a side that was not divided.",
            "b": "At weight 0.5 the two weights may be exchanged, and nobody notices.",
            "c": "T apart from 1, weight apart from 0.5, batch apart from classes: nothing hides behind anything.",
            "d": "At weight 1 no mistake in the label term can be seen.",
        },
    ),
    Choice(
        "22.15",
        "answer_15",
        "d",
        {
            "a": "It keeps gradients out, and that is right; but one image still gets two answers.",
            "b": "A smaller rate makes smaller steps towards random answers.",
            "c": "A higher T softens both of the two answers.",
            "d": "Dropout is on. In eval mode the same image gets the same answer.",
        },
    ),
    Choice(
        "22.16",
        "answer_16",
        "b",
        {
            "a": "The class stays, and the accuracy may. The stored probabilities belong to another view.",
            "b": "What was stored belongs to the stored image, and the student sees another one.",
            "c": "A cache returns the very numbers that the teacher computed.",
            "d": "The cache has N times classes numbers: 20 MB here.",
        },
    ),
    Function(
        "22.17",
        "break_even",
        _bill_probes,
        _break_even,
        _BILL_SWITCHES,
    ),
    Choice(
        "22.18",
        "answer_18",
        "a",
        {
            "a": "Students of the two teachers, on validation, is the question itself.",
            "b": "A larger teacher is often no better for a small student.",
            "c": "T alone does not close a capacity gap, and which direction helps is not known.",
            "d": "Closer to the teacher is not yet more often right.",
        },
    ),
    Choice(
        "22.19",
        "answer_19",
        "c",
        {
            "a": "That is weight 0: the labels alone, a third of them wrong.",
            "b": "It keeps the teacher exactly where the label repeats it, and drops it where it could help.",
            "c": "The teacher learnt from right labels; the wrong ones are outvoted by it.",
            "d": "A compromise lost clearly to a weight near 1 in the book's runs.",
        },
    ),
    Choice(
        "22.20",
        "answer_20",
        "d",
        {
            "a": "Fidelity is no accuracy: it may copy more of the teacher's errors.",
            "b": "The teacher's score bounds neither of the two.",
            "c": "They measure two things, and both are measured here.",
            "d": "Agreement says how well it copies, accuracy how often it is right.",
        },
    ),
    Choice(
        "22.21",
        "answer_21",
        "a",
        {
            "a": "The whole interval lies inside the margin that was stated before.",
            "b": "The interval holds 0, so no sign is shown.",
            "c": "Open would be an interval that leaves the margin. This one does not.",
            "d": "Without a margin stated before, this is all that one could say; here there was one.",
        },
    ),
    Choice(
        "22.22",
        "answer_22",
        "b",
        {
            "a": "The T of the loss divided both sides: a student that matches its teacher matches it at 1.",
            "b": "Both sides were divided, so it is gone. Whether it is too sure, a fit on held-out labels says.",
            "c": "1/4 would undo a teacher that alone had been divided by 4, forgotten on the student's side.",
            "d": "No T changes a decision, so accuracy cannot choose one.",
        },
    ),
    Choice(
        "22.23",
        "answer_23",
        "c",
        {
            "a": "The average is what such a student learns, and it can be well calibrated.",
            "b": "It is right about as often as the mean answer that taught it.",
            "c": "One softmax is one answer. How far the members were apart is not in it.",
            "d": "Ten times cheaper in use is the reason for the exercise.",
        },
    ),
    Choice(
        "22.24",
        "answer_24",
        "a",
        {
            "a": "Equal sizes hide that entry k is another token on each side. Nothing raises an error.",
            "b": "A shape error needs different shapes.",
            "c": "A divergence of two distributions is finite and positive, whatever the entries mean.",
            "d": "The sizes are equal, and that is all that a program can see.",
        },
    ),
]
