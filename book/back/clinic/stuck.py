"""The loss stops early, or the accuracy never moves."""

import torch
import torch.nn.functional as F
from torch import nn


def softmax_twice(logits, labels):
    probs = logits.softmax(-1)
    # cure: probs = logits
    return F.cross_entropy(probs, labels)


def a_softmax_of_probabilities(probs, T):
    return (probs / T).softmax(-1)
    # cure: return (probs.log() / T).softmax(-1)


def softmax_over_one_number(tokens, scorer):
    scores = scorer(tokens)  # [batch, tokens, 1]
    return scores.softmax(-1)
    # cure: return scores.softmax(1)


def one_width_for_all_weights(network: nn.Module):
    for module in network.modules():
        for weight in module.parameters(recurse=False):
            nn.init.normal_(weight, 0.0, 0.01)
            # cure: module.reset_parameters()
    return network


def its_own_answer_as_input(student, x):
    answer = torch.tensor([[0.6, 0.3, 0.1]]).expand(len(x), 3)
    # cure: answer = x
    return student(answer)


def a_hundred_tiny_steps(logits, target):
    logits.requires_grad_()
    steps, lr = 100, 1e-3
    # cure: steps, lr = 1000, 1e-2
    adam = torch.optim.Adam([logits], lr)
    for _ in range(steps):
        adam.zero_grad()
        F.cross_entropy(logits, target).backward()
        adam.step()
    return logits.detach().softmax(-1)
