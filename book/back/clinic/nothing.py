"""The loss falls, and nothing of the teacher is learnt."""

import torch
import torch.nn.functional as F
from torch import nn

from kdcourse.losses import hard_loss, soft_loss
from kdcourse.models import mlp


def a_leaf_of_its_own(student, teacher, x, y):
    with torch.no_grad():
        teacher_logits = teacher(x)
    logits = student(x)
    kept = logits.detach().clone().requires_grad_()
    # cure: kept = logits.clone()
    soft = soft_loss(kept, teacher_logits, 4.0)
    return (hard_loss(logits, y) + soft).mean()


def two_names_exchanged(teacher, student, x, y):
    # cure: def two_names_exchanged(student, teacher, x, y):
    with torch.no_grad():
        teacher_logits = teacher(x)
    logits = student(x)
    soft = soft_loss(logits, teacher_logits, 4.0)
    return (hard_loss(logits, y) + soft).mean()


def the_teacher_twice(student, teacher, x, y):
    with torch.no_grad():
        teacher_logits = teacher(x)
    logits = student(x)
    soft = soft_loss(teacher_logits, teacher_logits, 4.0)
    # cure: soft = soft_loss(logits, teacher_logits, 4.0)
    return (hard_loss(logits, y) + soft).mean()


def a_teacher_nobody_asks(student, teacher, x, y):
    logits = student(x)
    target = F.one_hot(y, 10).float()
    # cure: target = teacher(x).detach().softmax(-1)
    return F.cross_entropy(logits, target)


def attention_only_printed(network, attention, x, y, teacher_map):
    scores = attention(x).squeeze(-1)
    attention_loss = F.mse_loss(scores.softmax(-1), teacher_map)
    loss = F.cross_entropy(network(x).mean(1), y)
    total = loss
    # cure: total = loss + attention_loss
    return total, attention_loss.item()  # the second is printed


def another_network_is_trained(teacher, x, y):
    network = mlp(64, 32, 10)
    # cure: network = teacher
    return train(network, x, y, steps=100)


def a_teacher_fresh_from_the_shop(x, y):
    teacher = mlp(64, 32, 10)
    steps = 0
    # cure: steps = 100
    return train(teacher, x, y, steps)


def labels_from_a_die(x):
    return torch.randint(2, (len(x),))
    # cure: return (x[:, :3].sum(-1) > 0).long()


def ten_steps(network, x, y):
    steps = 10
    # cure: steps = 200
    return train(network, x, y, steps)


def train(network: nn.Module, x, y, steps, lr=1e-2):
    adam = torch.optim.Adam(network.parameters(), lr)
    for _ in range(steps):
        adam.zero_grad()
        F.cross_entropy(network(x), y).backward()
        adam.step()
    return network
