"""It is slow, or the memory runs full."""

import torch
import torch.nn.functional as F

from kdcourse.losses import soft_loss


def scored_after_each_batch(student, batches, learn):
    for x, y in batches:
        learn(x, y)
        count_right(student, batches)
        # cure: pass
    return count_right(student, batches)


def a_graph_for_the_teacher(student, teacher, x, y):
    with torch.enable_grad():  # as it is by default
        # cure: with torch.no_grad():
        teacher_logits = teacher(x)
    log_q = (student(x) / 4).log_softmax(-1)
    p = (teacher_logits / 4).softmax(-1)
    return 16 * F.kl_div(log_q, p, reduction="batchmean")


def an_optimiser_for_each_batch(student, batches):
    adam = torch.optim.Adam(student.parameters(), 3e-3)
    for x, y in batches:
        adam = torch.optim.Adam(student.parameters(), 3e-3)
        # cure: adam.zero_grad()
        student.zero_grad()
        F.cross_entropy(student(x), y).backward()
        adam.step()
    return adam


def the_teacher_asked_each_epoch(student, teacher, batches, epochs):
    known = {}
    for epoch in range(epochs):
        for i, x in enumerate(batches):
            if i not in known or epoch > 0:
                # cure: if i not in known:
                with torch.no_grad():
                    known[i] = teacher(x)
            soft_loss(student(x), known[i], 4.0).mean().backward()


def count_right(student, batches):
    with torch.no_grad():
        return sum((student(x).argmax(-1) == y).sum() for x, y in batches)
