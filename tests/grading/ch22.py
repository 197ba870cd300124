"""Exercise 22: unusual right answers, and every named mistake as an edit of the public solution."""

import torch
import torch.nn.functional as F


def _parts_masked(teacher_probs, student_probs):
    rows = []
    for p, q in zip(teacher_probs.double(), student_probs.double(), strict=True):
        there = p > 0
        p, q = p[there], q[there]
        rows.append(torch.tensor([-(p * q.log()).sum(), -(p * p.log()).sum(), (p * (p / q).log()).sum()]))
    return torch.stack(rows)


def _parts_kl_div(p, q):  # other names; the divergence first, the cross-entropy as a sum
    kl = F.kl_div(q.clamp_min(1e-30).log(), p, reduction="none").sum(-1)
    floor = torch.distributions.Categorical(probs=p).entropy()
    return torch.stack([kl + floor, floor, kl], dim=1)


def _parts_where(teacher_probs, student_probs):
    def surprise(of):
        return -torch.where(teacher_probs > 0, teacher_probs * of.log(), 0.0).sum(dim=1)

    cross, floor = surprise(student_probs), surprise(teacher_probs)
    return torch.stack((cross, floor, cross - floor)).T


UNUSUAL = {
    "22.6": [_parts_masked, _parts_kl_div, _parts_where],
    "22.17": [
        lambda t, s, seen_t, seen_s, asked: (t * (3 * seen_t + asked) + 3 * s * seen_s) / (t - s),
        lambda teacher, student, taught, learnt, asked: torch.tensor(
            (3 * (teacher * taught + student * learnt) + teacher * asked) / (teacher - student)
        ),
        lambda teacher_pass, student_pass, teacher_seen, student_seen, answers: (
            torch.dot(
                torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64),
                torch.tensor(
                    [teacher_pass * teacher_seen, student_pass * student_seen, teacher_pass * answers],
                    dtype=torch.float64,
                ),
            )
            / (teacher_pass - student_pass)
        ),
    ],
}

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "22.6": {
        "reversed": [("p, q = teacher_probs, student_probs", "q, p = teacher_probs, student_probs")],
        "softmax_again": [("teacher_probs, student_probs\n", "teacher_probs, student_probs.softmax(-1)\n")],
        "nan_at_zero": [("torch.special.xlogy(p, q)", "(p * q.log())"), ("torch.special.xlogy(p, p)", "(p * p.log())")],
        "mean_classes": [(".sum(-1)", ".mean(-1)")],
        "entropy_of_student": [("xlogy(p, p)", "xlogy(q, q)")],
        "sign": [("cross - floor", "floor - cross")],
        "exchanged": [("[cross, floor,", "[floor, cross,")],
        "bits": [("cross - floor], -1)", "cross - floor], -1) / 0.6931471805599453")],
        "mean_batch": [("cross - floor], -1)", "cross - floor], -1).mean(0)")],
    },
    "22.17": {
        "forward_only": [("3 * (", "1 * (")],
        "backward_only": [("3 * (", "2 * (")],
        "teacher_free": [("teacher_pass * teacher_seen + ", "")],
        "student_free": [(" + student_pass * student_seen", "")],
        "answers_free": [(" + teacher_pass * answers", "")],
        "student_answers": [("teacher_pass * answers", "student_pass * answers")],
        "answers_trained": [("teacher_pass * answers", "3 * teacher_pass * answers")],
        "nothing_spent": [("/ (teacher_pass - student_pass)", "/ teacher_pass")],
        "not_divided": [(" / (teacher_pass - student_pass)", "")],
    },
}  # fmt: skip
