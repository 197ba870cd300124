"""Exercise 16, translation: a loss without padding, rows for the sequence level, what no memory mixes."""

import torch
from torch import Generator, Tensor, rand, randint, randn, tensor

from ..spec import Choice, Function, Number, Order, Probe, Question, Switch
from .sides import cold_sides

PAD, BOS, EOS = 0, 1, 2  # as in the notebook


def _word_probes(generator: Generator) -> list[Probe]:
    small = {
        "student_logits": tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], [[0.5, 0.0], [0.0, 4.0], [1.0, 2.0]]]),
        "teacher_logits": tensor([[[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]]),
        "mask": tensor([[True, True, True], [True, False, False]]),
    }
    probes = [Probe(small | {"temperature": T}) for T in (1.0, 4.0)]
    for lengths, vocabulary, T in (([5, 2, 3], 4, 2.0), ([1, 4], 6, 0.5), ([6, 2, 4, 3], 3, 3.0), ([2, 3, 1], 5, 1.5)):
        tokens = 7
        logits = 1.5 * randn(2, len(lengths), tokens, vocabulary, generator=generator)
        mask = torch.arange(tokens) < tensor(lengths)[:, None]
        values = {"student_logits": logits[0], "teacher_logits": logits[1], "mask": mask}
        probes.append(Probe(values | {"temperature": T}))
    shifted = small | {"student_logits": small["student_logits"] + 3, "temperature": 4.0}
    longer = {name: torch.cat([value, value.new_zeros(2, 2, *value.shape[2:])], 1) for name, value in small.items()}
    longer["student_logits"][:, 3:] = randn(2, 2, 2, generator=generator)
    return [
        *probes,
        Probe(longer | {"temperature": 4.0}, like=(1, "two more padded places must change nothing")),
        Probe(shifted, like=(1, "adding 3 to all of the student's logits must change nothing")),
    ]


def _word_level_loss(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, temperature: float, on: frozenset[str] = frozenset()
) -> Tensor:
    T = temperature
    teacher = teacher_logits if "teacher_gradient" in on else teacher_logits.detach()
    log_q = (student_logits if on & {"cold", "cold_student"} else student_logits / T).log_softmax(-1)
    log_p = (teacher if on & {"cold", "cold_teacher"} else teacher / T).log_softmax(-1)
    if "reversed" in on:
        log_p, log_q = log_q, log_p
    terms = log_p.exp() * ((0 if "cross_entropy" in on else log_p) - log_q)
    each = terms.mean(-1) if "mean_vocabulary" in on else terms.sum(-1)
    each = each * (1 if "no_T2" in on else T**2)
    kept = ~mask if "inverted" in on else torch.ones_like(mask) if on & {"mask_unused", "padding_in_sum"} else mask
    sums = (each * kept).sum(-1)
    if "mean_of_sentences" in on:
        return (sums / mask.sum(-1)).mean()
    if "per_sentence" in on:
        return sums.mean()
    if "sum" in on:
        return sums.sum()
    return sums.sum() / (mask.numel() if "all_places" in on else mask.sum() if "padding_in_sum" in on else kept.sum())


_MEANS = (
    "mask_unused", "padding_in_sum", "all_places", "mean_of_sentences", "per_sentence", "sum", "inverted",
)  # fmt: skip


def _others(name: str, among: tuple[str, ...]) -> tuple[str, ...]:
    """Ways to do one thing wrong: one at a time."""
    return tuple(way for way in among if way != name)


_REAL = "each[mask].mean(), or the sum over the real words divided by mask.sum()."
_WORD_SWITCHES = {
    "mask_unused": Switch(
        "the mask is not used: padding is in the sum, and in the number that divides",
        "Change the logits of a padded place. Does your loss change?",
        _REAL,
        _others("mask_unused", _MEANS),
    ),
    "padding_in_sum": Switch(
        "the padding is in the sum, though the number that divides leaves it out",
        "Change the logits of a padded place. Does your loss change?",
        _REAL,
        _others("padding_in_sum", _MEANS),
    ),
    "all_places": Switch(
        "the sum leaves the padding out, but all places divide it",
        "One long sentence comes into the batch, and the others are padded to it. What happens to your loss?",
        _REAL,
        _others("all_places", _MEANS),
    ),
    "mean_of_sentences": Switch(
        "this is the mean of the sentences' means, in which a word of a short sentence counts more",
        "A sentence of one word and a sentence of nine: what share of your loss has the one word?",
        _REAL,
        _others("mean_of_sentences", _MEANS),
    ),
    "per_sentence": Switch(
        "the sum is divided by the number of sentences, as batchmean does, not by the number of words",
        "The same words, in sentences twice as long. What happens to your loss?",
        _REAL,
        _others("per_sentence", _MEANS),
    ),
    "sum": Switch(
        "the real words are summed, not averaged",
        "What happens to your loss with twice as many sentences?",
        _REAL,
        _others("sum", _MEANS),
    ),
    "inverted": Switch(
        "the mask is the wrong way round: only the padding is in the mean",
        "What does True stand for in this mask?",
        _REAL,
        _others("inverted", _MEANS),
    ),
    "no_T2": Switch(
        "the factor T² is missing",
        "What happens to the gradient when T doubles?",
        "temperature**2 times the mean.",
    ),
    "reversed": Switch(
        "this is KL(student ‖ teacher)",
        "Whose probabilities weigh the difference of the logarithms?",
        "p (log p - log q), with p the teacher's. F.kl_div takes log q first.",
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
    **cold_sides(),
    "teacher_gradient": Switch(
        "gradients flow into the teacher",
        "Which of the two networks is finished?",
        "teacher_logits.detach().",
    ),
}  # fmt: skip


def _row_probes(generator: Generator) -> list[Probe]:
    tiny = {
        "candidates": tensor([[[5, 6, EOS], [4, EOS, 7]]]),
        "log_probs": tensor([[-1.5, -1.2]]),
        "references": tensor([[8, EOS, PAD]]),
    }
    three = {  # the best is the last, the shortest, the middle one; a word's best and the worst are others
        "candidates": tensor(
            [
                [[3, 4, EOS, 9, 5], [6, 7, 8, EOS, 3], [9, 8, 7, 6, EOS]],
                [[5, 5, 6, EOS, EOS], [7, EOS, 4, 4, 3], [8, 9, 6, 7, EOS]],
                [[4, 3, 8, 9, EOS], [9, 3, EOS, 7, EOS], [6, EOS, 5, 8, 4]],
            ]
        ),
        "log_probs": tensor([[-2.0, -3.0, -1.5], [-2.2, -1.0, -1.4], [-1.6, -1.2, -2.5]]),
        "references": tensor([[4, 9, EOS, PAD, PAD], [3, 3, 7, 8, EOS], [5, 6, 8, EOS, PAD]]),
    }
    probes = [Probe(tiny), Probe(three)]
    for batch, beams, tokens in ((4, 3, 6), (3, 5, 5), (5, 4, 7)):
        words = randint(3, 12, (batch, beams + 1, tokens), generator=generator)
        length = randint(tokens, words.shape[:2], generator=generator)  # words before EOS
        length[0, :-1] = tokens - 1  # a row that ends in the last place, whatever is chosen
        words.scatter_(-1, length[..., None], EOS)
        after = torch.arange(tokens) > length[:, -1:]
        values = {
            "candidates": words[:, :-1],
            "log_probs": -0.5 - 3 * rand(batch, beams, generator=generator),
            "references": words[:, -1].masked_fill(after, PAD),
        }
        probes.append(Probe(values))
    return probes


def _training_rows(
    candidates: Tensor, log_probs: Tensor, references: Tensor, on: frozenset[str] = frozenset()
) -> Tensor:
    if "normalised" in on:
        log_probs = log_probs / (1 + (candidates == EOS).int().argmax(-1))
    chosen = log_probs.argmin(-1) if "worst" in on else log_probs.argmax(-1)
    best = candidates[torch.arange(len(candidates)), 0 if "first" in on else chosen]
    best = references if "reference_kept" in on else best

    def cleaned(rows: Tensor) -> Tensor:
        end = (rows == EOS).int().argmax(-1, keepdim=True)
        place = torch.arange(rows.shape[-1])
        if "rubbish_kept" not in on:
            rows = rows.masked_fill(place > end, PAD)
        return rows.masked_fill(place == end, PAD) if "end_lost" in on else rows

    targets = cleaned(best)
    seen = references if "reference_inputs" in on else targets
    front = seen.new_full((len(seen), 1), PAD if "pad_in_front" in on else BOS)
    front = seen[:, -1:] if "rolled" in on else front
    inputs = torch.cat([front, seen[:, :-1]], 1)
    inputs = seen if "no_shift" in on else inputs
    if "ahead" in on:
        inputs = torch.cat([seen[:, 1:], torch.full_like(front, PAD)], 1)
    return torch.stack([targets, inputs] if "swapped" in on else [inputs, targets])


_CHOSEN = ("first", "worst", "normalised", "reference_kept")
_MOVED = ("no_shift", "ahead", "pad_in_front", "rolled")
_BEST = "candidates[torch.arange(batch), log_probs.argmax(-1)]."
_MOVE = "F.pad(targets, (1, -1), value=BOS)."

_ROW_SWITCHES = {
    "first": Switch(
        "the first candidate is taken; they are in no order",
        "Which of the candidates does the teacher find most probable?",
        _BEST,
        _others("first", _CHOSEN),
    ),
    "worst": Switch(
        "the least probable candidate is taken",
        "Which of -1 and -2 is the logarithm of more?",
        _BEST,
        _others("worst", _CHOSEN),
    ),
    "normalised": Switch(
        "the log-probabilities are divided by the length; this question asks for the most probable candidate",
        "Log-probabilities -1 and -2, and the second candidate is three times as long. Which one did you take?",
        _BEST,
        _others("normalised", _CHOSEN),
    ),
    "reference_kept": Switch(
        "the references are the targets: nothing of the teacher is in the student's data",
        "Where does the student meet its teacher, if not in the targets?",
        _BEST,
        ("reference_inputs", "rubbish_kept", *_others("reference_kept", _CHOSEN)),
    ),
    "reference_inputs": Switch(
        "the inputs are made from the references, the targets from the teacher's sentence",
        "After which words is the student to say the third word of the target?",
        "The inputs are the targets, moved.",
    ),
    "no_shift": Switch(
        "the inputs are not moved: the decoder sees the very word that it is asked for",
        "Which words has the decoder seen when it is asked for the first one?",
        _MOVE,
        ("swapped", *_others("no_shift", _MOVED)),
    ),
    "ahead": Switch(
        "the inputs are moved the wrong way: the decoder sees a word later than the one that it is asked for",
        "Which words has the decoder seen when it is asked for the first one?",
        _MOVE,
        _others("ahead", _MOVED),
    ),
    "pad_in_front": Switch(
        "PAD stands in front of the inputs, where BOS belongs",
        "With which mark does a translation begin?",
        _MOVE,
        _others("pad_in_front", _MOVED),
    ),
    "rolled": Switch(
        "the last target has come round to the front, where BOS belongs",
        "What does torch.roll do with what falls off?",
        _MOVE,
        ("end_lost", *_others("rolled", _MOVED)),
    ),
    "end_lost": Switch(
        "EOS is lost, so the student never learns to stop",
        "How does the student know that its sentence is finished?",
        "EOS is a target; only what comes after it is padding.",
    ),
    "rubbish_kept": Switch(
        "what stands after the first EOS is still there",
        "What will the student learn to say after the end?",
        "PAD after the first EOS: where the EOS so far are more than the one at this place.",
    ),
    "swapped": Switch(
        "inputs and targets have changed places",
        "Which of the two begins with BOS?",
        "torch.stack([inputs, targets]).",
    ),
}  # fmt: skip


def _mix_probes(generator: Generator) -> list[Probe]:
    skewed = {"weights": tensor([0.8, 0.2]), "translations": tensor([[0, 0, 0], [0, 1, 1]])}
    two = {"weights": tensor([0.6, 0.4]), "translations": tensor([[0, 1, 2], [1, 1, 0]])}
    even = {"weights": tensor([0.5, 0.5]), "translations": tensor([[0, 0, 0], [1, 1, 1]])}
    vote = {
        "weights": tensor([0.4, 0.32, 0.28]),
        "translations": tensor([[0, 0, 0, 0], [1, 1, 1, 1], [2, 1, 2, 1]]),
    }
    probes = [Probe(skewed), Probe(two), Probe(vote)]
    for count, words, tokens in ((3, 2, 4), (4, 3, 3), (5, 2, 5), (3, 3, 3)):
        codes = torch.randperm(words**tokens, generator=generator)[:count]
        weights = 0.2 + rand(count, generator=generator)
        values = {
            "weights": weights / weights.sum(),
            "translations": codes[:, None] // words ** torch.arange(tokens) % words,
        }
        probes.append(Probe(values))
    return [*probes, Probe(even)]


def _mixed_share(weights: Tensor, translations: Tensor, on: frozenset[str] = frozenset()) -> Tensor:
    if "equal" in on:
        weights = torch.full_like(weights, 1 / len(weights))
    same = (translations[:, None] == translations).to(weights.dtype)  # [of, others, tokens]
    if "pooled" in on:
        same = (translations[:, None, :, None] == translations[:, None]).to(weights.dtype).mean(-1)
    share = (same * weights[:, None]).sum(1)  # of each word of each translation, at its place
    if "one_word" in on:
        before = torch.cat([torch.ones_like(same[..., :1]), same[..., :-1]], -1)
        share = (same * before * weights[:, None]).sum(1) / (before * weights[:, None]).sum(1)
    q = share.mean(-1) if "averaged" in on else share.prod(-1)
    if "greedy" in on:
        likeliest = translations.gather(0, share.argmax(0, keepdim=True))
        q = (translations == likeliest).all(-1).to(weights.dtype)
    if "best_only" in on:
        valid = q[weights.argmax()]
    else:
        valid = (q * weights).sum() if "weighed_again" in on else q.sum()
    return valid if "valid" in on else 1 - valid


_PLACE = "At a place, a word gets the sum of the weights of the translations that have it there."
_PRODUCT = "Multiply over the places."
_ADD = "1 less the sum of the student's probabilities of all translations."

_MIX_SWITCHES = {
    "equal": Switch(
        "all translations count the same; the teacher's weights are not used",
        "The teacher writes the first translation in 99 of 100 cases. How much is mixed?",
        _PLACE,
        ("greedy", "best_only", "weighed_again"),
    ),
    "pooled": Switch(
        "the places are thrown together; the student knows at which place it is",
        "All translations begin with the same word. Which probability does it get at the first place?",
        _PLACE,
        ("one_word", "greedy"),
    ),
    "one_word": Switch(
        "this student remembers its last word; the one in question remembers nothing",
        "May what it gives a word depend on the word before?",
        _PLACE,
        ("greedy", "averaged"),
    ),
    "averaged": Switch(
        "the places are averaged, not multiplied",
        "Two places, two coins: how probable are two heads?",
        _PRODUCT,
        ("greedy",),
    ),
    "greedy": Switch(
        "this is what the likeliest words make; here the words are drawn",
        "Can your result be anything but 0 and 1?",
        _PRODUCT,
        ("best_only", "weighed_again"),
    ),
    "best_only": Switch(
        "the teacher's best translation only counts as a translation",
        "The student writes the second translation. Is that none of them?",
        _ADD,
        ("weighed_again",),
    ),
    "weighed_again": Switch(
        "the student's probabilities are weighed with the teacher's again",
        "Two translations of one word each: can a student mix them? And what do you get?",
        _ADD,
    ),
    "valid": Switch(
        "this is the share that is a translation; the share that is none is asked for",
        "What should come out if there is one translation only?",
        _ADD,
    ),
}  # fmt: skip

_PADDED = "Divide the sum by what belongs in the mean: 3 + 7 words."
_SURE = "Its confidence less its accuracy."

QUESTIONS: list[Question] = [
    Choice(
        "16.1",
        "answer_1",
        "d",
        {
            "a": "Then its loss on new pairs would not be 0.00.",
            "b": "A linear layer does that, and the loss says that the scores were right.",
            "c": "A teacher would be asked at the same places, and the next word would stand in the same view.",
            "d": "It read the answer. When it writes, nothing stands to the right, and that it never practised.",
        },
    ),
    Function(
        "16.2",
        "word_level_loss",
        _word_probes,
        _word_level_loss,
        _WORD_SWITCHES,
        grads=("student_logits", "teacher_logits"),
    ),
    Function("16.3", "training_rows", _row_probes, _training_rows, _ROW_SWITCHES),
    Function("16.4", "mixed_share", _mix_probes, _mixed_share, _MIX_SWITCHES),
    Number(
        "16.5",
        "answer_5",
        6.4,
        "64 places divide where 10 words should. Pad further, and it is smaller still.",
        [
            (
                10 / 64,
                Switch(
                    "this is what it is multiplied by; how many times too small is asked for",
                    "Is a half two times too small, or half a time?",
                    _PADDED,
                ),
            ),
            (
                3.2,
                Switch(
                    "two sentences are padded to 32 places each",
                    "How many places has the batch?",
                    _PADDED,
                ),
            ),
            (
                5.4,
                Switch(
                    "this compares padding with words; `.mean()` divides by all places",
                    "Do the real places divide too?",
                    _PADDED,
                ),
            ),
            (
                (32 / 3 + 32 / 7) / 2,
                Switch(
                    "this averages the two sentences' factors; the words of both are in one sum",
                    "By what is the sum of all ten divided?",
                    _PADDED,
                ),
            ),
        ],
    ),
    Choice(
        "16.6",
        "answer_6",
        "b",
        {
            "a": "The 0.9 wins the vote at each place, so the sentence is the first translation.",
            "b": "Where the second and third agree, their 0.6 outvotes the first, and elsewhere the first may win.",
            "c": "The 0.6 wins the vote at each place. Samples mix here, but not the likeliest words.",
            "d": "The first has more than half, so it wins at each place, even where the other two agree.",
        },
    ),
    Choice(
        "16.7",
        "answer_7",
        "a",
        {
            "a": "In expectation its loss is that of word level plus a constant, so the best student is the same.",
            "b": "With one sentence for each source there is nothing to mix it with.",
            "c": "What is learnt whole is still scored word by word, and this student sees none of its words.",
            "d": "The loss is, the data are not: one target at a place, or a thousand that do not agree.",
        },
    ),
    Choice(
        "16.8",
        "answer_8",
        "c",
        {
            "a": "That is what writing at a T above 1 does. This one learnt at 4 and writes at 1.",
            "b": "That is what writing at a T below 1 does. This one learnt at 4 and writes at 1.",
            "c": "Two softmaxes that agree at 4 agree at 1: both students are copies of the teacher.",
            "d": "Nothing is left to gain, so at T = 4 its softmax is the teacher's. What does it say at T = 1?",
        },
    ),
    Choice(
        "16.9",
        "answer_9",
        "b",
        {
            "a": "One unchanged output can gain more than that by another signature.",
            "b": "Two signatures, two scales. Take both outputs, score them in one way, and add a bootstrap.",
            "c": "Without upper case more words match: it is easier to get.",
            "d": "With many sentences and one signature 0.6 can be more than noise. Here the scales differ.",
        },
    ),
    Order(
        "16.10",
        "answer_10",
        ("d", "b", "c", "e", "a"),
        (
            "a teacher that has learnt nothing has nothing to say.",
            "the teacher's translations are what the students learn.",
            "there is nothing to choose from before there are students.",
            "what is chosen with the test set in view looks better than it is.",
        ),
    ),
    Choice(
        "16.11",
        "answer_11",
        "c",
        {
            "a": "References are what it learns, so their NLL is at least what it was asked for.",
            "b": "It learns after references, from a teacher that spreads its probability as they are spread.",
            "c": "It learns to be sure of the teacher's sentence, and saw no reference. Choose by BLEU.",
            "d": "The same sentences ask one arm for something that its training did not.",
        },
    ),
    Number(
        "16.12",
        "answer_12",
        15.0,
        "240 / 16. batchmean divides by the first axis, whatever the others are.",
        [
            (
                240.0,
                Switch(
                    "batchmean does divide, though not by enough",
                    "By what does it divide?",
                    "Words a sentence.",
                ),
            ),
            (
                16.0,
                Switch(
                    "this is what batchmean divides by; how many times too large is asked for",
                    "By what should it be divided?",
                    "Words a sentence.",
                ),
            ),
            (
                20.0,
                Switch(
                    "this is places a sentence; padding adds nothing, and should not divide either",
                    "How many real words has a sentence, on average?",
                    "Words a sentence.",
                ),
            ),
            (
                1 / 15,
                Switch(
                    "this is by what to multiply it to mend it; how many times too large is asked for",
                    "Is twice as much two times too large, or half a time?",
                    "Words a sentence.",
                ),
            ),
        ],
    ),
    Number(
        "16.13",
        "answer_13",
        60.0,
        "It says 100 % and is right in 40 %. The teacher, which says 40 %, is calibrated.",
        [
            (
                40.0,
                Switch(
                    "this is how often it is right",
                    "How sure is it?",
                    _SURE,
                ),
            ),
            (
                100.0,
                Switch(
                    "this is its confidence",
                    "And how often is it right?",
                    _SURE,
                ),
            ),
            (
                0.6,
                Switch(
                    "this is no per cent",
                    "What is 0.6 in per cent?",
                    _SURE,
                ),
            ),
            (
                0.0,
                Switch(
                    "this is the teacher's ECE; the student of its best sentences does not say 40 %",
                    "Which probability does a student of one sentence give that sentence, in the end?",
                    _SURE,
                ),
            ),
        ],
    ),
]
