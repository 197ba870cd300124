"""Attention pooling, its student, the losses on maps and ensembles; and the bugs of article 004, one by one."""

import math
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import grad, vmap
from torch.testing import assert_close

from kdcourse import attention, losses, metrics, models
from kdcourse.attention import (
    AttentionStudent,
    attention_loss,
    attention_pool,
    dirichlet_loss,
    hydra_loss,
    mean_of_members,
)
from kdcourse.data import Batch
from kdcourse.experiments import tiles
from kdcourse.softmax import entropy, tempered_softmax
from kdcourse.training import train


def draw(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    """Normal numbers that are the same in every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some(*shape: int, seed: int = 0) -> Tensor:
    """A mask in which every row has a True and most rows have a False."""
    mask = draw(*shape, seed=seed) > 0
    mask[..., 0] = True
    return mask


# -- attention_pool --------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_pooling_is_torchs_attention_with_one_learnt_query_a_head(heads, masked):
    tokens, query = draw(5, 7, 6, seed=1), draw(heads, 6, seed=2)
    mask = some(5, 7, seed=3) if masked else None
    pooled, weights = attention_pool(tokens, query @ tokens.transpose(-1, -2), mask)
    values = tokens.unflatten(-1, (heads, -1)).transpose(1, 2)  # [batch, heads, tokens, share]
    theirs = F.scaled_dot_product_attention(
        query.view(1, heads, 1, 6).expand(5, -1, -1, -1),
        tokens.unsqueeze(1).expand(-1, heads, -1, -1),
        values,
        attn_mask=None if mask is None else mask[:, None, None],
        scale=1.0,
    )
    assert pooled.shape == (5, 6) and weights.shape == (5, heads, 7)
    assert_close(pooled, theirs.flatten(1))
    assert_close(weights.sum(-1), torch.ones(5, heads, dtype=torch.float64))


def test_a_masked_token_has_no_weight_and_its_value_does_not_matter():
    tokens, scores, mask = draw(4, 6, 3, seed=1), draw(4, 3, 6, seed=2), some(4, 6, seed=3)
    pooled, weights = attention_pool(tokens, scores, mask)
    assert (weights[~mask.unsqueeze(1).expand_as(weights)] == 0).all() and (weights.sum(-1) - 1).abs().max() < 1e-12
    others = torch.where(mask.unsqueeze(-1), tokens, 1e6)
    louder = torch.where(mask.unsqueeze(1), scores, 1e6)
    assert_close(attention_pool(others, louder, mask)[0], pooled)
    # as if the hidden tokens were not there at all
    kept = mask[0]
    assert_close(attention_pool(tokens[0, kept], scores[0][:, kept])[0], pooled[0])


def test_where_nothing_may_be_attended_all_is_zero_and_the_gradient_finite():
    tokens, scores = draw(2, 4, 3, seed=1).requires_grad_(), draw(2, 1, 4, seed=2).requires_grad_()
    pooled, weights = attention_pool(tokens, scores, torch.tensor([[False] * 4, [True] * 4]))
    assert (pooled[0] == 0).all() and (weights[0] == 0).all()
    pooled.square().sum().backward()
    assert tokens.grad.isfinite().all() and scores.grad.isfinite().all() and (tokens.grad[0] == 0).all()


def test_gradients_of_pooling_agree_with_finite_differences():
    tokens, scores = draw(3, 5, 4, seed=1).requires_grad_(), draw(3, 2, 5, seed=2).requires_grad_()
    for mask in (None, some(3, 5, seed=3)):
        assert gradcheck(lambda a, b, mask=mask: attention_pool(a, b, mask), (tokens, scores))


def test_a_number_added_to_all_scores_and_the_order_of_the_tokens_change_nothing():
    tokens, scores = draw(3, 5, 4, seed=1), draw(3, 2, 5, seed=2)
    pooled, weights = attention_pool(tokens, scores)
    assert_close(attention_pool(tokens, scores + 100)[0], pooled)
    order = torch.tensor([3, 1, 4, 0, 2])
    moved, moved_weights = attention_pool(tokens[:, order], scores[..., order])
    assert_close(moved, pooled)
    assert_close(moved_weights, weights[..., order])


def test_half_types_get_weights_in_full_precision():
    tokens, scores = draw(2, 5, 4, dtype=torch.float32), draw(2, 1, 5, seed=1, dtype=torch.float32)
    for kind in (torch.float16, torch.bfloat16):
        pooled, weights = attention_pool(tokens.to(kind), scores.to(kind), some(2, 5))
        assert pooled.dtype == kind and weights.dtype == torch.float32
        assert_close(weights.sum(-1), torch.ones(2, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.rand(2, 5, 4), torch.rand(2, 1, 6)), ValueError, r"a score for each token .* \(2, 1, 6\)"),
        ((torch.rand(2, 5, 4), torch.rand(2, 3, 5)), ValueError, "heads must divide the features, got 3 heads and 4"),
        ((torch.rand(2, 5, 4), torch.ones(2, 1, 5).long()), TypeError, "scores must be a floating-point tensor"),
        ((torch.rand(2, 5, 4), torch.rand(2, 1, 5), torch.ones(2, 5)), TypeError, "mask must be bool .* torch.float32"),
        ((torch.rand(2, 5, 4), torch.rand(2, 1, 5), torch.ones(2, 4) > 0), TypeError, r"shape \[..., 5\]"),
    ],
)
def test_messages_of_pooling(arguments, error, message):
    with pytest.raises(error, match=message):
        attention_pool(*arguments)


# -- the student -----------------------------------------------------------------------------------


def net(**options) -> AttentionStudent:
    torch.manual_seed(0)
    return AttentionStudent(tiles.per_tile(64, 12, 8), 8, **options)


@pytest.mark.parametrize("pool", ["attention", "max", "mean"])
@pytest.mark.parametrize("members", [1, 3])
def test_one_pass_gives_logits_members_and_weights(pool, members):
    output = net(pool=pool, members=members)(draw(5, 9, 64, dtype=torch.float32))
    output = output if isinstance(output, tuple) else (output,)
    shapes = [(5, 10)] + [(5, members, 10)] * (members > 1) + [(5, 1, 9)] * (pool == "attention")
    assert [tuple(part.shape) for part in output] == shapes
    if members > 1:
        assert_close(output[0].exp(), output[1].softmax(-1).mean(-2))


def test_rivals_have_the_same_size_but_for_the_score():
    sizes = {pool: models.count_parameters(tiles.student(pool)) for pool in ("attention", "max", "mean")}
    assert sizes == {"attention": 5_050, "max": 5_018, "mean": 5_018}
    assert models.count_parameters(tiles.student(heads=4)) == 5_146
    assert models.count_parameters(tiles.student(members=4)) == 6_040


@pytest.mark.parametrize("pool", ["attention", "max", "mean"])
def test_a_mask_hides_tokens_from_every_pooling(pool):
    student, inputs, mask = net(pool=pool), draw(4, 9, 64, dtype=torch.float32), some(4, 9)
    pooled, _ = student.pooled(inputs, mask)
    for row in range(4):
        assert_close(pooled[row], student.pooled(inputs[row][mask[row]])[0])
    assert (student.pooled(inputs, torch.zeros_like(mask))[0] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "sum"}, "AttentionStudent: pool must be attention, max or mean, got 'sum'"),
        ({"heads": 3}, "AttentionStudent: heads must divide the features, got 3 and 8"),
    ],
)
def test_messages_of_the_student(options, message):
    with pytest.raises(ValueError, match=message):
        net(**options)


# -- the losses ------------------------------------------------------------------------------------


def maps(*shape: int, seed: int) -> Tensor:
    return (2 * draw(*shape, seed=seed)).softmax(-1)


def test_the_attention_loss_is_the_mean_divergence_of_the_heads():
    student, teacher = maps(4, 3, 6, seed=1), maps(4, 6, seed=2)
    by_hand = [
        sum(float(F.kl_div(head.log(), p, reduction="sum")) for head in heads) / 3
        for heads, p in zip(student, teacher, strict=True)
    ]
    assert_close(attention_loss(student, teacher), torch.tensor(by_hand, dtype=torch.float64))
    assert attention_loss(teacher.unsqueeze(1).expand(4, 3, 6), teacher).abs().max() < 1e-15, "a copy costs nothing"


def test_zero_weights_cost_nothing_where_both_are_zero_and_give_finite_gradients():
    scores = draw(3, 1, 5, seed=1).requires_grad_()
    mask = torch.tensor([[True, True, True, False, False]]).expand(3, 5)
    teacher = attention_pool(draw(3, 5, 2), draw(3, 1, 5, seed=4), mask)[1].squeeze(1)
    _, weights = attention_pool(draw(3, 5, 2), scores, mask)
    loss = attention_loss(weights, teacher)
    short = attention_loss(attention_pool(draw(3, 3, 2), scores[..., :3])[1], teacher[:, :3])
    assert_close(loss, short)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert gradient.isfinite().all() and (gradient[..., 3:] == 0).all()
    elsewhere = attention_loss(weights, torch.eye(5, dtype=torch.float64)[torch.tensor([4, 4, 4])])
    assert elsewhere.isfinite().all() and (elsewhere > 10).all()


def test_the_dirichlet_loss_is_torchs_density_of_the_members():
    z, teacher = draw(4, 5, seed=1), 2 * draw(4, 3, 5, seed=2)
    for T in (1.0, 4.0):
        answers = (1 - 1e-4) * (teacher / T).softmax(-1) + 1e-4 / 5
        density = torch.distributions.Dirichlet((z / T).exp().unsqueeze(1)).log_prob(answers)
        assert_close(dirichlet_loss(z, teacher, T), -density.mean(-1))


def test_the_dirichlet_student_learns_how_much_the_members_differ():
    near = torch.tensor([[2.0, 0.0, -1.0]]) + 0.1 * draw(1, 8, 3, seed=1)
    far = torch.tensor([[2.0, 0.0, -1.0]]) + 2.0 * draw(1, 8, 3, seed=1)
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        dirichlet_loss(logits, torch.cat([near, far])).sum().backward()
        optimizer.step()
    strength = logits.detach().exp().sum(-1)
    knowledge = metrics.dirichlet_parts(logits.detach().exp())[2]
    assert strength[0] > 5 * strength[1] and knowledge[0] < knowledge[1]


def test_hydra_is_one_soft_loss_a_member():
    student, teacher = draw(4, 3, 5, seed=1), draw(4, 3, 5, seed=2)
    apart = torch.stack([losses.soft_loss(student[:, m], teacher[:, m], 2.0) for m in range(3)])
    assert_close(hydra_loss(student, teacher, 2.0), apart.mean(0))
    by_row = hydra_loss(student, teacher, torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
    assert_close(by_row[1], hydra_loss(student, teacher, 2.0)[1])


def test_the_mean_of_members_is_of_their_probabilities_not_of_their_logits():
    members = 3 * draw(4, 3, 5, seed=1)
    assert_close(mean_of_members(members).exp(), members.softmax(-1).mean(-2))
    assert_close(mean_of_members(members).exp().sum(-1), torch.ones(4, dtype=torch.float64))
    assert_close(mean_of_members(members[:, :1]), members[:, 0].log_softmax(-1))


CASES = {
    "attention_loss": (lambda z, t: attention_loss(z.softmax(-1), t.softmax(-1)), (4, 2, 5), (4, 5)),
    "hydra_loss": (lambda z, t: hydra_loss(z, t, 2.0), (4, 3, 5), (4, 3, 5)),
    "dirichlet_loss": (lambda z, t: dirichlet_loss(z, t, 2.0), (4, 5), (4, 3, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_have_right_gradients_for_the_student_and_none_for_the_teacher(name):
    loss, of_student, of_teacher = CASES[name]
    z, t = draw(*of_student, seed=1).requires_grad_(), draw(*of_teacher, seed=2).requires_grad_()
    assert loss(z, t).shape == (4,)
    assert gradcheck(lambda z: loss(z, t.detach()), (z,))
    assert (
        torch.autograd.grad(loss(z, t).sum(), t, allow_unused=True)[0] is None
        or (torch.autograd.grad(loss(z, t).sum(), t)[0] == 0).all()
    )
    single = loss(z.float(), t.float())
    assert_close(single.double(), loss(z, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_runs_is_the_same_as_a_loop(name):
    loss, of_student, of_teacher = CASES[name]
    z, t = draw(3, *of_student, seed=1), draw(3, *of_teacher, seed=2)
    one = grad(lambda z, t: loss(z, t).mean())
    assert_close(vmap(loss)(z, t), torch.stack([loss(a, b) for a, b in zip(z, t, strict=True)]))
    assert_close(vmap(one)(z, t), torch.stack([one(a, b) for a, b in zip(z, t, strict=True)]))


def test_the_temperature_may_differ_from_run_to_run():
    z, t, T = draw(3, 4, 2, 5, seed=1), draw(3, 4, 2, 5, seed=2), torch.tensor([1.0, 2.0, 5.0]).double()
    expected = torch.stack([hydra_loss(a, b, float(c)) for a, b, c in zip(z, t, T, strict=True)])
    assert_close(vmap(hydra_loss)(z, t, T), expected)
    expected = torch.stack([dirichlet_loss(a[:, 0], b, float(c)) for a, b, c in zip(z, t, T, strict=True)])
    assert_close(vmap(dirichlet_loss)(z[:, :, 0], t, T), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_loss(torch.rand(2, 1, 5), torch.rand(2, 4)), r"attention_loss: .* \(2, 1, 5\) and \(2, 4\)"),
        (lambda: attention_loss(torch.rand(2, 5), torch.rand(2, 5)), "attention_loss: .* must agree"),
        (lambda: hydra_loss(torch.rand(2, 3, 5), torch.rand(2, 4, 5)), "hydra_loss: every member .* head of its own"),
        (lambda: dirichlet_loss(torch.rand(2, 5), torch.rand(2, 5)), "dirichlet_loss: the teacher must have one axis"),
        (lambda: dirichlet_loss(torch.rand(2, 5), torch.rand(2, 3, 5), 0.0), "temperature must be positive"),
    ],
)
def test_messages_of_the_losses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- in the loop -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> tiles.World:
    return tiles.cut(7, images=64, tests=100)


@pytest.fixture(scope="module")
def members() -> list[nn.Module]:
    torch.manual_seed(1)
    return [tiles.teacher().eval() for _ in range(tiles.MEMBERS)]


@pytest.fixture(scope="module")
def lessons(world, members) -> dict[str, Batch]:
    return {"mean": tiles.taught(world.own, members), "each": tiles.taught_by_each(world.own, members)}


def largest_gap(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


# loss, network, lesson, settings
RECIPES = {
    "mapped": (tiles.mapped, "attention, 4 heads", "mean", {"soft_weight": 0.7, "map_weight": 1.0}),
    "map_mse": (tiles.map_mse, "attention", "mean", {"map_weight": 10.0}),
    "sharpened": (tiles.sharpened, "attention", "mean", {"sharpness": 0.3}),
    "by_member": (tiles.by_member, "attention, 4 members", "each", {"map_weight": 1.0}),
    "by_label": (tiles.by_label, "attention, 4 members", "each", {}),
    "by_dirichlet": (tiles.by_dirichlet, "attention", "each", {"temperature": 5.0}),
    "smoothed": (tiles.smoothed, "max", "mean", {"smoothing": 0.1}),
    "distilled": (tiles.distilled, "mean", "mean", {}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_alone_is_the_same_as_in_company_and_in_the_plain_loop(name, lessons):
    loss, network, lesson, settings = RECIPES[name]
    recipe = {"steps": 5, "batch": 16, "lr": 1e-2} | settings
    model, data = tiles.NETWORKS[network], lessons[lesson]
    company = train(model, data, loss, seeds=[1, 2, 3], **recipe)
    for engine in ("vmap", "loop"):
        alone = train(model, data, loss, seeds=[3], engine=engine, **recipe)
        assert largest_gap(alone[0], company[2]) < 1e-5


# Each term of each sum, by the setting that switches it off; `soft_weight` switches between two.
TERMS = [(name, knob) for name, (*_, settings) in RECIPES.items() for knob in settings if knob != "temperature"]


def gradient(name: str, lessons: dict[str, Batch], **changed: float) -> Tensor:
    loss, network, lesson, settings = RECIPES[name]
    torch.manual_seed(0)
    student, batch = tiles.NETWORKS[network](), lessons[lesson]
    loss(student(batch.inputs), batch, **settings | changed).mean().backward()
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


def every_term_is_optimised(name: str, knob: str, lessons: dict[str, Batch]) -> None:
    """The gradient of a sum follows the weight of each of its terms; of a blend of two, both ends have one."""
    alone = {"map_weight": 0.0} if knob == "soft_weight" else {}
    off, half, on = (gradient(name, lessons, **{knob: value}, **alone) for value in (0.0, 0.5, 1.0))
    scale = on.abs().max()
    assert scale > 0 and (on - off).abs().max() > 1e-3 * scale, f"{name}: {knob} moves nothing"
    assert_close(half, (on + off) / 2, atol=1e-5 * float(scale), rtol=1e-4)


@pytest.mark.parametrize(("name", "knob"), TERMS)
def test_every_term_of_every_loss_is_optimised(name, knob, lessons):
    every_term_is_optimised(name, knob, lessons)


@pytest.mark.parametrize(
    ("name", "knob", "module", "term"),
    [
        ("mapped", "map_weight", tiles, "attention_loss"),
        ("by_member", "map_weight", tiles, "attention_loss"),
        ("sharpened", "sharpness", tiles, "entropy"),
        ("map_mse", "map_weight", Tensor, "square"),
        ("smoothed", "smoothing", tiles, "tempered_log_softmax"),
        ("mapped", "soft_weight", losses, "soft_loss"),
    ],
)
def test_that_test_fails_when_a_term_is_cut_off(name, knob, module, term, lessons, monkeypatch):
    whole = getattr(module, term)
    monkeypatch.setattr(module, term, lambda *arguments: whole(*arguments).detach())
    with pytest.raises(AssertionError, match="moves nothing"):
        every_term_is_optimised(name, knob, lessons)


def test_by_member_and_by_dirichlet_move_all_parameters(lessons):
    for name in ("by_member", "by_dirichlet", "by_label"):
        loss, network, lesson, settings = RECIPES[name]
        student, batch = tiles.NETWORKS[network](), lessons[lesson]
        loss(student(batch.inputs), batch, **settings).mean().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())


# -- the bugs of article 004 -----------------------------------------------------------------------
#
# The article has two programs, retold here with its mechanisms and none of its lines. A property is a sentence that
# holds for a sound program; `Ours` has each, and `Article` breaks each. B63 to B73 are of the first program; the second
# repeats them (B84) and adds B74 to B83.


class Article:
    """Random numbers, a random teacher, ten steps; then an attention over one number."""

    source = "optimizer = optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)"
    steps, student_width, teacher_width = 10, 30, 50

    def data(self) -> tuple[Batch, Batch]:
        batch = Batch(torch.randn(100, 20), torch.randint(0, 2, (100,)))
        return batch, batch

    def teacher(self, train: Batch) -> nn.Module:
        return models.mlp(20, self.teacher_width, 2)

    def student(self) -> nn.Module:
        return models.mlp(20, self.student_width, 2)

    def pool(self, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        score = nn.Linear(hidden.shape[-1], 1)
        return self.pool_that_fits(logits, score)

    def pool_that_fits(self, logits: Tensor, score: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        score = score or nn.Linear(logits.shape[-1], 1)
        weights = F.softmax(score(logits), dim=1)  # [batch, 1]
        return (weights * logits).sum(1), weights

    def loss(self, answers: Tensor, batch: Batch, teacher: nn.Module, soft_weight=0.5, temperature=2.0) -> Tensor:
        return F.cross_entropy(answers, teacher(batch.inputs))

    def map_target(self, teacher_logits: Tensor, teacher_map: Tensor) -> Tensor:
        return teacher_logits

    def map_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(student, teacher)

    def total(self, answer: Tensor, of_map: Tensor) -> Tensor:
        return answer  # of_map is printed

    def uncertainty(self, scores: Tensor) -> Tensor:
        return scores.std().mean()

    def report(self, seed: int) -> dict[str, float]:
        return {"distilled": torch.rand(()).item()}


class Ours:
    """The same tasks, put together from the course's parts."""

    source = "import torch.optim as optim\n" + Article.source
    steps, student_width, teacher_width = 300, 16, 128

    def __init__(self) -> None:
        self.world = tiles.cut(3, images=200, tests=200)
        self.trained = tiles.train_teachers({3: self.world}, "A", steps=150)[3][0]

    def data(self) -> tuple[Batch, Batch]:
        return self.world.own, self.world.test

    def teacher(self, train: Batch) -> nn.Module:
        return self.trained

    def student(self) -> nn.Module:
        return tiles.student()

    def pool(self, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        tokens = hidden.unflatten(-1, (-1, 5))
        return attention_pool(tokens, nn.Linear(5, 1)(tokens).transpose(-1, -2))

    def pool_that_fits(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return self.pool(draw(len(logits), 30, dtype=torch.float32), logits)

    def loss(self, answers: Tensor, batch: Batch, teacher: nn.Module, soft_weight=0.5, temperature=2.0) -> Tensor:
        with torch.no_grad():
            told = tiles.first(teacher(batch.inputs))
        each = losses.distillation_loss(answers, told, batch.targets, temperature=temperature, soft_weight=soft_weight)
        return each.mean()

    def map_target(self, teacher_logits: Tensor, teacher_map: Tensor) -> Tensor:
        return teacher_map

    def map_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_loss(student, teacher)

    def total(self, answer: Tensor, of_map: Tensor) -> Tensor:
        return answer + 0.5 * of_map.mean()

    def uncertainty(self, scores: Tensor) -> Tensor:
        return entropy(scores.softmax(-1))

    def report(self, seed: int) -> dict[str, float]:
        shared, _ = tiles.prepare(SMALL | {"seeds": [seed, seed + 1]}, torch.device("cpu"))
        arms = ("attention, labels", "attention, KD")
        tables = {arm: tiles.compute(shared, SMALL, torch.device("cpu"), arm=arm) for arm in arms}
        return {f"{arm} {name}": t.loc[0, name] for arm, t in tables.items() for name in t.columns if name != "arm"}


SMALL = tiles.SCALES["smoke"] | {"steps": 2, "teacher_steps": {"A": 2, "B": 2}}
Version = Article | Ours


def b63_the_loss_has_a_lower_bound(version: Version) -> None:
    train, _ = version.data()
    teacher, student = version.teacher(train), version.student()
    answers = tiles.first(student(train.inputs))
    told = tiles.first(teacher(train.inputs)).detach()
    worst = torch.where(told < told.mean(-1, keepdim=True), -1e4, 1e4) - 0 * answers
    for wild in (answers, worst, -worst):
        assert version.loss(wild, train, teacher).item() >= 0


def b64_the_teacher_has_learnt_something(version: Version) -> None:
    train, test = version.data()
    told = tiles.first(version.teacher(train)(train.inputs))
    chance = 1 / told.shape[-1]
    right = [metrics.accuracy(tiles.first(version.teacher(train)(part.inputs)), part.targets) for part in (train, test)]
    assert min(right) > chance + 0.25


def b65_the_labels_can_be_learnt(version: Version) -> None:
    """From half of the inputs one can tell the labels of the other half."""
    batch, _ = version.data()
    # the digit's tile is not known here, so the nearest neighbour compares all tiles with all
    tokens = batch.inputs if batch.inputs.ndim == 3 else batch.inputs.unsqueeze(1)
    half = len(batch) // 2
    gaps = (tokens[:half, None, :, None] - tokens[None, half:, None, :]).square().sum(-1).amin((2, 3))
    guess = batch.targets[half:][gaps.argmin(1)]
    chance = 1 / (1 + int(batch.targets.max()))
    assert (guess == batch.targets[:half]).float().mean() > 1.6 * chance


def b66_the_labels_are_used(version: Version) -> None:
    train, _ = version.data()
    teacher, answers = version.teacher(train), tiles.first(version.student()(train.inputs))
    other = Batch(train.inputs, train.targets.roll(1))
    assert version.loss(answers, train, teacher) != version.loss(answers, other, teacher)


def b67_the_teacher_gets_no_gradient(version: Version) -> None:
    train, _ = version.data()
    teacher = version.teacher(train)
    version.loss(tiles.first(version.student()(train.inputs)), train, teacher).backward()
    assert all(p.grad is None for p in teacher.parameters())


def b68_the_teacher_answers_in_evaluation_mode(version: Version) -> None:
    assert not version.teacher(version.data()[0]).training


def b69_there_is_a_temperature(version: Version) -> None:
    train, _ = version.data()
    teacher, answers = version.teacher(train), tiles.first(version.student()(train.inputs))
    assert version.loss(answers, train, teacher, temperature=1.0) != version.loss(
        answers, train, teacher, temperature=4.0
    )


def b70_the_test_is_of_other_inputs(version: Version) -> None:
    train, test = version.data()
    assert not any((row == test.inputs).flatten(1).all(1).any() for row in train.inputs)


def b71_training_goes_on_until_something_is_learnt(version: Version) -> None:
    train, _ = version.data()
    student = version.student()
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    for _ in range(version.steps):
        optimizer.zero_grad()
        F.cross_entropy(tiles.first(student(train.inputs)), train.targets).backward()
        optimizer.step()
    assert metrics.accuracy(tiles.first(student(train.inputs)), train.targets) > 0.8


def b72_the_student_is_much_smaller(version: Version) -> None:
    train, _ = version.data()
    small, large = (models.count_parameters(net) for net in (version.student(), version.teacher(train)))
    assert 2 * small < large


def b73_a_run_can_be_repeated_and_has_a_baseline(version: Version) -> None:
    once, again = version.report(1), version.report(1)
    assert str(once) == str(again) and any("labels" in name for name in once)


def b74_all_names_are_imported(version: Version) -> None:
    exec(compile(version.source, "program", "exec"), {"torch": torch})


def b75_the_attention_fits_what_it_looks_at(version: Version) -> None:
    version.pool(draw(100, 30, dtype=torch.float32), draw(100, 2, dtype=torch.float32))


def b76_the_weights_are_shared_among_several(version: Version) -> None:
    _, weights = version.pool_that_fits(draw(100, 2, dtype=torch.float32))
    assert weights.shape[-1] > 1 and (weights < 0.999).all()
    assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def b77_what_is_compared_has_one_shape(version: Version) -> None:
    for batch in (100, 2):  # with two examples the shapes broadcast, and a warning is all one gets
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match="must agree"):
                version.map_loss(torch.rand(batch), torch.rand(batch, 2))


def b78_the_attention_is_trained(version: Version) -> None:
    score = nn.Linear(4, 1)
    tokens = draw(6, 5, 4, dtype=torch.float32)
    pooled, weights = attention_pool(tokens, score(tokens).transpose(-1, -2))
    total = version.total(pooled.detach().square().mean(), attention_loss(weights, torch.full((6, 5), 0.2)))
    if total.requires_grad:
        total.backward()
    assert score.weight.grad is not None and score.weight.grad.abs().max() > 0


def b79_every_example_has_its_uncertainty(version: Version) -> None:
    scores = draw(6, 5, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = version.uncertainty(scores[:1])
    assert alone.isfinite().all(), "one example is a batch, too"
    assert_close(version.uncertainty(scores)[:1], alone, msg="the others of a batch must not matter")
    same = version.uncertainty(scores[:1].expand(6, -1))
    assert_close(same, alone.expand(6), msg="six times the same input is no more certain than once")


def b80_nothing_is_averaged_away(version: Version) -> None:
    assert version.uncertainty(draw(6, 5, dtype=torch.float32)).shape == (6,)


def b81_a_copy_of_the_map_costs_nothing(version: Version) -> None:
    """What the student's map is compared with is a map; the teacher's logits are another quantity."""
    shown = torch.tensor([[0.9, 0.1]])
    target = version.map_target(torch.tensor([[3.0, -1.0]]), shown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert version.map_loss(shown.unsqueeze(1), target).abs().max() < 1e-6


def b82_both_terms_move_the_student(version: Version) -> None:
    answer, of_map = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    version.total(answer, of_map).backward()
    assert answer.grad is not None and of_map.grad is not None


def b83_the_uncertainty_is_judged_also_on_foreign_inputs(version: Version) -> None:
    names = " ".join(version.report(1))
    assert all(f"{question}_entropy" in names for question in ("wrong", *tiles.FOREIGN)) and "nll" in names


BUGS = {name[:3].upper(): check for name, check in list(globals().items()) if name[0] == "b" and name[1:3].isdigit()}
BROKEN = (AssertionError, NameError, RuntimeError, KeyError, IndexError, pytest.fail.Exception)


@pytest.fixture(scope="module")
def ours() -> Ours:
    return Ours()


def test_every_bug_has_its_property():
    assert list(BUGS) == [f"B{n}" for n in range(63, 84)]


@pytest.mark.parametrize("bug", BUGS)
def test_ours_is_free_of(bug, ours):
    BUGS[bug](ours)


@pytest.mark.parametrize("bug", BUGS)
def test_the_articles_program_has(bug):
    torch.manual_seed(0)
    with pytest.raises(BROKEN):
        BUGS[bug](Article())


def test_the_articles_crashes_say_what_the_chapter_says():
    article = Article()
    with pytest.raises(NameError, match="optim"):
        b74_all_names_are_imported(article)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        b75_the_attention_fits_what_it_looks_at(article)
    with (
        pytest.warns(UserWarning, match="different to the input size"),
        pytest.raises(RuntimeError, match=r"size of tensor a \(100\) must match the size of tensor b \(2\)"),
    ):
        article.map_loss(torch.rand(100), torch.rand(100, 2))
    with pytest.warns(UserWarning, match="different to the input size"):
        article.map_loss(torch.rand(2), torch.rand(2, 2))
    _, weights = article.pool_that_fits(torch.randn(5, 2))
    assert weights.tolist() == [[1.0]] * 5
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert article.uncertainty(torch.randn(1)).isnan()
    assert article.uncertainty(torch.ones(5)) == 0


def test_the_module_stands_alone():
    """No name of it comes from what ran before (B74)."""
    subprocess.run([sys.executable, "-c", "from kdcourse.attention import *"], check=True)
    assert attention.__doc__ and math.isclose(float(tempered_softmax(torch.zeros(2))[0]), 0.5)
