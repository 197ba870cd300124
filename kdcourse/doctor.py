"""A doctor for your own training step: it runs the step on answers of its own choice, and names mistakes by numbers.

The step's source is never read. `examine` calls the step some ten times. Once on the networks as they are: who gets a
gradient, and in which mode the teacher answers. Then with logits in the place of both networks' answers, so that the
step is a function of two tables of numbers. The gradient's *change* when only the teacher's answer changes holds the
soft term alone: labels, label smoothing, features and penalties cancel. That change is compared with what a soft loss
gives at every temperature, written rightly or in one of the wrong ways. A name is given only where one of them agrees
in every number; a step that none describes (squared logits, reverse KL, decoupled...) is left without a name.
"""

import itertools
import math
import textwrap
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdcourse.stand_in import Calls, Step, as_before, watched

NO_GRADIENT = "no gradient reaches the student"
TEACHER_GRADIENT = "the teacher gets a gradient"
TRAINING_TEACHER = "teacher in training mode"
BATCH_AXIS = "softmax over the batch"
PROBABILITIES = "probabilities where logits belong"
DIVIDED = "divided by the number of classes"
NO_T2 = "T² is missing"
MISTAKES = {  # what to look at
    NO_GRADIENT: "a student called under no_grad, .detach() or .item(), or the teacher's logits used twice",
    TEACHER_GRADIENT: "call the teacher under torch.no_grad(), unless both are trained on purpose",
    TRAINING_TEACHER: "teacher.eval() before training, and again after a .train() that reaches it",
    BATCH_AXIS: "the dim of softmax and log_softmax: the classes are the last axis",
    PROBABILITIES: "a softmax at the end of a network or before the loss, or kl_div without log_softmax",
    DIVIDED: "reduction='mean' of kl_div divides by batch and classes; 'batchmean' divides by the batch",
    NO_T2: "the gradient of KL shrinks as 1 / T² when T grows: multiply by T² (alone, under Adam, it does little)",
}
# Ways to misread the soft term, each with the mistake that it is; `_soft_gradient` does them.
MISREADINGS = {
    "teacher axis": BATCH_AXIS,
    "student axis": BATCH_AXIS,
    "teacher probabilities": PROBABILITIES,
    "student probabilities": PROBABILITIES,
    "no logarithm": PROBABILITIES,
}
CLASH = {"student probabilities", "no logarithm"}
AGREES = 1e-3  # largest share of a gradient's norm that an explanation may leave over


@dataclass(frozen=True)
class Report:
    """What `examine` found: a mistake (a key of MISTAKES) and what was seen of it, and what else it saw."""

    found: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        return set(self.found)

    def __str__(self) -> str:
        lines = ["" if self.found else "nothing found"]
        for name, seen in self.found.items():
            lines += [f"found: {name}", f"  seen: {seen}", f"  look at: {MISTAKES[name]}"]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(textwrap.fill(line, 72, subsequent_indent="    ") for line in lines if line)


def examine(step: Step, student: nn.Module, teacher: nn.Module, batch: object) -> Report:
    """Which mistakes of MISTAKES the training step shows: a `Report`, which says "nothing found", never "correct".

    `step(student, teacher, batch)` is the reader's: it calls both networks on what it takes from `batch` and returns
    the loss, one number; or it calls backward itself, and may call an optimiser. Logits are [batch, classes]: a
    network's output, the only such tensor in a tuple, or the entry "logits" of a mapping. Several teachers are a
    ModuleList. Parameters, gradients, buffers, modes, the state of optimisers and of the random numbers are as before
    when it returns; what else the step counts (a scheduler, a log), it counts.
    """
    for name, network in (("student", student), ("teacher", teacher)):
        if not isinstance(network, nn.Module):
            raise TypeError(f"examine: {name} must be a torch.nn.Module, got {type(network).__name__}")
    if not callable(step):
        raise TypeError(f"examine: step must be a function of (student, teacher, batch), got {type(step).__name__}")
    if student is teacher:
        raise ValueError("examine: student and teacher must be two networks, got one and the same")
    report = Report()
    with as_before(student, teacher), torch.enable_grad():
        calls = Calls(step, student, teacher, batch)
        students, teachers = _look_at_networks(calls, report)
        if not students or not teachers:
            report.notes.append("a network is never called, or gives no logits: the loss is not judged")
            return report
        # Features are tables too: logits are the last that both networks give in one shape.
        pairs = [(s, t) for t in reversed(teachers) for s in reversed(students) if s.shape == t.shape]
        classes = pairs[0][0].shape[1] if pairs else teachers[-1].shape[1]
        shapes = {tuple(z.shape) for z in (*students, *teachers) if not pairs or z.shape[1] == classes}
        if len(shapes) > 1:
            report.notes.append(f"answers of several shapes, {sorted(shapes)}: the loss is not judged")
        else:
            _look_at_loss(calls, report, *pairs[0])
    return report


def _look_at_networks(calls: Calls, report: Report) -> tuple[list[Tensor], list[Tensor]]:
    """One call as it is: gradients, the teacher's mode, and the tables that both networks give."""
    students = list(calls.student.parameters())
    shared = {id(weight) for weight in students}
    teachers = [weight for weight in calls.teacher.parameters() if id(weight) not in shared]
    with watched(calls.student) as student, watched(calls.teacher, in_eval=True) as teacher:
        gradients, _ = calls.run(students + teachers, first=True)
    if not any(id(weight) in gradients for weight in students):
        report.found.setdefault(NO_GRADIENT, f"of its {len(students)} parameter tensors, 0 got one")
    norm = math.sqrt(sum(gradients[id(w)].double().square().sum().item() for w in teachers if id(w) in gradients))
    if norm > 0:
        report.found.setdefault(TEACHER_GRADIENT, f"the norm of its gradient is {norm:.3g}")
    if teacher.gap_to_eval > 1e-4:
        seen = f"on the same inputs its answers differ by up to {teacher.gap_to_eval:.3g} from those in eval()"
        report.found.setdefault(TRAINING_TEACHER, seen)
    return student.logits, teacher.logits


def _look_at_loss(calls: Calls, report: Report, student_logits: Tensor, teacher_logits: Tensor) -> None:
    batch, classes = student_logits.shape
    try:
        probes = _Probes(calls, batch, classes)
    except Exception as error:  # whatever a reader's step may raise on answers that its networks never give
        report.notes.append(f"the step cannot take the doctor's logits, so the loss is not judged: {error}")
        return
    if not all(change.isfinite().all() for change in probes.changes):
        report.notes.append("the loss is not finite on logits: it may want probabilities, and is not judged")
        return
    if max(change.abs().max().item() for change in probes.changes) == 0:
        if probes.value_change:
            seen = f"the teacher's answer moves the loss by {abs(probes.value_change):.3g} and its gradient by 0"
            report.found.setdefault(NO_GRADIENT, seen)
        else:
            report.notes.append("the teacher's answer changes no gradient")
        return
    fit = probes.explain()
    if fit is None:
        report.notes.append("the soft term is no KL of tempered softmaxes, right or in a known wrong way: not judged")
        return
    for mistake in dict.fromkeys(MISREADINGS[switch] for switch in fit.on):
        ways = " and ".join(switch for switch in fit.on if MISREADINGS[switch] == mistake)
        seen = f"{ways}; so read, at T = {fit.temperature:.3g}, {fit.misfit:.0e} of the gradient stays unexplained"
        report.found[mistake] = seen
    for side, logits in (("student", student_logits), ("teacher", teacher_logits)):
        sums = logits.double().sum(1)
        if (logits >= 0).all() and (sums - 1).abs().max() < 1e-2:
            seen = f"each row of the {side}'s answers sums to 1, and the loss takes a softmax of it"
            report.found.setdefault(PROBABILITIES, seen)
    _look_at_weights(probes, fit, report)


def _look_at_weights(probes: "_Probes", fit: "_Fit", report: Report) -> None:
    """The soft term's weight with the batch's mean, T² apart; how it goes with the classes; the hard term's."""
    soft, hard, square = fit.weight, probes.hard_weight(fit), fit.temperature**2
    # The weights of a mixture sum to 1: that, and no single weight, tells what was forgotten.
    mixed = hard is not None and abs(soft / square + hard - 1) < 0.005
    wider = probes.weight_with_more_classes(fit)
    if wider is None:
        report.notes.append("the step cannot take more classes: whether the loss is divided by them is not judged")
        return
    more = probes.classes + probes.MORE
    if abs(wider / soft * more / probes.classes - 1) < 0.005 and not mixed:
        seen = f"{more} classes in place of {probes.classes} multiply the soft term's gradient by {wider / soft:.3f}"
        report.found.setdefault(DIVIDED, seen)
        soft *= probes.classes
    if hard is None:
        report.notes.append(
            f"the teacher is at T = {fit.temperature:.3g}, but the rest is no student at that T with labels at T = 1: "
            "no word on T²"
        )
    elif abs(square - 1) > 0.05 and abs(soft + hard - 1) < 0.005 and not mixed:
        seen = f"at T = {fit.temperature:.3g} the soft term weighs {soft:.3g} and the hard term {hard:.3g}, together 1"
        report.found.setdefault(NO_T2, f"{seen}; with T² the soft term would weigh {soft * square:.3g}")
    else:
        weights = f"weight {soft / square:.3g} times T², hard term {hard:.3g}"
        report.notes.append(f"the soft term has T = {fit.temperature:.3g}, {weights}")


@dataclass(frozen=True)
class _Fit:
    on: tuple[str, ...]
    temperature: float
    weight: float  # of KL(p ‖ q), mean over the batch, without T²
    misfit: float


class _Probes:
    """The step as a function of logits: how its gradient for the student's logits changes with either answer."""

    MORE = 3

    def __init__(self, calls: Calls, batch: int, classes: int) -> None:
        self.calls, self.classes = calls, classes
        self.dtype = torch.float64
        self.random = torch.Generator().manual_seed(0)
        self.student, self.other, *self.teachers = (self.logits(batch, classes) for _ in range(5))
        try:
            base, value = self.gradient(self.student, self.teachers[0])
        except Exception:  # most steps keep float64; one that meets a float32 weight does not
            self.dtype = torch.float32
            base, value = self.gradient(self.student, self.teachers[0])
        answers = [self.gradient(self.student, teacher) for teacher in self.teachers[1:]]
        self.changes = [gradient - base for gradient, _ in answers]
        self.value_change = None if value is None else answers[0][1] - value
        self.student_change = self.gradient(self.other, self.teachers[0])[0] - base

    def logits(self, batch: int, classes: int) -> Tensor:
        """Rows of three sizes: the large show the weight, the small the temperature."""
        sizes = torch.tensor([3.0, 8.0, 25.0], dtype=torch.float64)[torch.arange(batch) % 3]
        return sizes[:, None] * torch.randn(batch, classes, generator=self.random, dtype=torch.float64)

    def gradient(self, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, float | None]:
        leaf = student_logits.to(self.calls.device, self.dtype).requires_grad_()
        answer = teacher_logits.to(self.calls.device, self.dtype)
        with watched(self.calls.student, leaf, self.classes), watched(self.calls.teacher, answer, self.classes):
            gradients, value = self.calls.run([leaf])
        return gradients.get(id(leaf), torch.zeros_like(leaf)).detach().cpu().double(), value

    def explain(self) -> _Fit | None:
        """The soft term with fewest misreadings that gives these changes, at the temperature that it was given."""
        for number in range(len(MISREADINGS)):
            fits = [self.fit(on) for on in itertools.combinations(MISREADINGS, number) if not CLASH <= set(on)]
            best = min(fits, key=lambda fit: fit.misfit)
            if best.misfit < AGREES and best.weight > 0:
                return best
        return None

    def fit(self, on: tuple[str, ...]) -> _Fit:
        def at(log_temperature: float) -> _Fit:
            temperature = math.exp(log_temperature)
            weight, misfit = self.compare(on, temperature, self.student, self.teachers, self.changes)
            return _Fit(on, temperature, weight, misfit)

        grid, width = [math.log(0.2) + 0.24 * i for i in range(25)], 0.24  # T from 0.2 to 63
        best = min((at(point) for point in grid), key=lambda fit: fit.misfit)
        while best.misfit < 0.5 and width > 1e-9:
            width *= 0.5
            centre = math.log(best.temperature)
            best = min([best, at(centre - width), at(centre + width)], key=lambda fit: fit.misfit)
        return best

    @staticmethod
    def compare(
        on: tuple[str, ...], temperature: float, student: Tensor, teachers: list[Tensor], changes: list[Tensor]
    ) -> tuple[float, float]:
        base, *others = (_soft_gradient(on, student, teacher, temperature) for teacher in teachers)
        return _project(torch.stack([other - base for other in others]), torch.stack(changes))

    def hard_weight(self, fit: _Fit) -> float | None:
        """What a change of the student's logits shows beside the soft term, as a weight of cross-entropy; or None."""
        first, second = (
            fit.weight * _soft_gradient(fit.on, s, self.teachers[0], fit.temperature)
            for s in (self.student, self.other)
        )
        rest = self.student_change - (second - first)
        labels = (self.other.softmax(1) - self.student.softmax(1)) / len(self.student)
        weight, misfit = _project(labels, rest)
        left = misfit * rest.norm() / self.student_change.norm()
        return (weight if abs(weight) > 1e-4 else 0.0) if left < AGREES else None

    def weight_with_more_classes(self, fit: _Fit) -> float | None:
        student, *teachers = (self.logits(len(self.student), self.classes + self.MORE) for _ in range(3))
        try:
            (base, _), (other, _) = (self.gradient(student, teacher) for teacher in teachers)
        except Exception:  # a step that knows the number of classes
            return None
        weight, misfit = self.compare(fit.on, fit.temperature, student, teachers, [other - base])
        return weight if misfit < AGREES else None


def _soft_gradient(on: tuple[str, ...], student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Gradient of KL(p ‖ q), mean over the batch, misread in the ways `on`."""
    leaf = student_logits.clone().requires_grad_()
    student = leaf.softmax(1) if "student probabilities" in on else leaf
    teacher = teacher_logits.softmax(1) if "teacher probabilities" in on else teacher_logits
    p = (teacher / temperature).softmax(0 if "teacher axis" in on else 1)
    log_q = (student / temperature).log_softmax(0 if "student axis" in on else 1)
    answer = log_q.exp() if "no logarithm" in on else log_q
    return torch.autograd.grad(-(p * answer).sum() / len(leaf), leaf)[0]


def _project(direction: Tensor, seen: Tensor) -> tuple[float, float]:
    """(the multiple of `direction` nearest to `seen`, what it leaves over as a share of the norm of `seen`)."""
    square = direction.square().sum()
    weight = (direction * seen).sum() / square if square > 0 else square
    return weight.item(), ((seen - weight * direction).norm() / seen.norm().clamp(min=1e-300)).item()
