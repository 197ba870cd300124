"""Exercise 12, many teachers: their mean at T, mutual learning, weights from validation labels, the rivals of both."""

import torch
from torch import Generator, Tensor

from ..spec import Choice, Function, Number, Probe, Question, Switch


def _mean_probes(generator: Generator) -> list[Probe]:
    small = {
        "teacher_logits": torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 6.0, 1.0]]]),
        "sizes": torch.tensor([3.0, 1.0]),
    }
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    for (teachers, batch, classes), T in zip(
        ((3, 4, 5), (5, 2, 4), (2, 6, 3), (4, 3, 7)), (2.0, 0.5, 3.0, 6.0), strict=True
    ):
        scale = torch.linspace(1, 4, teachers)[:, None, None]
        values = {
            "teacher_logits": scale * torch.randn(teachers, batch, classes, generator=generator),
            "sizes": 0.5 + 3 * torch.rand(teachers, generator=generator),
            "temperature": T,
        }
        probes.append(Probe(values))
    more = probes[1].arguments | {"sizes": 2 * small["sizes"]}
    return [*probes, Probe(more, like=(1, "twice as many images in every clinic must change nothing"))]


def _mean_of_teachers(
    teacher_logits: Tensor, sizes: Tensor, temperature: float, on: frozenset[str] = frozenset()
) -> Tensor:
    weights = torch.ones_like(sizes) if "equal" in on else sizes
    if "softmax_weights" in on:
        weights = weights.softmax(0)
    elif "not_normalised" not in on:
        weights = weights / weights.sum()
    weights = weights[:, None, None]
    T = 1.0 if "cold" in on else 1 / temperature if "multiplied" in on else temperature
    if "mean_logits" in on:
        return (weights * teacher_logits / T).sum(0).softmax(-1)
    if "average_first" in on:
        return ((weights * teacher_logits.softmax(-1)).sum(0).log() / T).softmax(-1)
    return (weights * (teacher_logits / T).softmax(0 if "over_teachers" in on else -1)).sum(0)


_ORDER = "Divide by T, softmax over the classes, and only then the weighted mean."

_MEAN_SWITCHES = {
    "mean_logits": Switch(
        "the logits are averaged, not the probabilities",
        "One teacher's logits are ten times as large as all others'. How much does it count in your mean?",
        _ORDER,
        ("average_first", "over_teachers"),
    ),
    "average_first": Switch(
        "the mean is taken at T = 1 and tempered afterwards",
        "Your function is right at T = 1. At which temperature does each teacher speak, at T = 4?",
        _ORDER,
        ("over_teachers", "not_normalised", "cold"),
    ),
    "over_teachers": Switch(
        "the softmax is over the teachers; the classes should compete",
        "Along which axis do your probabilities sum to 1, before you average?",
        "dim=-1, the classes.",
    ),
    "not_normalised": Switch(
        "the weights do not sum to 1",
        "What is the sum of your probabilities for one image?",
        "sizes / sizes.sum().",
        ("softmax_weights",),
    ),
    "softmax_weights": Switch(
        "the weights are a softmax of the sizes",
        "A clinic with 300 images and one with 100: how do your two weights compare?",
        "sizes / sizes.sum().",
        ("equal",),
    ),
    "equal": Switch(
        "all teachers count the same",
        "What changes in your answer when one clinic has ten times the images?",
        "A weighted mean, with sizes / sizes.sum().",
    ),
    "cold": Switch(
        "the temperature is left out",
        "What does your answer look like at T = 100?",
        "teacher_logits / temperature, before the softmax.",
        ("multiplied",),
    ),
    "multiplied": Switch(
        "the logits are multiplied by T, not divided",
        "Does a higher T make your answer flatter?",
        "teacher_logits / temperature, before the softmax.",
    ),
}  # fmt: skip


def _mutual_probes(generator: Generator) -> list[Probe]:
    small = {"peer_logits": torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 1.0, 1.0]], [[1.0, -1.0, 0.5]]])}
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    for shape, T in zip(((3, 4, 5), (4, 2, 3), (5, 3, 4), (3, 6, 7)), (2.0, 0.5, 3.0, 6.0), strict=True):
        probes.append(Probe({"peer_logits": 2 * torch.randn(shape, generator=generator), "temperature": T}))
    shifted = probes[1].arguments | {
        "peer_logits": small["peer_logits"] + torch.tensor([3.0, -1.0, 5.0])[:, None, None]
    }
    return [*probes, Probe(shifted, like=(1, "adding a number to all logits of a peer must change nothing"))]


def _mutual_loss(peer_logits: Tensor, temperature: float, on: frozenset[str] = frozenset()) -> Tensor:
    T = temperature
    log_q = (peer_logits / T).log_softmax(-1)
    mine = log_q.detach() if "wrong_side" in on else log_q
    theirs = log_q if {"wrong_side", "not_detached"} & on else log_q.detach()
    rows = []
    for k in range(len(log_q)):
        own, others = mine[k], torch.cat([theirs[:k], theirs[k + 1 :]])
        if "to_mean" in on:
            others = others.exp().mean(0, keepdim=True).log()
        p = own.exp() if "reversed" in on else others.exp()
        first, second = (own, others) if "reversed" in on else (others, own)
        kl = (p * ((0 if "cross_entropy" in on else first) - second)).sum(-1)
        count = len(log_q) if "itself" in on else len(log_q) - 1
        rows.append(kl.sum(0) if "sum" in on else kl.mean(0) * (len(log_q) - 1) / count)
    loss = torch.stack(rows) * (1 if "no_T2" in on else T**2)
    return loss.mean(0) if "mean_peers" in on else loss


_OTHERS = "For peer k: all j but k, and their mean, which is over one fewer than there are peers."
_DETACH = "Detach the peer that is copied; leave the peer that learns in the graph."

_MUTUAL_SWITCHES = {
    "not_detached": Switch(
        "gradients flow into the peer that is copied",
        "Row k is what peer k learns. Whom else does your row move?",
        _DETACH,
        ("wrong_side",),
    ),
    "wrong_side": Switch(
        "the peer that should learn is detached, the one that is copied is not",
        "The value is right. Which of the two moves?",
        _DETACH,
    ),
    "itself": Switch(
        "each peer learns from itself, too",
        "Two peers: over how many terms do you take the mean, and how many of them can be other than 0?",
        _OTHERS,
        ("sum", "to_mean", "cross_entropy"),
    ),
    "sum": Switch(
        "the other peers are summed, not averaged",
        "How does your loss grow with the number of peers?",
        _OTHERS,
        ("to_mean",),
    ),
    "to_mean": Switch(
        "this is the divergence to the mean of the others; asked for is the mean of the divergences",
        "The gradient is right. By how much do the two values differ when the others disagree?",
        "KL for each of the others, then the mean.",
    ),
    "reversed": Switch(
        "the divergence is the wrong way round: this is KL(learner ‖ other)",
        "Whose probabilities weigh the difference of the logarithms?",
        "p_j (log p_j - log q_k), with q_k the peer that learns.",
        ("cross_entropy", "to_mean"),
    ),
    "cross_entropy": Switch(
        "this is the cross-entropy; the other peer's entropy is not subtracted",
        "What value do two equal peers get?",
        "p_j (log p_j - log q_k), summed over the classes.",
        ("to_mean",),
    ),
    "no_T2": Switch(
        "the factor T² is missing",
        "What happens to the gradient of your loss when T doubles?",
        "T² times the divergence, as in chapter 04.",
    ),
    "mean_peers": Switch(
        "the peers are averaged; one number for each peer and example is asked for",
        "What shape comes out of [peers, batch, classes]?",
        "torch.stack the rows and leave them.",
        ("not_detached", "wrong_side"),
    ),
}  # fmt: skip


def _weight_probes(generator: Generator) -> list[Probe]:
    small = {
        "teacher_logits": torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 3.0, 0.0], [0.0, 0.0, 1.0]]]),
        "targets": torch.tensor([0, 1]),
    }
    probes = [Probe(small | {"steps": steps}) for steps in (1, 3)]
    for (teachers, images, classes), steps in zip(
        ((3, 5, 4), (4, 7, 3), (2, 9, 5), (5, 6, 4)), (2, 4, 3, 2), strict=True
    ):
        values = {
            "teacher_logits": 2 * torch.randn(teachers, images, classes, generator=generator),
            "targets": torch.randint(classes, (images,), generator=generator),
            "steps": steps,
        }
        probes.append(Probe(values))
    return probes


def _fit_weights(teacher_logits: Tensor, targets: Tensor, steps: int, on: frozenset[str] = frozenset()) -> Tensor:
    probs = teacher_logits if "logits" in on else teacher_logits.softmax(0 if "over_teachers" in on else -1)
    if "surest" in on:
        at_label = probs.amax(-1).T
    else:
        at_label = probs[:, torch.arange(len(targets)), targets].T
    weights = torch.full_like(at_label[0], 1 / at_label.shape[-1])
    for _ in range(steps + 1 if "one_more" in on else steps):
        share = at_label if "forgets" in on else weights * at_label
        if "not_shared" in on:
            weights = share.mean(0) / share.mean(0).sum()
        else:
            shares = share / share.sum(-1, keepdim=True)
            weights = shares.sum(0) if "summed" in on else shares.mean(0)
    return weights


_SHARE = "For each image: weights * p(label), divided by their sum over the teachers. Then the mean over the images."

_WEIGHT_SWITCHES = {
    "surest": Switch(
        "the largest probability is taken, not that of the label",
        "A teacher is sure and always wrong. Which weight does it get from you?",
        "The probability at targets, not the maximum.",
    ),
    "over_teachers": Switch(
        "the softmax is over the teachers; each teacher's classes should sum to 1",
        "What is the sum of one teacher's probabilities for one image?",
        "softmax(-1), the classes.",
        ("logits",),
    ),
    "logits": Switch(
        "the label's logit stands where its probability belongs",
        "Can a share be negative?",
        "softmax first.",
        ("surest", "not_shared", "forgets", "one_more", "summed"),
    ),
    "not_shared": Switch(
        "the shares are taken once over all images, not for each image",
        "In one image all teachers give the label 0.001, in another 1. Does the first count in your mean?",
        _SHARE,
        ("summed",),
    ),
    "summed": Switch(
        "the shares are summed over the images, not averaged",
        "What is the sum of your weights?",
        _SHARE,
    ),
    "forgets": Switch(
        "every step starts from equal weights again, so it is one step",
        "Does a second step change anything in your answer?",
        _SHARE,
        ("one_more",),
    ),
    "one_more": Switch(
        "one step too many is taken",
        "How often does your loop run at steps = 1?",
        "for _ in range(steps).",
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function("12.1", "mean_of_teachers", _mean_probes, _mean_of_teachers, _MEAN_SWITCHES),
    Function("12.2", "mutual_loss", _mutual_probes, _mutual_loss, _MUTUAL_SWITCHES, grads=("peer_logits",)),
    Function("12.3", "fit_weights", _weight_probes, _fit_weights, _WEIGHT_SWITCHES),
    Number(
        "12.4",
        "answer_4",
        0.368064,
        "log 2 - entropy(0.9, 0.1) = 0.693 - 0.325: the disagreement of the teachers, which no student can lower.",
        [
            (
                0.0,
                Switch(
                    "that is the divergence of the mean; each teacher by itself is still away from it",
                    "How far is (0.9, 0.1) from (0.5, 0.5)?",
                    "0.9 log(0.9 / 0.5) + 0.1 log(0.1 / 0.5).",
                ),
            ),
            (
                0.325083,
                Switch(
                    "this is a teacher's entropy, not its divergence from the student",
                    "Which logarithm belongs to the student?",
                    "0.9 log(0.9 / 0.5) + 0.1 log(0.1 / 0.5).",
                ),
            ),
            (
                0.531004,
                Switch(
                    "this is in bits",
                    "Which logarithm makes nats?",
                    "The natural logarithm.",
                ),
            ),
            (
                0.510826,
                Switch(
                    "this is the divergence the other way round, KL(student ‖ teacher)",
                    "Whose probabilities weigh the difference of the logarithms?",
                    "0.9 log(0.9 / 0.5) + 0.1 log(0.1 / 0.5).",
                ),
            ),
        ],
        rtol=5e-3,
    ),
    Number(
        "12.5",
        "answer_5",
        0.571594,
        "(3 · 0.9526 + 2 · 0.0001) / 5. However large its logits, a teacher has no more than a fifth of the sum.",
        [
            (
                0.141851,
                Switch(
                    "this is the softmax of the mean logits",
                    "Which comes first here, the softmax or the mean?",
                    "Softmax of each teacher, then the mean.",
                ),
            ),
            (
                0.6,
                Switch(
                    "this counts votes; the three are not quite sure",
                    "Which probability is softmax of (3, 0)?",
                    "Softmax of each teacher, then the mean.",
                ),
            ),
            (
                0.428406,
                Switch(
                    "this is the second class",
                    "Which column is the first class?",
                    "Softmax of each teacher, the first column, then the mean.",
                ),
            ),
            (
                0.952574,
                Switch(
                    "this is what one of the three says",
                    "And what do the other two say of the first class?",
                    "Softmax of each teacher, then the mean.",
                ),
            ),
        ],
        rtol=5e-3,
    ),
    Number(
        "12.6",
        "answer_6",
        0.141851,
        "The mean logits are (1.8, 3.6). Two teachers of five decide, since their logits are three times as large.",
        [
            (
                0.571594,
                Switch(
                    "this is the mean of the probabilities",
                    "Which comes first here, the softmax or the mean?",
                    "Mean logits (1.8, 3.6), then softmax.",
                ),
            ),
            (
                0.858149,
                Switch(
                    "this is the second class",
                    "Which of 1.8 and 3.6 belongs to the first class?",
                    "Mean logits (1.8, 3.6), then softmax.",
                ),
            ),
            (
                0.000123,
                Switch(
                    "the logits are summed, not averaged",
                    "By what is (9, 18) to be divided?",
                    "Mean logits (1.8, 3.6), then softmax.",
                ),
            ),
        ],
        rtol=5e-3,
    ),
    Choice(
        "12.7",
        "answer_7",
        "b",
        {
            "a": "Over many batches all five speak; only in one batch it is one.",
            "b": "Averaged over the draws it is the mean of the divergences, and that has the gradient of the mean.",
            "c": "In one step it is the gradient of one teacher, and teachers differ.",
            "d": "The draw does not look at the teachers, so each has a fifth.",
        },
    ),
    Choice(
        "12.8",
        "answer_8",
        "c",
        {
            "a": "The median is used as a target here; no gradient passes through it.",
            "b": "Scales differ, and yet the mean of logits still works for the five of the chapter.",
            "c": "The median follows the majority, and the majority has never seen the class.",
            "d": "The opposite: the median does not listen to the surest teacher, who here is the one that knows.",
        },
    ),
    Choice(
        "12.9",
        "answer_9",
        "b",
        {
            "a": "Teachers of one kind and size differ little, and 200 labels cannot say by how much.",
            "b": "The fit finds the teacher that happens to suit 200 images, and the others knew something, too.",
            "c": "Equal weights are where the fit starts, and it moves away from there.",
            "d": "Nothing makes weights that are fitted to the likelihood trade NLL for accuracy.",
        },
    ),
    Choice(
        "12.10",
        "answer_10",
        "a",
        {
            "a": "It costs about as much, needs no peers, and shows what the mutual part adds.",
            "b": "A larger batch is another setting of the baseline, not another use of four networks.",
            "c": "More peers are more of the method, not a rival to it.",
            "d": "Another T is a setting of the method; the question is whether the method is needed.",
        },
    ),
    Choice(
        "12.11",
        "answer_11",
        "b",
        {
            "a": "The targets are nearly uniform, but T² makes up for it: the gradient stays finite.",
            "b": "To first order in 1/T both means are the mean of the logits, and T² KL is their squared distance.",
            "c": "Both are multiplied by the same T².",
            "d": "That is a low T with a mean of probabilities; a high T takes the certainty out before the mean.",
        },
    ),
    Choice(
        "12.12",
        "answer_12",
        "c",
        {
            "a": "The test is clean, and the comparison is not: one arm had four tries and the other one.",
            "b": "It may stand in the paper, and it does not make the tries equal.",
            "c": "Equal tries. Otherwise the gain may be that of the tuning.",
            "d": "Validation chose; what is reported should come from test images.",
        },
    ),
]
