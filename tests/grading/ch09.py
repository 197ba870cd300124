"""Exercise 09: unusual right answers, and every named mistake as an edit of the public solution."""

import torch
import torch.nn.functional as F


def _judge_bce(teacher_logits, student_logits, weight, bias):
    with torch.no_grad():
        student = student_logits.clone()
    scores = torch.stack([teacher_logits @ weight, student @ weight]) + bias
    truth = torch.tensor([1.0, 0.0], dtype=scores.dtype)[:, None].expand_as(scores)
    return F.binary_cross_entropy_with_logits(scores, truth, reduction="none").sum(0)


def _judge_by_pair(t, s, w, b):
    rows = []
    for one, other in zip(t, s.detach(), strict=True):
        rows.append(-F.logsigmoid(w.dot(one) + b) - F.logsigmoid(-(w.dot(other) + b)))
    return torch.stack(rows)


def _judge_kdcourse(teacher_logits, student_logits, weight, bias):
    from kdcourse.methods.discriminator import discriminator_loss

    return discriminator_loss(teacher_logits @ weight + bias, student_logits.detach() @ weight + bias)


def _fooling_logsumexp(s, w, b):
    score = s.double() @ w.detach().double() + b.detach().double()
    return torch.logsumexp(torch.stack([torch.zeros_like(score), -score]), 0)


def _step_backward(moved, images, targets, weight, radius, step_size):
    x = moved.clone().detach()
    x.requires_grad = True
    F.cross_entropy(F.linear(x, weight.detach()), targets).backward()
    low, high = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    return torch.min(torch.max(moved + step_size * x.grad.sign(), low), high)


def _step_by_hand(x, x0, y, w, r, a):
    q = torch.softmax(x @ w.T, -1)
    q[torch.arange(len(y)), y] -= 1
    return torch.clamp(torch.clamp(x - x0 + a * torch.sign(q @ w), -r, r) + x0, 0, 1)


def _step_kdcourse(moved, images, targets, weight, radius, step_size):
    from kdcourse.methods.attacks import pgd

    return pgd(
        lambda x: F.cross_entropy(x @ weight.T, targets, reduction="none"),
        images, radius=radius, steps=1, step_size=step_size, start=moved,
    )  # fmt: skip


def _ard_kl_div(clean_logits, attacked_logits, teacher_logits, targets, temperature, soft_weight):
    with torch.no_grad():
        p = F.softmax(teacher_logits / temperature, -1)
    kl = F.kl_div(F.log_softmax(attacked_logits / temperature, -1), p, reduction="none").sum(1)
    named = F.log_softmax(clean_logits, 1)[torch.arange(len(targets)), targets]
    return soft_weight * kl * temperature**2 - named * (1 - soft_weight)


def _ard_double(c, a, t, y, T, w):
    log_p, log_q = (z.double().div(T).log_softmax(-1) for z in (t.detach(), a))
    soft = T * T * torch.einsum("bc,bc->b", log_p.exp(), log_p - log_q)
    return w * soft + (1 - w) * F.nll_loss(c.double().log_softmax(-1), y, reduction="none")


def _ard_kdcourse(clean_logits, attacked_logits, teacher_logits, targets, temperature, soft_weight):
    from kdcourse.methods.robust import ard_loss

    return ard_loss(
        clean_logits, attacked_logits, teacher_logits, targets, temperature=temperature, soft_weight=soft_weight
    )


UNUSUAL = {
    "09.1": [_judge_bce, _judge_by_pair, _judge_kdcourse],
    "09.2": [
        lambda student_logits, weight, bias: -F.logsigmoid((student_logits * weight.detach()).sum(-1) + bias.detach()),
        _fooling_logsumexp,
        lambda s, w, b: torch.log1p(torch.exp(-(s @ w.detach() + b.detach()))),
    ],
    "09.3": [_step_backward, _step_by_hand, _step_kdcourse],
    "09.4": [_ard_kl_div, _ard_double, _ard_kdcourse],
}

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "09.1": {
        "student_gradient": [(".detach()", "")],
        "judge_cut": [("@ weight + bias\n    as_student", "@ weight.detach() + bias.detach()\n    as_student"),
                      ("detach() @ weight + bias", "detach() @ weight.detach() + bias.detach()")],
        "swapped": [("F.softplus(-as_teacher) + F.softplus(as_student)",
                     "F.softplus(as_teacher) + F.softplus(-as_student)")],
        "only_teacher": [(" + F.softplus(as_student)", "")],
        "only_student": [("F.softplus(-as_teacher) + ", "")],
        "halved": [("return F.softplus(-as_teacher) + F.softplus(as_student)",
                    "return (F.softplus(-as_teacher) + F.softplus(as_student)) / 2")],
        "uphill": [("return F.softplus(-as_teacher) + F.softplus(as_student)",
                    "return -F.softplus(-as_teacher) - F.softplus(as_student)")],
        "mean_all": [("return F.softplus(-as_teacher) + F.softplus(as_student)",
                      "return (F.softplus(-as_teacher) + F.softplus(as_student)).mean()")],
    },
    "09.2": {
        "saturating": [("F.softplus(-score)", "torch.log(1 - torch.sigmoid(score))")],
        "helps": [("F.softplus(-score)", "F.softplus(score)")],
        "student_cut": [("student_logits @", "student_logits.detach() @")],
        "judge_gradient": [("weight.detach() + bias.detach()", "weight + bias")],
        "mean_all": [("F.softplus(-score)", "F.softplus(-score).mean()")],
    },
    "09.3": {
        "no_sign": [("slope.sign()", "slope")],
        "descent": [("+ step_size", "- step_size")],
        "no_ball": [("    new = images + (new - images).clamp(-radius, radius)\n", "")],
        "no_box": [("new.clamp(0, 1)", "new")],
        "clean_gradient": [("x = moved.detach()", "x = images.detach()"), ("x.detach() + step", "moved + step")],
        "from_images": [("x.detach() + step", "images + step")],
    },
    "09.4": {
        "soft_on_clean": [("attacked_logits / temperature", "clean_logits / temperature")],
        "hard_on_attacked": [("cross_entropy(clean_logits", "cross_entropy(attacked_logits")],
        "no_hard": [(" + (1 - soft_weight) * hard", "")],
        "swapped": [("soft_weight * soft + (1 - soft_weight) * hard", "(1 - soft_weight) * soft + soft_weight * hard")],
        "no_T2": [("temperature**2 * ", "")],
        "cold": [("attacked_logits / temperature", "attacked_logits"), ("detach() / temperature", "detach()")],
        "cold_student": [("attacked_logits / temperature", "attacked_logits")],
        "cold_teacher": [("detach() / temperature", "detach()")],
        "reversed": [("(log_p.exp() * (log_p - log_q))", "(log_q.exp() * (log_q - log_p))")],
        "teacher_gradient": [(".detach()", "")],
        "mean_all": [("return soft_weight * soft + (1 - soft_weight) * hard",
                      "return (soft_weight * soft + (1 - soft_weight) * hard).mean()")],
    },
}  # fmt: skip
