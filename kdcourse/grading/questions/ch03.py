"""Exercise 03, temperature: softened probabilities, their entropy, their limit, and distances between them."""

import math

import torch
from torch import Generator, Tensor

from ..spec import ALONE, Choice, Function, Number, Order, Probe, Question, Switch


def _softmax_probes(generator: Generator) -> list[Probe]:
    small = torch.tensor([2.0, 1.0, -1.0])
    probes = [Probe({"logits": small, "temperature": T}) for T in (1.0, 4.0, 0.5)]
    for shape, T in (
        ((5, 4), 2.5),
        ((3, 6), 0.7),
        ((2, 3, 5), 8.0),
        ((4, 10), 20.0),
        ((7, 3), 1.0),
    ):
        probes.append(Probe({"logits": 2 * torch.randn(shape, generator=generator), "temperature": T}))
    shifted = {"logits": small + 3, "temperature": 4.0}
    probes.append(Probe(shifted, like=(1, "adding 3 to all logits must change nothing")))
    large = torch.tensor([[2000.0, 0.0, -1000.0], [-6000.0, -3000.0, -6000.0]])
    return [*probes, Probe({"logits": large, "temperature": 2.0}, grads=False)]


def _tempered_softmax(logits: Tensor, temperature: float, on: frozenset[str] = frozenset()) -> Tensor:
    scaled = logits * temperature if "multiplied" in on else logits / temperature
    if "no_temperature" in on or "divided_after" in on:
        scaled = logits
    axis = 0 if "first_axis" in on else -1
    log_probs = scaled.log_softmax(axis)
    if "over_everything" in on:
        log_probs = scaled.flatten().log_softmax(0).reshape(scaled.shape)
    if "divided_after" in on:
        log_probs = log_probs - math.log(temperature)
    if "overflow" in on:
        return scaled.exp() / scaled.exp().sum(axis, keepdim=True)
    if "no_exponential" in on:
        return logits / (logits.sum() / temperature)
    return log_probs if "log" in on else log_probs.exp()


def _random_probs(generator: Generator, *shape: int) -> Tensor:
    return (2 * torch.randn(shape, generator=generator)).softmax(-1)


def _entropy_probes(generator: Generator) -> list[Probe]:
    probes = [Probe({"probs": torch.tensor([0.5, 0.25, 0.25])})]
    probes += [Probe({"probs": _random_probs(generator, *shape)}) for shape in ((4, 3), (3, 6), (2, 3, 10))]
    return [*probes, Probe({"probs": torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])})]


def _entropy(probs: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    terms = probs * probs.log() if "nan_at_zero" in on else torch.special.xlogy(probs, probs)
    if "squares" in on:
        return 1 - (probs**2).sum(-1)
    value = terms.sum() if "over_everything" in on else terms.sum(-1)
    if "mean" in on:
        value = value / probs.shape[-1]
    value = value if "sign" in on else -value
    if "bits" in on:
        value = value / math.log(2)
    if "log10" in on:
        value = value / math.log(10)
    return value.exp() if "exponential" in on else value


def _cold_probes(generator: Generator) -> list[Probe]:
    fixed = (
        [2.0, 5.0, 1.0],
        [3.0, 3.0, 0.0],
        [[1.0, 4.0, 4.0, 4.0], [7.0, -2.0, 0.0, 7.0], [5.0, 1.0, 2.0, 3.0]],
    )
    probes = [Probe({"logits": torch.tensor(logits)}) for logits in fixed]
    for shape in ((6, 5), (2, 4, 3)):
        probes.append(Probe({"logits": torch.randint(-3, 4, shape, generator=generator).float()}))
    return probes


def _limit_cold(logits: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    best = logits.amin(-1, keepdim=True) if "smallest" in on else logits.amax(-1, keepdim=True)
    if "over_everything" in on:
        best = logits.min() if "smallest" in on else logits.max()
    if "index" in on:
        return (logits == best).to(logits.dtype).argmax(-1).to(logits.dtype)
    winners = (logits == best).to(logits.dtype)
    if "first_takes_all" in on:
        return winners * (winners.cumsum(-1) == 1)
    if "not_shared" in on:
        return winners
    count = winners.sum() if "over_everything" in on else winners.sum(-1, keepdim=True)
    return winners / count


def _kl_probes(generator: Generator) -> list[Probe]:
    probes = [Probe({"p": torch.tensor([0.7, 0.2, 0.1]), "q": torch.tensor([0.5, 0.25, 0.25])})]
    for shape in ((4, 3), (3, 6), (2, 3, 5)):
        probes.append(Probe({"p": _random_probs(generator, *shape), "q": _random_probs(generator, *shape)}))
    zero = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    return [*probes, Probe({"p": zero, "q": _random_probs(generator, 2, 3)})]


def _kl_divergence(p: Tensor, q: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    def divergence(a: Tensor, b: Tensor) -> Tensor:
        if "nan_at_zero" in on:
            return a * (a / b).log()
        cross = -torch.special.xlogy(a, b)
        return cross if "cross_entropy" in on else cross + torch.special.xlogy(a, a)

    terms = divergence(q, p) if "reversed" in on else divergence(p, q)
    if "symmetric" in on:
        terms = (divergence(p, q) + divergence(q, p)) / 2
    if "squares" in on:
        terms = (p - q) ** 2
    value = terms.sum() if "over_everything" in on else terms.sum(-1)
    if "mean" in on:
        value = value / p.shape[-1]
    if "bits" in on:
        value = value / math.log(2)
    return -value if "sign" in on else value


_EACH = "Sum over the last axis only: [..., classes] in, [...] out."
_NATS = "torch.log is the natural logarithm; the answer is in nats."
_ZERO = Switch(
    "a probability of 0 gives NaN; 0 log 0 counts as 0",
    "What is 0 times minus infinity in floating point, and what should it be here?",
    "torch.special.xlogy, nansum, or a clamp inside the logarithm.",
    ("squares", "symmetric", "reversed", "cross_entropy"),
)
_BITS = Switch(
    "the logarithm is to base 2, so this is in bits",
    "What does a fair coin give, in nats?",
    _NATS,
    ("log10", "squares"),
)
_EVERYTHING = Switch(
    "the sum runs over the whole tensor, so examples are mixed",
    "What shape should come out of [4, 3]?",
    _EACH,
    ("squares",),
)
_MEAN = Switch(
    "the classes are averaged, not summed",
    "What is your answer for a uniform distribution of 10 classes, and of 100?",
    "sum(-1), not mean(-1).",
    ("squares",),
)

QUESTIONS: list[Question] = [
    Function(
        "03.1",
        "tempered_softmax",
        _softmax_probes,
        _tempered_softmax,
        {
            "multiplied": Switch(
                "the logits are multiplied by T, not divided",
                "Does your distribution become flatter or sharper when T grows?",
                "Divide the logits by T before the exponential.",
                ("no_temperature",),
            ),
            "no_temperature": Switch(
                "T has no effect: a factor that all probabilities share cancels, or T is not used",
                "If every probability is divided by T and then the row by its sum, what is left of T?",
                "Divide the logits, before the exponential.",
                ("divided_after",),
            ),
            "divided_after": Switch(
                "the probabilities are divided by T, so a row sums to 1/T",
                "What should each row sum to?",
                "Divide the logits, before the exponential.",
                ("multiplied",),
            ),
            "no_exponential": Switch(
                "there is no exponential: the logits are divided by their sum over the whole batch",
                "What does your formula make of a negative logit?",
                "exp of logits / T, divided by its sum over the row.",
                (ALONE,),
            ),
            "first_axis": Switch(
                "the softmax runs over the first axis; classes are on the last",
                "In [batch, classes], do your rows sum to 1 or your columns?",
                "dim=-1.",
                ("over_everything",),
            ),
            "over_everything": Switch(
                "the sum runs over the whole tensor, so examples share one unit of probability",
                "What do two rows of your answer sum to?",
                "sum(-1, keepdim=True).",
                ("overflow",),
            ),
            "overflow": Switch(
                "exp overflows: logits of 2000 give NaN",
                "What is exp(1000) in float32, and which number may be subtracted from all logits first?",
                "Subtract the row's largest logit before exp, or call torch.softmax.",
                (ALONE,),
            ),
            "log": Switch(
                "these are log-probabilities",
                "Can a probability be negative?",
                "softmax, not log_softmax.",
            ),
        },
        grads=("logits",),
        rows_sum_to_one=True,
    ),
    Function(
        "03.2",
        "entropy",
        _entropy_probes,
        _entropy,
        {
            "bits": _BITS,
            "log10": Switch(
                "the logarithm is to base 10",
                "What does a uniform distribution of 10 classes give, in nats?",
                _NATS,
                ("squares",),
            ),
            "sign": Switch(
                "the sign is wrong: entropy is never negative",
                "Is log p positive or negative?",
                "Minus the sum of p log p.",
                ("squares",),
            ),
            "mean": _MEAN,
            "over_everything": _EVERYTHING,
            "nan_at_zero": _ZERO,
            "squares": Switch(
                "this is 1 minus the sum of squares (the Gini index), not the entropy",
                "Where is the logarithm?",
                "Minus the sum of p log p.",
            ),
            "exponential": Switch(
                "this is the exponential of the entropy (the perplexity)",
                "What should a distribution that is certain give, 0 or 1?",
                "Leave out the last exp.",
                ("squares",),
            ),
        },
    ),
    Function(
        "03.3",
        "limit_cold",
        _cold_probes,
        _limit_cold,
        {
            "first_takes_all": Switch(
                "one of several equal logits gets everything; they share it",
                "Two logits are equal. Is there a T at which their probabilities differ?",
                "Compare with the row's maximum; do not take its argmax.",
                ("index", "not_shared"),
            ),
            "not_shared": Switch(
                "each of several equal logits gets 1; a row then sums to more",
                "What does the row [3, 3, 0] sum to in your answer?",
                "Divide by the number of winners in the row.",
                ("index",),
            ),
            "smallest": Switch(
                "the smallest logit wins, not the largest",
                "T is small and positive. Which of exp(5/T) and exp(1/T) is larger?",
                "amax, not amin.",
            ),
            "over_everything": Switch(
                "the maximum is taken over the whole tensor; each row has its own",
                "Does each row of your answer sum to 1?",
                "amax(-1, keepdim=True).",
            ),
            "index": Switch(
                "this is the class's number; a distribution is asked for",
                "Which shape has a distribution over classes?",
                "As many entries as logits, and each row sums to 1.",
            ),
        },
        rows_sum_to_one=True,
    ),
    Function(
        "03.4",
        "kl_divergence",
        _kl_probes,
        _kl_divergence,
        {
            "reversed": Switch(
                "the divergence is the wrong way round: this is KL(q ‖ p)",
                "Under which of the two distributions is the average taken?",
                "p weighs the difference of the logarithms: p (log p - log q).",
                ("symmetric", "squares"),
            ),
            "cross_entropy": Switch(
                "this is the cross-entropy of p and q; p's own entropy is not subtracted",
                "What should come out for two equal distributions?",
                "p (log p - log q), not -p log q.",
                ("squares",),
            ),
            "symmetric": Switch(
                "this is the mean of both directions",
                "KL is not symmetric. Which direction was asked for?",
                "One sum: p (log p - log q).",
                ("squares",),
            ),
            "squares": Switch(
                "this is the sum of squared differences (Brier), not the divergence",
                "Where is the logarithm?",
                "p (log p - log q).",
            ),
            "bits": _BITS,
            "mean": Switch(
                "the classes are averaged, not summed",
                'What does F.kl_div divide by when its reduction is "mean"?',
                "sum(-1), not mean(-1).",
            ),
            "over_everything": Switch(
                "the sum runs over the whole tensor, so examples are mixed",
                "What shape should come out of [4, 3]?",
                _EACH,
            ),
            "sign": Switch(
                "the sign is wrong: a divergence is never negative",
                "Is it log p - log q, or log q - log p?",
                "p (log p - log q).",
            ),
            "nan_at_zero": _ZERO,
        },
        follows={"03.2": {"bits": "bits"}},
    ),
    Choice(
        "03.5",
        "answer_5",
        "d",
        {
            "a": "Dividing by a positive number keeps the order, so first stays first, at any T.",
            "b": "The gaps shrink; no sign changes. Equal only in the limit of T to infinity.",
            "c": ("The rows still sum to 1: what the first class loses the others gain, in the same order."),
            "d": ("z/T keeps the order of z. T changes how far apart the probabilities are, not who leads."),
        },
    ),
    Choice(
        "03.6",
        "answer_6",
        "b",
        {
            "a": "That is T = 100. Dividing by 0.01 makes every gap a hundred times larger.",
            "b": ("A gap of 1 becomes 100, and exp(-100) is nothing: the label alone, as hard as it gets."),
            "c": "T = 1 leaves the softmax as it is; 0.01 is as far from that as 100 is.",
            "d": "A softmax never returns a negative number, at any T > 0.",
        },
    ),
    Choice(
        "03.7",
        "answer_7",
        "a",
        {
            "a": ("T belongs to the training loss. In use the student's own softmax, at T = 1, is its answer."),
            "b": ("That leaves the choice of class as it is and makes every stated probability too flat."),
            "c": ("The argmax throws the probabilities away, and T = 1 is as good at choosing a class."),
            "d": "The student was trained to be right at T = 1 by its hard term, not at 1/T.",
        },
    ),
    Number(
        "03.8",
        "answer_8",
        math.e,
        "exp(4/4): a gap of 4 becomes a gap of 1.",
        [
            (
                math.exp(4),
                Switch(
                    "T has no effect: this is the ratio at T = 1",
                    "What becomes of a gap of 4 when both logits are divided by 4?",
                    "The ratio is exp of the gap after dividing.",
                ),
            ),
            (
                math.exp(16),
                Switch(
                    "the gap is multiplied by T, not divided",
                    "Are the classes closer together at T = 4, or further apart?",
                    "Divide the gap by T.",
                ),
            ),
            (
                math.exp(4) / 4,
                Switch(
                    "the ratio is divided by T; it is the gap that is",
                    "Is T applied before the exponential or after it?",
                    "exp(gap / T).",
                ),
            ),
            (
                1.0,
                Switch(
                    "this is the gap after dividing; the ratio is its exponential",
                    "Which function turns a difference of logits into a ratio of probabilities?",
                    "exp(gap / T).",
                ),
            ),
            (
                9 / 5,
                Switch(
                    "this is the ratio of the logits",
                    "What happens to your ratio when 3 is added to both logits?",
                    "Only the gap counts: exp(gap / T).",
                ),
            ),
        ],
    ),
    Number(
        "03.9",
        "answer_9",
        math.log(10),
        "log 10: as T grows all ten classes come to share alike.",
        [
            (
                math.log2(10),
                Switch("this is in bits", "How many nats is one bit?", "The natural logarithm of 10."),
            ),
            (
                1.0,
                Switch(
                    "the logarithm is to base 10",
                    "Which logarithm counts nats?",
                    "The natural logarithm of 10.",
                ),
            ),
            (
                10.0,
                Switch(
                    "this is the number of classes, not its logarithm",
                    "Which function turns a count of equal cases into an entropy?",
                    "The natural logarithm of 10.",
                ),
            ),
            (
                math.log(10) / 10,
                Switch(
                    "this is one class's share of the entropy",
                    "How many classes are summed?",
                    "Add up all ten.",
                ),
            ),
        ],
    ),
    Order(
        "03.10",
        "answer_10",
        ("c", "a", "b", "d"),
        (
            "the larger the gap after dividing by T, the lower the entropy: 8 against 4.",
            "the gap after dividing by T is 4, against 1 at T = 4.",
            "equal logits are uniform at every T, and nothing has more entropy.",
        ),
    ),
    Choice(
        "03.11",
        "answer_11",
        "c",
        {
            "a": "Softer targets need not be better targets. It takes a baseline to know.",
            "b": "Two students with a teacher cannot show what the teacher was worth.",
            "c": ("The same student, alone, is what both T have to beat; then one T can be compared with the other."),
            "d": ("The teacher's score is the same for both, and says nothing about what it passed on."),
        },
    ),
]
