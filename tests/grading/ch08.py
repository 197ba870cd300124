"""Exercise 08: unusual right answers, and every named mistake as an edit of the public solution."""

import torch
import torch.nn.functional as F


def _hint_by_example(student_hidden, weight, bias, teacher_hidden):
    rows = []
    for h, f in zip(student_hidden, teacher_hidden, strict=True):
        rows.append(F.mse_loss(weight @ h + bias, f.detach()))
    return torch.stack(rows)


def _hint_double(h, w, b, f):  # other names, float64, the teacher cut off by no_grad
    with torch.no_grad():
        goal = f.double()
    gap = torch.einsum("bs,ts->bt", h.double(), w.double()) + b.double() - goal
    return torch.linalg.vector_norm(gap, dim=-1) ** 2 / gap.shape[-1]


def _attention_sum(student_maps, teacher_maps):  # the sum over channels has the same direction as the mean
    q, p = (F.normalize((maps**2).sum(1).flatten(1), dim=1) for maps in (student_maps, teacher_maps.detach()))
    return ((q - p) ** 2).sum(1)


def _attention_cosine(s, t):  # squared distance of two vectors of length 1
    with torch.no_grad():
        goal = (t.double() ** 2).mean(1).flatten(1)
    return 2 - 2 * F.cosine_similarity((s.double() ** 2).mean(1).flatten(1), goal, dim=-1)


def _attention_einsum(student_maps, teacher_maps):
    def attention(maps):
        energy = torch.einsum("bchw,bchw->bhw", maps, maps)
        return energy / energy.pow(2).sum((1, 2), keepdim=True).sqrt()

    return (attention(student_maps) - attention(teacher_maps).detach()).pow(2).sum((1, 2))


def _channel_kl_div(student_maps, teacher_maps, temperature):
    p = F.softmax(teacher_maps.detach().flatten(2) / temperature, dim=-1)
    log_q = F.log_softmax(student_maps.flatten(2) / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, p, reduction="none").sum((1, 2)) / p.shape[1]


def _channel_kdcourse(s, t, T):
    from kdcourse.losses import soft_loss

    return soft_loss(s.flatten(2), t.flatten(2), T).mean(-1)


def _channel_logsumexp(student_maps, teacher_maps, temperature):
    def log_softmax(maps):
        maps = maps.double() / temperature
        return maps - torch.logsumexp(maps, dim=(-2, -1), keepdim=True)

    log_p, log_q = log_softmax(teacher_maps).detach(), log_softmax(student_maps)
    return temperature * temperature * (log_p.exp() * (log_p - log_q)).sum((-2, -1)).mean(-1)


UNUSUAL = {
    "08.1": [
        lambda h, w, b, f: ((h @ w.T + b - f.detach()) ** 2).mean(dim=1),
        _hint_by_example,
        _hint_double,
    ],
    "08.2": [_attention_sum, _attention_cosine, _attention_einsum],
    "08.3": [_channel_kl_div, _channel_kdcourse, _channel_logsumexp],
}

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "08.1": {
        "teacher_gradient": [(".detach()", "")],
        "student_cut": [("F.linear(student_hidden,", "F.linear(student_hidden.detach(),")],
        "regressor_cut": [("weight, bias)\n", "weight.detach(), bias.detach())\n")],
        "on_teacher": [
            ("F.linear(student_hidden, weight, bias)", "F.linear(teacher_hidden.detach(), weight.T)"),
            ("teacher_hidden.detach()).square", "student_hidden).square"),
        ],
        "no_bias": [("weight, bias)\n", "weight)\n")],
        "absolute": [(".square()", ".abs()")],
        "sum": [(".mean(-1)", ".sum(-1)")],
        "over_batch": [(".mean(-1)", ".mean(0)")],
        "mean_all": [(".mean(-1)", ".mean()")],
    },
    "08.2": {
        "not_squared": [("maps.square().mean(1)", "maps.mean(1)")],
        "absolute": [("maps.square().mean(1)", "maps.abs().mean(1)")],
        "not_normalised": [("F.normalize(energy, dim=-1)", "energy")],
        "over_batch": [("F.normalize(energy, dim=-1)", "F.normalize(energy, dim=0)")],
        "sum_to_one": [("F.normalize(energy, dim=-1)", "F.normalize(energy, p=1, dim=-1)")],
        "teacher_gradient": [(".detach()", "")],
        "mean_places": [("gap.square().sum(-1)", "gap.square().mean(-1)")],
        "mean_all": [("gap.square().sum(-1)", "gap.square().mean()")],
    },
    "08.3": {
        "over_channels": [("log_softmax(-1)", "log_softmax(1)")],
        "over_rows": [
            ("student_maps.flatten(2)", "student_maps"),
            ("detach().flatten(2)", "detach()"),
            ("student.log_softmax(-1), teacher.log_softmax(-1)",
             "student.log_softmax(-1).flatten(2), teacher.log_softmax(-1).flatten(2)"),
        ],
        "cold": [("flatten(2) / temperature", "flatten(2)")],
        "cold_student": [("student_maps.flatten(2) / temperature", "student_maps.flatten(2)")],
        "cold_teacher": [("detach().flatten(2) / temperature", "detach().flatten(2)")],
        "no_T2": [("temperature**2 * ", "")],
        "reversed": [("(log_p.exp() * (log_p - log_q))", "(log_q.exp() * (log_q - log_p))")],
        "cross_entropy": [("(log_p.exp() * (log_p - log_q))", "(-log_p.exp() * log_q)")],
        "sum_channels": [("kl.mean(1)", "kl.sum(1)")],
        "mean_places": [("log_q)).sum(-1)", "log_q)).mean(-1)")],
        "teacher_gradient": [(".detach()", "")],
        "mean_all": [("kl.mean(1)", "kl.mean()")],
    },
}  # fmt: skip
