"""The number is too good."""

import torch
from torch import Tensor, nn

from kdcourse import metrics


def judged_on_what_it_learnt(student, train_set, test_set):
    judge = train_set
    # cure: judge = test_set
    return metrics.accuracy(student(judge.inputs), judge.targets)


def the_best_epoch_of_the_test(valid_curve, test_curve):
    best = test_curve.argmax()
    # cure: best = valid_curve.argmax()
    return test_curve[best]


def a_grid_on_one_side(score):
    grid = [0.1, 0.3, 0.5, 0.7, 1.0]
    # cure: grid = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    return grid, max(grid, key=score)


def accuracy_called_certainty(logits, targets):
    return {"accuracy": metrics.accuracy(logits, targets)}
    # cure: return metrics.scores(logits, targets)


def a_student_that_reads_ahead(tokens: Tensor):
    n, width = tokens.shape
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(width, 1)
    hidden = torch.zeros(n, n, dtype=torch.bool)
    # cure: hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    return layer(tokens, tokens, tokens, attn_mask=hidden)[0]
