"""Every named mistake as a learner would make it: an edit of the public solution, independent of the reference.

question -> mistake -> (old, new) pairs; an edit must apply. `test_names.py` requires that none is missing.
"""

from grading import ch05, ch06, ch07, ch08, ch09, ch10, ch11, ch12, ch13, ch14, ch15, ch16, ch17, ch18, ch22

PATCHES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "01.6": {
        "what_is_left": [("(distilled - alone)", "(teacher - distilled)")],
        "ratio_to_teacher": [("(distilled - alone) / (teacher - alone)", "distilled / teacher")],
        "no_baseline": [("(distilled - alone) / (teacher - alone)", "distilled / teacher - 1")],
        "per_baseline": [("/ (teacher - alone)", "/ alone")],
        "points": [(" / (teacher - alone)", "")],
        "clipped": [("return (distilled - alone) / (teacher - alone)",
                     "return min(1, max(0, (distilled - alone) / (teacher - alone)))")],
        "percent": [("return (", "return 100 * (")],
    },
    "02.6": {
        "no_softmax": [("F.log_softmax(logits, dim=-1)", "logits")],
        "softmax_twice": [("F.log_softmax(logits,", "F.log_softmax(torch.softmax(logits, -1),")],
        "overflow": [("F.log_softmax(logits, dim=-1)",
                      "torch.log(torch.exp(logits) / torch.sum(torch.exp(logits), -1, keepdim=True))")],
        "one_minus": [("return -log_q[", "return 1 - log_q.exp()[")],
        "every_class": [("-log_q[torch.arange(len(targets)), targets]", "-log_q.sum(1)")],
        "divided_by_classes": [("return -log_q", "return -(log_q / log_q.shape[1])")],
        "sign": [("return -log_q", "return log_q")],
        "log10": [("F.log_softmax(logits, dim=-1)", "F.log_softmax(logits, dim=-1) / 2.302585093")],
        "bits": [("F.log_softmax(logits, dim=-1)", "F.log_softmax(logits, dim=-1) / 0.69314718")],
        "mean": [("targets]", "targets].mean()")],
    },
    "02.7": {
        "uphill": [("weight - learning", "weight + learning")],
        "sum": [("leaf.T, targets)", 'leaf.T, targets, reduction="sum")')],
        "divided_by_classes": [("learning_rate * gradient", "learning_rate * gradient / len(weight)")],
        "no_rate": [("learning_rate * gradient", "gradient")],
        "no_softmax": [("(gradient,) = torch.autograd.grad(loss, leaf)",
                        "gradient = (inputs @ weight.T - torch.eye(len(weight))[targets]).T @ inputs / len(inputs)")],
        "no_target": [("(gradient,) = torch.autograd.grad(loss, leaf)",
                       "gradient = torch.softmax(inputs @ weight.T, -1).T @ inputs / len(inputs)")],
        "only_step": [("return weight -", "return -")],
    },
    "03.1": {
        "multiplied": [("logits / temperature", "logits * temperature")],
        "no_temperature": [("logits / temperature", "logits"),
                           ("return weights /", "weights = weights / temperature\n    return weights /")],
        "divided_after": [("logits / temperature", "logits"), ("keepdim=True)\n", "keepdim=True)\n"),
                          ("return weights / weights.sum(-1, keepdim=True)",
                           "return weights / weights.sum(-1, keepdim=True) / temperature")],
        "no_exponential": [("return weights / weights.sum(-1, keepdim=True)",
                            "return logits / (torch.sum(logits) / temperature)")],
        "first_axis": [("amax(-1", "amax(0"), ("sum(-1", "sum(0")],
        "over_everything": [("amax(-1, keepdim=True)", "amax()"), ("sum(-1, keepdim=True)", "sum()")],
        "overflow": [(" - scaled.amax(-1, keepdim=True)", "")],
        "log": [("return weights / weights.sum(-1, keepdim=True)", "return F.log_softmax(scaled, dim=-1)")],
    },
    "03.2": {
        "bits": [("-torch.special.xlogy(probs, probs)", "-torch.where(probs > 0, probs * probs.log2(), 0)")],
        "log10": [("-torch.special.xlogy(probs, probs)", "-torch.where(probs > 0, probs * probs.log10(), 0)")],
        "sign": [("return -", "return ")],
        "mean": [("sum(-1)", "mean(-1)")],
        "over_everything": [("sum(-1)", "sum()")],
        "nan_at_zero": [("torch.special.xlogy(probs, probs)", "(probs * torch.log(probs))")],
        "squares": [("-torch.special.xlogy(probs, probs)", "1 - (probs * probs)")],
        "exponential": [("return -torch.special.xlogy(probs, probs).sum(-1)",
                         "return torch.exp(-torch.special.xlogy(probs, probs).sum(-1))")],
    },
    "03.3": {
        "first_takes_all": [("return winners / winners.sum(-1, keepdim=True)",
                             "return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()")],
        "not_shared": [("return winners / winners.sum(-1, keepdim=True)", "return winners")],
        "smallest": [("amax", "amin")],
        "over_everything": [("logits.amax(-1, keepdim=True)", "logits.max()"), ("sum(-1, keepdim=True)", "sum()")],
        "index": [("return winners / winners.sum(-1, keepdim=True)", "return logits.argmax(-1)")],
    },
    "03.4": {
        "reversed": [("cross_entropy = -", "p, q = q, p\n    cross_entropy = -")],
        "cross_entropy": [(" - entropy(p)", "")],
        "symmetric": [("return cross_entropy - entropy(p)",
                       "return ((p - q) * (p.log() - q.log())).sum(-1) / 2")],
        "squares": [("return cross_entropy - entropy(p)", "return ((p - q) ** 2).sum(-1)")],
        "bits": [("return cross_entropy - entropy(p)", "return (cross_entropy - entropy(p)) / math.log(2)")],
        "mean": [("return cross_entropy - entropy(p)", "return (cross_entropy - entropy(p)) / len(p.T)")],
        "over_everything": [("sum(-1)", "sum()"), ("entropy(p)", "entropy(p).sum()")],
        "sign": [("return cross_entropy - entropy(p)", "return entropy(p) - cross_entropy")],
        "nan_at_zero": [("return cross_entropy - entropy(p)", "return (p * (p.log() - q.log())).sum(-1)")],
    },
    "04.4": {
        "no_T2": [("temperature**2 * ", "")],
        "T_once": [("temperature**2 * ", "temperature * ")],
        "T2_on_both": [('reduction="none")', 'reduction="none") * temperature**2')],
        "hot_hard": [("cross_entropy(student_logits,", "cross_entropy(student_logits / temperature,")],
        "cold_student": [("F.log_softmax(student_logits / temperature", "F.log_softmax(student_logits")],
        "cold_teacher": [("teacher_logits.detach() / temperature", "teacher_logits.detach()")],
        "multiplied": [("student_logits / temperature", "student_logits * temperature"),
                       ("detach() / temperature", "detach() * temperature")],
        "kl_reversed": [("(log_p.exp() * (log_p - log_q))", "(log_q.exp() * (log_q - log_p))")],
        "cross_entropy": [("(log_p.exp() * (log_p - log_q))", "(-log_p.exp() * log_q)")],
        "probabilities": [("(log_p.exp() * (log_p - log_q))",
                           'F.kl_div(log_q.exp(), log_p.exp(), reduction="none")')],
        "log_target": [("(log_p.exp() * (log_p - log_q))", 'F.kl_div(log_q, log_p, reduction="none")')],
        "mean_classes": [("log_q)).sum(-1)", "log_q)).mean(-1)")],
        "softmax_twice": [("cross_entropy(student_logits,", "cross_entropy(F.softmax(student_logits, dim=-1),")],
        "swapped": [("soft_weight * soft + (1 - soft_weight) * hard", "(1 - soft_weight) * soft + soft_weight * hard")],
        "hard_in_full": [("(1 - soft_weight) * hard", "hard")],
        "teacher_gradient": [(".detach()", "")],
        "mean": [("return soft_weight * soft + (1 - soft_weight) * hard",
                  "return (soft_weight * soft + (1 - soft_weight) * hard).mean()")],
        "sum": [("return soft_weight * soft + (1 - soft_weight) * hard",
                 "return (soft_weight * soft + (1 - soft_weight) * hard).sum()")],
    },
    "04.5": {
        "uphill": [("loss = -(", "loss = (")],
        "accumulated": [("        optimizer.zero_grad()\n", "")],
        "softmax_twice": [("F.log_softmax(logits, dim=-1)).sum", "F.log_softmax(F.softmax(logits, -1), dim=-1)).sum")],
        "hard_label": [("logits = start", "target = F.one_hot(target.argmax(), len(target))\n    logits = start")],
        "reversed": [("-(target * F.log_softmax(logits, dim=-1)).sum()",
                      "F.kl_div(target.log(), F.softmax(logits, -1), reduction='sum')")],
        "squares": [("-(target * F.log_softmax(logits, dim=-1)).sum()",
                     "(target - F.softmax(logits, -1)).square().sum()")],
        "mean_classes": [("dim=-1)).sum()", "dim=-1)).mean()")],
        "one_more": [("range(steps)", "range(steps + 1)")],
        "logits": [("F.softmax(logits, dim=-1).detach()", "logits.detach()")],
    },
    "04.6": {
        "no_zero_grad": [("        optimizer.zero_grad()\n", "")],
        "softmax_twice": [("cross_entropy(student_logits", "cross_entropy(F.softmax(student_logits, dim=-1)")],
        "teacher_training": [("    teacher.eval()\n", "")],
        "teacher_gradient": [("with torch.no_grad():", "if True:")],
        "no_T2": [(' * temperature**2', "")],
    },
}  # fmt: skip
PATCHES |= ch05.PATCHES
PATCHES |= ch06.PATCHES
PATCHES |= ch07.PATCHES
PATCHES |= ch08.PATCHES
PATCHES |= ch09.PATCHES
PATCHES |= ch10.PATCHES
PATCHES |= ch11.PATCHES
PATCHES |= ch12.PATCHES
PATCHES |= ch13.PATCHES
PATCHES |= ch14.PATCHES
PATCHES |= ch15.PATCHES
PATCHES |= ch16.PATCHES
PATCHES |= ch17.PATCHES
PATCHES |= ch18.PATCHES
PATCHES |= ch22.PATCHES
