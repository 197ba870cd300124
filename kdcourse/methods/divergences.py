"""Other distances than KL(teacher ‖ student): they decide what a student does that cannot copy all of its teacher.

One number a token: logits [..., classes] -> [...], in nats; no gradient reaches the teacher, half types are computed
in float32. Logits are finite: what only one network's vocabulary has is cut off before. There is neither a temperature
nor a factor T²; who wants one divides both logits and says so. KL(teacher ‖ student) is `soft_loss` at T = 1.
"""

import math
from numbers import Real

from torch import Tensor, logaddexp

from kdcourse.softmax import check_logits, tempered_log_softmax


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(q ‖ p), q the student's probabilities: dear where the student goes and the teacher does not.

    Source: Gu et al. (2024), equation 1, arXiv:2306.08543, there for whole sequences.
    """
    log_q, log_p = _log_probs("reverse_kl", student_logits, teacher_logits)
    return _kl(log_q, log_p)


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, *, beta: float) -> Tensor:
    """beta KL(p ‖ m) + (1 - beta) KL(q ‖ m) with m = beta p + (1 - beta) q: never above the entropy of beta.

    0 < beta < 1. It goes to 0 at both ends, and divided by beta it goes to KL(p ‖ q) at 0, divided by 1 - beta to
    KL(q ‖ p) at 1. Source: Agarwal et al. (2024), section 2, arXiv:2306.13649.
    """
    check_beta("jensen_shannon", beta)
    log_q, log_p = _log_probs("jensen_shannon", student_logits, teacher_logits)
    log_m = logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def check_beta(function: str, beta: float) -> None:
    """Raise unless beta is a number strictly between 0 and 1."""
    number = isinstance(beta, Real) and not isinstance(beta, bool)
    if number and 0 < beta < 1:
        return
    limits = {
        0: "; at 0 it is 0 for every student, and its limit JSD/beta is KL(teacher ‖ student): soft_loss at T = 1",
        1: "; at 1 it is 0 for every student, and its limit JSD/(1 - beta) is KL(student ‖ teacher): reverse_kl",
    }
    meant = limits.get(beta, "") if number else ""
    raise ValueError(f"{function}: beta must be a number strictly between 0 and 1, got {beta!r}{meant}")


def _log_probs(function: str, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    check_logits(function, student_logits=student_logits, teacher_logits=teacher_logits)
    return tempered_log_softmax(student_logits), tempered_log_softmax(teacher_logits.detach())


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(-1)
