"""Exercise 14: unusual right answers, and every named mistake as an edit of the public solution."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special


def _pool_by_example(tokens, scores, mask):
    rows = []
    for t, s, m in zip(tokens, scores, mask, strict=True):
        rows.append(s[m.bool()].softmax(0) @ t[m.bool()])
    return torch.stack(rows)


def _pool_renormalised(t, s, m):  # masked after the softmax, and shared out again: the same
    w = s.double().softmax(1) * m
    return torch.einsum("bt,btf->bf", w / w.sum(1, keepdim=True), t.double())


def _pool_course(tokens, scores, mask):
    from kdcourse import attention

    return attention.attention_pool(tokens, scores[:, None], mask > 0)[0]


def _pool_sdpa(tokens, scores, mask):
    """The scores as the query and a unit vector as every key: torch's kernel, which adds in any order."""
    hidden = mask.bool()[:, None]
    one = torch.ones_like(scores)[..., None]
    bias = scores[:, None].masked_fill(~hidden, float("-inf"))
    return F.scaled_dot_product_attention(0 * one[:, :1], one, tokens, attn_mask=bias)[:, 0]


def _hydra_by_member(member_logits, teacher_logits, temperature):
    from kdcourse.losses import soft_loss

    pairs = zip(member_logits.unbind(1), teacher_logits.unbind(1), strict=True)
    return sum(soft_loss(z, v, temperature) for z, v in pairs) / member_logits.shape[1]


def _hydra_kl_div(z, v, T):
    with torch.no_grad():
        p = F.softmax(v.double() / T, dim=2)
    return T * T * F.kl_div(F.log_softmax(z.double() / T, dim=2), p, reduction="none").sum((1, 2)) / z.shape[1]


def _hydra_flat(z, v, T):
    b, m, c = z.shape
    log_p = F.log_softmax(v.detach().reshape(b * m, c) / T, -1)
    log_q = F.log_softmax(z.reshape(b * m, c) / T, -1)
    each = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    return (each * T**2).view(b, m).mean(1)


def _parts_numpy(member_logits):
    p = special.softmax(member_logits.numpy().astype(float), -1)
    total, data = special.entr(p.mean(1)).sum(-1), special.entr(p).sum(-1).mean(1)
    return np.stack([total, data, total - data], -1)


def _parts_divergence(member_logits):  # the knowledge part as the mean divergence of a member from the mean
    p = member_logits.double().softmax(-1)
    mean = p.mean(1, keepdim=True)
    knowledge = (p * (p.log() - mean.log())).sum(-1).mean(1)
    data = -(p * p.log()).sum(-1).mean(1)
    return torch.stack([data + knowledge, data, knowledge], 1)


def _parts_distributions(member_logits):
    members = torch.distributions.Categorical(logits=member_logits)
    total = torch.distributions.Categorical(probs=members.probs.mean(1)).entropy()
    data = members.entropy().mean(1)
    return torch.stack((total, data, total - data)).T


def _parts_course(member_logits):
    from kdcourse.metrics import uncertainty_parts

    return torch.stack(uncertainty_parts(member_logits), -1)


def _step_sgd(score_weight, head_weight, tokens, teacher_logits, teacher_map, temperature, map_weight, learning_rate):
    score = torch.nn.Linear(len(score_weight), 1, bias=False)
    head = torch.nn.Linear(*head_weight.shape[::-1], bias=False)
    score.weight.data.copy_(score_weight[None])
    head.weight.data.copy_(head_weight)
    optimizer = torch.optim.SGD([*score.parameters(), *head.parameters()], lr=learning_rate)
    log_a = F.log_softmax(score(tokens).squeeze(-1), dim=-1)
    logits = head(torch.bmm(log_a.exp()[:, None], tokens)[:, 0])
    T = temperature
    answer = F.kl_div(F.log_softmax(logits / T, -1), F.softmax(teacher_logits / T, -1), reduction="batchmean") * T**2
    loss = answer + map_weight * F.kl_div(log_a, teacher_map, reduction="batchmean")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return torch.cat([score.weight, head.weight]).detach()


def _step_func(w, h, tokens, v, m, T, weight, rate):
    from kdcourse.attention import attention_loss, attention_pool
    from kdcourse.losses import soft_loss

    def loss(both):
        pooled, a = attention_pool(tokens, (tokens @ both[0])[:, None])
        return (soft_loss(pooled @ both[1:].T, v, T) + weight * attention_loss(a, m)).mean()

    both = torch.cat([w[None], h])
    return both - rate * torch.func.grad(loss)(both)


def _step_by_hand(w, h, tokens, v, m, T, weight, rate):  # the gradients on paper
    w, h, x, m = w.double(), h.double(), tokens.double(), m.double()
    a = (x @ w).softmax(-1)
    pooled = torch.einsum("bt,btf->bf", a, x)
    gap = T * ((pooled @ h.T / T).softmax(-1) - (v.double() / T).softmax(-1)) / len(x)
    by_h = gap.T @ pooled
    by_a = torch.einsum("bf,btf->bt", gap @ h, x)
    by_score = a * (by_a - (a * by_a).sum(-1, keepdim=True)) + weight * (a - m) / len(x)
    by_w = torch.einsum("bt,btf->f", by_score, x)
    return torch.cat([(w - rate * by_w)[None], h - rate * by_h])


UNUSUAL = {
    "14.1": [_pool_by_example, _pool_renormalised, _pool_course, _pool_sdpa],
    "14.2": [_hydra_by_member, _hydra_kl_div, _hydra_flat],
    "14.3": [_parts_numpy, _parts_divergence, _parts_distributions, _parts_course],
    "14.4": [_step_sgd, _step_func, _step_by_hand],
}

_FILL = "scores.masked_fill(mask == 0, -torch.inf)"
_KL_MAP = "teacher_map * (teacher_map.log() - weights.log())"

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "14.1": {
        "over_batch": [(_FILL, "scores.masked_fill(mask == 0, -1e9)"), ("softmax(-1)", "softmax(0)")],
        "not_masked": [(_FILL, "scores")],
        "masked_after": [(_FILL, "scores"), ("scores.softmax(-1)", "scores.softmax(-1) * mask")],
        "zero_score": [(_FILL, "scores * mask")],
        "inverted": [("mask == 0", "mask == 1"), ("-torch.inf", "-1e9")],
        "twice": [("* tokens", "* (weights.unsqueeze(-1) * tokens)")],
        "no_softmax": [(_FILL, "scores * mask"), ("scores.softmax(-1)", "scores")],
        "one_number": [("-torch.inf", "-1e9"), ("scores.softmax(-1)", "scores.unsqueeze(-1).softmax(-1).squeeze(-1)")],
        "scores_cut": [(_FILL, "scores.detach().masked_fill(mask == 0, -torch.inf)")],
        "mean": [(".sum(1)", ".mean(1)")],
    },
    "14.2": {
        "to_mean": [("    kl =", "    log_p = log_p.exp().mean(1, keepdim=True).log().expand_as(log_q)\n    kl =")],
        "mean_only": [("    kl =", "    log_p = log_p.exp().mean(1, keepdim=True).log()\n"
                                   "    log_q = log_q.exp().mean(1, keepdim=True).log()\n    kl =")],
        "mean_logits": [("teacher_logits.detach()", "teacher_logits.detach().mean(1, keepdim=True)")],
        "cold": [("detach() / temperature", "detach()"), ("member_logits / temperature", "member_logits")],
        "cold_student": [("(member_logits / temperature)", "member_logits")],
        "cold_teacher": [("(teacher_logits.detach() / temperature)", "teacher_logits.detach()")],
        "no_T2": [("temperature**2 * ", "")],
        "reversed": [("log_p.exp() * (log_p - log_q)", "log_q.exp() * (log_q - log_p)")],
        "cross_entropy": [("(log_p - log_q)", "-log_q")],
        "sum_members": [("kl.mean(-1)", "kl.sum(-1)")],
        "mean_classes": [("log_q)).sum(-1)", "log_q)).mean(-1)")],
        "teacher_gradient": [(".detach()", "")],
        "mean_all": [("kl.mean(-1)", "kl.mean()")],
    },
    "14.3": {
        "mean_logits": [("probs.mean(1)", "member_logits.mean(1).softmax(-1)")],
        "first_member": [("probs.mean(1)", "probs[:, 0]")],
        "sum_members": [(".sum(-1).mean(1)", ".sum(-1).sum(1)")],
        "variance": [("data, total - data]", "data, probs.var(1, correction=0).sum(-1)]")],
        "sign": [("total - data", "data - total")],
        "exchanged": [("[total, data, total - data]", "[total, total - data, data]")],
        "bits": [("dim=-1)\n", "dim=-1) / 0.693147181\n")],
        "share": [("dim=-1)\n", "dim=-1) / torch.tensor(probs.shape[-1]).log()\n")],
        "one_number": [("dim=-1)\n", "dim=-1).mean(0)\n")],
    },
    "14.4": {
        "map_left_out": [("(answer + map_weight * of_map.sum(-1)).mean()", "answer.mean()")],
        "map_weight_left_out": [("map_weight * of_map", "of_map")],
        "map_mse": [(_KL_MAP, "(weights - teacher_map) ** 2")],
        "map_reversed": [(_KL_MAP, "weights * (weights.log() - teacher_map.log())")],
        "map_T2": [("map_weight * of_map", "temperature**2 * map_weight * of_map")],
        "softmax_again": [(_KL_MAP, "teacher_map.softmax(-1) * -weights.log()")],
        "pool_cut": [("(weights.unsqueeze(-1) * tokens)", "(weights.detach().unsqueeze(-1) * tokens)")],
        "mean_pool": [("(weights.unsqueeze(-1) * tokens).sum(1)", "tokens.mean(1)")],
        "over_batch": [("(tokens @ w).softmax(-1)", "(tokens @ w).softmax(0)")],
        "score_frozen": [("w - learning_rate * by_w", "w")],
        "head_frozen": [("h - learning_rate * by_h", "h")],
        "cold": [("h.T / temperature)", "h.T)"), ("(teacher_logits / temperature)", "teacher_logits")],
        "no_T2": [("answer = temperature**2 * ", "answer = ")],
        "sum": [("of_map.sum(-1)).mean()", "of_map.sum(-1)).sum()")],
        "ascent": [("w - learning_rate * by_w, h - learning_rate * by_h",
                    "w + learning_rate * by_w, h + learning_rate * by_h")],
    },
}  # fmt: skip
