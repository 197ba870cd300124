"""The methods beside the core: equal to public implementations, and to the core where algebra says so."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdcourse.losses import hard_loss, soft_loss
from kdcourse.methods.decoupled import decoupled_loss
from kdcourse.methods.dist import dist_loss
from kdcourse.methods.standardized import standardized
from kdcourse.softmax import tempered_softmax

with warnings.catch_warnings():  # what the peer imports is its own to mend
    warnings.simplefilter("ignore")
    from torchdistill.losses.mid_level import DISTLoss, LogitStdKDLoss

TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 12, 7, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher.requires_grad_(), torch.randint(7, (12,), generator=generator)


def peer(loss, student, teacher, targets=None):
    return loss({"logits": {"output": student}}, {"logits": {"output": teacher}}, targets)


WHERE = ("logits", "output", "logits", "output")


def gradients(value, *arguments):
    return torch.autograd.grad(value, arguments, allow_unused=True)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_decoupled_is_the_soft_loss_with_the_weights_1_and_1_minus_p(answers, temperature):
    student, teacher, targets = answers
    left = 1 - tempered_softmax(teacher, temperature).gather(-1, targets[:, None])[:, 0].detach()
    ours = decoupled_loss(student, teacher, targets, temperature=temperature, other_weight=left)
    plain = soft_loss(student, teacher, temperature)
    assert_close(ours, plain)
    assert_close(gradients(ours.sum(), student), gradients(plain.sum(), student))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_decoupled_is_the_paper_s_two_divergences(answers, temperature):
    """Written out with probabilities and masks, as the authors do."""
    student, teacher, targets = answers
    p, q = (F.softmax(z / temperature, -1) for z in (teacher, student))
    on = F.one_hot(targets, 7).bool()
    binary = [torch.stack([x[on], x.masked_fill(on, 0).sum(-1)], -1) for x in (p, q)]
    rest = [x.masked_fill(on, 0) / x.masked_fill(on, 0).sum(-1, keepdim=True) for x in (p, q)]
    target = F.kl_div(binary[1].log(), binary[0], reduction="none").sum(-1)
    others = F.kl_div(rest[1].masked_fill(on, 1).log(), rest[0], reduction="none").sum(-1)
    theirs = temperature**2 * (1.5 * target + 6 * others)
    ours = decoupled_loss(student, teacher, targets, temperature=temperature, target_weight=1.5, other_weight=6)
    assert_close(ours, theirs)
    assert_close(gradients(ours.sum(), student), gradients(theirs.sum(), student))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_standardised_logits_give_torchdistill_s_loss(answers, temperature):
    student, teacher, targets = answers
    soft = soft_loss(standardized(student), standardized(teacher), temperature)
    ours = (0.25 * hard_loss(student, targets) + 0.75 * soft).mean()
    loss = LogitStdKDLoss(*WHERE, temperature=temperature, alpha=0.25, eps=0.0)  # without labels it leaves out T²
    theirs = peer(loss, student, teacher.detach(), targets)
    assert_close(ours, theirs)
    assert_close(gradients(ours, student), gradients(theirs, student))


def test_standardised_logits_forget_place_and_scale(answers):
    student, _, _ = answers
    z = standardized(student)
    assert_close(z.mean(-1), torch.zeros(12, dtype=z.dtype))
    assert_close(z.std(-1), torch.ones(12, dtype=z.dtype))
    assert_close(standardized(3 * student - 5), z)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dist_is_torchdistill_s(answers, temperature):
    student, teacher, _ = answers
    ours = dist_loss(student, teacher, temperature=temperature, row_weight=1.5, column_weight=0.5).mean()
    theirs = peer(DISTLoss(*WHERE, beta=1.5, gamma=0.5, tau=temperature), student, teacher.detach())
    assert_close(ours, theirs)
    assert_close(gradients(ours, student), gradients(theirs, student))


def test_dist_asks_for_correlation_alone():
    """Halfway between the teacher and the uniform distribution: another answer, the same correlation."""
    p = torch.softmax(torch.randn(8, 5, dtype=torch.float64), -1)
    halfway = (0.5 * p + 0.1).log()
    assert dist_loss(halfway, p.log(), temperature=1.0).abs().max() < 1e-12
    assert soft_loss(halfway, p.log(), 1.0).min() > 1e-3


LOSSES = {
    "decoupled": lambda s, t, y: decoupled_loss(s, t, y, temperature=4.0),
    "standardised": lambda s, t, y: soft_loss(standardized(s), standardized(t), 2.0),
    "dist": lambda s, t, y: dist_loss(s, t, temperature=4.0),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_copy_costs_nothing_the_teacher_gets_no_gradient_and_runs_go_together(loss, answers):
    student, teacher, targets = answers
    assert_close(loss(teacher, teacher, targets), torch.zeros(12, dtype=torch.float64), atol=1e-12, rtol=0)
    value = loss(student, teacher, targets)
    assert value.shape == (12,) and (value > 0).all()
    assert gradients(value.sum(), teacher) == (None,)
    runs = torch.stack([student, 2 * student])
    together = torch.vmap(loss, (0, None, None))(runs, teacher, targets)
    assert_close(together, torch.stack([loss(run, teacher, targets) for run in runs]))
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher.detach(), targets), student)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
def test_values_and_gradients_stay_finite(loss, scale, answers):
    _, teacher, targets = answers
    student = (scale * torch.randn(12, 7)).requires_grad_()
    value = loss(student, teacher.detach().float(), targets)
    (gradient,) = gradients(value.sum(), student)
    assert value.isfinite().all() and gradient.isfinite().all()
    half = loss(student.detach().bfloat16(), teacher.detach().bfloat16(), targets)
    assert half.dtype == torch.float32 and half.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda z, y: decoupled_loss(z, z, y, temperature=-1.0),
            "decoupled_loss: temperature must be positive and finite, got -1.0",
        ),
        (
            lambda z, y: decoupled_loss(z[:, :2], z[:, :2], y, temperature=1.0),
            "decoupled_loss: at least 3 classes are needed, got 2",
        ),
        (lambda z, y: standardized(z[:, :1]), "standardized: at least 2 classes are needed, got 1"),
        (lambda z, y: dist_loss(z[0], z[0], temperature=1.0), r"dist_loss: logits must be .*, got student \(5,\)"),
        (lambda z, y: dist_loss(z[:1], z[:1], temperature=1.0), "with at least 2 examples"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))
