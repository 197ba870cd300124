"""Adversaries: the judge of logits, the losses on attacked images, and the attacks themselves."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from kdcourse.losses import hard_loss, soft_loss
from kdcourse.methods.attacks import margin_loss, pgd, random_search, random_start
from kdcourse.methods.discriminator import discriminator_loss, fooling_loss
from kdcourse.methods.robust import ard_loss, rslad_loss, trades_loss
from kdcourse.models import mlp

BALL = {"radius": 0.1, "steps": 10, "step_size": 0.025}


def gradients(value, *arguments):
    return torch.autograd.grad(value, arguments, allow_unused=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the judge --------------------------------------------------------------------------------------------------------


def test_the_judge_s_loss_is_binary_cross_entropy_with_the_teacher_as_1():
    scores = torch.randn(2, 3, 5, generator=generator(), dtype=torch.float64)
    teacher, student = (part.requires_grad_() for part in scores.unbind())
    ours = discriminator_loss(teacher, student)
    bce = F.binary_cross_entropy_with_logits
    as_teacher = bce(teacher, torch.ones_like(teacher), reduction="none")
    theirs = as_teacher + bce(student, torch.zeros_like(student), reduction="none")
    assert ours.shape == (3, 5)
    assert_close(ours, theirs)
    assert_close(gradients(ours.sum(), teacher, student), gradients(theirs.sum(), teacher, student))


def test_a_judge_that_guesses_pays_two_bits():
    zero = torch.zeros(4)
    assert_close(discriminator_loss(zero, zero), torch.full((4,), 2 * math.log(2)))


def test_the_student_s_loss_keeps_its_gradient_where_the_judge_is_sure():
    scores = torch.tensor([-30.0, 0.0, 30.0], requires_grad=True)
    (slope,) = gradients(fooling_loss(scores).sum(), scores)
    assert_close(slope, torch.tensor([-1.0, -0.5, 0.0]))
    (saturating,) = gradients(torch.log1p(-torch.sigmoid(scores)).sum(), scores)
    assert saturating[0].abs() < 1e-12


def test_the_student_s_loss_is_the_judge_s_with_the_sides_exchanged():
    scores = torch.randn(7, generator=generator())
    assert_close(fooling_loss(scores) + F.softplus(scores), discriminator_loss(scores, scores))


def test_scores_of_the_wrong_kind_are_named():
    with pytest.raises(ValueError, match=r"discriminator_loss: teacher and student must have as many scores"):
        discriminator_loss(torch.zeros(3), torch.zeros(4))
    with pytest.raises(TypeError, match=r"fooling_loss: student_scores must be floating point, got torch.int64"):
        fooling_loss(torch.zeros(3, dtype=torch.long))


# --- losses on attacked images ----------------------------------------------------------------------------------------


@pytest.fixture
def answers():
    logits = 2 * torch.randn(3, 4, 6, 7, generator=generator(), dtype=torch.float64)
    clean, attacked, teacher = (part.requires_grad_() for part in logits.unbind())
    return clean, attacked, teacher, torch.randint(7, (4, 6), generator=generator())


def kl(p, log_q):
    return F.kl_div(log_q, p, reduction="none").sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_ard_written_out(answers, temperature):
    clean, attacked, teacher, targets = answers
    ours = ard_loss(clean, attacked, teacher, targets, temperature=temperature, soft_weight=0.7)
    soft = kl(F.softmax(teacher.detach() / temperature, -1), F.log_softmax(attacked / temperature, -1))
    hard = F.cross_entropy(clean.flatten(0, 1), targets.flatten(), reduction="none").view(4, 6)
    theirs = 0.7 * temperature**2 * soft + 0.3 * hard
    assert_close(ours, theirs)
    assert_close(gradients(ours.sum(), clean, attacked), gradients(theirs.sum(), clean, attacked))
    assert gradients(ours.sum(), teacher) == (None,)


def test_rslad_written_out(answers):
    clean, attacked, teacher, _ = answers
    p = F.softmax(teacher.detach(), -1)
    ours = rslad_loss(clean, attacked, teacher)
    theirs = 5 / 6 * kl(p, F.log_softmax(attacked, -1)) + 1 / 6 * kl(p, F.log_softmax(clean, -1))
    assert_close(ours, theirs)
    assert_close(gradients(ours.sum(), clean, attacked), gradients(theirs.sum(), clean, attacked))
    assert gradients(ours.sum(), teacher) == (None,)


def test_without_an_attack_they_are_plain_distillation(answers):
    clean, _, teacher, targets = answers
    plain = soft_loss(clean, teacher, 1.0)
    assert_close(rslad_loss(clean, clean, teacher), plain)
    assert_close(ard_loss(clean, clean, teacher, targets, temperature=1.0, soft_weight=1.0), plain)
    assert_close(trades_loss(clean, clean, targets, weight=6.0), hard_loss(clean, targets))


def test_trades_written_out_with_gradients_to_both_answers(answers):
    clean, attacked, _, targets = answers
    ours = trades_loss(clean, attacked, targets, weight=6.0)
    hard = F.cross_entropy(clean.flatten(0, 1), targets.flatten(), reduction="none").view(4, 6)
    theirs = hard + 6 * kl(F.softmax(clean, -1), F.log_softmax(attacked, -1))
    assert_close(ours, theirs)
    assert_close(gradients(ours.sum(), clean, attacked), gradients(theirs.sum(), clean, attacked))
    pulled = gradients(trades_loss(clean, attacked, targets, weight=6.0).sum(), clean)[0]
    alone = gradients(hard_loss(clean, targets).sum(), clean)[0]
    assert (pulled - alone).abs().max() > 0.1, "the clean answer is pulled too"


def test_weights_out_of_range_are_named(answers):
    clean, attacked, teacher, targets = answers
    with pytest.raises(ValueError, match=r"ard_loss: soft_weight must lie between 0 and 1, got 1.5"):
        ard_loss(clean, attacked, teacher, targets, temperature=1.0, soft_weight=1.5)
    with pytest.raises(ValueError, match=r"rslad_loss: attacked_weight must lie between 0 and 1, got -1"):
        rslad_loss(clean, attacked, teacher, attacked_weight=-1)
    with pytest.raises(ValueError, match=r"trades_loss: weight must be finite and not negative, got -0.1"):
        trades_loss(clean, attacked, targets, weight=-0.1)


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def target():
    """A small network, images with pixels at both ends of the range, and a loss of images."""
    torch.manual_seed(0)
    net, images = mlp(12, 20, 5), torch.rand(40, 12).mul(1.6).sub(0.3).clamp(0, 1)
    labels = net(images).argmax(-1)
    return net, images, lambda x: hard_loss(net(x), labels)


@pytest.mark.parametrize("attack", ["pgd", "random_search"])
def test_an_attack_stays_in_the_ball_and_the_box_and_raises_the_loss(target, attack):
    _, images, loss = target
    if attack == "pgd":
        moved = pgd(loss, images, **BALL, start=random_start(images, 0.1, generator()))
    else:
        moved = random_search(loss, images, radius=0.1, steps=60, generator=generator())
    assert moved.shape == images.shape and not moved.requires_grad
    assert moved.min() >= 0 and moved.max() <= 1
    assert (moved - images).abs().max() <= 0.1 + 1e-6 and (moved - images).abs().mean() > 0.05
    assert (loss(moved) > loss(images)).float().mean() > 0.9


def test_a_start_outside_is_brought_back(target):
    """Before the first step, or the first gradient would be that of another image."""
    _, images, loss = target
    seen = []

    def watched(x):
        seen.append(x.detach())
        return loss(x)

    pgd(watched, images, radius=0.1, steps=1, step_size=0.01, start=images + 5)
    assert_close(seen[0], (images + 0.1).clamp(0, 1))


def test_more_steps_do_not_lower_the_loss(target):
    _, images, loss = target
    means = [loss(pgd(loss, images, radius=0.1, steps=k, step_size=0.02)).mean().item() for k in (1, 5, 20, 80)]
    assert means == sorted(means) and means[1] > means[0] + 1e-3


def test_a_linear_loss_is_raised_as_far_as_the_ball_allows():
    """There the best corner is known, and one step of the radius is enough."""
    slope, images = torch.randn(12, generator=generator()), torch.full((3, 12), 0.5)
    best = images + 0.1 * slope.sign()
    assert_close(pgd(lambda x: x @ slope, images, radius=0.1, steps=1, step_size=0.1), best)
    assert_close(pgd(lambda x: x @ slope, images, **BALL, start=images - 0.1 * slope.sign()), best)
    found = random_search(lambda x: x @ slope, images, radius=0.1, steps=300, generator=generator())
    assert_close(found, best)


def test_the_gradient_attack_beats_chance_and_the_black_box(target):
    _, images, loss = target
    white = loss(pgd(loss, images, **BALL)).mean()
    black = loss(random_search(loss, images, radius=0.1, steps=60, generator=generator())).mean()
    chance = loss(random_start(images, 0.1, generator()).clamp(0, 1)).mean()
    assert white > black - 1e-4 and black > chance + 0.01, (white, black, chance)


def test_no_parameter_gets_or_loses_a_gradient(target):
    net, images, loss = target
    loss(images).sum().backward()
    before = [p.grad.clone() for p in net.parameters()]
    with torch.no_grad():  # a caller that evaluates
        pgd(loss, images, **BALL)
    assert_close([p.grad for p in net.parameters()], before)
    assert not images.requires_grad and images.grad is None


def test_a_stack_of_runs_is_attacked_run_by_run():
    weights = torch.randn(3, 12, 5, generator=generator(), dtype=torch.float64)
    images = torch.rand(3, 8, 12, generator=generator(), dtype=torch.float64)
    labels = torch.randint(5, (3, 8), generator=generator())
    start = random_start(images, 0.1, generator())
    together = pgd(lambda x: hard_loss(x @ weights, labels), images, **BALL, start=start)
    for run in range(3):

        def alone(x, run=run):
            return hard_loss(x @ weights[run], labels[run])

        own = random_start(images[run], 0.1, generator())
        assert_close(own, start[run])
        assert_close(pgd(alone, images[run], **BALL, start=own), together[run])
        black = random_search(alone, images[run], radius=0.1, steps=9, generator=generator())
        whole = random_search(
            lambda x: hard_loss(x @ weights, labels), images, radius=0.1, steps=9, generator=generator()
        )
        assert_close(black, whole[run])


def test_the_margin_is_above_zero_exactly_where_the_answer_is_wrong():
    logits = torch.randn(2, 50, 6, generator=generator(), dtype=torch.float64).requires_grad_()
    targets = torch.randint(6, (2, 50), generator=generator())
    margin = margin_loss(logits, targets)
    assert margin.shape == (2, 50)
    assert torch.equal(margin > 0, logits.argmax(-1) != targets)
    others = logits.masked_fill(F.one_hot(targets, 6).bool(), -torch.inf).amax(-1)
    assert_close(margin, others - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1))
    (slope,) = gradients(margin.sum(), logits)
    assert_close(slope.gather(-1, targets.unsqueeze(-1)), torch.full((2, 50, 1), -1.0, dtype=torch.float64))
    assert_close(slope.sum(-1), torch.zeros(2, 50, dtype=torch.float64))
    assert torch.isfinite(margin_loss(1000 * logits, targets)).all()


def test_the_margin_still_pulls_where_cross_entropy_is_flat():
    logits, targets = torch.tensor([[200.0, 0.0]], requires_grad=True), torch.tensor([0])
    assert gradients(hard_loss(logits, targets).sum(), logits)[0].abs().max() == 0
    assert gradients(margin_loss(logits, targets).sum(), logits)[0].abs().max() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -0.1}, "pgd: radius must be finite and not negative, got -0.1"),
        ({"steps": 0}, "pgd: steps must be at least 1, got 0"),
        ({"step_size": math.inf}, "pgd: step_size must be positive and finite, got inf"),
    ],
)
def test_a_setting_out_of_range_is_named(target, change, message):
    _, images, loss = target
    with pytest.raises(ValueError, match=message):
        pgd(loss, images, **(BALL | change))


def test_standardised_pixels_are_refused(target):
    _, images, loss = target
    with pytest.raises(ValueError, match=r"random_search: pixels must lie in \[0, 1\], got -1 to 1"):
        random_search(loss, 2 * (images > 0.5) - 1.0, radius=0.1, steps=1, generator=generator())
