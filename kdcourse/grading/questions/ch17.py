"""Exercise 17, language models: reverse KL, Jensen-Shannon, a loss in chunks, a cache of draws, temperatures apart."""

import math

import torch
from torch import Generator, Tensor, rand, randn, tensor

from ..spec import Choice, Function, Number, Order, Probe, Question, Switch
from .sides import cold_sides


def _reverse_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_logits": tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]),
        "teacher_logits": tensor([[2.0, 1.5, -1.0], [0.0, 1.0, 3.0]]),
    }
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    for tokens, vocabulary, T in ((4, 5, 0.5), (3, 8, 2.0), (5, 4, 3.0), (6, 3, 1.5)):
        values = {
            "student_logits": 2 * randn(tokens, vocabulary, generator=generator),
            "teacher_logits": 2 * randn(tokens, vocabulary, generator=generator),
        }
        probes.append(Probe(values | {"temperature": T}))
    shifted = small | {"student_logits": small["student_logits"] + 3, "temperature": 4.0}
    why = "adding 3 to all of the student's logits must change nothing"
    far = {"student_logits": tensor([[0.0, -3000.0, 1.0]]), "teacher_logits": tensor([[1.0, 0.5, -1.0]])}
    return [*probes, Probe(shifted, like=(1, why)), Probe(far | {"temperature": 2.0}, grads=False)]


def _reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, on: frozenset[str] = frozenset()
) -> Tensor:
    T = temperature
    student = student_logits.detach() if "student_cut" in on else student_logits
    teacher = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    student = student if {"cold", "cold_student"} & on else student / T
    teacher = teacher if {"cold", "cold_teacher"} & on else teacher / T
    if "underflow" in on:
        log_q, log_p = student.softmax(-1).log(), teacher.softmax(-1).log()
    else:
        log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    if "forward" in on:
        log_q, log_p = log_p, log_q
    terms = log_q.exp() * ((0 if "cross_entropy" in on else log_q) - log_p)
    loss = terms.mean(-1) if "mean_vocabulary" in on else terms.sum(-1)
    loss = loss * (T**2 if "T2" in on else 1)
    return loss.mean() if "mean_all" in on else loss


_TOKEN = "Leave the axis of the tokens alone."

_REVERSE_SWITCHES = {
    "forward": Switch(
        "this is the forward KL, KL(teacher ‖ student)",
        "Whose probabilities weigh the difference of the logarithms?",
        "q (log q - log p), with q the student's.",
    ),
    "student_cut": Switch(
        "the gradient is 0: the student is cut off, or the weights q are, and Σ q ∇ log q is 0 without them",
        "The value is right. Which of your two q need a gradient?",
        "Only the teacher is detached.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_logits.detach().",
    ),
    "cross_entropy": Switch(
        "the term q log q is missing; what is left is least for a student that says one token and no other",
        "What value does a perfect copy of the teacher get?",
        "q (log q - log p), summed over the vocabulary.",
        ("underflow",),
    ),
    "mean_vocabulary": Switch(
        "the vocabulary is averaged, not summed",
        "Which weights does an expectation under the student use? Is there a 1/vocabulary among them?",
        "Sum over the vocabulary.",
    ),
    "T2": Switch(
        "the factor T² is left in; this question asks for the divergence alone",
        "Twice the logits and twice T: should your value change?",
        "KL of the two distributions at T, nothing more.",
    ),
    **cold_sides(),
    "underflow": Switch(
        "the logarithm is taken of a softmax; where that is 0 in float32, the loss is no number",
        "What is log(0), and what is 0 times that?",
        "log_softmax(-1), from which q is log_q.exp().",
    ),
    "mean_all": Switch(
        "the tokens are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to leave out padding?",
        _TOKEN,
    ),
}  # fmt: skip


def _jsd_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_logits": tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]),
        "teacher_logits": tensor([[2.0, 1.5, -1.0], [0.0, 1.0, 3.0]]),
    }
    probes = [Probe(small | {"beta": beta}) for beta in (0.5, 0.2)]
    for tokens, vocabulary, beta in ((4, 5, 0.8), (3, 8, 0.1), (5, 4, 0.7), (6, 3, 0.35)):
        values = {
            "student_logits": 2 * randn(tokens, vocabulary, generator=generator),
            "teacher_logits": 2 * randn(tokens, vocabulary, generator=generator),
        }
        probes.append(Probe(values | {"beta": beta}))
    shifted = small | {"student_logits": small["student_logits"] + 3, "beta": 0.2}
    return [*probes, Probe(shifted, like=(1, "adding 3 to all of the student's logits must change nothing"))]


def _jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, beta: float, on: frozenset[str] = frozenset()
) -> Tensor:
    teacher = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    log_q, log_p = student_logits.log_softmax(-1), teacher.log_softmax(-1)
    share = 0.5 if "even_mixture" in on else 1 - beta if "mixture_swapped" in on else beta
    if on & {"logits_mixed", "logs_mixed"}:
        log_m = share * log_p + (1 - share) * log_q
        log_m = log_m.log_softmax(-1) if "logits_mixed" in on else log_m
    else:
        log_m = torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))

    def kl(log_a: Tensor) -> Tensor:
        terms = log_m.exp() * (log_m - log_a) if "reversed" in on else log_a.exp() * (log_a - log_m)
        return terms.mean(-1) if "mean_vocabulary" in on else terms.sum(-1)

    weight = 0.5 if "even_weights" in on else 1 - beta if "weights_swapped" in on else beta
    loss = weight * kl(log_p) + (1 - weight) * kl(log_q)
    return loss.mean() if "mean_all" in on else loss


_WEIGHTS = "beta * KL(p ‖ m) + (1 - beta) * KL(q ‖ m)."
_MIXTURE = "m = beta * p + (1 - beta) * q, with probabilities."

_JSD_SWITCHES = {
    "weights_swapped": Switch(
        "the two divergences have each other's weights: beta belongs to the teacher's",
        "At beta = 0.9, which of the two divergences should count most?",
        _WEIGHTS,
        ("even_weights",),
    ),
    "mixture_swapped": Switch(
        "the mixture has the student's and the teacher's share exchanged: beta is the teacher's",
        "At beta = 0.9, to which of the two should the mixture be close?",
        _MIXTURE,
        ("even_mixture",),
    ),
    "even_weights": Switch(
        "the two divergences are averaged evenly; beta does not weigh them",
        "Where does beta stand, besides in the mixture?",
        _WEIGHTS,
    ),
    "even_mixture": Switch(
        "the mixture is half teacher, half student, whatever beta",
        "At beta = 0.9, to which of the two should the mixture be close?",
        _MIXTURE,
    ),
    "logits_mixed": Switch(
        "the logits are mixed, not the probabilities",
        "Two networks are certain of different tokens. What does their mixture look like?",
        _MIXTURE,
        ("logs_mixed",),
    ),
    "logs_mixed": Switch(
        "the logarithms of the probabilities are mixed; what comes out does not even sum to 1",
        "What is the sum of your mixture over the vocabulary?",
        _MIXTURE,
        ("reversed",),
    ),
    "reversed": Switch(
        "both divergences are the wrong way round: they start from the mixture",
        "Whose probabilities weigh the difference of the logarithms?",
        "p (log p - log m) and q (log q - log m). F.kl_div takes them in another order.",
    ),
    "mean_vocabulary": Switch(
        "the vocabulary is averaged, not summed",
        "Which weights does an expectation use? Is there a 1/vocabulary among them?",
        "Sum over the vocabulary.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_logits.detach().",
    ),
    "mean_all": Switch(
        "the tokens are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to leave out padding?",
        _TOKEN,
    ),
}  # fmt: skip


def _chunk_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_hidden": tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [2.0, 1.0]]),
        "student_weight": tensor([[1.0, 0.0], [0.5, -1.0], [0.0, 1.0]]),
        "teacher_hidden": tensor([[1.0], [-2.0], [0.5], [3.0]]),
        "teacher_weight": tensor([[1.0], [0.5], [-1.0]]),
        "mask": tensor([True, True, True, True]),
    }
    probes = [Probe(small | {"chunk": chunk}) for chunk in (2, 3)]
    for kept, width, wider, vocabulary, chunk in ((7, 3, 4, 5, 3), (6, 4, 2, 4, 2), (5, 2, 3, 6, 5), (9, 3, 3, 3, 4)):
        tokens = kept + 3
        mask = torch.ones(tokens, dtype=torch.bool)
        mask[[1, 4, tokens - 1]] = False  # within the text and at its end, and never a whole chunk
        values = {
            "student_hidden": randn(tokens, width, generator=generator),
            "student_weight": randn(vocabulary, width, generator=generator),
            "teacher_hidden": 1.5 * randn(tokens, wider, generator=generator),
            "teacher_weight": randn(vocabulary, wider, generator=generator),
            "mask": mask,
        }
        probes.append(Probe(values | {"chunk": chunk}))
    return probes


def _chunk_parts(
    student_hidden: Tensor, student_weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, mask: Tensor,
    chunk: int, on: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    if "teacher_gradient" not in on:
        teacher_hidden, teacher_weight = teacher_hidden.detach(), teacher_weight.detach()
    weight = student_weight.detach() if "matrix_cut" in on else student_weight
    tokens, real = len(mask), int(mask.sum())
    counts = torch.ones_like(mask) if "padding_counted" in on else mask
    if not on & {"padding_counted", "padding_in_chunks"}:
        student_hidden, teacher_hidden, counts = student_hidden[mask], teacher_hidden[mask], counts[mask]
    log_q = (student_hidden @ weight.T).log_softmax(-1)
    log_p = (teacher_hidden @ teacher_weight.T).log_softmax(-1)
    if "reversed" in on:
        log_p, log_q = log_q, log_p
    terms = log_p.exp() * ((0 if "cross_entropy" in on else log_p) - log_q)
    each = (terms.mean(-1) if "mean_vocabulary" in on else terms.sum(-1)) * counts
    pieces = list(zip(each.split(chunk), counts.split(chunk), strict=True))
    if "last_dropped" in on and len(pieces[-1][0]) < chunk:
        pieces = pieces[:-1]
    if "sums" in on:
        return torch.stack([piece.sum() for piece, _ in pieces])
    if on & {"own_means", "mean_of_means"}:
        means = torch.stack([piece.sum() / own.sum() for piece, own in pieces])
        return means if "own_means" in on else means / len(means)
    return torch.stack([piece.sum() for piece, _ in pieces]) / (
        tokens if on & {"all_tokens", "padding_counted"} else real
    )


_DIVIDE = "Sum in each chunk, and divide once, by mask.sum()."
_DROP = "hidden[mask] first, then split(chunk)."

_CHUNK_SWITCHES = {
    "mean_of_means": Switch(
        "each chunk is averaged and the chunks are averaged, so a token of a short chunk counts more",
        "Five tokens in chunks of four: what does the last token weigh?",
        _DIVIDE,
        ("own_means", "sums", "all_tokens"),
    ),
    "own_means": Switch(
        "each chunk is divided by its own number of tokens; the sum then grows with the number of chunks",
        "Does the sum of your parts stay the same with smaller chunks?",
        _DIVIDE,
        ("sums", "all_tokens"),
    ),
    "sums": Switch(
        "the sums are not divided by the number of tokens",
        "How does the sum of your parts change with twice the text?",
        _DIVIDE,
        ("all_tokens",),
    ),
    "all_tokens": Switch(
        "the sum is divided by all tokens, also by those that do not count",
        "Add padding to a batch. What happens to your loss?",
        _DIVIDE,
        ("padding_counted",),
    ),
    "padding_counted": Switch(
        "the mask is not used: padding is part of the loss",
        "Change a hidden state that is masked. Does your loss change?",
        _DROP,
        ("padding_in_chunks",),
    ),
    "padding_in_chunks": Switch(
        "the padding was cut into chunks too, and takes room there that it should not",
        "How many tokens that count are in your first chunk, where one of the first is masked?",
        _DROP,
    ),
    "last_dropped": Switch(
        "the last chunk is lost where it is shorter than the others",
        "Seven tokens in chunks of three: how many numbers do you return?",
        "split(chunk) keeps the shorter last one.",
    ),
    "reversed": Switch(
        "this is the reverse KL; KL(teacher ‖ student) is asked for",
        "Whose probabilities weigh the difference of the logarithms?",
        "p (log p - log q), with p the teacher's.",
    ),
    "cross_entropy": Switch(
        "this is the cross-entropy; the teacher's entropy is not subtracted",
        "The gradient is right. What value does a perfect copy of the teacher get?",
        "p (log p - log q), summed over the vocabulary.",
    ),
    "mean_vocabulary": Switch(
        "the vocabulary is averaged, not summed",
        "Which weights does an expectation under the teacher use? Is there a 1/vocabulary among them?",
        "Sum over the vocabulary.",
    ),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "Detach the teacher's hidden states and its matrix.",
    ),
    "matrix_cut": Switch(
        "the student's output matrix is cut off: only its hidden states learn",
        "The value is right. What makes logits of the student's hidden states, and does it learn?",
        "Detach what is the teacher's, and nothing else.",
    ),
}  # fmt: skip


def _draws_probes(generator: Generator) -> list[Probe]:
    small = tensor([[1.0, 0.0, -1.0, 0.5], [0.5, 2.0, 0.0, -1.0]])
    probes = [
        Probe({"student_logits": small, "ids": tensor([[0, 2], [3, 1]])}),
        Probe({"student_logits": small, "ids": tensor([[0, 2, 0], [3, 3, 1]])}),
    ]
    for tokens, vocabulary, draws in ((4, 6, 5), (3, 9, 4), (5, 5, 8), (6, 7, 3)):
        ids = torch.randint(vocabulary, (tokens, draws), generator=generator)
        ids[0, -1] = ids[0, 0]  # at least one id twice
        student = 2 * randn(tokens, vocabulary, generator=generator) + rand(1, generator=generator)
        probes.append(Probe({"student_logits": student, "ids": ids}))
    shifted = {"student_logits": small + 3, "ids": tensor([[0, 2, 0], [3, 3, 1]])}
    return [*probes, Probe(shifted, like=(1, "adding 3 to all of the student's logits must change nothing"))]


def _draws_loss(student_logits: Tensor, ids: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    if "over_cache" in on:
        log_q = student_logits.gather(-1, ids).log_softmax(-1)
    else:
        log_q = (student_logits if "no_softmax" in on else student_logits.log_softmax(-1)).gather(-1, ids)
    draws = ids.shape[-1]
    weights = torch.full_like(log_q, 1 / draws)
    earlier = torch.ones(draws, draws).tril(-1).bool()
    first = ~((ids[..., :, None] == ids[..., None, :]) & earlier).any(-1)
    if on & {"repeats_lost", "distinct_mean"}:
        weights = weights * first
    if "distinct_mean" in on:
        weights = weights / weights.sum(-1, keepdim=True)
    if "sum" in on:
        weights = weights * draws
    if "log_of_mean" in on:
        loss = -(weights * log_q.exp()).sum(-1).log()
    else:
        loss = -(weights * (log_q.exp() if "no_log" in on else log_q)).sum(-1)
    loss = loss / (student_logits.shape[-1] if "mean_vocabulary" in on else 1)
    return loss.mean() if "mean_all" in on else loss


_FULL = "student_logits.log_softmax(-1) over the whole vocabulary, then gather(-1, ids)."
_COUNT = "Mean over the draws: an id that is there twice counts twice."

_DRAWS_SWITCHES = {
    "over_cache": Switch(
        "the softmax is over the drawn tokens only, so what was not drawn costs the student nothing",
        "Raise the student's logit of a token that was not drawn. Does your loss change?",
        _FULL,
        ("repeats_lost", "distinct_mean", "log_of_mean", "no_log", "no_softmax"),
    ),
    "no_softmax": Switch(
        "there is no softmax: the logits themselves are averaged",
        "What happens to your loss when all logits grow by 3?",
        _FULL,
        ("log_of_mean", "no_log"),
    ),
    "repeats_lost": Switch(
        "a token that was drawn twice counts once, and the weights of a row do not sum to 1",
        "What is left of the weights if all draws are the same token?",
        _COUNT,
        ("distinct_mean",),
    ),
    "distinct_mean": Switch(
        "each token that was drawn counts the same, however often it was drawn",
        "A token is drawn nine times of ten. Which weight does it get?",
        _COUNT,
        ("sum",),
    ),
    "sum": Switch(
        "the draws are summed, not averaged",
        "How does your loss change when twice as many are drawn?",
        _COUNT,
    ),
    "mean_vocabulary": Switch(
        "the loss is divided by the vocabulary",
        "How does your loss change when the vocabulary grows by tokens that no one says?",
        "The weights of a row sum to 1: sum over the vocabulary, or mean over the draws.",
    ),
    "log_of_mean": Switch(
        "this is the logarithm of a mean; the mean of logarithms is asked for",
        "Is your loss infinite where the student calls one of the drawn tokens impossible?",
        "First the logarithm, then the mean over the draws.",
        ("no_log",),
    ),
    "no_log": Switch(
        "the logarithm is missing",
        "What should it cost to call a drawn token impossible?",
        _FULL,
    ),
    "mean_all": Switch(
        "the tokens are averaged; one number for each is asked for",
        "What shape comes out, if the caller is to leave out padding?",
        _TOKEN,
    ),
}  # fmt: skip

QUESTIONS: list[Question] = [
    Choice(
        "17.1",
        "answer_1",
        "b",
        {
            "a": "Exchanged: forward KL is dear where the teacher goes alone, so it leaves out neither reply.",
            "b": "Forward KL makes it dear to leave out a reply, reverse KL to say what the teacher never says.",
            "c": "True for a student that can copy. This one cannot, so what each loss finds dear decides.",
            "d": "Half of what the teacher says would be left out, and forward KL makes that dear.",
        },
    ),
    Function(
        "17.2",
        "reverse_kl",
        _reverse_probes,
        _reverse_kl,
        _REVERSE_SWITCHES,
        grads=("student_logits", "teacher_logits"),
    ),
    Function(
        "17.3",
        "jensen_shannon",
        _jsd_probes,
        _jensen_shannon,
        _JSD_SWITCHES,
        grads=("student_logits", "teacher_logits"),
    ),
    Function(
        "17.4",
        "chunk_parts",
        _chunk_probes,
        _chunk_parts,
        _CHUNK_SWITCHES,
        grads=("student_hidden", "student_weight", "teacher_hidden", "teacher_weight"),
    ),
    Function("17.5", "draws_loss", _draws_probes, _draws_loss, _DRAWS_SWITCHES, grads=("student_logits",)),
    Number(
        "17.6",
        "answer_6",
        2 / 3,
        "0.6 / 0.9. More data does not help: the cache says this of every token.",
        [
            (
                0.6,
                Switch(
                    "this is the teacher's own probability; the cache says something else",
                    "What do the two weights of the cache sum to, after they were set to sum to 1?",
                    "0.6 of what is left.",
                ),
            ),
            (
                0.9,
                Switch(
                    "this is what the two hold together, before they are set to sum to 1",
                    "Which share of that is the first one's?",
                    "0.6 of what is left.",
                ),
            ),
            (
                0.5,
                Switch(
                    "the two are kept with their probabilities; they do not count the same",
                    "Is the first of them still more probable than the second?",
                    "0.6 of what is left.",
                ),
            ),
        ],
    ),
    Number(
        "17.7",
        "answer_7",
        0.36 / 0.46,
        "A token comes with p and is weighted with p: the student learns p² / Σ p².",
        [
            (
                0.6,
                Switch(
                    "this is what draws of equal weight teach; here each is weighted with its probability again",
                    "How often is the first token drawn, and what does it count each time?",
                    "p², set to sum to 1.",
                ),
            ),
            (
                0.36,
                Switch(
                    "this is the first one's weight; the student's probabilities sum to 1",
                    "What do the three weights sum to?",
                    "p², set to sum to 1.",
                ),
            ),
            (
                2 / 3,
                Switch(
                    "this is the answer of 17.6; here every token can be drawn",
                    "How often is the third token drawn, and what does it count?",
                    "p², set to sum to 1.",
                ),
            ),
        ],
    ),
    Number(
        "17.8",
        "answer_8",
        3.2768,
        "8 x 1,024 x 50,000 x 4 bytes, twice. The log-probabilities and the gradient come on top.",
        [
            (
                1.6384,
                Switch(
                    "this is half of it: one network instead of two, or two bytes a number instead of four",
                    "Who has logits, and how many bytes has a float32?",
                    "tokens x vocabulary x bytes, twice.",
                ),
            ),
            (
                3.2768 * 8,
                Switch(
                    "these are bits; bytes are asked for",
                    "How many bytes has a number of 32 bits?",
                    "tokens x vocabulary x bytes, twice.",
                ),
            ),
            (
                3.2768 / 4,
                Switch(
                    "this is a quarter of it: are the bytes missing?",
                    "How many bytes has a float32?",
                    "tokens x vocabulary x bytes, twice.",
                ),
            ),
            (
                3.2768 / 8,
                Switch(
                    "this is an eighth of it: one text instead of eight, or one network and no bytes",
                    "How many tokens has the batch?",
                    "tokens x vocabulary x bytes, twice.",
                ),
            ),
            (
                3.2768e9 / 2**30,
                Switch(
                    "these are GiB, of 2³⁰ bytes; the question says what a GB is here",
                    "By how many bytes did you divide?",
                    "1 GB is 10⁹ bytes here.",
                ),
            ),
        ],
    ),
    Order(
        "17.9",
        "answer_9",
        ("e", "b", "d", "a", "c"),
        (
            "the student needs a prompt to go on from.",
            "in on-policy distillation the text is the student's own, so it is written before anything is compared.",
            "a divergence compares two distributions at a token, and these come from the logits.",
            "the step follows the gradient of that mean.",
        ),
    ),
    Choice(
        "17.10",
        "answer_10",
        "b",
        {
            "a": "No logit in the loss is divided: after a given prefix the targets are what they were.",
            "b": "It visits prefixes that it would hardly reach at 1. What the teacher says after each is as before.",
            "c": "That would be a distillation temperature without its factor T². No logit in the loss is divided.",
            "d": "How it is used is a third temperature, chosen later. Its targets were not divided by 4.",
        },
    ),
    Choice(
        "17.11",
        "answer_11",
        "c",
        {
            "a": "More seeds narrow the interval of a comparison that stays unfair.",
            "b": "Worth knowing, but it says how both predict text. The claim is about samples.",
            "c": "It writes safer and less varied text. Any model does that when it is sampled colder, for nothing.",
            "d": "Another judge may well see the same: safer text is likelier by most models.",
        },
    ),
    Choice(
        "17.12",
        "answer_12",
        "a",
        {
            "a": "Divided by beta it comes close to forward KL, so a learning rate 100 times as large would do.",
            "b": "Reverse KL is at the other end, at beta near 1, and there divided by 1 - beta.",
            "c": "Its gradient is small, not cut off: divided by beta it is close to that of forward KL.",
            "d": "float32 keeps seven digits of small numbers too.",
        },
    ),
    Choice(
        "17.13",
        "answer_13",
        "a",
        {
            "a": "Each of the 16 got more than it should and all others nearly nothing: the student is too sure.",
            "b": "A T below 1 would make it surer still.",
            "c": "The teacher is; what the cache taught is not the teacher's distribution.",
            "d": "It depends on how the probabilities are wrong, not on the first choice, and that is known here.",
        },
    ),
    Number(
        "17.14",
        "answer_14",
        0.25,
        "1/T²: once from the softmax's slope, once from how close both distributions come. That is what T² undoes.",
        [
            (
                0.5,
                Switch(
                    "T acts twice: the slope is divided by T, and so is the difference of the two distributions",
                    "What becomes of q - p itself when T doubles?",
                    "1/T².",
                ),
            ),
            (
                1.0,
                Switch(
                    "this holds with the factor T², which 17.2 leaves out",
                    "What is the factor T² for?",
                    "1/T².",
                ),
            ),
            (
                4.0,
                Switch(
                    "the gradient shrinks with T; it does not grow",
                    "What do both distributions look like at a very high T?",
                    "1/T².",
                ),
            ),
            (
                1 / 16,
                Switch(
                    "T doubles; it does not become four times as large",
                    "What is (4/8)²?",
                    "1/T².",
                ),
            ),
        ],
    ),
]
