"""Exercise 10: unusual right answers, and every named mistake as an edit of the public solution."""

import torch
import torch.nn.functional as F


def _stage_both(h, w, b, f, s, t, T, stage):  # both losses computed, one chosen
    hint = ((torch.einsum("bi,oi->bo", h, w) + b - f.detach()) ** 2).mean(1)
    log_p, log_q = (z.log_softmax(-1) for z in (t.detach() / T, s / T))
    return [hint, T * T * (log_p.exp() * (log_p - log_q)).sum(-1)][stage - 1]


def _stage_kdcourse(h, w, b, f, s, t, T, stage):
    from kdcourse.losses import soft_loss
    from kdcourse.methods.hints import hint_loss

    return hint_loss(F.linear(h, w, b), f) if stage < 2 else soft_loss(s, t, T)


def _stage_weights(h, w, b, f, s, t, T, stage):  # as in the page: weights that are 0 or 1; float64
    with torch.no_grad():
        goal, p = f.double(), (t.double() / T).softmax(-1)
    hint = (h.double() @ w.double().T + b.double() - goal).pow(2).mean(-1)
    soft = T**2 * (torch.special.xlogy(p, p) - p * (s.double() / T).log_softmax(-1)).sum(-1)
    return (stage == 1) * hint + (stage == 2) * soft


def _dead_after_relu(before):
    return (before.relu().sum(0) == 0).double().mean()


def _dead_loop(before):
    units = before.T.tolist()
    return sum(max(values) <= 0 for values in units) / len(units)


def _dead_alive(b):
    return 1 - (b > 0).any(dim=0).float().mean()


def _fair_loop(steps, costs):
    return sum(float(s) * float(c) for s, c in zip(steps, costs, strict=True)) / float(costs[-1])


def _fair_ratio(steps, costs):  # each network's step in steps of the student
    return torch.dot(steps.double(), (costs / costs[-1]).double())


UNUSUAL = {
    "10.1": [_stage_both, _stage_kdcourse, _stage_weights],
    "10.2": [_dead_after_relu, _dead_loop, _dead_alive],
    "10.3": [_fair_loop, _fair_ratio, lambda steps, costs: (steps @ costs) / costs[len(costs) - 1]],
}

_BOTH = [
    ("    if stage == 1:\n", ""),
    ("        guess =", "    guess ="),
    ("        return (guess - teacher_hidden.detach()).square().mean(-1)",
     "    hint = (guess - teacher_hidden.detach()).square().mean(-1)"),
]  # fmt: skip

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "10.1": {
        "same_stages": [("stage == 1", "False")],
        "swapped": [("stage == 1", "stage == 2")],
        "hint_stays": [
            *_BOTH,
            ("return temperature**2 * kl", "return hint if stage == 1 else hint + temperature**2 * kl"),
        ],
        "answers_early": [
            *_BOTH,
            ("return temperature**2 * kl", "return temperature**2 * kl + (hint if stage == 1 else 0)"),
        ],
        "no_regressor": [("F.linear(student_hidden, weight, bias)", "student_hidden")],
        "hint_gradient": [("teacher_hidden.detach()", "teacher_hidden")],
        "teacher_gradient": [("teacher_logits.detach()", "teacher_logits")],
        "sum": [(".mean(-1)", ".sum(-1)")],
        "over_batch": [(".mean(-1)", ".mean(0)")],
        "no_T2": [("temperature**2 * ", "")],
    },
    "10.2": {
        "every_zero": [(".all(0)", "")],
        "sometimes": [(".all(0)", ".any(0)")],
        "mean": [("(before <= 0).all(0)", "(before.mean(0) <= 0)")],
        "images": [(".all(0)", ".all(1)")],
        "exactly_zero": [("<= 0", "== 0")],
        "zero_speaks": [("<= 0", "< 0")],
        "alive": [("return ", "return 1 - ")],
        "count": [(".mean()", ".sum()")],
    },
    "10.3": {
        "steps_only": [("(steps * costs).sum() / costs[-1]", "steps.sum()")],
        "students_forgotten": [("(steps * costs).sum()", "(steps * costs)[:-1].sum()")],
        "first_cost": [("costs[-1]", "costs[0]")],
        "mean_cost": [("costs[-1]", "costs.mean()")],
        "sums_multiplied": [("(steps * costs).sum()", "steps.sum() * costs.sum()")],
        "multiplications": [(" / costs[-1]", "")],
    },
}
