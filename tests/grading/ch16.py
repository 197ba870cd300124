"""Exercise 16: unusual right answers, and every named mistake as an edit of the public solution."""

from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F


def _word_course(student_logits, teacher_logits, mask, temperature):
    from kdcourse.experiments.translation import per_token
    from kdcourse.losses import soft_loss

    return per_token(soft_loss(student_logits, teacher_logits.detach(), temperature), mask)


def _word_chosen_first(z, v, mask, T):  # the padding thrown away before any softmax
    log_q, p = F.log_softmax(z[mask] / T, -1), F.softmax(v[mask].detach() / T, -1)
    return T * T * F.kl_div(log_q, p, reduction="batchmean")


def _word_zeroed(z, v, mask, T):  # at padding both say the same, and that costs nothing
    z, v = (logits * mask[..., None] / T for logits in (z, v.detach()))
    p = v.softmax(-1)
    each = F.cross_entropy(z.transpose(1, 2), p.transpose(1, 2), reduction="none") - torch.special.entr(p).sum(-1)
    return T**2 * each.sum() / mask.float().sum()


def _word_by_word(z, v, mask, T):
    total, words = 0.0, 0
    for s, t, real in zip(z.double().unbind(0), v.detach().double().unbind(0), mask, strict=True):
        for place in real.nonzero()[:, 0].tolist():
            p, q = torch.softmax(t[place] / T, 0), torch.softmax(s[place] / T, 0)
            total, words = total + torch.dot(p, torch.log(p / q)), words + 1
    return T**2 * total / words


def _rows_lists(candidates, log_probs, references):
    inputs, targets = [], []
    for beams, scores in zip(candidates.tolist(), log_probs.tolist(), strict=True):
        words = max(zip(scores, beams, strict=True))[1]
        words = words[: words.index(2) + 1]
        targets.append(words + [0] * (candidates.shape[-1] - len(words)))
        inputs.append([1, *targets[-1][:-1]])
    return torch.tensor([inputs, targets])


def _rows_gather(candidates, log_probs, references):
    order = log_probs.argsort(-1, descending=True)[:, :1, None].expand(-1, 1, candidates.shape[-1])
    rows = candidates.gather(1, order).squeeze(1)
    alive = torch.cat([torch.ones_like(rows[:, :1]), (rows != 2).long().cumprod(-1)[:, :-1]], 1)
    inputs = torch.roll(rows * alive, 1, dims=1)
    inputs[:, 0] = 1
    return torch.stack((inputs, rows * alive))


def _rows_numpy(candidates, log_probs, references):
    rows = candidates.numpy()[np.arange(len(candidates)), log_probs.numpy().argmax(1)]
    rows = np.where(np.arange(rows.shape[1]) > (rows == 2).argmax(1)[:, None], 0, rows)
    return np.stack([np.insert(rows, 0, 1, axis=1)[:, :-1], rows])


def _rows_probabilities(candidates, log_probs, references):  # as floating point, and probabilities for logarithms
    best = torch.einsum("bk,bkt->bt", F.one_hot(log_probs.softmax(-1).argmax(-1), log_probs.shape[1]), candidates)
    past = F.pad((best == 2).cummax(-1).values, (1, -1))
    targets = torch.where(past, 0, best)
    return torch.stack([torch.hstack([torch.ones(len(best), 1), targets[:, :-1].float()]), targets.float()])


def _mix_table(weights, translations):  # every sentence that there is
    words, tokens = int(translations.max()) + 1, translations.shape[1]
    marginals = torch.einsum("k,ktw->tw", weights, F.one_hot(translations, words).to(weights.dtype))
    table = torch.cartesian_prod(*[torch.arange(words)] * tokens)
    q = marginals[torch.arange(tokens), table].prod(-1)
    valid = (table[:, None] == translations).all(-1).any(-1)
    return q[~valid].sum()


def _mix_logs(weights, translations):
    same = translations[:, None] == translations
    return -torch.expm1(torch.einsum("jkt,k->jt", same.float(), weights).log().sum(-1).logsumexp(0))


def _mix_counter(weights, translations):
    shares = Counter()
    for weight, sentence in zip(weights.tolist(), translations.tolist(), strict=True):
        shares.update({(place, word): weight for place, word in enumerate(sentence)})
    return 1 - sum(np.prod([shares[pair] for pair in enumerate(sentence)]) for sentence in translations.tolist())


def _mix_pairs(weights, translations):
    """Draw a translation for each place: the chance that the words picked make none of them."""
    draws = torch.cartesian_prod(*[torch.arange(len(weights))] * translations.shape[1])
    made = translations[draws, torch.arange(translations.shape[1])]
    none = (made[:, None] != translations).any(-1).all(-1)
    return (weights.double()[draws].prod(-1) * none).sum()


UNUSUAL = {
    "16.2": [_word_course, _word_chosen_first, _word_zeroed, _word_by_word],
    "16.3": [_rows_lists, _rows_gather, _rows_numpy, _rows_probabilities],
    "16.4": [_mix_table, _mix_logs, _mix_counter, _mix_pairs],
}

_MEAN = "each[mask].mean()"
_INPUTS = "F.pad(targets, (1, -1), value=BOS)"
_START = "    q = torch.ones(len(weights))"
_SHARE = "(same * weights).sum(-1)"

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "16.2": {
        "mask_unused": [(_MEAN, "each.mean()")],
        "padding_in_sum": [(_MEAN, "each.sum() / mask.sum()")],
        "all_places": [(_MEAN, "(each * mask).mean()")],
        "mean_of_sentences": [(_MEAN, "((each * mask).sum(-1) / mask.sum(-1)).mean()")],
        "per_sentence": [(_MEAN, "each[mask].sum() / len(mask)")],
        "sum": [(_MEAN, "each[mask].sum()")],
        "inverted": [(_MEAN, "each[~mask].mean()")],
        "no_T2": [("temperature**2 * ", "")],
        "reversed": [("log_p.exp() * (log_p - log_q)", "log_q.exp() * (log_q - log_p)")],
        "cross_entropy": [("(log_p - log_q)", "-log_q")],
        "mean_vocabulary": [(".sum(-1)", ".mean(-1)")],
        "cold": [(" / temperature", "")],
        "cold_student": [("student_logits / temperature", "student_logits")],
        "cold_teacher": [("detach() / temperature", "detach()")],
        "teacher_gradient": [(".detach()", "")],
    },
    "16.3": {
        "first": [("log_probs.argmax(-1)", "0")],
        "worst": [("argmax", "argmin")],
        "normalised": [("log_probs.argmax", "(log_probs / (1 + (candidates == EOS).int().argmax(-1))).argmax")],
        "reference_kept": [("    ends =", "    best = references\n    ends =")],
        "reference_inputs": [("F.pad(targets,", "F.pad(references,")],
        "no_shift": [(_INPUTS, "targets")],
        "ahead": [(_INPUTS, "F.pad(targets, (-1, 1), value=PAD)")],
        "pad_in_front": [("value=BOS", "value=PAD")],
        "rolled": [(_INPUTS, "targets.roll(1, dims=-1)")],
        "end_lost": [("ends.cumsum(-1) > ends.long()", "ends.cumsum(-1) > 0")],
        "rubbish_kept": [("best.masked_fill(ends.cumsum(-1) > ends.long(), PAD)", "best")],
        "swapped": [("[inputs, targets]", "[targets, inputs]")],
    },
    "16.4": {
        "equal": [(_START, f"    weights = torch.full_like(weights, 1 / len(weights))\n{_START}")],
        "pooled": [("words[:, None] == words", "(words[:, None, None] == translations).float().mean(-1)")],
        "one_word": [(_START, f"    before = torch.ones(len(weights), len(weights))\n{_START}"),
                     (_SHARE, "(same * before * weights).sum(-1) / (before * weights).sum(-1)\n"
                              "        before = same")],
        "averaged": [("torch.ones(", "torch.zeros("), (f"q * {_SHARE}", f"q + {_SHARE} / translations.shape[1]")],
        "greedy": [(f"q = q * {_SHARE}", f"q = q * (words == words[{_SHARE}.argmax()])")],
        "best_only": [("q.sum()", "q[weights.argmax()]")],
        "weighed_again": [("q.sum()", "(q * weights).sum()")],
        "valid": [("1 - q.sum()", "q.sum()")],
    },
}  # fmt: skip
