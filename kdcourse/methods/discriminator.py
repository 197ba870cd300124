"""A second network that tries to tell the student's logits from the teacher's, and a student that tries to be mistaken.

Scores are [...], one a judged example: how much it looks like the teacher's, as a logit, so that sigmoid(score) is a
probability. What the judge sees is the caller's affair: the logits alone, or the logits beside their image.
"""

from torch import Tensor
from torch.nn.functional import softplus


def discriminator_loss(teacher_scores: Tensor, student_scores: Tensor) -> Tensor:
    """-log sigmoid(teacher's score) - log(1 - sigmoid(student's score)), in nats: [...].

    Give it the scores of `student_logits.detach()`: the judge's step must not move the student.
    At 2 log 2, for scores of 0, the judge guesses.
    Source: Goodfellow et al. (2014), equation 1, arXiv:1406.2661, with the sign turned so that less is better.
    """
    _check_scores("discriminator_loss", teacher_scores=teacher_scores, student_scores=student_scores)
    return softplus(-teacher_scores) + softplus(student_scores)


def fooling_loss(student_scores: Tensor) -> Tensor:
    """-log sigmoid(student's score), in nats: what the student lowers to be taken for the teacher, [...].

    The form that keeps its gradient while the judge wins: log(1 - sigmoid(score)) has none there.
    Source: Goodfellow et al. (2014), section 3, arXiv:1406.2661.
    """
    _check_scores("fooling_loss", student_scores=student_scores)
    return softplus(-student_scores)


def _check_scores(function: str, **scores: Tensor) -> None:
    for name, value in scores.items():
        if not value.is_floating_point():
            raise TypeError(f"{function}: {name} must be floating point, got {value.dtype}")
    shapes = {name: tuple(value.shape) for name, value in scores.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{function}: teacher and student must have as many scores, got {shapes}")
