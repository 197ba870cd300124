"""Exercise 12: unusual right answers, and every named mistake as an edit of the public solution."""

import torch
import torch.nn.functional as F


def _mean_logspace(teacher_logits, sizes, temperature):
    log_p = F.log_softmax(teacher_logits.double() / temperature, dim=2)
    log_w = (sizes.double() / sizes.double().sum()).log()[:, None, None]
    return torch.logsumexp(log_p + log_w, dim=0).exp()


def _mean_kdcourse(z, w, T):
    from kdcourse.attention import mean_of_members

    return (mean_of_members(z.transpose(0, 1), T, w / w.sum()) / T).softmax(-1)


def _mean_loop(teacher_logits, sizes, temperature):
    total = torch.zeros_like(teacher_logits[0])
    for logits, size in zip(teacher_logits, sizes, strict=True):
        total = total + size * torch.softmax(logits / temperature, -1)
    return total / sizes.sum()


def _mutual_kdcourse(peer_logits, temperature):
    from kdcourse.methods.mutual import mutual_loss

    return mutual_loss(peer_logits, temperature)


def _mutual_pairs(z, T):  # every pair at once, the diagonal is 0
    log_q = (z.double() / T).log_softmax(-1)
    with torch.no_grad():
        p = log_q.exp()
    kl = (p[:, None] * (p[:, None].log() - log_q[None])).sum(-1)  # [other, learner, batch]
    return T * T * kl.sum(0) / (len(z) - 1)


def _mutual_kl_div(peer_logits, temperature):
    rows = []
    for k, own in enumerate(peer_logits):
        log_q = F.log_softmax(own / temperature, -1)
        terms = [
            F.kl_div(log_q, F.softmax(other.detach() / temperature, -1), reduction="none").sum(-1)
            for j, other in enumerate(peer_logits)
            if j != k
        ]
        rows.append(sum(terms) * temperature**2 / len(terms))
    return torch.stack(rows)


def _weights_kdcourse(teacher_logits, targets, steps):
    from kdcourse.methods.mixture import mixture_weights

    return mixture_weights(teacher_logits.transpose(0, 1), targets, steps)


def _weights_logspace(z, y, steps):
    log_p = -F.cross_entropy(z.permute(1, 2, 0).double(), y[:, None].expand(-1, len(z)), reduction="none")
    w = torch.zeros(len(z), dtype=torch.float64)
    for _ in range(steps):
        w = torch.logsumexp(torch.log_softmax(log_p + w, -1), 0) - torch.tensor(float(len(y))).log()
    return w.exp()


def _weights_loop(teacher_logits, targets, steps):
    p = torch.stack([F.softmax(z, -1).gather(1, targets[:, None])[:, 0] for z in teacher_logits])
    w = torch.ones(len(p)) / len(p)
    for _ in range(steps):
        w = torch.stack([w * column / (w @ column) for column in p.T]).mean(0)
    return w


UNUSUAL = {
    "12.1": [_mean_logspace, _mean_kdcourse, _mean_loop],
    "12.2": [_mutual_kdcourse, _mutual_pairs, _mutual_kl_div],
    "12.3": [_weights_kdcourse, _weights_logspace, _weights_loop],
}

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "12.1": {
        "mean_logits": [
            ("probs = F.softmax(teacher_logits / temperature, dim=-1)",
             "mean = torch.einsum('k,kbc->bc', weights, teacher_logits)"),
            ('return torch.einsum("k,kbc->bc", weights, probs)', "return F.softmax(mean / temperature, dim=-1)"),
        ],
        "average_first": [
            ("F.softmax(teacher_logits / temperature, dim=-1)", "F.softmax(teacher_logits, dim=-1)"),
            ('return torch.einsum("k,kbc->bc", weights, probs)',
             "return F.softmax(torch.einsum('k,kbc->bc', weights, probs).log() / temperature, dim=-1)"),
        ],
        "over_teachers": [("dim=-1", "dim=0")],
        "not_normalised": [("sizes / sizes.sum()", "sizes")],
        "softmax_weights": [("sizes / sizes.sum()", "F.softmax(sizes, dim=0)")],
        "equal": [('torch.einsum("k,kbc->bc", weights, probs)', "probs.mean(0)")],
        "cold": [("teacher_logits / temperature", "teacher_logits")],
        "multiplied": [("teacher_logits / temperature", "teacher_logits * temperature")],
    },
    "12.2": {
        "not_detached": [(".detach()", "")],
        "wrong_side": [("log_p = log_q.detach()", "log_p, log_q = log_q, log_q.detach()")],
        "itself": [("torch.cat([log_p[:k], log_p[k + 1 :]])", "log_p")],
        "sum": [("kl.mean(0)", "kl.sum(0)")],
        "to_mean": [("log_p[k + 1 :]])", "log_p[k + 1 :]]).exp().mean(0, keepdim=True).log()")],
        "reversed": [("(others.exp() * (others - log_q[k]))", "(log_q[k].exp() * (log_q[k] - others))")],
        "cross_entropy": [("(others.exp() * (others - log_q[k]))", "(-others.exp() * log_q[k])")],
        "no_T2": [("temperature**2 * ", "")],
        "mean_peers": [("return torch.stack(rows)", "return torch.stack(rows).mean(0)")],
    },
    "12.3": {
        "surest": [("probs[:, torch.arange(len(targets)), targets].T", "probs.amax(-1).T")],
        "over_teachers": [("dim=-1)", "dim=0)")],
        "logits": [("F.softmax(teacher_logits, dim=-1)", "teacher_logits")],
        "not_shared": [("(share / share.sum(-1, keepdim=True)).mean(0)", "share.mean(0) / share.mean(0).sum()")],
        "summed": [(".mean(0)", ".sum(0)")],
        "forgets": [("share = weights * at_label", "share = at_label")],
        "one_more": [("range(steps)", "range(steps + 1)")],
    },
}  # fmt: skip
