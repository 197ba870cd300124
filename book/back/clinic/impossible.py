"""A number that cannot be."""

import torch.nn.functional as F


def logits_as_targets(student_logits, teacher_logits, labels):
    target = teacher_logits
    # cure: target = teacher_logits.softmax(-1)
    return F.cross_entropy(student_logits, target)


def soft_plus_hard(student_logits, teacher_logits, labels):
    soft = teacher_logits.softmax(-1)
    hard = F.one_hot(labels, soft.shape[-1])
    target = soft + hard
    # cure: target = 0.9 * soft + 0.1 * hard
    return F.cross_entropy(student_logits, target)


def divided_by_the_batch(logits, T):
    return logits / (logits.sum() / T)
    # cure: return (logits / T).softmax(-1)


def the_wrong_way_round(target, prediction):
    wrong_way = prediction * (prediction / target).log()
    # cure: wrong_way = -target * prediction.log()
    return wrong_way.sum(-1)


def probabilities_for_logs(student_logits, teacher_logits, T):
    p = (teacher_logits / T).softmax(-1)
    q = (student_logits / T).softmax(-1)
    # cure: q = (student_logits / T).log_softmax(-1)
    return T**2 * F.kl_div(q, p, reduction="batchmean")
