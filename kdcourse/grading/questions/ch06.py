"""Exercise 06, schedules: a geometric schedule, a plateau rule, a tenth mended, the slope of a learned T."""

import math

from torch import Generator, Tensor, rand, randn, stack, tensor

from ..spec import Choice, Function, Number, Probe, Question, Switch


def _geometric_probes(generator: Generator) -> list[Probe]:
    path = {"start": 8.0, "end": 1.0, "steps": 100}
    probes = [Probe(path | {"step": step}) for step in (0, 50, 100, 150, 25)]
    other = {"start": 16.0, "end": 0.5, "steps": 40}
    probes += [Probe(other | {"step": step}) for step in (1, 10, 39, 41, 400)]
    for start, end, steps in ((2.0, 12.0, 30), (5.0, 5.0, 10)):
        probes += [Probe({"start": start, "end": end, "steps": steps, "step": step}) for step in (0, 7, steps + 3)]
    return probes


def _geometric(start: float, end: float, steps: int, step: int, on: frozenset[str] = frozenset()) -> float:
    if "swapped" in on:
        start, end = end, start
    last = steps - 1 if "one_short" in on else steps
    progress = step / last if "goes_on" in on else min(step / last, 1.0)
    if "whole_numbers" in on:
        progress = float(math.floor(progress))
    if "linear" in on:
        return start + (end - start) * progress
    if "own_rate" in on:
        return start * math.exp(-progress)
    return start * (end / start) ** progress


def _plateau_probes(generator: Generator) -> list[Probe]:
    rule = {"start": 8.0, "factor": 0.5, "patience": 2, "band": 0.05, "floor": 1.0}
    falls = tensor([1.0, 0.9, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7])
    creeps = tensor([1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.70, 0.67])
    still = tensor([0.5] * 24)
    swings = tensor([1.0, 0.6, 0.9, 0.7, 0.9, 0.62, 0.8, 0.3, 0.5, 0.4, 0.35, 0.34, 0.9, 0.2])
    probes = [
        Probe({"losses": falls, **rule}),
        Probe({"losses": creeps, **rule, "patience": 3}),
        Probe({"losses": 2 - creeps, **rule, "patience": 3}),
        Probe({"losses": still, **rule, "patience": 3}),
        Probe({"losses": swings, **rule}),
    ]
    settings = ((30, 0.8, 2, 0.1, 0.7), (40, 0.7, 3, 0.02, 0.3), (25, 0.6, 4, 0.2, 2.5))
    for length, factor, patience, band, floor in settings:
        noise = 0.15 * randn(length, generator=generator) + 2 * 0.93 ** tensor(range(length)).float()
        rule = {"start": 6.0, "factor": factor, "patience": patience, "band": band, "floor": floor}
        probes.append(Probe({"losses": noise, **rule}))
    # losses that rise again, and long waits with single gains in between
    waves = tensor([1.0, 1.1, 0.8, 0.9, 1.0, 0.6, 0.7, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.3, 0.31, 0.29, 0.28, 0.27])
    rule = {"start": 9.0, "factor": 0.9, "patience": 3, "band": 0.03, "floor": 6.0}
    return [*probes, *(Probe({"losses": losses, **rule}) for losses in (waves, 1.5 - waves))]


def _plateau(
    losses: Tensor, start: float, factor: float, patience: int, band: float, floor: float,
    on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    value, best, waited, values = start, math.inf, 0, []
    sign = -1 if "upwards" in on else 1
    for loss in (sign * losses).tolist():
        before = value
        if loss < best - (0 if "no_band" in on else band):
            best, waited = loss, (waited if "keeps_waiting" in on else 0)
        else:
            waited += 1
            if "creeping_best" in on:
                best = min(best, loss)
        if "last" in on:
            best = loss
        if waited >= patience + ("one_more" in on):
            lower = value / factor if "raised" in on else value * factor
            value = lower if "no_floor" in on else max(lower, floor)
            waited = waited if "every_time" in on else 0
        values.append(before if "before" in on else value)
    return tensor(values, dtype=losses.dtype)


def _tenth_probes(generator: Generator) -> list[Probe]:
    probes = []
    settings = ((2, 2, 3, 2, 4.0), (6, 4, 3, 2, 0.5), (3, 3, 4, 2, 4.0), (7, 3, 5, 3, 2.0), (5, 2, 6, 2, 0.3))
    for steps, batch, classes, per_epoch, floor in settings:
        probes.append(
            Probe(
                {
                    "student_logits": randn(steps, batch, classes, generator=generator),
                    "teacher_logits": 2 * randn(steps, batch, classes, generator=generator),
                    "per_epoch": per_epoch,
                    "floor": floor,
                }
            )
        )
    return probes


def _tenth(
    student_logits: Tensor, teacher_logits: Tensor, per_epoch: int, floor: float, on: frozenset[str] = frozenset()
) -> Tensor:
    values = []
    for step, (z, v) in enumerate(zip(student_logits, teacher_logits, strict=True)):
        epoch = step if "each_step" in on else (step + ("too_early" in on)) // per_epoch
        T = 10.0 / 10**epoch
        T = T if "no_floor" in on else min(T, floor) if "ceiling" in on else max(T, floor)
        log_p, log_q = (v / T).log_softmax(-1), (z if "cold_student" in on else z / T).log_softmax(-1)
        value = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        values.append(value if "no_T2" in on else T**2 * value)
    return stack(values)


def _slope_probes(generator: Generator) -> list[Probe]:
    small = {"student_logits": tensor([[1.0, 0.0, -1.0]]), "teacher_logits": tensor([[2.0, 1.5, -1.0]])}
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    for batch, classes, T in ((4, 3, 2.0), (3, 7, 0.5), (6, 5, 3.0), (5, 10, 1.5)):
        values = {
            "student_logits": 2 * randn(batch, classes, generator=generator),
            "teacher_logits": 3 * randn(batch, classes, generator=generator),
        }
        probes.append(Probe(values | {"temperature": T}))
    return probes


def _slope(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, on: frozenset[str] = frozenset()
) -> Tensor:
    T = temperature
    log_p, log_q = (teacher_logits / T).log_softmax(-1), (student_logits / T).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    divergence = (p * (log_p - log_q)).sum(-1)
    # By hand: with a = z/T, d log_softmax(a)/dT = -(a - sum q a)/T.
    slope_q = -(student_logits - (q * student_logits).sum(-1, keepdim=True)) / T**2
    slope_p = -(teacher_logits - (p * teacher_logits).sum(-1, keepdim=True)) / T**2
    slope = -(p * slope_q).sum(-1)
    if "teacher_fixed" not in on:
        slope = slope + (p * slope_p * (log_p - log_q)).sum(-1)
    if "no_T2" not in on:
        slope = T**2 * slope + (0 if "square_fixed" in on else 2 * T * divergence)
    value = slope.sum() if "sum" in on else slope.mean()
    value = value * T if "log_T" in on else value
    return -value if "sign" in on else value


def _standardise_probes(generator: Generator) -> list[Probe]:
    probes = [Probe({"logits": tensor([[3.0, 1.0, -1.0], [10.0, 0.0, 5.0]])})]
    for shape in ((4, 5), (3, 10), (6, 4), (5, 7)):
        scale = 1 + 3 * rand(shape[0], 1, generator=generator)
        probes.append(Probe({"logits": scale * randn(shape, generator=generator) + 1.5}))
    shifted = {"logits": 7 * probes[0].arguments["logits"] + 3}
    return [*probes, Probe(shifted, like=(0, "7 times the logits plus 3 must come out the same"))]


def _standardise(logits: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    axis = (0, 1) if "over_everything" in on else 0 if "first_axis" in on else -1
    centre = logits.mean(axis, keepdim=True)
    variance = (logits - centre).square().mean(axis, keepdim=True)
    if "one_less" in on:
        count = logits.numel() if axis == (0, 1) else logits.shape[axis]
        variance = variance * count / (count - 1)
    top = logits if "not_centred" in on else logits - centre
    return top / (variance if "variance" in on else variance.sqrt())


_RULE = "The learner's loop has three parts: does this loss count, has it waited long enough, what is T now."
_COUNT = "A gain sets the count to 0; so does a lowering of T; everything else adds 1."

QUESTIONS: list[Question] = [
    Function(
        "06.1",
        "geometric",
        _geometric_probes,
        _geometric,
        {
            "linear": Switch(
                "this falls by equal differences; equal factors are asked for",
                "Half way from 8 to 1 by equal factors: is that 4.5, or the square root of 8?",
                "start * (end / start) ** progress.",
                ("own_rate",),
            ),
            "goes_on": Switch(
                "after `steps` it goes on, past `end`",
                "What should come out at twice the number of steps?",
                "min(step / steps, 1).",
                ("own_rate",),
            ),
            "one_short": Switch(
                "`end` is reached one step too early: the divisor is steps - 1",
                "At which step is the progress 1?",
                "step / steps.",
                ("whole_numbers",),
            ),
            "whole_numbers": Switch(
                "the division is whole-numbered, so nothing happens before the last step",
                "What is 50 // 100?",
                "One stroke: step / steps.",
                ("linear", "own_rate", "goes_on"),
            ),
            "swapped": Switch(
                "start and end are exchanged",
                "What should come out at step 0?",
                "At progress 0 the power is 1, and start is left.",
                ("own_rate",),
            ),
            "own_rate": Switch(
                "this is start * exp(-progress): it falls to start / e, wherever `end` is",
                "Does your function ever reach `end`?",
                "The factor over the whole way is end / start.",
            ),
        },
    ),
    Function(
        "06.2",
        "plateau",
        _plateau_probes,
        _plateau,
        {
            "one_more": Switch(
                "T is lowered one judgement too late",
                "With patience 2, after how many judgements without gain does T fall: 2 or 3?",
                "waited >= patience, once this judgement has been counted.",
            ),
            "every_time": Switch(
                "after a lowering the count goes on, so T is lowered again at the next judgement",
                "How many judgements should lie between two lowerings, at the least?",
                _COUNT,
                ("keeps_waiting",),
            ),
            "keeps_waiting": Switch(
                "a gain does not set the count back",
                "Two waits, a gain, one wait, with patience 3: is T lowered?",
                _COUNT,
            ),
            "last": Switch(
                "each loss is compared with the one before, not with the best so far",
                "The losses swing 0.6, 0.9, 0.7: is the third one a gain?",
                "Keep the best; it changes only when a loss counts as a gain.",
                ("creeping_best",),
            ),
            "no_band": Switch(
                "the dead band is not used: every tiny gain counts",
                "Is 0.93 after 0.97 a gain, with a band of 0.05?",
                "loss < best - band.",
                ("creeping_best",),
            ),
            "creeping_best": Switch(
                "the best follows gains that are too small to count, so slow progress never counts",
                "Ten small gains in a row make a large one. Does your rule see it?",
                "Change the best only where the loss counts as a gain.",
            ),
            "no_floor": Switch(
                "T falls below the floor",
                "Where does your T end when the loss never moves again?",
                "max(factor * T, floor).",
                ("raised",),
            ),
            "raised": Switch(
                "T is raised: divided by the factor",
                "The factor is below 1. Which of * and / makes T smaller?",
                "factor * T.",
            ),
            "upwards": Switch(
                "a higher loss counts as the gain; that is right for an accuracy",
                "Which of 0.7 and 0.9 is the better loss?",
                "loss < best - band, and best starts at infinity.",
            ),
            "before": Switch(
                "the list holds the T before each judgement; it should hold the T after it",
                "Which T does the epoch after the first loss train with?",
                "Append at the end of the loop's body.",
            ),
        },
    ),
    Function(
        "06.3",
        "mended",
        _tenth_probes,
        _tenth,
        {
            "each_step": Switch(
                "T is divided at each step; the rule says each epoch",
                "How many steps has an epoch here, and what is T in the second step?",
                "The epoch is step // per_epoch.",
                ("too_early",),
            ),
            "no_floor": Switch(
                "there is no floor: T falls without end",
                "What is T in the third epoch, and what does the loss still see there?",
                "max(T, floor).",
                ("ceiling",),
            ),
            "ceiling": Switch(
                "the floor is used as a ceiling: min where max belongs",
                "Is your first T 10?",
                "max(T, floor).",
            ),
            "no_T2": Switch(
                "the factor T² is missing",
                "How large is the gradient at T = 10 beside that at T = 1?",
                "T**2 times the divergence.",
            ),
            "cold_student": Switch(
                "the student's logits are not divided by T",
                "A perfect copy of the teacher should cost nothing. Does it, at T = 10?",
                "The same T on both sides.",
            ),
            "too_early": Switch(
                "T is divided one step before the epoch is over",
                "Which T belongs to the last step of the first epoch?",
                "step // per_epoch, with the first step counted as 0.",
            ),
        },
        grads=("student_logits",),
        together=4,
    ),
    Function(
        "06.4",
        "slope",
        _slope_probes,
        _slope,
        {
            "no_T2": Switch(
                "this is the slope of the divergence alone; the factor T² is missing",
                "The chapter draws T² KL and KL against T. Which of the two has the sign of your slope?",
                "Differentiate T**2 * KL.",
            ),
            "square_fixed": Switch(
                "T² was treated as a constant: its own derivative, 2T, is missing",
                "Both factors depend on T. What does the product rule say?",
                "2 T KL + T² dKL/dT; or let autograd see T in both places.",
                ("no_T2",),
            ),
            "teacher_fixed": Switch(
                "the teacher's probabilities were detached, and with them their dependence on T",
                "The teacher's logits are fixed. Are its probabilities at T?",
                "Detach the teacher's logits, not softmax(logits / T).",
            ),
            "log_T": Switch(
                "this is the slope by log T, which is T times the slope by T",
                "Which leaf did autograd differentiate by?",
                "Let T itself be the leaf.",
            ),
            "sum": Switch(
                "the examples are added, not averaged",
                "What becomes of your slope when each example stands there twice?",
                "mean() over the batch.",
            ),
            "sign": Switch(
                "the sign is turned round: this is the direction of descent",
                "Does T² KL rise or fall with T?",
                "The derivative itself, without a minus.",
            ),
        },
    ),
    Function(
        "06.5",
        "standardise",
        _standardise_probes,
        _standardise,
        {
            "not_centred": Switch(
                "the mean is not subtracted",
                "What should the mean of each row of your answer be?",
                "Subtract the row's mean first.",
            ),
            "variance": Switch(
                "this divides by the variance; the standard deviation is its root",
                "What comes out when all logits are doubled?",
                "Take the square root.",
            ),
            "one_less": Switch(
                "this divides by K - 1 inside the root; the contract says K",
                "What does torch.std do unless it is told otherwise?",
                "correction=0, or the root of the mean square.",
            ),
            "first_axis": Switch(
                "mean and deviation run over the batch; each example has its own",
                "Which axis holds the classes of one example?",
                "dim=-1, keepdim=True.",
                ("over_everything",),
            ),
            "over_everything": Switch(
                "one mean and one deviation for the whole batch; each example has its own",
                "Does the second row change when the first is doubled?",
                "dim=-1, keepdim=True.",
            ),
        },
    ),
    Number(
        "06.6",
        "answer_6",
        0.7,
        "Divided by its sum, a gamma draw has the teacher's probabilities as its mean: nothing is softened.",
        [
            (
                3.5,
                Switch(
                    "this is the mean of the gamma draw itself, before it is divided by the sum",
                    "What do the three draws sum to on average?",
                    "3.5 of 5.",
                ),
            ),
            (
                1 / 3,
                Switch(
                    "this is the uniform distribution: no softening goes that far, and this one does not soften",
                    "The three parameters are 3.5, 1 and 0.5. Are the three draws alike?",
                    "Each parameter's share of their sum.",
                ),
            ),
            (
                0.035,
                Switch(
                    "this is the variance; the mean is asked for",
                    "Round which number does a draw scatter?",
                    "Each parameter's share of their sum.",
                ),
            ),
        ],
    ),
    Number(
        "06.7",
        "answer_7",
        0.21,
        "p (1 - p): six times the variance of the normalised gamma draw of 06.6, with the same mean.",
        [
            (
                0.7,
                Switch(
                    "this is the mean; the variance is asked for",
                    "How far from its mean is an entry that is 0 or 1?",
                    "p (1 - p).",
                ),
            ),
            (
                0.21**0.5,
                Switch(
                    "this is the standard deviation, the root of the variance",
                    "What is the mean of the squared distance?",
                    "p (1 - p).",
                ),
            ),
            (
                0.49,
                Switch(
                    "this is p², the square of the mean",
                    "The entry is 0 or 1. What is the mean of its square?",
                    "p - p².",
                ),
            ),
            (
                0.035,
                Switch(
                    "this is the variance of the normalised gamma draw",
                    "Which values can the entry have when one class is drawn?",
                    "p (1 - p).",
                ),
            ),
        ],
    ),
    Choice(
        "06.8",
        "answer_8",
        "c",
        {
            "a": "The interval holds 0: with other seeds the difference might have been negative.",
            "b": "For that the whole interval must lie within the margin, and it reaches 0.7.",
            "c": "It holds 0 and reaches beyond the margin. More seeds decide, not a bolder sentence.",
            "d": "A mean above 0 is no evidence for worse; and the interval reaches further up than down.",
        },
    ),
    Choice(
        "06.9",
        "answer_9",
        "a",
        {
            "a": "For small T the divergence grows like 1/T only, so T² takes it to 0, whatever the student learns.",
            "b": "The student's weights are not moved by that step. The number falls, and no image is learnt better.",
            "c": "The gradient is there: it was 06.4. It merely has nothing to do with the images to come.",
            "d": "Above, T² KL becomes flat, and it is approached from below. Downhill is the other way.",
        },
    ),
    Choice(
        "06.10",
        "answer_10",
        "d",
        {
            "a": "Reversal would then cost something, and on the page it cost nothing that 16 seeds could see.",
            "b": "A constant 1 spends no step in the good region, and loses several points there.",
            "c": "They are not: T changes the targets at every step. The time spent at each T is what they share.",
            "d": "Both pass through the same temperatures for as long. What counts is how many steps are spent well.",
        },
    ),
    Choice(
        "06.11",
        "answer_11",
        "b",
        {
            "a": "Without T² the soft gradient falls like 1/T² at high T; so it is small at 8, not large.",
            "b": "From about 1/64 to 1: the teacher is nearly silent at first and loud at the end. Keep T² inside.",
            "c": "The label term stays at T = 1 and keeps its size; the ratio of the two moves.",
            "d": "Adam divides by the size of the whole gradient; the ratio of its two parts is left as it is.",
        },
    ),
    Choice(
        "06.12",
        "answer_12",
        "c",
        {
            "a": "Dividing by a positive number keeps the order, so the first choice stays first.",
            "b": "At T = 1 the first class has more than at T = 8; the order is the same.",
            "c": "z / T keeps the order of z at every T > 0. A schedule moves how far apart the classes are.",
            "d": "The teacher is trained before, and T never touches its weights.",
        },
    ),
]
