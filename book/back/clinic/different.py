"""It runs, and it is not what its name says."""

import math

import torch
import torch.nn.functional as F

from kdcourse.losses import hard_loss, soft_loss
from kdcourse.models import mlp


def labels_nobody_reads(student_logits, teacher_logits, labels):
    soft = soft_loss(student_logits, teacher_logits, 4.0)
    hard = torch.zeros(())
    # cure: hard = hard_loss(student_logits, labels)
    return (0.9 * soft + 0.1 * hard).mean()


def one_side_is_soft(student_logits, teacher_logits, T):
    log_p = (teacher_logits / T).log_softmax(-1)
    log_q = student_logits.log_softmax(-1)
    # cure: log_q = (student_logits / T).log_softmax(-1)
    return T**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def no_temperature_at_all(student_logits, teacher_logits, T):
    return soft_loss(student_logits, teacher_logits, 1.0).mean()
    # cure: return soft_loss(student_logits, teacher_logits, T).mean()


def no_teacher_in_the_formula(student_logits, teacher_logits, labels):
    return hard_loss(student_logits, labels).mean()
    # cure: return soft_loss(student_logits, teacher_logits, 4.0).mean()


def an_index_lost(logits, T):
    e = (logits / T).exp()
    return e / e.sum()
    # cure: return e / e.sum(-1, keepdim=True)


def a_temperature_that_never_softens(epoch):
    return 1 / (1 + math.exp(-epoch))
    # cure: return 1 + 7 / (1 + math.exp(epoch))


def nothing_adversarial(student, teacher, x):
    z = x
    # cure: z = x + 0.1 * uphill(student, teacher, x).sign()
    with torch.no_grad():
        teacher_logits = teacher(x)
    return soft_loss(student(z), teacher_logits, 1.0).mean()


def uphill(student, teacher, x):
    """The direction in which the student leaves the teacher fastest."""
    x = (x + 1e-3 * torch.randn_like(x)).requires_grad_()
    soft = soft_loss(student(x), teacher(x.detach()), 1.0)
    return torch.autograd.grad(soft.sum(), x)[0]


def two_stages_alike(stage, features, teacher_features, logits, teacher_logits):
    hint = F.mse_loss(features, teacher_features)
    soft = soft_loss(logits, teacher_logits, 4.0).mean()
    return soft if stage else hint
    # cure: return hint if stage == 1 else soft


def a_student_as_large_as_its_teacher():
    teacher, student = mlp(30, 30, 4, 2), mlp(30, 20, 2, 2)
    # cure: teacher, student = mlp(30, 30, 4, 2), mlp(30, 4, 2)
    return teacher, student


def a_mean_that_came_too_late(logits, labels, weight):
    loss = F.cross_entropy(logits, labels)
    # cure: loss = F.cross_entropy(logits, labels, reduction="none")
    return (weight * loss).mean()


def attention_against_logits(student_map, teacher_map, teacher_logits):
    return F.mse_loss(student_map, teacher_logits)
    # cure: return F.mse_loss(student_map, teacher_map)
