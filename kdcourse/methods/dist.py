"""DIST: the student's answers need only correlate with the teacher's, in each example and in each class."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from kdcourse.softmax import check_logits, tempered_softmax


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor,
    row_weight: float | Tensor = 2.0,
    column_weight: float | Tensor = 2.0,
) -> Tensor:
    """T² · (row_weight · (1 - r of each example) + column_weight · (1 - r of each class, their mean)): [batch].

    r is Pearson's correlation of the two tempered softmaxes, over the classes of an example or over the batch for a
    class. Logits are [batch, classes], and each example's number depends on its batch through the second term.
    No gradient reaches the teacher.
    Source: Huang et al. (2022), equations 8 to 10, arXiv:2205.10536, with T² as in the authors' program.
    """
    check_logits("dist_loss", student_logits=student_logits, teacher_logits=teacher_logits)
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape or len(student_logits) < 2:
        raise ValueError(
            "dist_loss: logits must be [batch, classes] of one shape with at least 2 examples, got "
            f"student {tuple(student_logits.shape)} and teacher {tuple(teacher_logits.shape)}"
        )
    q, p = (tempered_softmax(logits, temperature) for logits in (student_logits, teacher_logits.detach()))
    rows, columns = _correlation(q, p, 1), _correlation(q, p, 0)
    return temperature**2 * (row_weight * (1 - rows) + column_weight * (1 - columns.mean()))


def _correlation(q: Tensor, p: Tensor, axis: int) -> Tensor:
    return cosine_similarity(q - q.mean(axis, keepdim=True), p - p.mean(axis, keepdim=True), dim=axis)
