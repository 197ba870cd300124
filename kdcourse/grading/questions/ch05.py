"""Exercise 05, choosing the temperature: learning curves, a report, a paired interval, a region of equal ones."""

import torch
from torch import Generator, Tensor, randn, tensor

from ..spec import Choice, Function, Number, Probe, Question, Switch


def _curves_probes(generator: Generator) -> list[Probe]:
    def task(images: int, others: int, features: int, classes: int) -> dict[str, Tensor]:
        right = randn(classes, features, generator=generator)
        inputs, valid = (randn(n, features, generator=generator) for n in (images, others))
        noise = randn(images, classes, generator=generator)
        blurred = valid @ right.T + 0.5 * randn(others, classes, generator=generator)
        return {
            "start": randn(classes, features, generator=generator),
            "inputs": inputs,
            "teacher_logits": 2 * inputs @ right.T + noise,
            "valid_inputs": valid,
            "valid_targets": blurred.argmax(-1),
        }

    small = task(5, 8, 3, 3) | {"temperatures": tensor([1.0, 4.0]), "learning_rate": 0.3}
    probes = [Probe(small | {"momentum": momentum, "steps": 2}) for momentum in (0.0, 0.9)]
    settings = (
        ((6, 10, 4, 3), (2.0, 0.5, 1.5), 0.5, 0.9, 4),
        ((8, 12, 3, 5), (5.0, 0.5), 0.4, 0.8, 5),
        ((7, 9, 5, 4), (3.0, 1.0, 6.0), 0.3, 0.9, 3),
    )
    for sizes, heats, rate, momentum, steps in settings:
        values = {"temperatures": tensor(heats), "learning_rate": rate, "momentum": momentum, "steps": steps}
        probes.append(Probe(task(*sizes) | values))
    return probes


def _learning_curves(
    start: Tensor, inputs: Tensor, teacher_logits: Tensor, valid_inputs: Tensor, valid_targets: Tensor,
    temperatures: Tensor, learning_rate: float, momentum: float, steps: int, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    shared, memory_shared = on & {"shared", "shared_wasted"}, on & {"memory", "memory_wasted"}
    wasted = on & {"shared_wasted", "memory_wasted", "accuracy_late"}
    weight, memory, curves = start, torch.zeros_like(start), []
    gathered: list[Tensor] = []

    def update(weight: Tensor, memory: Tensor, T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of this weight, then the weight and the memory after one step."""
        leaf = weight.detach().requires_grad_()
        z = inputs @ leaf.T
        log_q = (z if "cold_student" in on else z / T).log_softmax(-1)
        log_p = (teacher_logits / T).log_softmax(-1)
        terms = log_p.exp() * ((0 if "cross_entropy" in on else log_p) - log_q)
        each = terms.mean(-1) if "mean_all" in on else terms.sum(-1)
        loss = (1 if "no_T2" in on else T**2) * (each.sum() if "sum" in on else each.mean())
        (gradient,) = torch.autograd.grad(loss, leaf)
        if "no_zero_grad" in on:
            gradient = gradient + gathered[-1]
            gathered.append(gradient)
        memory = (0 if "no_momentum" in on else momentum) * memory + gradient
        return loss.detach(), weight - learning_rate * memory, memory

    for T in temperatures:
        weight = weight if shared else start
        memory = memory if memory_shared else torch.zeros_like(start)
        gathered[:] = [torch.zeros_like(start)]  # gradients of this student that nobody cleared
        count = steps if "one_short" in on else steps + 1
        for row in range(count):
            if "late" in on:
                _, weight, memory = update(weight, memory, T)
            loss, after, memory_after = update(weight, memory, T)
            judged = after if "accuracy_late" in on else weight
            if "training_images" in on:
                hits = (inputs @ judged.T).argmax(-1) == teacher_logits.argmax(-1)
            else:
                hits = (valid_inputs @ judged.T).argmax(-1) == valid_targets
            accuracy = (100 if "percent" in on else 1) * hits.to(loss.dtype).mean()
            curves.append(torch.stack([accuracy, loss] if "columns" in on else [loss, accuracy]))
            if "late" not in on and (row < count - 1 or wasted):
                weight, memory = after, memory_after
    table = torch.stack(curves).reshape(len(temperatures), -1, 2)
    return table[:, -1] if "sweep" in on else table


_CHOOSERS = (
    "on_test", "luckiest", "one_seed", "fixed_rate", "one_rate", "rates_averaged", "rate_on_test", "lowest"
)  # fmt: skip


def _report_probes(generator: Generator) -> list[Probe]:
    """Tables in which no wrong way to choose reports what the right one does: drawn again until it is so."""
    probes = []
    settings = (
        ((1, 4), 2, 2, 3), ((0.5, 2, 8, 32), 3, 5, 4), ((1, 2, 4, 8, 16), 4, 3, 5), ((16, 4, 1, 0.25), 3, 4, 3),
        ((0.5, 1, 2, 4, 8, 16), 3, 6, 4), ((2, 4, 8, 32), 5, 4, 6), ((8, 1, 32, 2, 16), 3, 3, 2),
        ((1, 8, 64, 4), 4, 5, 5), ((2, 0.5, 4, 16, 1), 4, 6, 4), ((32, 16, 8, 4, 2, 1), 3, 3, 4),
    )  # fmt: skip
    for heats, rates, seeds, new in settings:
        temperatures = tensor(heats, dtype=torch.float32)
        for _ in range(100):
            worth = 85 + 2 * randn(len(heats), rates, 1, generator=generator)
            valid = worth + 4 * randn(len(heats), rates, seeds, generator=generator)
            other = 3 * randn(len(heats), rates, 1, generator=generator)
            test = worth + other + 3 * randn(len(heats), rates, new, generator=generator)
            right = _report(temperatures, valid, test)[1]
            ends = (_report(temperatures, valid, test, frozenset({name}))[1] for name in _CHOOSERS)
            if len(heats) < 4 or all((end - right).abs() > 0.5 for end in ends):
                break
        probes.append(Probe({"temperatures": temperatures, "valid": valid, "test": test}))
    return probes


def _report(temperatures: Tensor, valid: Tensor, test: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    source = test if "on_test" in on else valid
    score = source.amax(-1) if "luckiest" in on else source[..., 0] if "one_seed" in on else source.mean(-1)
    score = -score if "lowest" in on else score
    rate = score.argmax(1)
    if "fixed_rate" in on:
        rate = torch.zeros_like(rate)
    if "one_rate" in on:
        rate = score.mean(0).argmax().expand(len(rate))
    at = score.mean(1) if "rates_averaged" in on else score.gather(1, rate[:, None])[:, 0]
    best = at.argmax()
    told = valid if "validation_score" in on else test
    runs = told[best].mean(0) if "rates_averaged" in on else told[best, rate[best]]
    if "rate_on_test" in on:
        runs = test[best, test[best].mean(-1).argmax()]
    accuracy = runs.amax() if "best_seed" in on else runs.mean()
    return torch.stack([best.to(accuracy) if "row" in on else temperatures[best], accuracy])


def _quantile(degrees: int, level: float = 0.975) -> float:
    from scipy import stats  # here, so that the other questions need no scipy

    return float(stats.t.ppf(level, degrees))


def _paired_probes(generator: Generator) -> list[Probe]:
    probes = [Probe({"first": tensor([94.0, 91.0, 96.5]), "second": tensor([93.0, 90.5, 94.0])})]
    for seeds, gain, spread in ((10, 1.0, 0.8), (5, -0.7, 0.5), (12, 0.5, 1.2), (7, 2.0, 1.0)):
        seed = 92 + 2 * randn(seeds, generator=generator)
        first, second = (seed + spread * randn(seeds, generator=generator) for _ in range(2))
        probes.append(Probe({"first": first + gain, "second": second}))
    both = probes[0].arguments
    seed = tensor([3.0, -4.0, 1.0])
    moved = {name: scores + seed for name, scores in both.items()}
    why = "a seed that is kinder to both moves no difference"
    return [*probes, Probe(moved, like=(0, why))]


def _paired(first: Tensor, second: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    if "sign" in on:
        first, second = second, first
    n, correction = len(first), 0 if "population" in on else 1
    together = on & {"unpaired", "quadrature"}
    spread = (first - second).var(correction=correction)
    if together:
        spread = first.var(correction=correction) + second.var(correction=correction)
    half = spread.sqrt() / (1 if "deviation" in on else n**0.5)
    level = 0.95 if "one_sided" in on else 0.975
    degrees = 2 * n - 2 if "unpaired" in on else n if "degrees" in on else n - 1
    quantile = {0.95: 1.644854, 0.975: 1.959964}[level] if "normal" in on else _quantile(degrees, level)
    half = half * (1 if "no_quantile" in on else quantile) * (2 if "full_width" in on else 1)
    mean = (first - second).mean()
    pair = [mean - half, mean + half] if "ends" in on else [mean, half]
    return torch.stack(pair[::-1] if "exchanged" in on else pair)


def _region_probes(generator: Generator) -> list[Probe]:
    """Differences to the chosen row with the means and half widths that are wanted; only the noise is drawn."""

    def noise(seeds: int) -> Tensor:
        """Mean 0, and an interval of half width 1."""
        drawn = randn(seeds, generator=generator)
        return (drawn - drawn.mean()) / drawn.std() * seeds**0.5 / _quantile(seeds - 1)

    # in margins: mean and half width; (0, 0) is the chosen one
    few = ((-6.0, 2.0), (-0.5, 0.2), (0.0, 0.0), (2.5, 1.2))
    rows = (
        (-6.0, 2.0), (-4.0, 1.5), (-2.6, 1.8), (-1.6, 2.1), (-1.0, 1.02), (-0.8, 3.0), (-0.8, 0.6), (-0.5, 0.2),
        (0.0, 0.0), (0.1, 0.4), (0.3, 0.73), (0.6, 0.3), (0.7, 0.5), (1.0, 1.03), (1.2, 1.15), (2.5, 1.2), (6.0, 2.0),
    )  # fmt: skip
    probes = []
    settings = (
        (8, 0.5, few),
        (10, 0.5, rows),
        (6, 0.8, rows[::-1]),
        (12, 0.3, rows[1::2] + rows[::2]),
        (9, 1.0, rows[5:]),
    )
    for seeds, margin, kinds in settings:
        chosen = 92 + 4 * margin * noise(seeds)  # what a seed does to all rows: much more than they differ
        table = torch.stack([chosen + margin * (mean + half * noise(seeds)) for mean, half in kinds])
        heats = 2.0 ** torch.arange(-(len(kinds) // 4), len(kinds) - len(kinds) // 4)
        values = {"temperatures": heats, "accuracy": table, "chosen": kinds.index((0.0, 0.0)), "margin": margin}
        probes.append(Probe(values))
    return probes


def _region(
    temperatures: Tensor, accuracy: Tensor, chosen: int, margin: float, on: frozenset[str] = frozenset()
) -> Tensor:
    gap = accuracy - accuracy[chosen]
    n = gap.shape[1]
    factor = (1.96 if "normal" in on else _quantile(n - 1)) / n**0.5
    mean, half = gap.mean(1), factor * gap.std(1)
    low, high = mean - half, mean + half
    zero, near = (low <= 0) & (high >= 0), torch.maximum(low.abs(), high.abs()) < margin
    if "better_too" in on:
        zero = high >= 0
    if "overlap" in on:
        own = factor * accuracy.std(1)
        zero = mean.abs() <= own + own[chosen]
    if "unpaired" in on:
        both = (accuracy.var(1) + accuracy[chosen].var()).sqrt() * _quantile(2 * n - 2) / n**0.5
        zero, near = mean.abs() <= both, mean.abs() + both < margin
    if "mean_margin" in on:
        near = mean.abs() < margin
    if "end_in_margin" in on:
        near = torch.minimum(low.abs(), high.abs()) < margin
    equal = zero & near if "both" in on else zero if "zero_only" in on else near if "margin_only" in on else zero | near
    if "not_itself" in on:
        equal = equal & (torch.arange(len(equal)) != chosen)
    if "told_apart" in on:
        equal = ~equal
    return torch.arange(len(equal)).to(temperatures)[equal] if "rows" in on else temperatures[equal]


_FRESH = "weight = start.clone().requires_grad_() inside the outer loop."
_NEW = "A new torch.optim.SGD inside the outer loop."
_MEASURE = "Measure loss and accuracy of one weight, then update; steps + 1 measurements, steps updates."
_SHARED = Switch(
    "the same student goes on from temperature to temperature",
    "Which accuracy do your temperatures have in row 0, before any update?",
    _FRESH,
    ("shared_wasted", "memory_wasted"),
)
_MEMORY = Switch(
    "the optimiser of one temperature goes on at the next, with the momentum that it has gathered",
    "What does the second temperature's first update depend on, beside its own gradient?",
    _NEW,
    ("shared_wasted", "memory_wasted"),
)
_CELL = "The highest entry of valid.mean(-1) gives the temperature and its rate; then the mean of that cell of test."
_HALF = "stats.t.ppf(0.975, n - 1) * (first - second).std() / n**0.5."
_RULE = "low <= 0 <= high, or max(abs(low), abs(high)) < margin."
_BEST_OF_8 = 1.4236003  # the mean of the largest of eight standard normal numbers
_LUCK = "randn(100_000, 8).amax(1).mean(), times 1.2 / 9**0.5."

QUESTIONS: list[Question] = [
    Function(
        "05.1",
        "learning_curves",
        _curves_probes,
        _learning_curves,
        {
            "shared": _SHARED,
            "shared_wasted": Switch(_SHARED.says, _SHARED.question, _FRESH, ("memory", "late", "accuracy_late")),
            "memory": _MEMORY,
            "memory_wasted": Switch(_MEMORY.says, _MEMORY.question, _NEW, ("late", "accuracy_late")),
            "no_momentum": Switch(
                "the momentum is not used",
                "With momentum 0 you are right. What does torch.optim.SGD add at 0.9?",
                "torch.optim.SGD([weight], lr=learning_rate, momentum=momentum).",
                ("memory", "memory_wasted"),
            ),
            "no_zero_grad": Switch(
                "gradients pile up: those of earlier steps are never cleared",
                "The first update is right, the second is not. What does backward() do with an old gradient?",
                "optimizer.zero_grad() before backward().",
                ("shared", "shared_wasted", "memory", "memory_wasted", "late"),
            ),
            "no_T2": Switch(
                "the factor T² is missing, so the curves at high T fall slowly and lie low",
                "At T = 1 you are right. By which factor is your gradient too small at T = 4?",
                "T**2 times the divergence.",
            ),
            "cold_student": Switch(
                "the student's logits are not divided by T; only the teacher is softened",
                "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
                "The same T on both sides.",
            ),
            "cross_entropy": Switch(
                "the loss is the cross-entropy; the teacher's entropy is not subtracted",
                "The accuracies are right. Which loss has a perfect copy of the teacher?",
                "F.kl_div(log_q, p), or p (log p - log q).",
            ),
            "sum": Switch(
                "the loss is summed over the images, so every step is too long",
                "What happens to your steps when each image stands there twice?",
                'reduction="batchmean": the sum over the classes, the mean over the images.',
                ("mean_all",),
            ),
            "mean_all": Switch(
                "the loss is divided by the number of classes too",
                'What does reduction="mean" of F.kl_div divide by?',
                'reduction="batchmean".',
            ),
            "late": Switch(
                "everything is measured after the update, so the fresh student is missing",
                "Should T make a difference to the accuracy in row 0?",
                _MEASURE,
                ("accuracy_late",),
            ),
            "accuracy_late": Switch(
                "the loss is of the student before the update, the accuracy of the student after it",
                "How many updates has the student seen whose accuracy stands in row 0, and whose loss?",
                _MEASURE,
            ),
            "one_short": Switch(
                "there is one row too few",
                "How many students are there between no update and `steps` updates, both counted?",
                _MEASURE,
            ),
            "training_images": Switch(
                "this is how often the student agrees with the teacher on the training images",
                "Which images show whether a student has learnt more than what it was told?",
                "valid_inputs and valid_targets.",
            ),
            "percent": Switch(
                "the accuracy is given in per cent; a share is asked for",
                "Between which two numbers does a share lie?",
                "Leave out the factor 100.",
            ),
            "columns": Switch(
                "accuracy and loss are exchanged",
                "Which of your two columns can be larger than 1?",
                "The loss first.",
            ),
            "sweep": Switch(
                "this is a sweep: only the end of each curve is kept",
                "What is on the horizontal axis of a learning curve?",
                "A row for each step, from 0 to steps.",
            ),
        },
    ),
    Function(
        "05.2",
        "report",
        _report_probes,
        _report,
        {
            "on_test": Switch(
                "the test images have chosen",
                "Which of your two tables may be looked at before T is fixed?",
                _CELL,
                ("rate_on_test",),
            ),
            "luckiest": Switch(
                "a single run has chosen, the luckiest of all; the mean over the seeds decides",
                "Would your choice survive if that one seed were left out?",
                _CELL,
                ("one_seed", "lowest"),
            ),
            "one_seed": Switch(
                "only the first seed has chosen",
                "What do the other seeds of `valid` contribute?",
                _CELL,
            ),
            "fixed_rate": Switch(
                "all temperatures are compared at the first learning rate",
                "Does each temperature want the same step?",
                _CELL,
                ("one_rate", "rates_averaged"),
            ),
            "one_rate": Switch(
                "one learning rate was chosen for all temperatures together",
                "Does each temperature want the same step?",
                _CELL,
                ("rates_averaged",),
            ),
            "rates_averaged": Switch(
                "the learning rates are averaged, so a bad rate counts against its temperature",
                "Which of its runs would you use, if you used this temperature?",
                _CELL,
                ("rate_on_test",),
            ),
            "rate_on_test": Switch(
                "T was chosen on validation, but its learning rate on the test images",
                "How often is `test` looked at before everything is fixed?",
                _CELL,
                ("validation_score",),
            ),
            "validation_score": Switch(
                "the accuracy is that of the validation images, which have chosen",
                "The highest of many means is partly luck. Is this luck still in your number?",
                _CELL,
            ),
            "best_seed": Switch(
                "the accuracy is that of the best seed; the mean is asked for",
                "What does a reader get who trains this student once?",
                _CELL,
            ),
            "lowest": Switch(
                "the lowest score has chosen; that is right for NLL",
                "Is less accuracy better?",
                _CELL,
            ),
            "row": Switch(
                "this is the row of the temperature, not the temperature",
                "Is your first number one of the temperatures?",
                "temperatures[row].",
            ),
        },
    ),
    Function(
        "05.3",
        "paired",
        _paired_probes,
        _paired,
        {
            "unpaired": Switch(
                "the two are treated as independent; what a seed does to both is counted as noise",
                "What happens to your half width when a seed lifts both by 3 points?",
                "Subtract seed by seed first. " + _HALF,
                ("quadrature", "degrees"),
            ),
            "quadrature": Switch(
                "the two half widths are combined as if the two were independent",
                "What happens to your half width when a seed lifts both by 3 points?",
                "Subtract seed by seed first. " + _HALF,
                ("normal", "no_quantile"),
            ),
            "population": Switch(
                "the squares are divided by n; their mean was estimated, so it is n - 1",
                "How large is the spread of a single number, and what does your formula give?",
                "std() of torch divides by n - 1; numpy wants ddof=1.",
            ),
            "deviation": Switch(
                "this is the interval for a single seed: the standard deviation is not divided by the root of n",
                "What happens to your half width when the number of seeds grows?",
                _HALF,
            ),
            "normal": Switch(
                "the quantile is that of the normal distribution, 1.96; with few seeds it is too small",
                "The spread is itself estimated. Which distribution allows for that?",
                _HALF,
                ("degrees", "no_quantile"),
            ),
            "degrees": Switch(
                "the t distribution has n degrees of freedom; one is spent on the mean",
                "How many of n deviations from their mean can you choose freely?",
                _HALF,
                ("no_quantile",),
            ),
            "one_sided": Switch(
                "the quantile 0.95 leaves out 5 % on each side, so the interval is one of 90 %",
                "How much probability lies above the upper end of a 95 % interval?",
                _HALF,
                ("no_quantile",),
            ),
            "no_quantile": Switch(
                "this is the standard error; the quantile is missing",
                "How often does a mean lie within one standard error of the truth?",
                _HALF,
            ),
            "full_width": Switch(
                "this is the whole width",
                "How is an interval built from its middle and your number?",
                _HALF,
            ),
            "ends": Switch(
                "these are the two ends of the interval",
                "What lies half way between your two numbers?",
                "The mean, and the distance from it to an end.",
                ("exchanged",),
            ),
            "exchanged": Switch(
                "mean and half width are exchanged",
                "Which of your two numbers cannot be negative?",
                "The mean first.",
            ),
            "sign": Switch(
                "the difference is taken the wrong way round",
                "Is your mean above 0 when the first one is better?",
                "first - second.",
            ),
        },
    ),
    Function(
        "05.4",
        "region",
        _region_probes,
        _region,
        {
            "zero_only": Switch(
                "the margin is not used",
                "The interval goes from 0.1 to 0.2, the margin is 0.5. Does the difference matter to you?",
                _RULE,
                ("margin_only", "both", "mean_margin", "end_in_margin", "overlap"),
            ),
            "margin_only": Switch(
                "an interval that includes 0 counts only if it lies within the margin",
                "The interval goes from -2 to 1. Which of the two is better?",
                _RULE,
                ("both", "mean_margin", "end_in_margin", "better_too", "overlap"),
            ),
            "both": Switch(
                "both conditions are asked for; one of them is enough",
                "The interval goes from -2 to 1. Which of the two is better?",
                _RULE,
                ("mean_margin", "end_in_margin", "overlap"),
            ),
            "mean_margin": Switch(
                "the mean is compared with the margin; the whole interval has to lie within it",
                "The mean is 0.4 below and might as well be 0.7. Can you exclude more than half a point?",
                _RULE,
                ("end_in_margin", "overlap"),
            ),
            "end_in_margin": Switch(
                "one end within the margin is taken to be enough",
                "The interval goes from -3 to -0.2. Does it lie within half a point of 0?",
                _RULE,
                ("overlap",),
            ),
            "better_too": Switch(
                "a temperature that is better than the chosen one, beyond doubt, counts as equal",
                "The interval goes from 1 to 2. Can the two be told apart?",
                _RULE,
                ("overlap",),
            ),
            "overlap": Switch(
                "two intervals that overlap are taken for equal; the interval of the difference is much narrower",
                "Both scatter by 3 points from seed to seed, together. What is left in the difference?",
                "paired(row, accuracy[chosen]).",
                ("normal",),
            ),
            "unpaired": Switch(
                "the two are treated as independent; what a seed does to both is counted as noise",
                "Both scatter by 3 points from seed to seed, together. What is left in the difference?",
                "paired(row, accuracy[chosen]).",
                ("zero_only", "margin_only", "both", "mean_margin", "end_in_margin", "better_too", "overlap", "normal"),
            ),
            "normal": Switch(
                "the quantile is that of the normal distribution, 1.96; with few seeds it is too small",
                "Is 05.3 right? The interval there is the one that is needed here.",
                "paired(row, accuracy[chosen]).",
            ),
            "not_itself": Switch(
                "the chosen temperature is missing",
                "What is the difference of a temperature to itself?",
                "Leave the chosen row in.",
            ),
            "told_apart": Switch(
                "these are the temperatures that can be told apart",
                "Is the chosen temperature in your list?",
                "Keep those for which the rule holds.",
            ),
            "rows": Switch(
                "these are the rows of the temperatures, not the temperatures",
                "Are all your numbers temperatures of the list?",
                "temperatures[mask].",
            ),
        },
        follows={"05.3": {"normal": "normal", "unpaired": "unpaired", "sign": ""}},
    ),
    Number(
        "05.5",
        "answer_5",
        8.0,
        "2z / 8 is z / 4. Only T in units of the logits counts, so a grid belongs to a teacher.",
        [
            (
                2.0,
                Switch(
                    "this is the other way round: at T = 2 these logits are four times as large as before",
                    "What are the new logits divided by your T, if the old ones were z / 4?",
                    "2z / T = z / 4.",
                ),
            ),
            (
                16.0,
                Switch(
                    "the factor is 2, and it was squared; T² belongs to the loss, not to the softmax",
                    "What are the new logits divided by your T, if the old ones were z / 4?",
                    "2z / T = z / 4.",
                ),
            ),
            (
                4.0,
                Switch(
                    "at the same T the louder teacher is sharper",
                    "Is softmax(2z / 4) the same as softmax(z / 4)?",
                    "2z / T = z / 4.",
                ),
            ),
        ],
    ),
    Number(
        "05.6",
        "answer_6",
        0.4 * _BEST_OF_8,
        "1.42 standard errors of 0.4 points. Who reports the score that chose reports this luck as well.",
        [
            (
                1.2 * _BEST_OF_8,
                Switch(
                    "this is the luck of the best of eight single runs; the means of nine seeds scatter less",
                    "What is the standard deviation of a mean of nine?",
                    _LUCK,
                ),
            ),
            (
                1.2 / 9 * _BEST_OF_8,
                Switch(
                    "the standard deviation was divided by 9, not by its root",
                    "What is the standard deviation of a mean of nine?",
                    _LUCK,
                ),
            ),
            (
                _BEST_OF_8,
                Switch(
                    "this is in standard errors; points are asked for",
                    "How many points is one standard error here?",
                    _LUCK,
                ),
            ),
            (
                0.8 * _BEST_OF_8,
                Switch(
                    "this is the distance from the worst of the eight; the truth lies in the middle",
                    "What would the mean of all eight be, on average?",
                    _LUCK,
                ),
            ),
            (
                0.4,
                Switch(
                    "this is the standard error of one mean; the highest of eight lies further up",
                    "How often is one of eight more than one standard error above the truth?",
                    _LUCK,
                ),
            ),
            (
                0.0,
                Switch(
                    "that holds for a temperature chosen before the runs; this one was chosen because it was high",
                    "Eight dice are thrown. Is the highest of them 3.5 on average?",
                    _LUCK,
                ),
            ),
        ],
        rtol=0.01,
    ),
    Choice(
        "05.7",
        "answer_7",
        "b",
        {
            "a": "It shows them against steps, or against the number of images. Here each student has only its end.",
            "b": "The end against T. Each unit wants its own panel, and the curves say whether all had come to rest.",
            "c": "T was set five times; it did not learn. No axis of this figure counts steps.",
            "d": "The loss holds T twice, so its level says nothing about who learnt more. Read the accuracy.",
        },
    ),
    Choice(
        "05.8",
        "answer_8",
        "c",
        {
            "a": "To see this, a T above 1 has to lose. None was run.",
            "b": "Forgetting T² leads to such results, and so do other slips. The result does not say which.",
            "c": "All five sharpen the teacher or leave it as it is. And one run each cannot even order these five.",
            "d": "More seeds would order the five values that do not soften. What is missing is the rest of the grid.",
        },
    ),
    Choice(
        "05.9",
        "answer_9",
        "d",
        {
            "a": "That 8 is better than 4 was seen, that it is better than 16 was not.",
            "b": "These lie between one that won and one that lost. Nobody has looked on the other side.",
            "c": "4 has lost to 8. The edge is doubtful because something better may lie outside, not inside.",
            "d": "A best value at the edge is a direction. Go on until the best lies inside, or the curve is flat.",
        },
    ),
    Choice(
        "05.10",
        "answer_10",
        "a",
        {
            "a": "The highest of eight holds 1.4 standard errors of luck (05.6); a quarter of the seeds doubles them.",
            "b": "The standard error falls with the root of the number of seeds: a quarter of them, twice the error.",
            "c": "Choosing the highest prefers good luck, never bad luck, whichever images are used.",
            "d": "That is a temperature fixed before the runs. The one chosen because it was highest errs upwards.",
        },
    ),
    Choice(
        "05.11",
        "answer_11",
        "c",
        {
            "a": "Half a point of 200 images is one image. The next seed may turn it round.",
            "b": "The same seed removes what both share. How the rest scatters, one difference cannot show.",
            "c": "One difference has no interval, so neither better nor equal has been shown. Run ten seeds.",
            "d": "No more than better: for equal, an interval must lie within a margin, and there is none.",
        },
    ),
    Choice(
        "05.12",
        "answer_12",
        "b",
        {
            "a": "That is an answer to a question that neither metric asked, and it may be good by neither.",
            "b": "Accuracy if only first choices are used, NLL if probabilities enter a decision. Choose by that.",
            "c": "They measure two things, and both results stand beyond their ties. More seeds confirm both.",
            "d": "Perhaps. If its probabilities are compared with a threshold, the student of T = 2 may serve better.",
        },
    ),
    Choice(
        "05.13",
        "answer_13",
        "d",
        {
            "a": "Dividing by 4 keeps the order of the classes, so every first choice stays.",
            "b": "NLL reads the probabilities, and they change. Accuracy reads the first choice, which does not.",
            "c": "They were trained at 4 and are used at 1: their NLL is wrong like that of the others.",
            "d": "The first choices stay, so accuracy does; the probabilities become flatter, and NLL reads those.",
        },
    ),
    Choice(
        "05.14",
        "answer_14",
        "a",
        {
            "a": "They differ by T² times the teacher's entropy. No student can change that, so the steps are equal.",
            "b": "The students are the same, the losses are not: a perfect copy has 0 in one, more in the other.",
            "c": "It is larger by a number that does not depend on the student, so each makes the same steps.",
            "d": "It grows with T, but does not depend on the student: it falls out of every gradient.",
        },
    ),
]
