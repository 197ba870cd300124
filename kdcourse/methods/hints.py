"""The hint: a layer of the student predicts a layer of the teacher, through a regressor that is the caller's."""

from torch import Tensor

from kdcourse.softmax import full_precision


def hint_loss(guess: Tensor, teacher_features: Tensor) -> Tensor:
    """Squared error, averaged over the units of the layer: [..., units] -> [...].

    `guess` is what the regressor makes of the student's layer. No gradient reaches the teacher; the regressor learns
    along with the student. Half types are computed in float32.
    Source: Romero et al. (2015), equation 3, arXiv:1412.6550: that is units/2 times as much, a factor for the weight.
    """
    for name, value in (("guess", guess), ("teacher_features", teacher_features)):
        if not value.is_floating_point():
            raise TypeError(f"hint_loss: {name} must be floating point, got {value.dtype}")
    if guess.ndim == 0 or guess.shape != teacher_features.shape:
        raise ValueError(
            "hint_loss: guess and teacher_features must be [..., units] of one shape, got "
            f"{tuple(guess.shape)} and {tuple(teacher_features.shape)}"
        )
    return (full_precision(guess) - full_precision(teacher_features.detach())).square().mean(-1)
