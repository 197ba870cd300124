"""Exercise 18, data quality: forward correction, logit adjustment in training and in use, a noisy validation score."""

import torch
from torch import Generator, Tensor, rand, randint, randn, tensor

from ..spec import ALONE, Choice, Function, Number, Order, Probe, Question, Switch


def _forward_probes(generator: Generator) -> list[Probe]:
    small = {
        "logits": tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]]),
        "targets": tensor([1, 0]),
        "noise": tensor([[0.7, 0.3, 0.0], [0.1, 0.9, 0.0], [0.0, 0.4, 0.6]]),
    }
    probes = [Probe(small)]
    for batch, classes in ((4, 3), (5, 6), (3, 10)):
        noise = rand(classes, classes, generator=generator) + torch.eye(classes) * classes
        values = {
            "logits": 2 * randn(batch, classes, generator=generator),
            "targets": randint(classes, (batch,), generator=generator),
            "noise": noise / noise.sum(-1, keepdim=True),
        }
        probes.append(Probe(values))
    return probes


def _forward_loss(logits: Tensor, targets: Tensor, noise: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    log_q = logits.log_softmax(-1)
    matrix = noise.T if "transposed" in on else noise
    if "unused" in on:
        score = log_q
    elif "on_logits" in on:
        score = (logits @ matrix).log_softmax(-1)
    elif "log_first" in on:
        score = log_q @ matrix
    elif "on_labels" in on:
        score = log_q @ matrix.T
    elif "backward" in on:
        score = log_q @ torch.linalg.inv(matrix).T
    else:
        seen = log_q.exp() @ matrix
        score = seen if "no_log" in on else seen.log_softmax(-1) if "twice" in on else seen.log()
    loss = -score.gather(-1, targets[:, None])[:, 0]
    return loss.mean() if "mean" in on else loss


_FLIPS = "softmax(logits) @ noise is what the labels look like; its logarithm at the label, with a minus."

_FORWARD_SWITCHES = {
    "unused": Switch(
        "the noise matrix is not used: this is plain cross-entropy",
        "What would a student that is right on every image pay for the wrong labels?",
        _FLIPS,
        (ALONE,),
    ),
    "transposed": Switch(
        "the noise matrix is transposed: row i belongs to the true class i",
        "If nearly all sevens are labelled as ones, and no one as a seven: which entry of the matrix says so?",
        "probs @ noise, not noise @ probs.",
    ),
    "on_labels": Switch(
        "the correction is made on the label; it belongs to the probabilities",
        "Which of the two knows the true class: the label, or the student's probabilities?",
        _FLIPS,
        ("transposed", "log_first", "backward", "no_log"),
    ),
    "log_first": Switch(
        "the logarithm is taken before the product with the matrix",
        "A student is sure and right, and the label was flipped: is the loss finite, as it should be?",
        "Mix the probabilities first, then take the logarithm.",
        ("transposed", "backward", "no_log"),
    ),
    "backward": Switch(
        "this is the backward correction, with the inverse of the matrix; asked is the forward one",
        "Can your loss be negative?",
        _FLIPS,
        ("no_log",),
    ),
    "on_logits": Switch(
        "the matrix mixes the logits; flips mix probabilities, so the softmax comes first",
        "Two rows of logits that differ by a constant are the same probabilities: must your loss be the same?",
        _FLIPS,
        ("on_labels", "log_first", "backward", "no_log", "twice"),
    ),
    "twice": Switch(
        "a second softmax is taken: cross_entropy expects logits, and was given probabilities",
        "A row of the mixed probabilities sums to 1 already: what does a softmax make of it?",
        "nll_loss of their logarithm, or the logarithm at the label, with a minus.",
        ("on_labels", "log_first", "backward", "no_log"),
    ),
    "no_log": Switch(
        "the logarithm is missing",
        "What does cross-entropy do with a probability?",
        _FLIPS,
    ),
    "mean": Switch(
        "the mean over the batch is taken; asked is one number for each example",
        "Which shape does your answer have?",
        "Leave the mean to the caller.",
    ),
}  # fmt: skip


def _adjusted_probes(generator: Generator) -> list[Probe]:
    small = {
        "logits": tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]]),
        "targets": tensor([2, 1]),
        "counts": tensor([6, 3, 1]),
    }
    probes = [Probe(small)]
    for batch, classes in ((4, 3), (6, 5), (3, 10)):
        values = {
            "logits": 2 * randn(batch, classes, generator=generator),
            "targets": randint(classes, (batch,), generator=generator),
            "counts": randint(1, 60, (classes,), generator=generator),
        }
        probes.append(Probe(values))
    many = small | {"counts": 100 * small["counts"]}
    why = "only shares matter: a hundred times as many images of each class must change nothing"
    return [*probes, Probe(many, like=(0, why))]


def _adjusted_loss(logits: Tensor, targets: Tensor, counts: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    share = counts.to(logits.dtype) / counts.sum()
    shift = share if "no_log" in on else share.log()
    shift = -shift if "sign" in on else shift
    if on & {"weighted", "unused"}:
        score = logits.log_softmax(-1)
    elif "not_renormalised" in on:
        score = logits.log_softmax(-1) + shift
    else:
        score = (logits + shift).log_softmax(-1)
    loss = -score.gather(-1, targets[:, None])[:, 0]
    if "weighted" in on:
        loss = loss / (len(counts) * share[targets])
    return loss.mean() if "mean" in on else loss


_ADD = "cross_entropy(logits + log share, targets): frequent classes get the head start, so logits need not learn it."

_ADJUSTED_SWITCHES = {
    "unused": Switch(
        "the counts are not used; an adjustment at test time alone is another method, question 18.3",
        "Does your loss change when the counts do?",
        _ADD,
        (ALONE,),
    ),
    "weighted": Switch(
        "this weighs the examples of each class; asked is a shift of the logits",
        "Where would your loss go if a network were right on every image: is a weight still felt?",
        _ADD,
        ("sign", "no_log", "not_renormalised"),
    ),
    "sign": Switch(
        "the sign is turned round: in training log share is added, so that the logits need not hold it",
        "Equal logits, a frequent and a rare class: whose label should cost less while training?",
        _ADD,
    ),
    "no_log": Switch(
        "the shares are added as they are, without a logarithm",
        "In which unit are logits: probabilities, or logarithms of them?",
        _ADD,
    ),
    "not_renormalised": Switch(
        "log share is added after the softmax, so nothing is normalised again and the gradient is the plain one",
        "Does the shift change your gradient?",
        "Add to the logits, then take the softmax.",
    ),
    "mean": Switch(
        "the mean over the batch is taken; asked is one number for each example",
        "Which shape does your answer have?",
        "Leave the mean to the caller.",
    ),
}  # fmt: skip


def _in_use_probes(generator: Generator) -> list[Probe]:
    small = {
        "logits": tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]]),
        "train_share": tensor([0.6, 0.3, 0.1]),
        "use_share": tensor([0.2, 0.2, 0.6]),
    }
    probes = [Probe(small)]
    for batch, classes in ((4, 3), (6, 5), (3, 10)):
        both = 0.1 + rand(2, classes, generator=generator)
        train, use = both / both.sum(-1, keepdim=True)
        values = {"logits": 2 * randn(batch, classes, generator=generator), "train_share": train, "use_share": use}
        probes.append(Probe(values))
    same = small | {"use_share": small["train_share"]}
    return [*probes, Probe(same)]


def _in_use(logits: Tensor, train_share: Tensor, use_share: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    was, becomes = (share if "no_log" in on else share.log() for share in (train_share, use_share))
    shift = becomes * ("use_unused" not in on) - was * ("train_unused" not in on)
    shift = -shift if "sign" in on else shift
    if "not_renormalised" in on:
        return logits.softmax(-1) * shift.exp()
    return (logits + shift).softmax(-1)


_RATIO = "Multiply the probabilities by use share / training share, and let each row sum to 1 again."

_IN_USE_SWITCHES = {
    "sign": Switch(
        "the two shares have changed places",
        "A class was rare in training and is frequent in use: should its probability rise?",
        _RATIO,
    ),
    "train_unused": Switch(
        "the training shares are still in the answer",
        "What did the network learn to bet on in doubt?",
        _RATIO,
        ("use_unused",),
    ),
    "use_unused": Switch(
        "the shares in use are left out, as if all classes came equally often",
        "Nothing changes between training and use: what should your function do?",
        _RATIO,
    ),
    "no_log": Switch(
        "shares are added to logits without a logarithm",
        "Multiplying a probability means adding what to its logit?",
        _RATIO,
    ),
    "not_renormalised": Switch(
        "the rows do not sum to 1 any more",
        "What does each of your rows sum to?",
        _RATIO,
    ),
}  # fmt: skip


def _accuracy_probes(generator: Generator) -> list[Probe]:
    probes = [Probe({"noisy_accuracy": tensor([0.6, 0.52, 0.1]), "rate": 0.4, "classes": 10})]
    for rate, classes in ((0.3, 2), (0.2, 3), (0.25, 5), (0.5, 20)):
        values = 0.2 + 0.5 * rand(4, generator=generator)
        probes.append(Probe({"noisy_accuracy": values, "rate": rate, "classes": classes}))
    return probes


def _true_accuracy(noisy_accuracy: Tensor, rate: float, classes: int, on: frozenset[str] = frozenset()) -> Tensor:
    lucky = rate / (classes if "own_label" in on else classes - 1)
    kept = 1 - rate + (lucky if "own_label" in on else 0)
    lucky = 0.0 if "no_luck" in on else lucky
    if "forwards" in on:
        return kept * noisy_accuracy + lucky * (1 - noisy_accuracy)
    if "added" in on:
        return noisy_accuracy + rate
    return (noisy_accuracy - lucky) / (kept - (0 if "slope" in on else lucky))


_LINE = "Solve noisy = (1 - e) a + e / (K - 1) (1 - a) for a."

_ACCURACY_SWITCHES = {
    "added": Switch(
        "the rate is added; but not every wrong label costs the student a hit",
        "A student that only guesses: what does your function say of it?",
        _LINE,
        (ALONE,),
    ),
    "forwards": Switch(
        "this goes from the true accuracy to the noisy one; asked is the way back",
        "A perfect student measures 0.6 at a rate of 0.4. What do you return for 0.6?",
        _LINE,
        ("slope",),
    ),
    "no_luck": Switch(
        "a wrong answer that happens to meet the flipped label is forgotten",
        "With two classes and a rate of 0.3: a student that is always wrong, how often does it agree with the label?",
        _LINE,
        ("slope", "own_label"),
    ),
    "own_label": Switch(
        "flips are drawn among all classes; here a flip never gives the same label",
        "With two classes, where does a flipped label go?",
        "e / (K - 1): there are K - 1 other classes.",
    ),
    "slope": Switch(
        "the lucky hits are taken off above the line and not below it",
        "What do you return for a perfect student, whose noisy accuracy is 1 - e?",
        "The slope of the line is 1 - e - e / (K - 1).",
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function("18.1", "forward_loss", _forward_probes, _forward_loss, _FORWARD_SWITCHES, grads=("logits",)),
    Function("18.2", "adjusted_loss", _adjusted_probes, _adjusted_loss, _ADJUSTED_SWITCHES, grads=("logits",)),
    Function("18.3", "in_use", _in_use_probes, _in_use, _IN_USE_SWITCHES, rows_sum_to_one=True),
    Function("18.4", "true_accuracy", _accuracy_probes, _true_accuracy, _ACCURACY_SWITCHES),
    Choice(
        "18.5",
        "answer_5",
        "c",
        {
            "a": "A low T limits the harm of a teacher that has learnt the flips; it cures nothing.",
            "b": "A high T makes every logit count, also those that hold learnt flips.",
            "c": "Whether it has learnt the flips decides if its student gains at all; T comes after that.",
            "d": "A student of an early-stopped teacher can gain, and the labels need not be clean for that.",
        },
    ),
    Number(
        "18.6",
        "answer_6",
        0.25,
        "T² is 0.25 and the two weights are equal, so the divergence counts a quarter of what the label counts.",
        [
            (
                0.5,
                Switch(
                    "this is T, or the weight; the soft term carries T²",
                    "By which power of T is the divergence multiplied?",
                    "0.5 · 0.5² against 0.5.",
                ),
            ),
            (
                0.125,
                Switch(
                    "this is the soft term's factor by itself; the label's 0.5 is left out",
                    "By what is the label's cross-entropy multiplied?",
                    "0.5 · 0.5² divided by 0.5.",
                ),
            ),
            (
                4.0,
                Switch(
                    "this is the ratio turned round",
                    "Which of the two terms has the factor T²?",
                    "Soft divided by label.",
                ),
            ),
            (
                1.0,
                Switch(
                    "this leaves out the factor T²",
                    "Which factor stands before the divergence?",
                    "0.5 · 0.5² divided by 0.5.",
                ),
            ),
        ],
    ),
    Choice(
        "18.7",
        "answer_7",
        "b",
        {
            "a": "In the chapter that student fell far behind one of labels: at T = 4 the teacher outvotes the label.",
            "b": "A student of the hundred labels alone was right on nearly nine in ten: leave the teacher out.",
            "c": "At T = 1 it is as wrong as at T = 4: a temperature changes how sure, not what.",
            "d": "More images about which it is wrong are more wrong answers to copy.",
        },
    ),
    Choice(
        "18.8",
        "answer_8",
        "a",
        {
            "a": "What the images share is learnt first; flips share nothing. Stopping in between leaves them behind.",
            "b": "It never saw a true label, and needs none: it saw the same flips as everybody.",
            "c": "A softmax at any T keeps the order of the classes; a flip that was learnt stays in first place.",
            "d": "Size makes it easier to learn all flips by heart; the widest teacher was the worst.",
        },
    ),
    Choice(
        "18.9",
        "answer_9",
        "d",
        {
            "a": "A mean over all images is a mean over the frequent classes; it hides what happened.",
            "b": "Weight decay pulled the rare classes down further in the chapter.",
            "c": "Its teacher learnt from the same images and makes the same bet; the student inherits it.",
            "d": "Rare classes rise, frequent ones pay a little, and no teacher is needed.",
        },
    ),
    Order(
        "18.10",
        "answer_10",
        ("b", "d", "a", "c"),
        (
            "the comparison needs what a student of the labels reaches.",
            "distilling is worth a try only if the teacher is the better of the two.",
            "the settings are fixed on validation before the test is looked at.",
        ),
    ),
    Choice(
        "18.11",
        "answer_11",
        "b",
        {
            "a": "Dividing logits leaves the largest the largest.",
            "b": "It says about 60 % where it has no doubt; dividing by a T below 1 makes it surer, and NLL falls.",
            "c": "Its order of confidences stays; no answer gets right by a division.",
            "d": "The teacher is gone by then; the fit uses the student's logits and a few true labels.",
        },
    ),
    Choice(
        "18.12",
        "answer_12",
        "c",
        {
            "a": "At the limit of a high T the soft loss compares logits; the labels are the other end.",
            "b": "The mean of the classes is what a high T tends to before T² puts the differences back.",
            "c": "As T goes to 0 the softmax puts everything on the largest logit: the teacher's first choice.",
            "d": "The true labels enter the loss only beside the teacher, with weight 1 - soft_weight.",
        },
    ),
]  # fmt: skip
