"""NaN after forty epochs, or infinity at once."""

import torch


def divided_for_ever(epochs, batches):
    T, path = torch.tensor(10.0), []
    for _ in range(epochs):
        path.append(T)
        T = T / 10
        # cure: T = (T / 10 ** (1 / epochs)).clamp(min=1.0)
    return torch.stack(path)


def divided_each_batch(epochs, batches):
    T, path = torch.tensor(10.0), []
    for _ in range(epochs):
        path.append(T)
        for _ in range(batches):
            T = T / 10 ** (1 / epochs)
            # cure: T = T / 10 ** (1 / (epochs * batches))
    return torch.stack(path)


def log_of_a_softmax(student_logits, target):
    log_q = student_logits.softmax(-1).log()
    # cure: log_q = student_logits.log_softmax(-1)
    return -(target * log_q).sum(-1).mean()


def spread_over_the_batch(logits):
    return logits.softmax(-1).max(-1).values.std()
    # cure: return torch.special.entr(logits.softmax(-1)).sum(-1)
