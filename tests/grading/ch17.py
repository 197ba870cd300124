"""Exercise 17: unusual right answers, and every named mistake as an edit of the public solution."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def _reverse_kl_div(student_logits, teacher_logits, temperature):
    log_p = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(1)


def _reverse_course(z, v, T):
    from kdcourse.methods.divergences import reverse_kl

    return reverse_kl(z / T, v / T)


def _reverse_distributions(z, v, T):
    student = torch.distributions.Categorical(logits=z / T)
    return torch.distributions.kl_divergence(student, torch.distributions.Categorical(logits=v.detach() / T))


def _reverse_entropy(z, v, T):  # -entropy and cross-entropy apart, the teacher cut off by no_grad
    with torch.no_grad():
        log_p = (v.double() / T) - torch.logsumexp(v.double() / T, -1, keepdim=True)
    q = F.softmax(z.double() / T, dim=-1)
    return -torch.special.entr(q).sum(-1) - torch.einsum("tv,tv->t", q, log_p)


def _jsd_course(student_logits, teacher_logits, beta):
    from kdcourse.methods.divergences import jensen_shannon

    return jensen_shannon(student_logits, teacher_logits, beta=beta)


def _jsd_entropies(z, v, beta):  # the entropy of the mixture less the mixture of the entropies
    p, q = v.detach().double().softmax(-1), z.double().softmax(-1)
    h = [torch.special.entr(one).sum(-1) for one in (beta * p + (1 - beta) * q, p, q)]
    return h[0] - beta * h[1] - (1 - beta) * h[2]


def _jsd_mixture_cut(z, v, beta):  # the gradients through the mixture cancel, so it may be detached
    log_p, log_q = v.detach().log_softmax(-1), z.log_softmax(-1)
    log_m = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log().detach()
    kl = [F.kl_div(log_m, log_a, log_target=True, reduction="none").sum(-1) for log_a in (log_p, log_q)]
    return beta * kl[0] + (1 - beta) * kl[1]


def _jsd_by_token(student_logits, teacher_logits, beta):
    rows = []
    for z, v in zip(student_logits, teacher_logits, strict=True):
        p, q = torch.exp(v.detach() - v.detach().logsumexp(0)), torch.exp(z - z.logsumexp(0))
        m = torch.lerp(q, p, beta)
        rows.append(beta * torch.dot(p, torch.log(p / m)) + (1 - beta) * torch.dot(q, torch.log(q / m)))
    return torch.stack(rows)


def _parts_course(student_hidden, student_weight, teacher_hidden, teacher_weight, mask, chunk):
    from kdcourse.losses import soft_loss
    from kdcourse.methods.chunked import Head, chunked_mean

    pairs = zip(student_hidden[mask].split(chunk), teacher_hidden[mask].split(chunk), strict=True)
    return torch.stack([
        chunked_mean(
            lambda q, p, y: soft_loss(q, p, 1.0), Head(mine, student_weight), Head(theirs, teacher_weight),
            torch.zeros(len(mine), dtype=torch.long), chunk=2, denominator=int(mask.sum()),
        )
        for mine, theirs in pairs
    ])  # fmt: skip


def _parts_whole(student_hidden, student_weight, teacher_hidden, teacher_weight, mask, chunk):
    """All at once, then added up by the number of the chunk: right, and of no use against a full memory."""
    log_q = F.log_softmax(F.linear(student_hidden, student_weight), -1)
    log_p = F.log_softmax(F.linear(teacher_hidden, teacher_weight), -1).detach()
    each = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)[mask]
    which = torch.arange(len(each)) // chunk
    return torch.zeros(int(which[-1]) + 1).index_add(0, which, each) / len(each)


def _parts_checkpoint(h, w, th, tw, mask, chunk):
    keep = mask.nonzero()[:, 0]

    def part(at):
        with torch.no_grad():
            p = F.softmax(th[at] @ tw.T, -1)
        return F.kl_div(F.log_softmax(h[at] @ w.T, -1), p, reduction="sum") / len(keep)

    starts = range(0, len(keep), chunk)
    return torch.stack([checkpoint(part, keep[i : i + chunk], use_reentrant=False) for i in starts])


def _parts_by_token(h, w, th, tw, mask, chunk):  # one token after the other, in float64
    each, count = [], mask.sum()
    for i in torch.where(mask)[0]:
        log_p, log_q = (tw.detach() @ th[i].detach()).double(), (w @ h[i]).double()
        log_p, log_q = log_p - log_p.logsumexp(0), log_q - log_q.logsumexp(0)
        each.append(torch.dot(log_p.exp(), log_p - log_q) / count)
    return torch.stack([sum(each[i : i + chunk]) for i in range(0, len(each), chunk)])


def _draws_counts(student_logits, ids):
    counts = F.one_hot(ids, student_logits.shape[-1]).sum(1) / ids.shape[1]
    return F.cross_entropy(student_logits, counts, reduction="none")


def _draws_course(student_logits, ids):
    from kdcourse.methods.cached import Cache, cached_cross_entropy

    return cached_cross_entropy(student_logits, Cache(ids, torch.full(ids.shape, 1 / ids.shape[-1])))


def _draws_nll(student_logits, ids):  # a classifier's loss for each column of draws
    columns = [F.nll_loss(F.log_softmax(student_logits, 1), column, reduction="none") for column in ids.unbind(1)]
    return torch.stack(columns).mean(0)


def _draws_scatter(z, ids):
    w = torch.zeros_like(z).scatter_add(-1, ids, torch.full(ids.shape, 1 / ids.shape[-1]))
    return z.logsumexp(-1) - torch.einsum("tv,tv->t", w, z)


UNUSUAL = {
    "17.2": [_reverse_kl_div, _reverse_course, _reverse_distributions, _reverse_entropy],
    "17.3": [_jsd_course, _jsd_entropies, _jsd_mixture_cut, _jsd_by_token],
    "17.4": [_parts_course, _parts_whole, _parts_checkpoint, _parts_by_token],
    "17.5": [_draws_counts, _draws_course, _draws_nll, _draws_scatter],
}

_STACK = "torch.stack(parts) / mask.sum()"
_CHUNK_SUM = "(log_p.exp() * (log_p - log_q)).sum()"
_MEAN = "-log_q.gather(-1, ids).mean(-1)"

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "17.2": {
        "forward": [("log_q.exp() * (log_q - log_p)", "log_p.exp() * (log_p - log_q)")],
        "student_cut": [("log_q.exp() *", "log_q.exp().detach() *")],
        "teacher_gradient": [(".detach()", "")],
        "cross_entropy": [("(log_q - log_p)", "-log_p")],
        "mean_vocabulary": [(".sum(-1)", ".mean(-1)")],
        "T2": [("return (", "return temperature**2 * (")],
        "cold": [(" / temperature", "")],
        "cold_student": [("(student_logits / temperature)", "student_logits")],
        "cold_teacher": [("detach() / temperature", "detach()")],
        "underflow": [("log_softmax(-1)", "softmax(-1).log()")],
        "mean_all": [(".sum(-1)", ".sum(-1).mean()")],
    },
    "17.3": {
        "weights_swapped": [("beta * of_p + (1 - beta) * of_q", "(1 - beta) * of_p + beta * of_q")],
        "mixture_swapped": [("beta * p + (1 - beta) * q", "(1 - beta) * p + beta * q")],
        "even_weights": [("beta * of_p + (1 - beta) * of_q", "(of_p + of_q) / 2")],
        "even_mixture": [("beta * p + (1 - beta) * q", "(p + q) / 2")],
        "logits_mixed": [("beta * p + (1 - beta) * q",
                          "(beta * teacher_logits.detach() + (1 - beta) * student_logits).softmax(-1)")],
        "logs_mixed": [("beta * p + (1 - beta) * q", "p**beta * q ** (1 - beta)")],
        "reversed": [("(p * (p.log() - m.log()))", "(m * (m.log() - p.log()))"),
                     ("(q * (q.log() - m.log()))", "(m * (m.log() - q.log()))")],
        "mean_vocabulary": [(".sum(-1)", ".mean(-1)")],
        "teacher_gradient": [(".detach()", "")],
        "mean_all": [("return beta * of_p + (1 - beta) * of_q", "return (beta * of_p + (1 - beta) * of_q).mean()")],
    },
    "17.4": {
        "mean_of_means": [(_CHUNK_SUM, f"{_CHUNK_SUM} / len(mine)"), ("/ mask.sum()", "/ len(parts)")],
        "own_means": [(_CHUNK_SUM, f"{_CHUNK_SUM} / len(mine)"), (" / mask.sum()", "")],
        "sums": [(" / mask.sum()", "")],
        "all_tokens": [("/ mask.sum()", "/ len(mask)")],
        "padding_counted": [("hidden[mask]", "hidden"), ("/ mask.sum()", "/ len(mask)")],
        "padding_in_chunks": [
            ("hidden[mask]", "hidden"),
            ("in zip(students, teachers)", "in zip(students, teachers, mask.split(chunk))"),
            ("mine, theirs in", "mine, theirs, real in"),
            (".sum())", ".sum(-1)[real].sum())"),
        ],
        "last_dropped": [("zip(students, teachers):", "zip(students, teachers):\n        if len(mine) < chunk:\n"
                          "            break")],
        "reversed": [("log_p.exp() * (log_p - log_q)", "log_q.exp() * (log_q - log_p)")],
        "cross_entropy": [("(log_p - log_q)", "-log_q")],
        "mean_vocabulary": [(_CHUNK_SUM, "(log_p.exp() * (log_p - log_q)).mean(-1).sum()")],
        "teacher_gradient": [(".detach()", "")],
        "matrix_cut": [("student_weight.T", "student_weight.detach().T")],
    },
    "17.5": {
        "over_cache": [("student_logits.log_softmax(-1)", "student_logits.gather(-1, ids).log_softmax(-1)"),
                       ("-log_q.gather(-1, ids)", "-log_q")],
        "no_softmax": [(".log_softmax(-1)", "")],
        "repeats_lost": [(_MEAN, "-(torch.zeros_like(log_q).scatter(-1, ids, 1 / ids.shape[-1]) * log_q).sum(-1)")],
        "distinct_mean": [(_MEAN, "-torch.stack([row[i.unique()].mean() for row, i in zip(log_q, ids)])")],
        "sum": [(".mean(-1)", ".sum(-1)")],
        "mean_vocabulary": [(_MEAN, "-(F.one_hot(ids, log_q.shape[-1]).float().mean(1) * log_q).mean(-1)")],
        "log_of_mean": [(_MEAN, "-log_q.exp().gather(-1, ids).mean(-1).log()")],
        "no_log": [("log_softmax", "softmax")],
        "mean_all": [(".mean(-1)", ".mean()")],
    },
}  # fmt: skip
