"""Exercise 18: unusual right answers, and every named mistake as an edit of the public solution."""

import numpy as np
import torch
import torch.nn.functional as F


def _forward_nll(logits, targets, noise):
    return F.nll_loss((logits.softmax(-1) @ noise).log(), targets, reduction="none")


def _forward_columns(logits, targets, noise):  # the label's column of the matrix, in logarithms
    return -torch.logsumexp(logits.double().log_softmax(-1) + noise.double()[:, targets].T.log(), dim=-1)


def _forward_by_example(z, y, n):
    return torch.stack([-torch.dot(row.softmax(0), n[:, label]).log() for row, label in zip(z, y, strict=True)])


def _adjusted_counts(logits, targets, counts):  # the sum of the counts is one number for all classes
    return F.cross_entropy(logits + counts.log(), targets, reduction="none")


def _adjusted_margins(logits, targets, counts):  # log(1 + Σ of the others over the label's own)
    c = counts.double()
    gap = logits.double() - logits.double().gather(-1, targets[:, None])
    return torch.logsumexp(gap + c.log() - c[targets].log()[:, None], dim=-1)


def _adjusted_by_weights(z, y, n):  # each exponential as many times as its class has images
    weights = (z - z.amax(-1, keepdim=True)).exp() * n
    return -(weights[torch.arange(len(y)), y] / weights.sum(-1)).log()


def _use_ratio(logits, train_share, use_share):
    probs = logits.softmax(-1) * (use_share / train_share)
    return probs / probs.sum(-1, keepdim=True)


def _use_logs(z, old, new):
    log_p = z.double().log_softmax(-1) + new.double().log() - old.double().log()
    return (log_p - log_p.logsumexp(-1, keepdim=True)).exp()


def _use_numpy(logits, train_share, use_share):
    weights = np.exp(logits.double().numpy()) / train_share.double().numpy() * use_share.double().numpy()
    return weights / weights.sum(-1, keepdims=True)


def _accuracy_matrix(noisy_accuracy, rate, classes):  # (agrees, does not) = M (right, wrong), solved
    lucky = rate / (classes - 1)
    matrix = torch.tensor([[1 - rate, lucky], [rate, 1 - lucky]], dtype=torch.float64)
    seen = torch.stack([noisy_accuracy, 1 - noisy_accuracy]).double()
    return torch.linalg.solve(matrix, seen)[0]


def _accuracy_line(a, e, k):  # between a student that is never right and one that always is
    low, high = e / (k - 1), 1 - e
    return (a - low) / (high - low)


def _accuracy_product(noisy_accuracy, rate, classes):
    return ((classes - 1) * noisy_accuracy - rate) / ((classes - 1) - classes * rate)


UNUSUAL = {
    "18.1": [_forward_nll, _forward_columns, _forward_by_example],
    "18.2": [_adjusted_counts, _adjusted_margins, _adjusted_by_weights],
    "18.3": [_use_ratio, _use_logs, _use_numpy],
    "18.4": [_accuracy_matrix, _accuracy_line, _accuracy_product],
}

_SEEN = "F.softmax(logits, dim=-1) @ noise"

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "18.1": {
        "unused": [(" @ noise", "")],
        "transposed": [("@ noise", "@ noise.T")],
        "on_labels": [(_SEEN, "(F.log_softmax(logits, dim=-1) @ noise.T).exp()")],
        "log_first": [(_SEEN, "(F.log_softmax(logits, dim=-1) @ noise).exp()")],
        "backward": [(_SEEN, "F.log_softmax(logits, dim=-1) @ torch.linalg.inv(noise).T"), ("seen.log()", "seen")],
        "on_logits": [(_SEEN, "F.softmax(logits @ noise, dim=-1)")],
        "twice": [("seen.log()", "F.log_softmax(seen, dim=-1)")],
        "no_log": [("-seen.log()", "-seen")],
        "mean": [("[:, 0]", "[:, 0].mean()")],
    },
    "18.2": {
        "unused": [(" + share.log()", "")],
        "weighted": [(" + share.log()", ""), ("[:, 0]", "[:, 0] / (len(share) * share[targets])")],
        "sign": [("+ share.log()", "- share.log()")],
        "no_log": [("+ share.log()", "+ share")],
        "not_renormalised": [("F.log_softmax(logits + share.log(), dim=-1)",
                              "F.log_softmax(logits, dim=-1) + share.log()")],
        "mean": [("[:, 0]", "[:, 0].mean()")],
    },
    "18.3": {
        "sign": [("use_share.log() - train_share.log()", "train_share.log() - use_share.log()")],
        "train_unused": [(" - train_share.log()", "")],
        "use_unused": [("use_share.log() - ", "-")],
        "no_log": [("use_share.log() - train_share.log()", "use_share - train_share")],
        "not_renormalised": [("F.softmax(logits + shift, dim=-1)", "F.softmax(logits, dim=-1) * shift.exp()")],
    },
    "18.4": {
        "added": [("(noisy_accuracy - lucky) / (1 - rate - lucky)", "noisy_accuracy + rate")],
        "forwards": [("(noisy_accuracy - lucky) / (1 - rate - lucky)",
                      "(1 - rate) * noisy_accuracy + lucky * (1 - noisy_accuracy)")],
        "no_luck": [("rate / (classes - 1)", "0.0")],
        "own_label": [("rate / (classes - 1)", "rate / classes"), ("(1 - rate - lucky)", "(1 - rate)")],
        "slope": [("(1 - rate - lucky)", "(1 - rate)")],
    },
}  # fmt: skip
