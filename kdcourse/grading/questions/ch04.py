"""Exercise 04, the loss: the toy numbers, the distillation loss, a student that converges, a loop to mend."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..spec import Choice, Function, Number, Probe, Question, Switch


def _loss_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_logits": torch.tensor([[1.0, 0.0, -1.0]]),
        "teacher_logits": torch.tensor([[2.0, 1.5, -1.0]]),
        "targets": torch.tensor([1]),
    }
    probes = [Probe(small | {"temperature": T, "soft_weight": 0.75}) for T in (1.0, 4.0)]
    settings = (
        (4, 3, 2.0, 0.9), (3, 7, 0.5, 0.3), (5, 6, 8.0, 0.7), (2, 10, 3.0, 0.25), (6, 5, 20.0, 0.8),
        (7, 4, 1.0, 0.6), (3, 8, 5.0, 0.1), (4, 6, 1.5, 1.0), (5, 3, 4.0, 0.0),
    )  # fmt: skip
    for batch, classes, T, weight in settings:
        values = {
            "student_logits": 2 * torch.randn(batch, classes, generator=generator),
            "teacher_logits": 2 * torch.randn(batch, classes, generator=generator),
            "targets": torch.randint(classes, (batch,), generator=generator),
        }
        probes.append(Probe(values | {"temperature": T, "soft_weight": weight}))
    shifted = probes[1].arguments | {"student_logits": small["student_logits"] + 3}
    why = "adding 3 to all of the student's logits must change nothing"
    return [*probes, Probe(shifted, like=(1, why))]


def _distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor,
    temperature: float, soft_weight: float, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    T, weight = temperature, soft_weight
    teacher = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    hot_student = student_logits * T if "multiplied" in on else student_logits / T
    hot_teacher = teacher * T if "multiplied" in on else teacher / T
    if "cold_student" in on:
        hot_student = student_logits
    if "cold_teacher" in on:
        hot_teacher = teacher
    log_p, log_q = hot_teacher.log_softmax(-1), hot_student.log_softmax(-1)
    if "kl_reversed" in on:
        log_p, log_q = log_q, log_p
    first = torch.zeros_like(log_p) if "cross_entropy" in on else log_p
    terms = log_p.exp() * (first - (log_q.exp() if "probabilities" in on else log_q))
    if "log_target" in on:
        terms = F.kl_div(log_q, log_p, reduction="none")
    soft = terms.mean(-1) if "mean_classes" in on else terms.sum(-1)
    soft = soft * (1 if "no_T2" in on else T if "T_once" in on else T**2)

    answer_logits = student_logits / T if "hot_hard" in on else student_logits
    answer_logits = answer_logits.softmax(-1) if "softmax_twice" in on else answer_logits
    hard = F.cross_entropy(answer_logits, targets, reduction="none")
    if "T2_on_both" in on:
        hard = hard * T**2

    soft_share, hard_share = (1 - weight, weight) if "swapped" in on else (weight, 1 - weight)
    if "hard_in_full" in on:
        hard_share = 1
    loss = soft_share * soft + hard_share * hard
    return loss.sum() if "sum" in on else loss.mean() if "mean" in on else loss


_T2 = "The soft term is T² times the divergence."
_BOTH = "The same T divides both sides of the divergence."
_EACH = "One number an example: sum over the classes (dim=-1), leave the batch alone."

_LOSS_SWITCHES = {
    "no_T2": Switch(
        "the factor T² is missing from the soft term",
        "At every T your soft term is 1/T² of what it should be. What happens to its gradient when T doubles?",
        _T2,
        ("T_once",),
    ),
    "T_once": Switch(
        "the soft term is multiplied by T, not by T²",
        "The gradient has one 1/T from the division. Where does the second come from?",
        _T2,
    ),
    "T2_on_both": Switch(
        "T² multiplies the hard term as well",
        "Which of the two gradients shrinks when T grows?",
        "T² stands with the divergence, inside the weighted sum.",
    ),
    "hot_hard": Switch(
        "the hard term is taken at temperature T; it belongs at T = 1",
        "At which temperature is the student used when its training is over?",
        "Cross-entropy on the student's own logits, not divided.",
    ),
    "cold_student": Switch(
        "the student's side of the divergence is not divided by T",
        "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
        _BOTH,
    ),
    "cold_teacher": Switch(
        "the teacher's side of the divergence is not divided by T",
        "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
        _BOTH,
        ("cold_student",),
    ),
    "multiplied": Switch(
        "the logits are multiplied by T, not divided",
        "Do your soft labels become flatter or sharper when T grows?",
        "logits / T.",
        ("cold_student", "cold_teacher"),
    ),
    "kl_reversed": Switch(
        "the divergence is the wrong way round: this is KL(student ‖ teacher)",
        "Whose probabilities weigh the difference of the logarithms?",
        "F.kl_div takes the student's log-probabilities first and the teacher's probabilities second.",
        ("log_target",),
    ),
    "cross_entropy": Switch(
        "this is the cross-entropy of teacher and student; the teacher's entropy is not subtracted",
        "The gradient is right. What value does a perfect copy of the teacher get?",
        "KL = cross-entropy minus the teacher's entropy: p (log p - log q).",
        ("log_target",),
    ),
    "probabilities": Switch(
        "the student's probabilities stand where its log-probabilities belong",
        "Which of its two inputs does F.kl_div want as a logarithm?",
        "log_softmax for the student.",
        ("log_target",),
    ),
    "log_target": Switch(
        "the teacher's log-probabilities stand where its probabilities belong, and the value is NaN",
        "F.kl_div takes the logarithm of its second input itself. What is the log of a negative number?",
        "softmax for the teacher, or log_target=True.",
    ),
    "mean_classes": Switch(
        "the soft term is averaged over the classes, not summed",
        "How does your soft term change when the same problem has ten times as many classes?",
        _EACH,
    ),
    "softmax_twice": Switch(
        "the hard term gets probabilities; F.cross_entropy applies a softmax of its own",
        "Which input does F.cross_entropy expect?",
        "Hand it the logits.",
    ),
    "swapped": Switch(
        "the weights are swapped: soft_weight multiplies the hard term",
        "What should be left of the loss at soft_weight = 1?",
        "soft_weight * soft + (1 - soft_weight) * hard.",
    ),
    "hard_in_full": Switch(
        "the hard term is added in full, not with 1 - soft_weight",
        "What should be left of the loss at soft_weight = 1?",
        "soft_weight * soft + (1 - soft_weight) * hard.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks should this loss move?",
        "teacher_logits.detach().",
    ),
    "mean": Switch(
        "the examples are averaged; one number for each is asked for",
        "What shape comes out of [batch, classes], if the caller is to weigh examples?",
        _EACH,
        ("sum",),
    ),
    "sum": Switch(
        "the examples are summed; one number for each is asked for",
        "What shape comes out of [batch, classes], if the caller is to weigh examples?",
        _EACH,
    ),
}


def _converge_probes(generator: Generator) -> list[Probe]:
    article = {"target": torch.tensor([0.8, 0.1, 0.1]), "start": torch.tensor([0.0, 1.0, -1.0])}
    probes = [Probe(article | {"learning_rate": 0.5, "steps": steps}) for steps in (1, 4)]
    for classes, rate, steps in ((4, 1.0, 2), (6, 0.3, 7), (5, 2.0, 3)):
        values = {
            "target": torch.randn(classes, generator=generator).softmax(-1),
            "start": torch.randn(classes, generator=generator),
        }
        probes.append(Probe(values | {"learning_rate": rate, "steps": steps}))
    return [*probes, Probe(article | {"learning_rate": 2.0, "steps": 100})]


def _converge(
    target: Tensor,
    start: Tensor,
    learning_rate: float,
    steps: int,
    on: frozenset[str] = frozenset(),
) -> Tensor:
    logits, memory = start.clone(), torch.zeros_like(start)
    goal = F.one_hot(target.argmax(), len(target)).to(target) if "hard_label" in on else target
    for _ in range(steps + ("one_more" in on)):
        leaf = logits.clone().requires_grad_()
        probs = leaf.softmax(-1)
        log_q = (probs if "softmax_twice" in on else leaf).log_softmax(-1)
        loss = -(goal * log_q).sum()
        if "reversed" in on:
            loss = (log_q.exp() * (log_q - goal.clamp(min=1e-30).log())).sum()
        if "squares" in on:
            loss = ((probs - goal) ** 2).sum()
        if "mean_classes" in on:
            loss = loss / len(target)
        (gradient,) = torch.autograd.grad(loss, leaf)
        memory = memory + gradient if "accumulated" in on else gradient
        logits = logits + learning_rate * memory if "uphill" in on else logits - learning_rate * memory
    return logits if "logits" in on else logits.softmax(-1)


def _train_probes(generator: Generator) -> list[Probe]:
    probes = []
    settings = ((3, 5, 4, 3, 4.0, 0.7), (2, 8, 3, 5, 2.0, 0.4), (4, 6, 5, 4, 6.0, 0.85))
    for batches, size, features, classes, T, weight in settings:
        values = {
            "student_weight": torch.randn(classes, features, generator=generator),
            "hidden_weight": torch.randn(7, features, generator=generator),
            "teacher_weight": torch.randn(classes, 7, generator=generator),
            "inputs": torch.randn(batches, size, features, generator=generator),
            "targets": torch.randint(classes, (batches, size), generator=generator),
            "learning_rate": 0.2, "temperature": T, "soft_weight": weight, "batches": batches,
        }  # fmt: skip
        probes += [Probe(values)] if probes else [Probe(values | {"batches": 1}), Probe(values)]
    return probes


def _train(
    student: nn.Module, teacher: nn.Module, batches: list[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer,
    temperature: float, soft_weight: float, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    if "teacher_training" not in on:
        teacher.eval()
    for inputs, targets in batches:
        teacher_logits, student_logits = teacher(inputs), student(inputs)
        if "teacher_gradient" not in on:
            teacher_logits = teacher_logits.detach()
        p = (teacher_logits / temperature).softmax(-1)
        log_q = (student_logits / temperature).log_softmax(-1)
        soft = F.kl_div(log_q, p, reduction="batchmean") * (1 if "no_T2" in on else temperature**2)
        hard = F.cross_entropy(student_logits.softmax(-1) if "softmax_twice" in on else student_logits, targets)
        if "no_zero_grad" not in on:
            optimizer.zero_grad()
        (soft_weight * soft + (1 - soft_weight) * hard).backward()
        optimizer.step()
    return student


_TEACHER, _STUDENT = (0.8, 0.1, 0.1), (0.6, 0.3, 0.1)
_H = -sum(p * math.log(p) for p in _TEACHER)
_CE = -sum(p * math.log(q) for p, q in zip(_TEACHER, _STUDENT, strict=True))
_CE_REVERSED = -sum(q * math.log(p) for p, q in zip(_TEACHER, _STUDENT, strict=True))
_H_STUDENT = -sum(q * math.log(q) for q in _STUDENT)
_SQUARES = sum((p - q) ** 2 for p, q in zip(_TEACHER, _STUDENT, strict=True))

_BITS = Switch("this is in bits: the logarithm is to base 2", "How many nats is one bit?", "Use math.log.")
_LOG10 = Switch(
    "the logarithm is to base 10",
    "Which base does math.log have, and which math.log10?",
    "Use math.log.",
)
_MEAN = Switch(
    "the classes are averaged, not summed",
    "Which weights does an expectation under the teacher use? Is there a 1/3 among them?",
    "Add the three terms.",
)
_SIGN = Switch(
    "the sign is wrong",
    "Is the logarithm of a probability positive?",
    "Put a minus before the sum.",
)
_BRIER = Switch(
    "this is the sum of squared differences (Brier); there is no logarithm in it",
    "Where is the logarithm?",
    "Minus the sum of p log q.",
)

QUESTIONS: list[Question] = [
    Number(
        "04.1",
        "answer_1",
        _CE,
        "Minus the sum of p log q, in nats.",
        [
            (_CE / math.log(10), _LOG10),
            (_CE / math.log(2), _BITS),
            (-_CE, _SIGN),
            (_CE / 3, _MEAN),
            (_SQUARES, _BRIER),
            (
                _CE_REVERSED,
                Switch(
                    "student and teacher are swapped: this is minus the sum of q log p",
                    "Whose probabilities weigh the logarithms?",
                    "The teacher weighs, the student is in the log.",
                ),
            ),
            (
                _CE - _H,
                Switch(
                    "this is the divergence; the cross-entropy still contains the teacher's entropy",
                    "Did you subtract something?",
                    "Minus the sum of p log q, and no more.",
                ),
            ),
            (
                -math.log(0.6),
                Switch(
                    "this is the loss against the hard label, class 0 alone",
                    "What do the other two classes of the teacher contribute?",
                    "Add the terms of all three classes.",
                ),
            ),
            (
                _H,
                Switch(
                    "this is the teacher's entropy; the student is not in it",
                    "Does your number change when the student does?",
                    "The student is in the logarithm.",
                ),
            ),
        ],
    ),
    Number(
        "04.2",
        "answer_2",
        _CE - _H,
        "Cross-entropy minus the teacher's entropy.",
        [
            ((_CE - _H) / math.log(10), _LOG10),
            ((_CE - _H) / math.log(2), _BITS),
            (_H - _CE, _SIGN),
            ((_CE - _H) / 3, _MEAN),
            (_SQUARES, _BRIER),
            (
                _CE_REVERSED - _H_STUDENT,
                Switch(
                    "the divergence is the wrong way round: this is KL(student ‖ teacher)",
                    "Whose probabilities weigh the difference of the logarithms?",
                    "p (log p - log q), summed.",
                ),
            ),
            (
                _CE,
                Switch(
                    "this is the cross-entropy; the teacher's entropy is not subtracted",
                    "What should come out for a student that equals the teacher?",
                    "Subtract the sum of -p log p.",
                ),
            ),
        ],
    ),
    Number(
        "04.3",
        "answer_3",
        _H,
        "The entropy of the target: the cross-entropy of a perfect copy. Only the divergence falls to 0.",
        [
            (
                0.0,
                Switch(
                    "0 is the least value of the divergence; the cross-entropy keeps the target's entropy",
                    "Put the teacher's own probabilities in the student's place. What does the formula give?",
                    "The sum of -p log p.",
                ),
            ),
            (_H / math.log(10), _LOG10),
            (_H / math.log(2), _BITS),
            (
                -math.log(0.8),
                Switch(
                    "this is class 0 alone",
                    "What do the other two classes of the teacher contribute?",
                    "Add the terms of all three classes.",
                ),
            ),
            (
                math.log(3),
                Switch(
                    "this is the entropy of the uniform distribution; the target is (0.8, 0.1, 0.1)",
                    "Which distribution has the entropy log 3?",
                    "The sum of -p log p.",
                ),
            ),
            (
                _CE,
                Switch(
                    "this is the loss before training, of the student (0.6, 0.3, 0.1)",
                    "Where does the student stand when the loss is least?",
                    "Put the teacher's own probabilities in the student's place.",
                ),
            ),
        ],
    ),
    Function(
        "04.4",
        "distillation_loss",
        _loss_probes,
        _distillation_loss,
        _LOSS_SWITCHES,
        grads=("student_logits", "teacher_logits"),
    ),
    Function(
        "04.5",
        "converge",
        _converge_probes,
        _converge,
        {
            "uphill": Switch(
                "the steps go up the gradient",
                "Does the loss fall from step to step?",
                "Subtract the gradient.",
            ),
            "accumulated": Switch(
                "gradients pile up: the old one is not cleared before the next is added",
                "What does backward() do with a gradient that is already there?",
                "zero_grad() in every step, or torch.autograd.grad.",
            ),
            "softmax_twice": Switch(
                "the softmax is applied twice",
                "Which input do log_softmax and F.cross_entropy expect?",
                "log_softmax of the logits themselves.",
                ("squares",),
            ),
            "hard_label": Switch(
                "the student is trained on the teacher's argmax, not on its probabilities",
                "Towards which distribution does your student go after very many steps?",
                "The target's three probabilities all weigh in the loss.",
                ("reversed",),
            ),
            "reversed": Switch(
                "the loss is KL(student ‖ teacher); the cross-entropy has the teacher's weights",
                "Both have their minimum in the same place. Do they go there by the same way?",
                "Minus the sum of target times log_softmax.",
                ("squares",),
            ),
            "squares": Switch(
                "the loss is the squared difference of the probabilities",
                "How large is that gradient when the student is sure and wrong?",
                "Minus the sum of target times log_softmax.",
            ),
            "mean_classes": Switch(
                "the loss is averaged over the classes, so each step is too short",
                "Compare the length of your first step with learning_rate * (q - p).",
                "sum(), not mean().",
            ),
            "one_more": Switch("one step too many is made", "What should come out for steps = 0?", "range(steps)."),
            "logits": Switch(
                "these are the logits; the student's probabilities are asked for",
                "What should the answer sum to?",
                "softmax at the end.",
            ),
        },
        rows_sum_to_one=True,
    ),
    Function(
        "04.6",
        "train",
        _train_probes,
        _train,
        {
            "no_zero_grad": Switch(
                "the gradients of earlier batches are never cleared",
                "The first batch is right and the second is not. What does backward() do with an old gradient?",
                "optimizer.zero_grad() before backward().",
            ),
            "softmax_twice": Switch(
                "F.cross_entropy gets probabilities; it applies a softmax of its own",
                "Which input does F.cross_entropy expect?",
                "Hand it the logits.",
            ),
            "teacher_training": Switch(
                "the teacher is in training mode: its batch norm follows your batches",
                "Does the teacher say the same of an image whatever else is in the batch?",
                "teacher.eval() before the loop.",
            ),
            "teacher_gradient": Switch(
                "gradients are computed for the teacher and pile up in it",
                "Which parameters does the optimiser hold, and for which is there work to be done?",
                "with torch.no_grad(): around the teacher's call.",
            ),
            "no_T2": Switch(
                "the factor T² is missing from the soft term",
                "What happens to the soft term's gradient when T doubles?",
                _T2,
            ),
        },
        run="train",
        together=5,
        follows={"04.4": {"no_T2": "no_T2", "softmax_twice": "softmax_twice", "mean": "", "teacher_gradient": ""}},
    ),
    Choice(
        "04.7",
        "answer_7",
        "b",
        {
            "a": "A KL divergence sums to what it is. Rows already sum to 1 at any T.",
            "b": ("From T of about 4 on, the gradient falls as 1/T²; T² keeps its share beside the hard term."),
            "c": ("It does no such thing below T = 1: there the gradient grows as 1/T only, and T² over-corrects."),
            "d": "The factor is the same for all classes of an example. It favours none.",
        },
    ),
    Choice(
        "04.8",
        "answer_8",
        "a",
        {
            "a": "Its gradient is 1/16 of what it was, so the labels decide nearly alone.",
            "b": ("The optimum of the sum moves with the ratio of its terms, and that has changed 16-fold."),
            "c": "Without T² the soft term is smaller, not larger.",
            "d": "T = 4 still softens both sides. What has changed is the weight, not the shape.",
        },
    ),
    Choice(
        "04.9",
        "answer_9",
        "d",
        {
            "a": ("That is SGD, whose step is proportional to the gradient. Adam divides by its size."),
            "b": ("Adam divides by the gradient's own size: a constant factor cancels, whichever way it points."),
            "c": ("There is no hard term at soft_weight = 1, so nothing is left to be out of balance with."),
            "d": "Adam's step does not change when the whole loss is scaled (its epsilon aside).",
        },
    ),
    Number(
        "04.10",
        "answer_10",
        2.0,
        "T (q - p): one 1/T from the division, T² in front. 4 x (0.9 - 0.4).",
        [
            (
                0.125,
                Switch(
                    "the factor T² is missing: this is (q - p) / T",
                    "What stands in front of the divergence in the loss?",
                    "T² / T = T.",
                ),
            ),
            (
                0.5,
                Switch(
                    "this is q - p, without T; T² and 1/T do not cancel",
                    "How many times does 1/T come out of the derivative of KL by a logit?",
                    "T² / T = T.",
                ),
            ),
            (
                8.0,
                Switch(
                    "the 1/T from dividing the logits is missing: this is T² (q - p)",
                    "What is the derivative of z/T by z?",
                    "T² / T = T.",
                ),
            ),
            (
                -2.0,
                Switch(
                    "the sign is wrong: the gradient is q minus p",
                    "The student gives this class too much. Which sign takes it down by descent?",
                    "Student minus teacher.",
                ),
            ),
        ],
    ),
    Choice(
        "04.11",
        "answer_11",
        "c",
        {
            "a": ("At T = 1 seven of the mistakes that 04.4 can name are invisible, a missing T² among them."),
            "b": ("At T = 1 and weights of a half eight mistakes hide; equal batch and classes hide wrong axes."),
            "c": ("T apart from 1 and soft_weight apart from 0.5 tell them from the truth, and from each other."),
            "d": "At soft_weight = 0.5 swapped weights are the same weights.",
        },
    ),
    Choice(
        "04.12",
        "answer_12",
        "b",
        {
            "a": "Softer is not nearer to hard: as T grows, all classes come to share alike.",
            "b": ("Dividing by 0.1 makes gaps ten times larger: nearly one-hot, so nearly the hard label."),
            "c": "The order of the classes is the same at every T > 0.",
            "d": ("What the wrong classes share goes to almost nothing there, and their relations with it."),
        },
    ),
]
