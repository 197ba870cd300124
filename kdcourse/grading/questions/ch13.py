"""Exercise 13, calibration: ECE with its edge bins, a fitted temperature, AUROC with ties, parts of the Brier score."""

import math

import torch
from torch import Generator, Tensor, rand, randn, tensor

from ..spec import ALONE, Choice, Function, Number, Order, Probe, Question, Switch


def _ece_probes(generator: Generator) -> list[Probe]:
    probs = tensor(
        [[0.5, 0.375, 0.125], [0.625, 0.25, 0.125], [0.75, 0.125, 0.125], [0.125, 0.125, 0.75], [0.25, 0.0, 0.75]]
    )
    edges = {"probs": probs, "targets": tensor([0, 1, 0, 2, 0])}
    sure = {"probs": tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.3, 0.7]]), "targets": tensor([0, 0, 0, 1])}
    probes = [
        Probe(edges | {"bins": 4}),
        Probe(sure | {"bins": 5}),
        Probe(edges | {"bins": 2}),
        Probe(edges | {"bins": 3}),
    ]
    for examples, classes, bins in ((40, 3, 10), (60, 4, 15), (25, 5, 7), (80, 2, 20)):
        values = {
            "probs": (2 * randn(examples, classes, generator=generator)).softmax(-1),
            "targets": torch.randint(classes, (examples,), generator=generator),
        }
        probes.append(Probe(values | {"bins": bins}))
    probs = randn(50, 4, generator=generator).softmax(-1)  # shy: nearly always right
    targets = torch.where(rand(50, generator=generator) < 0.9, probs.argmax(-1), probs.argmin(-1))
    return [*probes, Probe({"probs": probs, "targets": targets, "bins": 12})]


def _calibration_error(probs: Tensor, targets: Tensor, bins: int, on: frozenset[str] = frozenset()) -> Tensor:
    top, answer = probs.max(-1)
    if "of_label" in on:
        top = probs.gather(-1, targets[:, None])[:, 0]
    right = (answer == targets).to(probs.dtype)
    if "one_bin" in on:
        gap = top.mean() - right.mean()
        return gap if "signed" in on else gap.square() if "squared" in on else gap.abs()
    count = bins + 1 if "one_edge_more" in on else bins
    lower = torch.arange(count) / count
    place = top * count
    which = (place.ceil() - 1).clamp(min=0).long() if "edge_below" in on else place.floor().long()
    which = which if "one_lost" in on else which.clamp(max=count - 1)
    gaps, shares = [], []
    for b in range(count):
        inside = which == b
        if not inside.any():
            if "empty_nan" in on:
                return probs.new_tensor(math.nan)
            if "equal_say" in on:  # an empty bin has a say, and its gap is 0
                gaps.append(probs.new_zeros(()))
                shares.append(probs.new_ones(()))
            continue
        stated = lower[b] + 0.5 / count if "midpoints" in on else top[inside].mean()
        gaps.append(stated - right[inside].mean())
        shares.append(inside.to(probs.dtype).sum())
    gap, share = torch.stack(gaps), torch.stack(shares)
    gap = gap if "signed" in on else gap.square() if "squared" in on else gap.abs()
    if "largest" in on:
        return gap.max()
    if on & {"equal_say", "equal_say_full"}:
        return gap.mean()
    return (gap * share).sum() / len(probs)


_WEIGH = "Weigh each gap by the share of the examples that its bin holds."

_ECE_SWITCHES = {
    "edge_below": Switch(
        "a confidence on an edge goes into the bin below; it belongs to the bin above",
        "Two bins, a confidence of exactly 0.5: where did you put it?",
        "Bin b holds [b/bins, (b+1)/bins): floor of confidence times bins.",
        ("one_bin", "one_lost"),
    ),
    "one_lost": Switch(
        "a confidence of exactly 1 is in no bin; it belongs to the last",
        "How many examples do your bins hold together?",
        "The number of the bin is at most bins - 1.",
        ("one_bin",),
    ),
    "empty_nan": Switch(
        "an empty bin makes the whole result NaN",
        "What is the mean of no numbers?",
        "Leave empty bins out; their weight is 0.",
        (ALONE,),
    ),
    "of_label": Switch(
        "the label's probability stands where the confidence belongs",
        "Is the student's confidence known before the label is?",
        "Confidence is the largest probability.",
        ("one_lost",),
    ),
    "midpoints": Switch(
        "the middle of the bin stands where its mean confidence belongs",
        "Which confidence do the examples of a bin have on average?",
        "The mean over the examples in the bin.",
        ("one_bin",),
    ),
    "equal_say": Switch(
        "every bin has an equal say, empty ones too",
        "A bin of one example and a bin of a thousand: which should count more?",
        _WEIGH,
        ("one_bin", "equal_say_full", "largest"),
    ),
    "equal_say_full": Switch(
        "every bin that is not empty has an equal say",
        "A bin of one example and a bin of a thousand: which should count more?",
        _WEIGH,
        ("one_bin", "largest"),
    ),
    "largest": Switch(
        "this is the largest gap of a bin, not the mean gap (the maximum calibration error)",
        "Does your result change when a bin that is not the worst gets better?",
        _WEIGH,
        ("one_bin",),
    ),
    "squared": Switch(
        "the gaps are squared",
        "A gap of 0.1 in every bin: what should come out?",
        "The absolute value of the gap.",
        ("signed",),
    ),
    "signed": Switch(
        "the gaps keep their sign, so that a bin that is too sure pays for one that is too shy",
        "Can your result be negative?",
        "The absolute value of the gap, bin by bin, before the mean.",
        ("edge_below", "one_bin", "one_edge_more"),
    ),
    "one_bin": Switch(
        "there is one bin only: mean confidence against accuracy",
        "A student too sure on half of the images and as much too shy on the other half: what do you get?",
        "The gap is taken inside each bin.",
        ("one_edge_more",),
    ),
    "one_edge_more": Switch(
        "there is one bin too many: so many edges make one bin less",
        "How many edges do ten bins have?",
        "torch.linspace(0, 1, bins + 1) are the edges of so many bins.",
    ),
}  # fmt: skip


def _temperature_probes(generator: Generator) -> list[Probe]:
    small = {
        "logits": tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]),
        "targets": tensor([0, 0, 0, 0]),
    }
    probes = [Probe(small | {"lowest": 0.2, "highest": 20.0})]
    for examples, classes, factor in (
        (60, 3, 3.0),
        (80, 5, 0.3),
        (50, 4, 1.7),
        (70, 10, 0.5),
        (90, 3, 6.0),
        (30, 8, 9.0),
    ):
        logits = 1.5 * randn(examples, classes, generator=generator)
        targets = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        values = {"logits": factor * logits, "targets": targets}
        probes.append(Probe(values | {"lowest": 0.05, "highest": 20.0}))
    logits = 2 * randn(12, 3, generator=generator)
    probes.append(Probe({"logits": logits, "targets": logits.argmax(-1), "lowest": 0.2, "highest": 8.0}))
    probes.append(Probe({"logits": logits, "targets": logits.argmin(-1), "lowest": 0.2, "highest": 8.0}))
    return probes


def _fit_temperature(
    logits: Tensor, targets: Tensor, lowest: float, highest: float, on: frozenset[str] = frozenset()
) -> Tensor:
    low, high = (1e-3, 1e3) if "no_bounds" in on else (lowest, highest)
    low = 1.0 if "only_cools" in on else low
    logits, index = logits.double(), targets[:, None]
    hits = (logits.argmax(-1) == targets).double().mean()

    def cost(log_T: Tensor) -> Tensor:
        """For several temperatures at once: [candidates]."""
        log_q = (logits / log_T.exp()[:, None, None]).log_softmax(-1)
        if "twice" in on:
            log_q = log_q.exp().log_softmax(-1)
        if "mean_confidence" in on:
            return (log_q.exp().amax(-1).mean(-1) - hits).square()
        at_label = log_q.gather(-1, index.expand(len(log_T), -1, 1))[..., 0]
        if "brier" in on:
            return (log_q.exp().square().sum(-1) - 2 * at_label.exp()).mean(-1)
        if "of_choice" in on:
            return -log_q.amax(-1).mean(-1)
        return -at_label.mean(-1)

    left, right = math.log(low), math.log(high)
    for _ in range(14):  # each round looks at 61 temperatures and goes on between the neighbours of the best
        candidates = torch.linspace(left, right, 61, dtype=torch.float64)
        best = int(cost(candidates).argmin())
        left, right = candidates[max(best - 1, 0)].item(), candidates[min(best + 1, 60)].item()
    T = torch.tensor(math.exp((left + right) / 2), dtype=torch.float64)
    if "inverse" in on:
        T = 1 / T
    return T.log() if "logarithm" in on else T


_TEMPERATURE_SWITCHES = {
    "inverse": Switch(
        "this is 1/T: the number that multiplies the logits",
        "Is a student that is too sure given a T above 1 or below?",
        "The logits are divided by what you return.",
        ("logarithm",),
    ),
    "logarithm": Switch(
        "this is the logarithm of T",
        "Can a temperature be negative?",
        "exp of what you searched over.",
    ),
    "twice": Switch(
        "the softmax is taken twice: F.cross_entropy wants logits",
        "What does F.cross_entropy do with its first argument?",
        "F.cross_entropy(logits / T, targets).",
        ("brier", "mean_confidence", "of_choice"),
    ),
    "brier": Switch(
        "this T has the least Brier score, not the least NLL",
        "What does the score that you minimise say of a label with probability 0?",
        "The mean of -log q at the label.",
        ("mean_confidence", "of_choice"),
    ),
    "mean_confidence": Switch(
        "this T makes the mean confidence equal to the accuracy; it does not minimise the NLL",
        "Half of the students too sure, the other half too shy: is there anything left to fit for you?",
        "The mean of -log q at the label.",
        ("of_choice",),
    ),
    "of_choice": Switch(
        "the labels are not used: this is the NLL of the model's own choices",
        "Can your T depend on how often the model is right?",
        "-log q at targets, not at the largest logit.",
        (ALONE,),
    ),
    "only_cools": Switch(
        "temperatures below 1 were never tried",
        "What does a student need that is right more often than it says?",
        "Search from lowest to highest.",
        ("no_bounds",),
    ),
    "no_bounds": Switch(
        "the bounds are not kept",
        "What is the best T for a model without a mistake?",
        "The least NLL with lowest <= T <= highest.",
    ),
}  # fmt: skip


def _auroc_probes(generator: Generator) -> list[Probe]:
    small = {"score": tensor([3.0, 2.0, 2.0, 1.0, 0.0]), "positive": tensor([1, 1, 0, 0, 1]) == 1}
    apart = {"score": tensor([0.1, 0.2, 0.4, 0.8]), "positive": tensor([0, 0, 1, 1]) == 1}
    probes = [Probe(small), Probe(apart)]
    for examples, values in ((30, 4), (50, 7), (40, 3), (60, 1000)):
        score = torch.randint(values, (examples,), generator=generator) / values
        positive = rand(examples, generator=generator) < 0.15 + 0.4 * score
        positive[:3], positive[3:6] = True, False
        probes.append(Probe({"score": score, "positive": positive}))
    shifted = small | {"score": 10 * small["score"] - 4}
    why = "AUROC is about the order: 10 times the score minus 4 must change nothing"
    return [*probes, Probe(shifted, like=(0, why))]


def _auroc(score: Tensor, positive: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    score = -score if "flipped" in on else score
    high, low = score[positive], score[~positive]
    if "threshold" in on:
        cut = 0.5
        return ((high > cut).double().mean() + 1 - (low > cut).double().mean()) / 2
    if "precision" in on:
        found = torch.stack([positive[score >= s].double().mean() for s in high])
        return found.mean()
    tie = 0.0 if "ties_lost" in on else 1.0 if "ties_won" in on else 0.5
    pairs = (high[:, None] > low).double() + tie * (high[:, None] == low).double()
    total = pairs.sum() + ("ranks_from_zero" in on) * -len(high)
    total = total + ("no_correction" in on) * len(high) * (len(high) + 1) / 2
    return total / (len(score) ** 2 if "all_pairs" in on else len(high) * len(low))


_AUROC_SWITCHES = {
    "ties_lost": Switch(
        "a tie counts as lost; it should count half",
        "All scores are equal: which AUROC does a coin have, and which do you get?",
        "1 for >, one half for ==.",
        ("ties_won", "threshold", "precision"),
    ),
    "ties_won": Switch(
        "a tie counts as won; it should count half",
        "All scores are equal: which AUROC does a coin have, and which do you get?",
        "1 for >, one half for ==.",
        ("threshold", "precision"),
    ),
    "flipped": Switch(
        "the order is turned round: high scores should speak for positives",
        "A perfect score: do you get 1 or 0?",
        "A pair is won if the positive has the higher score.",
        ("ties_lost", "ties_won"),
    ),
    "threshold": Switch(
        "this compares the score with one threshold; AUROC has none",
        "What happens to your result when all scores are divided by ten?",
        "Compare every positive with every negative.",
        ("precision", "ranks_from_zero", "no_correction", "all_pairs"),
    ),
    "precision": Switch(
        "this is the average precision",
        "What does a score that knows nothing get from you: one half, or the share of positives?",
        "Compare every positive with every negative.",
        ("ranks_from_zero", "no_correction", "all_pairs"),
    ),
    "ranks_from_zero": Switch(
        "the ranks start at 0; the formula wants them from 1",
        "Which rank does the lowest score have in the rank-sum formula?",
        "Or forget ranks, and compare every positive with every negative.",
    ),
    "no_correction": Switch(
        "positives(positives + 1)/2 is not subtracted from the sum of ranks",
        "Can your result exceed 1?",
        "Positives are ranked among each other too, and that part is taken off.",
    ),
    "all_pairs": Switch(
        "the pairs won are divided by all pairs of examples",
        "How many pairs have one positive and one negative?",
        "positives times negatives.",
    ),
}  # fmt: skip


def _brier_probes(generator: Generator) -> list[Probe]:
    small = {"probs": tensor([0.24, 0.24, 0.24, 0.72, 0.72, 0.72]), "happened": tensor([0, 1, 0, 1, 1, 0]) == 1}
    probes = [Probe(small | {"bins": 2}), Probe(small | {"bins": 10})]
    bold = {
        "probs": tensor([0.04, 0.03, 0.02, 0.96, 0.98, 0.97, 0.99, 0.95]),
        "happened": tensor([0, 0, 1, *[1] * 5]) == 1,
    }
    probes += [Probe(bold | {"bins": 2}), Probe(bold | {"bins": 3})]
    for examples, bins in ((40, 5), (60, 10), (30, 3), (50, 7)):
        probs = rand(examples, generator=generator)
        happened = rand(examples, generator=generator) < 0.2 + 0.7 * probs**2
        probes.append(Probe({"probs": probs, "happened": happened, "bins": bins}))
    return probes


def _brier_parts(probs: Tensor, happened: Tensor, bins: int, on: frozenset[str] = frozenset()) -> Tensor:
    y = happened.to(probs.dtype)
    base = 0.5 if "half" in on else probs.mean() if "mean_forecast" in on else y.mean()
    which = (probs * bins).long().clamp(max=bins - 1)
    reliability = resolution = probs.new_zeros(())
    full = which.unique()
    for b in full:
        inside = which == b
        share = 1 / len(full) if "equal_say" in on else inside.to(probs.dtype).mean()
        stated = (b + 0.5) / bins if "midpoints" in on else probs[inside].mean()
        comes = y[inside].mean()
        gap, apart = stated - comes, comes - base
        if "around_forecast" in on:
            apart = stated - base
        gap, apart = (gap.abs(), apart.abs()) if "absolute" in on else (gap.square(), apart.square())
        reliability, resolution = reliability + share * gap, resolution + share * apart
    uncertainty = y.mean() * (1 - y.mean())
    if "spread" in on:
        uncertainty = probs.std()
    if "entropy" in on:
        uncertainty = torch.special.entr(torch.stack([y.mean(), 1 - y.mean()])).sum()
    if "root" in on:
        uncertainty = uncertainty.sqrt()
    if "negative" in on:
        resolution = -resolution
    first, second = (resolution, reliability) if "swapped" in on else (reliability, resolution)
    return torch.stack([first, second, uncertainty])


_BRIER_SWITCHES = {
    "spread": Switch(
        "the standard deviation of the forecasts over the batch is called uncertainty",
        "Every forecast is 0.5. Is nothing uncertain then?",
        "Uncertainty belongs to the labels: share (1 - share).",
        ("entropy", "root"),
    ),
    "entropy": Switch(
        "the entropy of the labels stands where their variance belongs",
        "In which unit are the other two parts: nats, or squared probabilities?",
        "share (1 - share).",
        ("root",),
    ),
    "root": Switch(
        "the root is taken of share (1 - share)",
        "Do your three parts still add up to the score?",
        "share (1 - share), a variance.",
    ),
    "swapped": Switch(
        "reliability and resolution have changed places",
        "Which of the two is 0 for a forecast that comes true as often as it says?",
        "First the gaps between forecast and frequency, then the frequencies around their mean.",
        ("negative",),
    ),
    "negative": Switch(
        "resolution has the wrong sign: it is a square, and the score subtracts it",
        "Can a square be negative?",
        "Return it positive: score = reliability - resolution + uncertainty.",
    ),
    "absolute": Switch(
        "the gaps are not squared",
        "The score is a mean of squares. What are its parts?",
        "Square the gap in each bin.",
    ),
    "equal_say": Switch(
        "every bin has an equal say",
        "A bin of one example and a bin of a thousand: which should count more?",
        "Weigh by the share of the examples that the bin holds.",
    ),
    "midpoints": Switch(
        "the middle of the bin stands where its mean forecast belongs",
        "Which probability do the examples of a bin have on average?",
        "The mean of the forecasts in the bin.",
    ),
    "around_forecast": Switch(
        "resolution is computed from the forecasts; it is about how often things happened",
        "A model says 0.1 and 0.9 at random. How much do its bins tell apart?",
        "The bin's share of what happened, minus the overall share.",
    ),
    "mean_forecast": Switch(
        "resolution is measured from the mean forecast, not from the share that happened",
        "Which number would you forecast if you knew nothing but the labels' shares?",
        "The bin's share of what happened, minus the overall share.",
        ("half",),
    ),
    "half": Switch(
        "resolution is measured from one half, not from the share that happened",
        "Which number would you forecast if you knew nothing but the labels' shares?",
        "The bin's share of what happened, minus the overall share.",
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function("13.1", "calibration_error", _ece_probes, _calibration_error, _ECE_SWITCHES),
    Function("13.2", "fit_temperature", _temperature_probes, _fit_temperature, _TEMPERATURE_SWITCHES, rtol=1e-3),
    Function("13.3", "auroc", _auroc_probes, _auroc, _AUROC_SWITCHES),
    Function("13.4", "brier_parts", _brier_probes, _brier_parts, _BRIER_SWITCHES),
    Choice(
        "13.5",
        "answer_5",
        "b",
        {
            "a": "That is the distillation temperature. Dividing both sides, it left the match at T = 1.",
            "b": "The student learnt to match its teacher at T = 1, whatever divided both sides of the loss.",
            "c": "That would undo a temperature on the teacher's side alone.",
            "d": "A fitted temperature needs labels that nobody trained on, and then it may be any number.",
        },
    ),
    Number(
        "13.6",
        "answer_6",
        0.2,
        "The student's own logits have become the teacher's divided by 5; dividing by 1/5 brings them back.",
        [
            (
                5.0,
                Switch(
                    "this would divide a second time; the student's logits are already five times too small",
                    "Is this student too sure or too shy?",
                    "What undoes a division by 5, if you may only divide?",
                ),
            ),
            (
                1.0,
                Switch(
                    "this is right for a loss that divides both sides",
                    "Which of the two softmaxes was divided?",
                    "The teacher's alone.",
                ),
            ),
            (
                0.04,
                Switch(
                    "this is 1/T²",
                    "By how much are the student's logits too small?",
                    "By T, not by T².",
                ),
            ),
        ],
    ),
    Number(
        "13.7",
        "answer_7",
        1.0,
        "The floor is chance, and chance shrinks with the root of the number of examples: 2 / √4.",
        [
            (
                0.5,
                Switch(
                    "this divides by 4; chance shrinks with the root",
                    "How does the standard error of a share depend on the number of examples?",
                    "Four times the examples, half the error.",
                ),
            ),
            (
                2.0,
                Switch(
                    "this is the floor of the smaller test set",
                    "Is the floor a property of the model alone?",
                    "Four times the examples, half the error.",
                ),
            ),
            (
                4.0,
                Switch(
                    "this would be four times the bins, not four times the images",
                    "Does a bin with more images deviate more from its share?",
                    "Four times the examples, half the error.",
                ),
            ),
        ],
    ),
    Order(
        "13.8",
        "answer_8",
        ("d", "b", "a", "c"),
        (
            "validation can choose only between students that exist.",
            "the fit belongs to the student that goes out; another student has another temperature.",
            "a test that was looked at before the last number was fixed is a validation set.",
        ),
    ),
    Choice(
        "13.9",
        "answer_9",
        "c",
        {
            "a": "A perfect student has an NLL near 0; log 10 is 2.30.",
            "b": "Over-confidence raises the NLL, but it shows in ECE first.",
            "c": "It says 0.1 for every class and is right on one in ten. Calibrated, and good for nothing.",
            "d": "One fitted T cannot help: dividing equal logits leaves them equal.",
        },
    ),
    Choice(
        "13.10",
        "answer_10",
        "a",
        {
            "a": "It describes how the batch is mixed. Ten copies of the hardest image get 0.",
            "b": "Another divisor changes the number by half its share; the number is still about the batch.",
            "c": "Its size is not the trouble: it says nothing about any one image.",
            "d": "A softmax puts it on another scale, and it is still one number for the batch.",
        },
    ),
    Choice(
        "13.11",
        "answer_11",
        "d",
        {
            "a": "With no mistake no high T is wanted: being surer is always better.",
            "b": "The NLL has a slope at 1: all answers are right, so surer is better.",
            "c": "The fit is exact, and means nothing: it stands at a bound.",
            "d": "Every answer is right, so the NLL falls for ever as T falls, and the search stops at its bound.",
        },
    ),
    Number(
        "13.12",
        "answer_12",
        16.0,
        "Soft targets depend on logits / T. Four times the logits need four times the T.",
        [
            (
                1.0,
                Switch(
                    "this makes the loud teacher's targets harder, not as soft",
                    "Are larger logits softer or harder at the same T?",
                    "4 v / T = v / 4.",
                ),
            ),
            (
                8.0,
                Switch(
                    "this doubles T; the logits are four times as large",
                    "Which T solves 4 v / T = v / 4?",
                    "4 v / T = v / 4.",
                ),
            ),
            (
                4.0,
                Switch(
                    "at the same T the loud teacher's targets are four times as hard",
                    "Which T solves 4 v / T = v / 4?",
                    "4 v / T = v / 4.",
                ),
            ),
        ],
    ),
    Choice(
        "13.13",
        "answer_13",
        "b",
        {
            "a": "Accuracy counts the largest logit, and a division leaves it the largest.",
            "b": "The largest stays the largest, so accuracy stays; NLL reads the probabilities, and they change.",
            "c": "The NLL reads the probability of the label, which T changes.",
            "d": "A temperature is one number for all classes, so it cannot exchange two of them.",
        },
    ),
]  # fmt: skip
