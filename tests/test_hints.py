"""The hint loss: the paper's equation up to a factor, one number an example, a teacher that does not move."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdcourse.methods.hints import hint_loss


@pytest.fixture
def layers():
    generator = torch.Generator().manual_seed(0)
    guess, features = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return guess.requires_grad_(), features.requires_grad_()


def test_it_is_the_paper_s_equation_up_to_half_the_number_of_units(layers):
    guess, features = layers
    paper = 0.5 * (guess - features).norm(dim=-1) ** 2
    assert_close(hint_loss(guess, features) * 5 / 2, paper)
    assert_close(hint_loss(guess, features).mean(), F.mse_loss(guess, features))


def test_each_example_has_its_own_number_and_runs_are_a_leading_axis(layers):
    guess, features = layers
    alone = torch.stack([hint_loss(g, f) for g, f in zip(guess, features, strict=True)])
    assert_close(hint_loss(guess, features), alone)
    assert_close(hint_loss(guess.view(2, 3, 5), features.view(2, 3, 5)), alone.view(2, 3))


def test_the_gradient_reaches_the_guess_and_not_the_teacher(layers):
    guess, features = layers
    hint_loss(guess, features).sum().backward()
    assert features.grad is None
    assert_close(guess.grad, 2 * (guess - features).detach() / 5)


def test_half_types_are_computed_in_float32():
    guess, features = torch.tensor([[300.0, 1.0]]).half(), torch.tensor([[0.0, 1.0]]).half()
    assert hint_loss(guess, features).item() == 45_000  # the square, 90,000, is beyond float16
    assert hint_loss(guess, features).dtype == torch.float32


@pytest.mark.parametrize(
    ("guess", "features", "error", "says"),
    [
        (torch.zeros(4, 3), torch.zeros(3), ValueError, r"one shape, got \(4, 3\) and \(3,\)"),
        (torch.tensor(1.0), torch.tensor(1.0), ValueError, r"one shape, got \(\) and \(\)"),
        (torch.zeros(4, 3).long(), torch.zeros(4, 3), TypeError, "guess must be floating point, got torch.int64"),
        (torch.zeros(4, 3), torch.zeros(4, 3).bool(), TypeError, "teacher_features must be floating point"),
    ],
)
def test_what_would_be_broadcast_in_silence_is_an_error(guess, features, error, says):
    with pytest.raises(error, match=says):
        hint_loss(guess, features)
