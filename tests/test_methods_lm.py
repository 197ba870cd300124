"""Divergences, the chunked loss and the caches of language models: references, limits, memory, bias, messages."""

import math
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy.spatial import distance
from scipy.special import rel_entr
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from kdcourse.losses import distillation_loss, hard_loss, soft_loss
from kdcourse.methods.cached import (
    Cache,
    cached_cross_entropy,
    ghost_cross_entropy,
    renormalised,
    sampled,
    top_k,
)
from kdcourse.methods.chunked import Head, chunked_mean
from kdcourse.methods.divergences import jensen_shannon, reverse_kl


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype=torch.float64) -> Tensor:
    """Normal numbers that are the same in every call."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Student and teacher [tokens, classes] in float64."""
    return draw(6, 9, seed=1, scale=2), draw(6, 9, seed=2, scale=3)


def probabilities(*logits: Tensor) -> list[Tensor]:
    return [value.softmax(-1) for value in logits]


LOSSES = {"reverse_kl": reverse_kl, **{f"JSD {b}": partial(jensen_shannon, beta=b) for b in (0.1, 0.5, 0.9)}}
anyloss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


# --- divergences ------------------------------------------------------------------------------------------------------


def test_reverse_kl_is_scipy_s_and_torch_s_with_the_arguments_exchanged(pair):
    q, p = probabilities(*pair)
    assert_close(reverse_kl(*pair), torch.from_numpy(rel_entr(q.numpy(), p.numpy()).sum(-1)))
    assert_close(reverse_kl(*pair), F.kl_div(p.log(), q, reduction="none").sum(-1))
    student, teacher = pair
    assert_close(reverse_kl(student, teacher), soft_loss(teacher, student, 1.0))


@pytest.mark.parametrize("beta", [1e-3, 0.1, 0.5, 0.9])
def test_jensen_shannon_is_its_definition(pair, beta):
    q, p = (value.numpy() for value in probabilities(*pair))
    m = beta * p + (1 - beta) * q
    expected = beta * rel_entr(p, m).sum(-1) + (1 - beta) * rel_entr(q, m).sum(-1)
    assert_close(jensen_shannon(*pair, beta=beta), torch.from_numpy(expected))


def test_jensen_shannon_at_a_half_is_scipy_s_and_symmetric(pair):
    student, teacher = pair
    theirs = distance.jensenshannon(*(value.numpy() for value in probabilities(*pair)), axis=-1) ** 2
    assert_close(jensen_shannon(student, teacher, beta=0.5), torch.from_numpy(theirs))
    assert_close(jensen_shannon(student, teacher, beta=0.5), jensen_shannon(teacher, student, beta=0.5))
    assert_close(jensen_shannon(student, teacher, beta=0.3), jensen_shannon(teacher, student, beta=0.7))


def test_jensen_shannon_vanishes_at_both_ends_and_its_slope_there_is_a_kl(pair):
    small = 1e-7
    assert jensen_shannon(*pair, beta=small).max() < 1e-5
    assert_close(jensen_shannon(*pair, beta=small) / small, soft_loss(*pair, 1.0), rtol=1e-4, atol=1e-6)
    assert_close(jensen_shannon(*pair, beta=1 - small) / small, reverse_kl(*pair), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_jensen_shannon_of_disjoint_distributions_is_the_entropy_of_beta(beta):
    far = jensen_shannon(torch.tensor([0.0, 500.0]), torch.tensor([500.0, 0.0]), beta=beta)
    assert_close(far.item(), -beta * math.log(beta) - (1 - beta) * math.log(1 - beta))


@anyloss
def test_gradients_are_those_of_differences_and_stop_at_the_teacher(loss, pair):
    student, teacher = (value.clone().requires_grad_() for value in pair)
    assert gradcheck(lambda logits: loss(logits, pair[1]), student)
    loss(student, teacher).sum().backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


def test_the_gradient_of_reverse_kl_is_its_formula(pair):
    student, teacher = pair[0].clone().requires_grad_(), pair[1]
    reverse_kl(student, teacher).sum().backward()
    q, p = probabilities(*pair)
    assert_close(student.grad, q * ((q / p).log() - reverse_kl(*pair)[:, None]))


@anyloss
def test_a_copy_costs_nothing_shifts_do_not_matter_and_shapes_are_free(loss, pair):
    student, teacher = pair
    assert_close(loss(teacher + 3, teacher), torch.zeros(6, dtype=torch.float64), atol=1e-14, rtol=0)
    assert_close(loss(student + 5, teacher - 2), loss(student, teacher))
    assert (loss(student, teacher) > 0).all()
    assert_close(loss(student.view(2, 3, 9), teacher.view(2, 3, 9)).flatten(), loss(student, teacher))
    assert loss(student.view(6, 1, 9), teacher).shape == (6, 6)


@anyloss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_types_are_computed_in_float32(loss, dtype, pair):
    student, teacher = (value.to(dtype) for value in pair)
    assert loss(student, teacher).dtype == torch.float32
    assert_close(loss(student, teacher).double(), loss(student.double(), teacher.double()), rtol=1e-5, atol=1e-6)


@anyloss
def test_extreme_logits_stay_finite(loss):
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = loss(student, torch.tensor([[-1e4, 1e4, 0.0]]))
    value.sum().backward()
    assert value.isfinite().all() and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (0, r"got 0; at 0 it is 0 for every student, .* KL\(teacher ‖ student\): soft_loss at T = 1"),
        (1.0, r"got 1.0; at 1 it is 0 .* KL\(student ‖ teacher\): reverse_kl"),
        (-0.5, "strictly between 0 and 1, got -0.5$"),
        (float("nan"), "got nan"),
        (True, "got True$"),
        ("half", "got 'half'"),
    ],
)
def test_beta_at_an_end_is_refused_and_the_message_says_what_was_meant(pair, beta, message):
    with pytest.raises(ValueError, match=f"jensen_shannon: beta must be .*{message}"):
        jensen_shannon(*pair, beta=beta)


@anyloss
def test_bad_logits_are_named(loss, pair):
    name = "reverse_kl" if loss is reverse_kl else "jensen_shannon"
    with pytest.raises(ValueError, match=f"{name}: student and teacher must score the same classes"):
        loss(pair[0], pair[1][:, :4])
    with pytest.raises(TypeError, match=f"{name}: student_logits must be a floating-point tensor, got torch.int64"):
        loss(pair[0].long(), pair[1])


# --- the chunked loss -------------------------------------------------------------------------------------------------

TOKENS, WIDTH, VOCABULARY = 23, 5, 31
TOKEN_LOSSES = {
    "distillation": partial(distillation_loss, temperature=2.0, soft_weight=0.7),
    "labels": lambda student, teacher, targets: hard_loss(student, targets),
    "reverse KL": lambda student, teacher, targets: reverse_kl(student, teacher),
    "JSD": lambda student, teacher, targets: jensen_shannon(student, teacher, beta=0.3),
}


def heads(dtype=torch.float64, tokens: int = TOKENS, vocabulary: int = VOCABULARY) -> tuple[Head, Head, Tensor]:
    student = Head(
        *(
            draw(*shape, seed=i, dtype=dtype).requires_grad_()
            for i, shape in enumerate([(tokens, WIDTH), (vocabulary, WIDTH), (vocabulary,)])
        )
    )
    teacher = Head(draw(tokens, 7, seed=8, dtype=dtype), draw(vocabulary, 7, seed=9, dtype=dtype))
    return student, teacher, torch.arange(tokens) * 5 % vocabulary


def whole(loss, student: Head, teacher: Head, targets: Tensor) -> Tensor:
    return loss(student.hidden @ student.weight.T + student.bias, teacher.hidden @ teacher.weight.T, targets)


def value_and_gradients(value: Tensor, head: Head) -> list[Tensor]:
    return [value.detach(), *torch.autograd.grad(value, list(head))]


@pytest.mark.parametrize("loss", TOKEN_LOSSES.values(), ids=TOKEN_LOSSES)
@pytest.mark.parametrize("chunk", [1, 4, 7, TOKENS, 1000])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_chunked_equals_whole_in_value_and_every_gradient(loss, chunk, dtype, close):
    student, teacher, targets = heads(dtype)
    expected = value_and_gradients(whole(loss, student, teacher, targets).mean(), student)
    found = value_and_gradients(chunked_mean(loss, student, teacher, targets, chunk=chunk), student)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=close, atol=close)


@pytest.mark.parametrize("chunk", [3, 100])
def test_masked_tokens_neither_cost_nor_count(chunk):
    student, teacher, targets = heads()
    mask = torch.arange(TOKENS) % 3 != 0
    padded = torch.where(mask, targets, -100)  # what would stop hard_loss if it were asked
    loss = TOKEN_LOSSES["distillation"]
    expected = value_and_gradients(whole(loss, student, teacher, targets)[mask].mean(), student)
    found = value_and_gradients(chunked_mean(loss, student, teacher, padded, chunk=chunk, mask=mask), student)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert (found[1][~mask] == 0).all()


def test_batch_and_length_may_be_two_axes_and_cross_entropy_is_torch_s():
    student, teacher, targets = heads(tokens=24)
    square = Head(student.hidden.view(4, 6, WIDTH), *student[1:])
    taught = Head(teacher.hidden.view(4, 6, 7), teacher.weight)
    padded = targets.clone()
    padded[::5] = -100
    found = chunked_mean(
        TOKEN_LOSSES["labels"], square, taught, padded.view(4, 6), chunk=5, mask=(padded != -100).view(4, 6)
    )
    logits = student.hidden @ student.weight.T + student.bias
    assert_close(found, F.cross_entropy(logits, padded, ignore_index=-100))


def test_with_the_tokens_of_all_batches_as_denominator_parts_sum_to_the_whole():
    student, teacher, targets = heads()
    loss = TOKEN_LOSSES["JSD"]
    expected = value_and_gradients(whole(loss, student, teacher, targets).mean(), student)
    parts = 0.0
    for rows in (slice(0, 4), slice(4, TOKENS)):  # the mean of the two means would be another number
        part = Head(student.hidden[rows], *student[1:])
        taught = Head(teacher.hidden[rows], teacher.weight)
        parts = parts + chunked_mean(loss, part, taught, targets[rows], chunk=3, denominator=TOKENS)
    for ours, theirs in zip(value_and_gradients(parts, student), expected, strict=True):
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_head_without_bias_and_half_types():
    student, teacher, targets = heads(torch.bfloat16)
    bare = Head(*student[:2])
    found = chunked_mean(TOKEN_LOSSES["reverse KL"], bare, teacher, targets, chunk=4)
    assert found.dtype == torch.float32
    exact = reverse_kl(bare.hidden @ bare.weight.T, teacher.hidden @ teacher.weight.T).mean()
    assert_close(found, exact)
    hidden, weight = torch.autograd.grad(found, bare[:2])
    assert hidden.dtype == weight.dtype == torch.bfloat16


def test_the_teacher_gets_no_gradient_and_no_gradient_means_no_graph():
    student, teacher, targets = heads()
    taught = Head(*(value.clone().requires_grad_() for value in teacher[:2]))
    chunked_mean(TOKEN_LOSSES["JSD"], student, taught, targets, chunk=4).backward()
    assert taught.hidden.grad is None and taught.weight.grad is None
    with torch.no_grad():
        assert not chunked_mean(TOKEN_LOSSES["JSD"], student, taught, targets, chunk=4).requires_grad


class Memory(TorchDispatchMode):
    """The largest tensor that any operation makes, and the most numbers that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage(), tensor.element_size())
        return made

    def _note(self, storage, size: int) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        numbers = storage.nbytes() // size
        self.seen.add(key)
        self.alive += numbers
        self.largest, self.peak = max(self.largest, numbers), max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, numbers)

    def _forget(self, key: int, numbers: int) -> None:
        self.seen.discard(key)
        self.alive -= numbers


def memory_of(loss, tokens: int, vocabulary: int, chunk: int | None) -> Memory:
    student, teacher, targets = heads(torch.float32, tokens, vocabulary)
    with Memory() as memory:
        if chunk is None:
            value = whole(loss, student, teacher, targets).mean()
        else:
            value = chunked_mean(loss, student, teacher, targets, chunk=chunk)
        value.backward()
    return memory


@pytest.mark.parametrize("loss", TOKEN_LOSSES.values(), ids=TOKEN_LOSSES)
def test_no_tensor_holds_more_than_a_chunk_of_logits_and_the_peak_does_not_grow_with_the_tokens(loss):
    vocabulary, chunk = 2_000, 16
    few, many = (memory_of(loss, tokens, vocabulary, chunk) for tokens in (128, 512))
    assert many.largest <= chunk * vocabulary
    # What does grow are the hidden states' gradients and the like: some numbers a token, not one for each word.
    assert many.peak - few.peak < 384 * 10 * WIDTH
    assert many.peak < 20 * chunk * vocabulary
    full = memory_of(loss, 512, vocabulary, None)
    assert full.largest == 512 * vocabulary and full.peak > 10 * many.peak


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"chunk": 0}, ValueError, "chunk must be at least 1 token, got 0"),
        ({"mask": torch.ones(TOKENS)}, TypeError, "mask must be bool, True where a token counts, got torch.float32"),
        ({"mask": torch.zeros(TOKENS, dtype=torch.bool)}, ValueError, "at least one token must count, got none"),
        (
            {"mask": torch.ones(4, dtype=torch.bool)},
            ValueError,
            r"the same tokens, got targets \(23,\), .* mask \(4,\)",
        ),
    ],
)
def test_bad_inputs_of_the_chunked_loss_are_named(settings, error, message):
    with pytest.raises(error, match=f"chunked_mean: .*{message}"):
        chunked_mean(TOKEN_LOSSES["JSD"], *heads(), **({"chunk": 4} | settings))
    student, teacher, targets = heads()
    with pytest.raises(ValueError, match=r"chunked_mean: .* targets \(22,\), student.hidden \(23,\)"):
        chunked_mean(TOKEN_LOSSES["JSD"], student, teacher, targets[:22], chunk=4)


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def zipf() -> tuple[Tensor, Tensor]:
    """A student [50] that knows nothing, and a teacher whose r-th class has a share of 1/r."""
    return draw(50, seed=3, scale=0.3), -torch.arange(1.0, 51.0, dtype=torch.float64).log()


def gradient(loss, student: Tensor) -> Tensor:
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student).sum(), student)[0]


def test_a_cache_of_everything_is_cross_entropy_with_the_teacher(pair):
    student, teacher = pair
    everything = Cache(torch.arange(9).expand(6, 9), teacher.softmax(-1))
    expected = F.cross_entropy(student, teacher.softmax(-1), reduction="none")
    assert_close(cached_cross_entropy(student, everything), expected)
    full = gradient(lambda s: soft_loss(s, teacher, 1.0), student)
    assert_close(gradient(lambda s: cached_cross_entropy(s, everything), student), full)


def test_top_k_holds_the_largest_and_renormalised_sums_to_one(pair):
    cache = top_k(pair[1], 3)
    assert_close(cache.weights, pair[1].softmax(-1).sort(-1, descending=True).values[:, :3])
    assert_close(pair[1].softmax(-1).gather(-1, cache.ids), cache.weights)
    assert_close(renormalised(cache).weights.sum(-1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(renormalised(cache).ids, cache.ids)


def test_the_mean_gradient_of_sampled_caches_is_the_full_one_and_that_of_top_k_is_not(zipf):
    student, teacher = zipf
    full = gradient(lambda s: soft_loss(s, teacher, 1.0), student)
    many, draws = 4_000, 12
    rows = student.expand(many, -1)
    cache = sampled(teacher.expand(many, -1), draws, torch.Generator().manual_seed(4))
    each = gradient(lambda s: cached_cross_entropy(s, cache), rows)
    error = (each.mean(0) - full) / (each.std(0) / many**0.5)
    assert error.abs().max() < 4 and error.square().mean() < 2  # fifty classes, in standard errors
    biased = gradient(lambda s: cached_cross_entropy(s, renormalised(top_k(teacher, draws))), student)
    assert ((biased - full).abs() / (each.std(0) / many**0.5)).max() > 10


def test_the_value_of_a_sampled_cache_is_right_on_average(zipf):
    student, teacher = zipf
    cache = sampled(teacher.expand(4_000, -1), 5, torch.Generator().manual_seed(6))
    values = cached_cross_entropy(student.expand(4_000, -1), cache)
    exact = -(teacher.softmax(-1) * student.log_softmax(-1)).sum()
    assert abs(values.mean() - exact) < 3 * values.std() / 4_000**0.5


def test_a_class_that_is_drawn_several_times_weighs_as_often():
    student = torch.tensor([1.0, 0.0, -1.0])
    twice = Cache(torch.tensor([0, 0, 2, 0]), torch.full((4,), 0.25))
    merged = Cache(torch.tensor([0, 2]), torch.tensor([0.75, 0.25]))
    assert_close(cached_cross_entropy(student, twice), cached_cross_entropy(student, merged))
    drawn = sampled(torch.tensor([[30.0, 0.0], [0.0, 30.0]]), 7, torch.Generator().manual_seed(0))
    assert drawn.ids.tolist() == [[0] * 7, [1] * 7] and drawn.weights.unique().tolist() == [pytest.approx(1 / 7)]


def fitted(loss) -> Tensor:
    """The distribution that minimises a loss of logits [50]."""
    student = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([student], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        value = loss(student)
        value.backward()
        return value

    optimizer.step(closure)
    return student.detach().softmax(-1)


def test_what_each_cache_teaches(zipf):
    """Renormalised: nothing for the tail. With a ghost: head and sum of the tail right, its shares the student's."""
    teacher = zipf[1]
    p = teacher.softmax(-1)
    cache = top_k(teacher, 10)
    starved = fitted(lambda s: cached_cross_entropy(s, renormalised(cache)))
    ghost = fitted(lambda s: ghost_cross_entropy(s, cache))
    assert starved[10:].sum() < 0.01 < 0.3 < p[10:].sum()
    assert_close(starved[:10], p[:10] / p[:10].sum(), atol=1e-3, rtol=1e-2)
    assert_close(ghost[:10], p[:10], atol=1e-6, rtol=1e-4)
    assert_close(ghost[10:], (p[10:].mean()).expand(40), atol=1e-6, rtol=1e-4)


def test_the_ghost_is_cross_entropy_over_k_and_one_classes(pair):
    student, teacher = pair
    cache = top_k(teacher, 4)
    q = student.softmax(-1).gather(-1, cache.ids)
    p, q = (torch.cat([value, 1 - value.sum(-1, keepdim=True)], -1) for value in (cache.weights, q))
    assert_close(ghost_cross_entropy(student, cache), -(p * q.log()).sum(-1))
    assert gradcheck(lambda s: ghost_cross_entropy(s, cache), student.clone().requires_grad_())
    assert gradcheck(lambda s: cached_cross_entropy(s, cache), student.clone().requires_grad_())


def test_the_ghost_survives_a_student_and_a_teacher_that_are_sure():
    student = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = ghost_cross_entropy(student, top_k(torch.tensor([[0.0, 90.0, 0.0]]), 1))
    value.sum().backward()
    assert value.isfinite().all() and student.grad.isfinite().all()


@pytest.mark.parametrize("loss", [cached_cross_entropy, ghost_cross_entropy])
def test_caches_take_half_types_in_float32_and_runs_before_tokens(loss):
    student, teacher = (draw(2, 3, 9, seed=i, dtype=torch.bfloat16) for i in (1, 2))
    cache = top_k(teacher, 4)
    assert cache.weights.dtype == torch.float32 and loss(student, cache).dtype == torch.float32
    assert loss(student, cache).shape == (2, 3)
    assert sampled(teacher, 5, torch.Generator().manual_seed(0)).ids.shape == (2, 3, 5)


def test_bad_inputs_of_caches_are_named(pair):
    student, teacher = pair
    for k in (0, 9):
        with pytest.raises(ValueError, match=f"top_k: k must lie between 1 and 8, got {k}"):
            top_k(teacher, k)
    with pytest.raises(ValueError, match="sampled: draws must be at least 1, got 0"):
        sampled(teacher, 0, torch.Generator())
    with pytest.raises(ValueError, match=r"cached_cross_entropy: .* got ids \(6, 2\), .* student_logits \(5, 9\)"):
        cached_cross_entropy(student[:5], top_k(teacher, 2))
    with pytest.raises(TypeError, match="top_k: teacher_logits must be a floating-point tensor"):
        top_k(teacher.long(), 2)
