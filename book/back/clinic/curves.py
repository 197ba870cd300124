"""Curves that cannot be compared."""

import copy
import math

import torch
import torch.nn.functional as F

from kdcourse.losses import soft_loss
from kdcourse.models import mlp


def one_student_for_all(temperatures, x, teacher_logits):
    torch.manual_seed(0)
    first, losses = mlp(64, 16, 10), {}
    for T in temperatures:
        student = first
        # cure: student = copy.deepcopy(first)
        adam = torch.optim.Adam(student.parameters(), 1e-2)
        for _ in range(20):
            loss = soft_loss(student(x), teacher_logits, T).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        losses[T] = loss.item()
    return losses


def one_optimiser_for_all(temperatures, x, teacher_logits):
    torch.manual_seed(0)
    student, losses = mlp(64, 16, 10), {}
    first = copy.deepcopy(student.state_dict())
    adam = torch.optim.Adam(student.parameters(), 1e-2)
    for T in temperatures:
        student.load_state_dict(first)
        adam.zero_grad()
        # cure: adam = torch.optim.Adam(student.parameters(), 1e-2)
        for _ in range(20):
            loss = soft_loss(student(x), teacher_logits, T).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        losses[T] = loss.item()
    return losses


def T_times_the_target(student_logits, teacher_logits, T):
    target = T * teacher_logits.softmax(-1)
    # cure: target = (teacher_logits / T).softmax(-1)
    return F.cross_entropy(student_logits, target)


def no_T_squared(student_logits, teacher_logits, T):
    log_q = (student_logits / T).log_softmax(-1)
    p = (teacher_logits / T).softmax(-1)
    return F.kl_div(log_q, p, reduction="batchmean")
    # cure: return T**2 * F.kl_div(log_q, p, reduction="batchmean")


def mean_over_classes_too(student_logits, teacher_logits, T):
    log_q = (student_logits / T).log_softmax(-1)
    p = (teacher_logits / T).softmax(-1)
    return T**2 * F.kl_div(log_q, p)
    # cure: return T**2 * F.kl_div(log_q, p, reduction="batchmean")


def cross_entropy_for_kl(student_logits, teacher_logits, T):
    log_q = (student_logits / T).log_softmax(-1)
    p = (teacher_logits / T).softmax(-1)
    return -(p * log_q).sum(-1).mean()
    # cure: return (p * (p.log() - log_q)).sum(-1).mean()


def mean_of_means(losses, batch):
    parts = losses.split(batch)
    return sum(part.mean() for part in parts) / len(parts)
    # cure: return sum(part.sum() for part in parts) / len(losses)


def one_dot_a_temperature(losses):
    return {T: path[-1] for T, path in losses.items()}
    # cure: return {T: path for T, path in losses.items()}


def a_wrong_word():
    kind = "logarithmic"
    # cure: kind = "exponential"
    return kind, [10 * math.exp(-k) for k in range(5)]
