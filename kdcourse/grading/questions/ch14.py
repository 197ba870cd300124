"""Exercise 14, attention and uncertainty: pooling, one head a member, parts of uncertainty, the student's one step."""

import math

import torch
from torch import Generator, Tensor, randn, tensor

from ..spec import Choice, Function, Number, Probe, Question, Switch


def _pool_probes(generator: Generator) -> list[Probe]:
    small = {
        "tokens": tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]], [[2.0, 1.0], [1.0, 4.0], [0.0, 1.0]]]),
        "scores": tensor([[1.0, 0.0, 2.0], [0.5, 1.5, -1.0]]),
    }
    whole = small | {"mask": torch.ones(2, 3, dtype=torch.long)}
    part = small | {"mask": tensor([[1, 1, 0], [0, 1, 1]])}
    probes = [Probe(whole), Probe(part)]
    for batch, tokens, features in ((4, 5, 3), (3, 6, 4), (5, 4, 2)):
        mask = (randn(batch, tokens, generator=generator) > -0.4).long()
        mask[torch.arange(batch), torch.arange(batch) % tokens] = 1  # each example has a token
        mask[torch.arange(tokens) % batch, torch.arange(tokens)] = 1  # and each place is used
        mask[0, -1] = 0
        mask[-1, 0] = 0
        mask[0, 0] = mask[-1, -1] = 1
        values = {
            "tokens": 1 + randn(batch, tokens, features, generator=generator),
            "scores": 1 + 1.5 * randn(batch, tokens, generator=generator),
            "mask": mask,
        }
        probes.append(Probe(values))
    louder = part | {"scores": small["scores"] + 2}
    why = "adding 2 to all scores must change nothing"
    return [*probes, Probe(louder, like=(1, why))]


def _pool(tokens: Tensor, scores: Tensor, mask: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    kept = mask == (0 if "inverted" in on else 1)
    late = on & {"masked_after", "not_masked", "zero_score"}
    if "scores_cut" in on:
        scores = scores.detach()
    if "zero_score" in on:
        scores = scores * kept
    if "one_number" in on:
        weights = torch.ones_like(scores)
    elif "no_softmax" in on:
        weights = scores if late else scores * kept
    else:
        hidden = scores if late else scores.masked_fill(~kept, -1e9)
        weights = hidden.softmax(0 if "over_batch" in on else -1)
    if "masked_after" in on:
        weights = weights * kept
    if "twice" in on:
        weights = weights * weights
    pooled = (weights.unsqueeze(-1) * tokens).sum(1)
    return pooled / tokens.shape[1] if "mean" in on else pooled


def _others(name: str) -> tuple[str, ...]:
    """Ways to have no weights that sum to 1 over the right tokens: one at a time."""
    ways = ("not_masked", "masked_after", "zero_score", "inverted", "no_softmax", "one_number")
    return tuple(way for way in ways if way != name)


_BEFORE = "scores.masked_fill(mask == 0, -torch.inf), then the softmax."

_POOL_SWITCHES = {
    "over_batch": Switch(
        "the softmax is over the batch, not over the tokens",
        "Along which axis do your weights sum to 1? Does an example's result depend on its neighbours?",
        "softmax(-1) on [batch, tokens].",
        ("one_number", "no_softmax", "masked_after", "inverted"),
    ),
    "not_masked": Switch(
        "the mask is not used: what was only filled in gets weight",
        "Change a token that is masked. Does your result change?",
        _BEFORE,
        _others("not_masked"),
    ),
    "masked_after": Switch(
        "the weights are masked after the softmax, so those that are left do not sum to 1",
        "What is the sum of your weights, in a row with a masked token?",
        _BEFORE,
        _others("masked_after"),
    ),
    "zero_score": Switch(
        "masked scores are set to 0, and exp(0) is a weight like any other",
        "Which weight does a score of 0 get, beside scores of -1 and 1?",
        _BEFORE,
        _others("zero_score"),
    ),
    "inverted": Switch(
        "the mask is the wrong way round: only what was filled in is attended",
        "What does a 1 in the mask stand for?",
        _BEFORE,
        _others("inverted"),
    ),
    "twice": Switch(
        "the weights are used twice: each token is multiplied by the square of its weight",
        "What comes out if all tokens are equal? It should be that token.",
        "Multiply once, then sum.",
        ("one_number",),
    ),
    "no_softmax": Switch(
        "the scores themselves are used as weights; there is no softmax",
        "What happens to your result when all scores grow by 2?",
        "scores.softmax(-1) makes weights of them.",
        ("scores_cut", *_others("no_softmax")),
    ),
    "one_number": Switch(
        "all weights are 1, as in the article: that is a softmax over an axis of length 1",
        "How many numbers share the 1 of each of your softmaxes?",
        "The tokens of an example compete: softmax over the axis of the tokens.",
        ("scores_cut", *_others("one_number")),
    ),
    "scores_cut": Switch(
        "the scores are cut off, so the attention is never trained",
        "The value is right. What makes the scores better, during training?",
        "Leave the scores in the graph.",
    ),
    "mean": Switch(
        "the weighted tokens are averaged; they should be summed, since the weights sum to 1 already",
        "What comes out if all tokens are equal? It should be that token.",
        "sum over the tokens.",
    ),
}  # fmt: skip


def _members_probes(generator: Generator) -> list[Probe]:
    small = {
        "member_logits": tensor([[[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]]),
        "teacher_logits": tensor([[[2.0, 1.5, -1.0], [0.0, 1.0, 3.0]]]),
    }
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    for batch, members, classes, T in ((4, 3, 5, 0.5), (2, 5, 4, 2.0), (5, 4, 3, 3.0), (3, 2, 6, 6.0)):
        values = {
            "member_logits": 2 * randn(batch, members, classes, generator=generator),
            "teacher_logits": 2 * randn(batch, members, classes, generator=generator),
        }
        probes.append(Probe(values | {"temperature": T}))
    return probes


def _hydra(
    member_logits: Tensor, teacher_logits: Tensor, temperature: float, on: frozenset[str] = frozenset()
) -> Tensor:
    T = temperature
    teacher = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    if "mean_logits" in on:
        teacher = teacher.mean(1, keepdim=True).expand_as(teacher)
    log_p = (teacher if {"cold", "cold_teacher"} & on else teacher / T).log_softmax(-1)
    log_q = (member_logits if {"cold", "cold_student"} & on else member_logits / T).log_softmax(-1)
    members = log_p.shape[1]
    if {"to_mean", "mean_only"} & on:
        log_p = (log_p.logsumexp(1, keepdim=True) - math.log(members)).expand_as(log_q)
    if "mean_only" in on:
        log_q = (log_q.logsumexp(1, keepdim=True) - math.log(members)).expand_as(log_q)
    if "reversed" in on:
        log_p, log_q = log_q, log_p
    terms = log_p.exp() * ((0 if "cross_entropy" in on else log_p) - log_q)
    each = terms.mean(-1) if "mean_classes" in on else terms.sum(-1)
    loss = (each.sum(1) if "sum_members" in on else each.mean(1)) * (1 if "no_T2" in on else T**2)
    return loss.mean() if "mean_all" in on else loss


_BOTH = "The same T divides both sides."
_OWN = "Head m learns from member m; the mean is over the losses."

_HYDRA_SWITCHES = {
    "to_mean": Switch(
        "every head learns from the members' mean; what they disagree in is lost",
        "Two members disagree. What do two heads say that have learnt your loss perfectly?",
        _OWN,
        ("mean_only", "mean_logits"),
    ),
    "mean_only": Switch(
        "the heads' mean learns from the members' mean; who disagrees with whom is left open",
        "Exchange what two heads say. Does your loss change? Should it?",
        _OWN,
        ("mean_logits",),
    ),
    "mean_logits": Switch(
        "every head learns from the members' mean logits; what they disagree in is lost",
        "Two members disagree. What do two heads say that have learnt your loss perfectly?",
        _OWN,
    ),
    "cold": Switch(
        "the temperature divides neither side",
        "What does a target look like at T = 100?",
        _BOTH,
        ("cold_student", "cold_teacher"),
    ),
    "cold_student": Switch(
        "the heads are not divided by T",
        "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
        _BOTH,
        ("cold_teacher",),
    ),
    "cold_teacher": Switch(
        "the teacher is not divided by T",
        "A perfect copy of the teacher should cost nothing. Does it, at T = 4?",
        _BOTH,
    ),
    "no_T2": Switch(
        "the factor T² is missing",
        "What happens to the gradient of your loss when T doubles?",
        "T² times the divergence, as in chapter 04.",
    ),
    "reversed": Switch(
        "the divergence is the wrong way round: this is KL(head ‖ member)",
        "Whose probabilities weigh the difference of the logarithms?",
        "p (log p - log q), with p the teacher's.",
    ),
    "cross_entropy": Switch(
        "this is the cross-entropy; the teacher's entropy is not subtracted",
        "The gradient is right. What value does a perfect copy of the teacher get?",
        "p (log p - log q), summed over the classes.",
    ),
    "sum_members": Switch(
        "the members are summed, not averaged",
        "How does your loss change when the ensemble has ten times as many members?",
        "Sum over the classes, mean over the members.",
    ),
    "mean_classes": Switch(
        "the classes are averaged, not summed",
        "Which weights does an expectation under the teacher use? Is there a 1/classes among them?",
        "Sum over the classes, mean over the members.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two is finished?",
        "teacher_logits.detach().",
    ),
    "mean_all": Switch(
        "the examples are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to weigh examples?",
        "Leave the first axis alone.",
    ),
}  # fmt: skip


def _parts_probes(generator: Generator) -> list[Probe]:
    probes = [
        Probe({"member_logits": tensor([[[4.0, 0.0, -1.0], [0.0, 3.0, 0.0]], [[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]]])})
    ]
    for batch, members, classes in ((4, 3, 5), (2, 6, 4), (5, 2, 3), (3, 4, 7)):
        probes.append(Probe({"member_logits": 2 * randn(batch, members, classes, generator=generator)}))
    return probes


def _parts(member_logits: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    probs = member_logits.softmax(-1)
    mean = member_logits.mean(1).softmax(-1) if "mean_logits" in on else probs.mean(1)
    total = torch.special.entr(mean).sum(-1)
    if "first_member" in on:
        total = torch.special.entr(probs[:, 0]).sum(-1)
    data = torch.special.entr(probs).sum(-1)
    data = data.sum(1) if "sum_members" in on else data.mean(1)
    knowledge = probs.var(1, correction=0).sum(-1) if "variance" in on else total - data
    if "sign" in on:
        knowledge = -knowledge
    parts = [total, knowledge, data] if "exchanged" in on else [total, data, knowledge]
    result = torch.stack(parts, dim=-1)
    if "bits" in on:
        result = result / math.log(2)
    if "share" in on:
        result = result / math.log(member_logits.shape[-1])
    return result.mean(0) if "one_number" in on else result


_MEAN = "probs = member_logits.softmax(-1), and the total is the entropy of probs.mean(1)."

_PARTS_SWITCHES = {
    "mean_logits": Switch(
        "the logits are averaged, not the probabilities",
        "Two members are certain of different classes. What does their mean probability look like?",
        _MEAN,
        ("first_member",),
    ),
    "first_member": Switch(
        "the total is the entropy of one member; it should be that of their mean",
        "Does your total change when another member changes its mind?",
        _MEAN,
    ),
    "sum_members": Switch(
        "the members' entropies are summed, not averaged",
        "Ten members that say the same: is the data part that of one of them?",
        "mean over the members.",
    ),
    "variance": Switch(
        "the knowledge part is a variance of probabilities; asked for is the total without the data part",
        "Do data and knowledge part add up to your total?",
        "total - data.",
    ),
    "sign": Switch(
        "the knowledge part has the wrong sign",
        "Can members that disagree be more certain together than alone?",
        "total - data.",
    ),
    "exchanged": Switch(
        "data and knowledge part are exchanged",
        "Members that all say the same: which of the two is 0?",
        "Total, data, knowledge.",
    ),
    "bits": Switch(
        "these are bits; nats are asked for",
        "What is the entropy of an even choice between two?",
        "The natural logarithm, as in torch.special.entr.",
        ("share",),
    ),
    "share": Switch(
        "the entropies are divided by the largest possible; nats are asked for",
        "What is the entropy of an even choice between two?",
        "Leave out the division by log(classes).",
    ),
    "one_number": Switch(
        "the examples are averaged: one number for a whole batch, as in the article",
        "Which of the images goes to a person?",
        "One row for each example.",
    ),
}  # fmt: skip


def _step_probes(generator: Generator) -> list[Probe]:
    probes = []
    settings = (
        ((2, 3, 2, 2), 2.0, 0.0, 0.5), ((2, 3, 2, 2), 2.0, 3.0, 0.5), ((4, 5, 3, 4), 0.7, 0.6, 0.3),
        ((3, 4, 5, 3), 3.0, 4.0, 0.2), ((5, 6, 3, 5), 1.5, 2.0, 0.4), ((6, 3, 4, 7), 4.0, 0.4, 0.6),
    )  # fmt: skip
    for (batch, tokens, features, classes), T, map_weight, rate in settings:
        if len(probes) == 1:  # the same numbers, with a map
            probes.append(Probe(probes[0].arguments | {"map_weight": map_weight}))
            continue
        values = {
            "score_weight": randn(features, generator=generator),
            "head_weight": randn(classes, features, generator=generator),
            "tokens": 0.3 + randn(batch, tokens, features, generator=generator),
            "teacher_logits": 2 * randn(batch, classes, generator=generator),
            "teacher_map": (1.5 * randn(batch, tokens, generator=generator)).softmax(-1),
        }
        probes.append(Probe(values | {"temperature": T, "map_weight": map_weight, "learning_rate": rate}))
    return probes


def _one_step(
    score_weight: Tensor, head_weight: Tensor, tokens: Tensor, teacher_logits: Tensor, teacher_map: Tensor,
    temperature: float, map_weight: float, learning_rate: float, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    T = temperature
    w, h = (p.detach().clone().requires_grad_() for p in (score_weight, head_weight))
    weights = (tokens @ w).softmax(0 if "over_batch" in on else -1)
    used = weights.detach() if "pool_cut" in on else weights
    pooled = (used.unsqueeze(-1) * tokens).sum(1)
    if "mean_pool" in on:
        pooled = tokens.mean(1)
    logits = pooled @ h.T
    log_q = (logits if "cold" in on else logits / T).log_softmax(-1)
    p = (teacher_logits if "cold" in on else teacher_logits / T).softmax(-1)
    answer = (1 if "no_T2" in on else T**2) * -(p * log_q).sum(-1)
    goal = teacher_map.softmax(-1) if "softmax_again" in on else teacher_map
    of_map = -(goal * weights.log()).sum(-1)
    if "map_mse" in on:
        of_map = (weights - goal).square().sum(-1)
    if "map_reversed" in on:
        of_map = (weights * (weights.log() - goal.log())).sum(-1)
    share = 0.0 if "map_left_out" in on else 1.0 if "map_weight_left_out" in on else map_weight
    if "map_T2" in on:
        share = share * T**2
    each = answer + share * of_map
    loss = each.sum() if "sum" in on else each.mean()
    by_w, by_h = torch.autograd.grad(loss, [w, h], allow_unused=True)
    by_w = torch.zeros_like(w) if by_w is None else by_w
    rate = -learning_rate if "ascent" in on else learning_rate
    new_w = w if "score_frozen" in on else w - rate * by_w
    new_h = h if "head_frozen" in on else h - rate * by_h
    return torch.cat([new_w.unsqueeze(0), new_h]).detach()


_MAP_TERM = "answer + map_weight * KL(teacher_map ‖ weights), and both in one loss."

_STEP_SWITCHES = {
    "map_left_out": Switch(
        "the attention's loss is not in the sum, as in the article: computed, perhaps printed, never trained",
        "Does your result depend on teacher_map?",
        _MAP_TERM,
        ("map_weight_left_out", "map_mse", "map_reversed", "map_T2", "softmax_again"),
    ),
    "map_weight_left_out": Switch(
        "map_weight is not used",
        "What comes out at map_weight = 0, and what at 3?",
        _MAP_TERM,
    ),
    "map_mse": Switch(
        "the maps are compared by squared error; KL is asked for",
        "What does your map loss cost where the student gives almost no weight to the teacher's tile?",
        "teacher_map * (teacher_map.log() - weights.log()), summed over the tokens.",
        ("map_reversed",),
    ),
    "map_reversed": Switch(
        "the divergence of the maps is the wrong way round",
        "Whose weights stand before the difference of the logarithms?",
        "teacher_map * (teacher_map.log() - weights.log()).",
    ),
    "map_T2": Switch(
        "the map's term is multiplied by T² as well; it has no temperature",
        "Is anything in the map's term divided by T?",
        "T² belongs to the answer's term alone.",
    ),
    "softmax_again": Switch(
        "a softmax is taken of the teacher's map, which is a distribution already",
        "What does the softmax of numbers between 0 and 1 look like?",
        "Use teacher_map as it is.",
    ),
    "pool_cut": Switch(
        "the weights are cut off before the pooling, so the answer does not train the attention",
        "What moves the first row at map_weight = 0?",
        "Pool with the weights as they are.",
        ("score_frozen", "mean_pool", "map_left_out"),
    ),
    "mean_pool": Switch(
        "the tokens are averaged evenly; the weights are not used for the answer",
        "Does the answer depend on score_weight?",
        "pooled = (weights.unsqueeze(-1) * tokens).sum(1).",
        ("head_frozen",),
    ),
    "over_batch": Switch(
        "the softmax is over the batch, not over the tokens",
        "Along which axis do your weights sum to 1?",
        "softmax(-1) on [batch, tokens].",
        ("mean_pool", "pool_cut"),
    ),
    "score_frozen": Switch(
        "the score weight is never updated: only the head learns",
        "Which of the rows of your result differ from what was given?",
        "Both parameters take the step.",
        ("mean_pool", "map_left_out", "map_weight_left_out", "map_mse", "map_reversed", "map_T2", "softmax_again"),
    ),
    "head_frozen": Switch(
        "the head is never updated: only the attention learns",
        "Which of the rows of your result differ from what was given?",
        "Both parameters take the step.",
    ),
    "cold": Switch(
        "the temperature divides neither the student's nor the teacher's logits",
        "What does the target look like at T = 100?",
        "The same T divides both sides.",
    ),
    "no_T2": Switch(
        "the factor T² is missing",
        "What happens to the step of the answer's term when T doubles?",
        "T² times the divergence of the answers.",
    ),
    "sum": Switch(
        "the examples are summed; the loss of a batch is their mean",
        "How does your step change when the batch is twice as large?",
        "mean over the batch.",
    ),
    "ascent": Switch(
        "the step goes uphill",
        "Is the loss smaller after your step?",
        "parameter - learning_rate * gradient.",
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Function("14.1", "attention_pool", _pool_probes, _pool, _POOL_SWITCHES, grads=("tokens", "scores")),
    Function("14.2", "hydra_loss", _members_probes, _hydra, _HYDRA_SWITCHES, grads=("member_logits", "teacher_logits")),
    Function("14.3", "uncertainty_parts", _parts_probes, _parts, _PARTS_SWITCHES),
    Function("14.4", "one_step", _step_probes, _one_step, _STEP_SWITCHES),
    Number(
        "14.5",
        "answer_5",
        0.5,
        "log 3 / log 9. An even map over all nine has 1, a map with one tile 0.",
        [
            (
                math.log(3),
                Switch(
                    "this is the entropy in nats; it is to be divided by the largest",
                    "What is the entropy of an even map over nine tiles?",
                    "log 3 / log 9.",
                ),
            ),
            (
                1 / 3,
                Switch(
                    "this is the share of the tiles; entropies are logarithms",
                    "What is the entropy of an even map over three tiles?",
                    "log 3 / log 9.",
                ),
            ),
            (
                2.0,
                Switch(
                    "the quotient is the wrong way round",
                    "Can a map have more than the largest entropy?",
                    "log 3 / log 9.",
                ),
            ),
        ],
    ),
    Number(
        "14.6",
        "answer_6",
        math.log(2),
        "The mean is (1/2, 1/2): total log 2. Each member is certain: data 0. The rest is knowledge.",
        [
            (
                0.0,
                Switch(
                    "this is the data part: each member is certain",
                    "What is the entropy of the members' mean?",
                    "Total log 2, data 0.",
                ),
            ),
            (
                1.0,
                Switch(
                    "this is in bits; nats are asked for",
                    "What is the natural logarithm of 2?",
                    "Total log 2, data 0.",
                ),
            ),
            (
                math.log(4),
                Switch(
                    "this is the logarithm of the number of members; only two answers are given",
                    "Between how many classes is the mean undecided?",
                    "Total log 2, data 0.",
                ),
            ),
            (
                -math.log(2),
                Switch(
                    "the sign is wrong: the total is never smaller than the data part",
                    "What is the total, and what the data part?",
                    "Total log 2, data 0.",
                ),
            ),
        ],
    ),
    Choice(
        "14.7",
        "answer_7",
        "b",
        {
            "a": "An average over questions answers none of them. For two objects it is not far from a coin.",
            "b": "A second object is seen where the weights share themselves out. It is no help against mistakes.",
            "c": "They are foreign, but their pooled numbers lie between those of familiar images.",
            "d": "The two others are near a coin here, and their noise is added. Measure the sum before you use it.",
        },
    ),
    Choice(
        "14.8",
        "answer_8",
        "d",
        {
            "a": "A better map might help more, but why any map helps would still be open.",
            "b": "That is the baseline of distillation, not of the map: the question is what is added to the answers.",
            "c": "The interval excludes 0 already. What is open is the reason.",
            "d": "It knows nothing about where. If it lowers the NLL as much, it was the smoothing of the map.",
        },
    ),
    Choice(
        "14.9",
        "answer_9",
        "a",
        {
            "a": "In 41 % of all pairs it scores higher, in 59 % lower: the score points the wrong way.",
            "b": "How many are found depends on a threshold. AUROC compares pairs.",
            "c": "AUROC of a score says nothing about the accuracy on these images.",
            "d": "Nothing is 0.5. Below it the score misleads; turned round it would have 0.59.",
        },
    ),
    Choice(
        "14.10",
        "answer_10",
        "c",
        {
            "a": "The second teacher has soft targets, too.",
            "b": "It helped with the first teacher. What it passes on has to be there.",
            "c": "What differs between the two teachers is what they have seen, and with it goes the gain.",
            "d": "Perhaps, but nothing here says so. That it knows no more than the labels explains it.",
        },
    ),
    Choice(
        "14.11",
        "answer_11",
        "a",
        {
            "a": "Dividing all logits of an image by one number keeps their order, so every first choice stays.",
            "b": "It was fitted to change the NLL; on new images it changes as well.",
            "c": "A T above 1 makes every answer more even, so every entropy grows.",
            "d": "Confidences change and first choices do not; changing that gap is what the fit is for.",
        },
    ),
    Choice(
        "14.12",
        "answer_12",
        "b",
        {
            "a": "A larger one would make it fall faster. There is no bottom to reach.",
            "b": "Cross-entropy with a distribution is never negative. With raw logits it has no floor.",
            "c": "No number of parameters makes a cross-entropy with a distribution negative.",
            "d": "A loss is evidence only if its minimum is known. This one has none.",
        },
    ),
    Choice(
        "14.13",
        "answer_13",
        "d",
        {
            "a": "There is nothing to share: one number has all of the 1.",
            "b": "It cannot be sharper: the weight is 1 at every temperature.",
            "c": "The weight is a constant, so its gradient is 0 at every temperature.",
            "d": "The softmax of one number is 1, whatever the number and whatever T.",
        },
    ),
]
