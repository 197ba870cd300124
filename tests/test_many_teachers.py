"""Several teachers, several peers: their mean at a temperature, its weights, mutual learning."""

import math

import pytest
import torch
from torch.testing import assert_close

from kdcourse.attention import mean_of_members
from kdcourse.losses import soft_loss
from kdcourse.methods.mixture import mixture_weights
from kdcourse.methods.mutual import mutual_loss

TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


@pytest.fixture
def members():
    """[batch, members, classes] of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, 7, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 5, 9])[:, None]


# --- the mean ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_softmax_of_the_mean_at_t_is_the_mean_of_softmaxes_at_t(members, temperature):
    mean = (members / temperature).softmax(-1).mean(-2)
    assert_close((mean_of_members(members, temperature) / temperature).softmax(-1), mean)
    weights = torch.tensor([0.1, 0.0, 0.2, 0.3, 0.4], dtype=torch.float64)
    weighted = torch.einsum("bmc,m->bc", (members / temperature).softmax(-1), weights)
    assert_close((mean_of_members(members, temperature, weights) / temperature).softmax(-1), weighted)
    equal = torch.full((5,), 0.2, dtype=torch.float64)
    assert_close(mean_of_members(members, temperature, equal), mean_of_members(members, temperature))


def test_each_example_may_have_its_temperature_and_its_weights(members):
    temperature = torch.tensor([0.5, 1, 2, 4, 8, 16], dtype=torch.float64)
    weights = torch.rand(6, 5, dtype=torch.float64)
    weights = weights / weights.sum(-1, keepdim=True)
    rows = [mean_of_members(*row) for row in zip(members, temperature, weights, strict=True)]
    assert_close(mean_of_members(members, temperature, weights), torch.stack(rows))


def test_nothing_underflows_in_the_logarithm():
    sure = torch.tensor([[[0.0, 200.0], [0.0, 300.0]]])
    assert_close(mean_of_members(sure)[0, 0].item(), -200 - math.log(2), rtol=1e-5, atol=0)


def test_at_a_high_temperature_it_is_the_mean_of_logits_to_first_order(members):
    """The gap falls like 1/T: ten times the temperature, a tenth of the gap."""

    def gap(temperature):
        mean = mean_of_members(members, temperature)
        apart = mean - members.mean(-2)
        return (apart - apart.mean(-1, keepdim=True)).abs().max()

    assert gap(1e3) < 0.1 and 9 < gap(1e3) / gap(1e4) < 11
    cold_first = mean_of_members(members)
    apart = cold_first - members.mean(-2)
    assert (apart - apart.mean(-1, keepdim=True)).abs().max() > 1, "averaged at T = 1 it stays away at every T"


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_copying_all_is_copying_the_mean_but_for_their_disagreement(members, temperature):
    student = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    mean = mean_of_members(members, temperature)
    each = soft_loss(student[:, None], members, temperature).mean(-1)
    at_once = soft_loss(student, mean, temperature)
    assert_close(each, at_once + soft_loss(mean[:, None], members, temperature).mean(-1))
    slopes = [torch.autograd.grad(loss.sum(), student)[0] for loss in (each, at_once)]
    assert_close(*slopes)


# --- its weights ------------------------------------------------------------------------------------------------------


def likelihood(weights, logits, targets):
    at_label = logits.softmax(-1)[torch.arange(len(targets)), :, targets]
    return (at_label @ weights).log().mean()


def test_weights_find_the_likeliest_mixture(members):
    targets = torch.randint(7, (6,), generator=torch.Generator().manual_seed(1))
    steps = [mixture_weights(members, targets, steps) for steps in (1, 2, 5, 50, 5000)]
    values = [likelihood(weights, members, targets) for weights in steps]
    assert all(later >= earlier for earlier, later in zip(values, values[1:], strict=False))
    for weights in steps:
        assert_close(weights.sum().item(), 1.0)
    at_label = members.softmax(-1)[torch.arange(6), :, targets]
    slope = (at_label / (at_label @ steps[-1])[:, None]).mean(0)  # of the likelihood, for each weight
    assert (slope < 1 + 1e-3).all(), "no weight could grow and gain"
    assert_close(
        slope[steps[-1] > 1e-3], torch.ones(int((steps[-1] > 1e-3).sum()), dtype=slope.dtype), atol=1e-3, rtol=0
    )


def test_who_answers_alike_gets_alike_and_who_is_surely_wrong_gets_nothing():
    right, wrong = torch.eye(3) * 5, torch.eye(3).roll(1, 0) * 5
    weights = mixture_weights(torch.stack([right, right, wrong], 1), torch.arange(3))
    assert_close(weights, torch.tensor([0.5, 0.5, 0.0]), atol=1e-3, rtol=0)


def test_weights_carry_no_gradient(members):
    assert not mixture_weights(members.requires_grad_(), torch.zeros(6, dtype=torch.long)).requires_grad


# --- peers ------------------------------------------------------------------------------------------------------------


def written_out(peers, temperature):
    """Two loops, with probabilities."""
    q = (peers / temperature).softmax(-1)
    rows = []
    for k in range(len(q)):
        terms = [(q[j].detach() * (q[j].detach().log() - q[k].log())).sum(-1) for j in range(len(q)) if j != k]
        rows.append(temperature**2 * sum(terms) / len(terms))
    return torch.stack(rows)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_mutual_loss_is_the_mean_divergence_from_the_others(count, temperature):
    peers = torch.randn(count, 6, 4, dtype=torch.float64, requires_grad=True)
    weigh = torch.rand(count, 6, dtype=torch.float64)
    ours, theirs = mutual_loss(peers, temperature), written_out(peers, temperature)
    assert ours.shape == (count, 6)
    assert_close(ours, theirs)
    slopes = [torch.autograd.grad((weigh * loss).sum(), peers)[0] for loss in (ours, theirs)]
    assert_close(*slopes)


def test_a_row_moves_its_own_peer_and_no_other():
    peers = torch.randn(4, 6, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(mutual_loss(peers, 2.0)[1].sum(), peers)
    assert slope[1].abs().min() > 0 and not slope[[0, 2, 3]].any()


def test_peers_that_agree_cost_nothing_and_two_are_soft_losses():
    one, other = torch.randn(2, 6, 3)
    assert mutual_loss(torch.stack([one, one, one]), 3.0).abs().max() == 0
    both = torch.stack([soft_loss(one, other, 3.0), soft_loss(other, one, 3.0)])
    assert_close(mutual_loss(torch.stack([one, other]), 3.0), both)


def test_the_gradient_is_that_towards_the_mean_of_the_others():
    peers = torch.randn(4, 6, 3, dtype=torch.float64)
    others = mean_of_members(peers[1:].transpose(0, 1), 2.0)
    mine = peers[0].clone().requires_grad_()
    stacked = torch.cat([mine[None], peers[1:]])
    slopes = [
        torch.autograd.grad(loss.sum(), mine)[0]
        for loss in (mutual_loss(stacked, 2.0)[0], soft_loss(mine, others, 2.0))
    ]
    assert_close(*slopes)


def test_runs_go_together_and_half_types_are_computed_in_float32():
    runs = torch.randn(3, 4, 6, 5)
    together = torch.vmap(lambda peers: mutual_loss(peers, 2.0))(runs)
    assert_close(together, torch.stack([mutual_loss(peers, 2.0) for peers in runs]))
    assert mutual_loss(runs[0].bfloat16(), 2.0).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mutual_loss(torch.randn(1, 4, 3)), r"mutual_loss: .* at least 2 peers, got shape \(1, 4, 3\)"),
        (lambda: mutual_loss(torch.randn(4, 3)), r"mutual_loss: peer_logits must be .* got shape \(4, 3\)"),
        (lambda: mutual_loss(torch.ones(2, 4, 3, dtype=torch.long)), "mutual_loss: peer_logits must be a floating"),
        (lambda: mutual_loss(torch.randn(2, 4, 3), -1.0), "temperature must be positive and finite, got -1.0"),
        (lambda: mean_of_members(torch.randn(2, 4, 3), 0.0), "temperature must be positive and finite, got 0.0"),
        (
            lambda: mixture_weights(torch.randn(4, 3), torch.zeros(4).long()),
            r"\[n, members, classes\], got shape \(4, 3\)",
        ),
        (
            lambda: mixture_weights(torch.randn(4, 2, 3), torch.zeros(5).long()),
            r"mixture_weights: logits .* must agree",
        ),
        (lambda: mixture_weights(torch.randn(4, 2, 3), torch.zeros(4).long(), 0), "steps must be at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
