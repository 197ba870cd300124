"""The losses: definitions by hand, the gradient, limits in T, float32's digits, messages."""

import math
from functools import partial

import mpmath
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from kdcourse.losses import distillation_loss, hard_loss, soft_loss

TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype=torch.float64) -> Tensor:
    """Normal numbers that are the same in every call."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=dtype)


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher [batch, classes] in float64, and targets [batch]."""
    return draw(5, 7, seed=1, scale=2), draw(5, 7, seed=2, scale=3), torch.tensor([0, 6, 3, 3, 1])


def softened(logits: list[float], temperature: float) -> list[mpmath.mpf]:
    weights = [mpmath.exp(mpmath.mpf(z) / temperature) for z in logits]
    total = mpmath.fsum(weights)
    return [w / total for w in weights]


@mpmath.workdps(40)
def soft_by_hand(student: list[float], teacher: list[float], temperature: float) -> float:
    """T² Σ p (log p - log q) as it is written, with so many digits that nothing cancels."""
    temperature = mpmath.mpf(temperature)
    p, q = softened(teacher, temperature), softened(student, temperature)
    terms = [a * mpmath.log(a / b) for a, b in zip(p, q, strict=True)]
    return float(temperature**2 * mpmath.fsum(terms))


@mpmath.workdps(40)
def gradient_by_hand(student: list[float], teacher: list[float], temperature: float) -> list[float]:
    p, q = softened(teacher, temperature), softened(student, temperature)
    return [float(temperature * (b - a)) for a, b in zip(p, q, strict=True)]


# -- hard_loss ------------------------------------------------------------------------------------


def test_hard_loss_is_minus_the_log_of_the_labels_probability(logits):
    student, _, targets = logits
    for row, label, loss in zip(student, targets, hard_loss(student, targets), strict=True):
        weights = [math.exp(z) for z in row.tolist()]
        assert_close(loss.item(), -math.log(weights[label] / sum(weights)))


def test_the_gradient_of_hard_loss_is_q_minus_the_one_hot_label(logits):
    student, _, targets = logits
    student.requires_grad_()
    hard_loss(student, targets).sum().backward()
    one_hot = torch.eye(7, dtype=torch.float64)[targets]
    assert_close(student.grad, student.detach().exp() / student.detach().exp().sum(-1, True) - one_hot)


def test_hard_loss_of_equal_logits_is_log_N_and_of_one_class_zero():
    assert_close(hard_loss(torch.full((2, 10), 3.0), torch.tensor([4, 9])), torch.full((2,), math.log(10)))
    assert hard_loss(torch.tensor([[-8.0]]), torch.tensor([0])).tolist() == [0.0]


def test_hard_loss_of_large_logits_is_their_difference_not_infinity():
    assert hard_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([1])).tolist() == [2e4]


def test_hard_loss_takes_any_kind_of_integer_and_repeats_targets_over_runs(logits):
    student, _, targets = logits
    runs = torch.stack([student, 2 * student])
    expected = torch.stack([hard_loss(student, targets), hard_loss(2 * student, targets)])
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert_close(hard_loss(runs, targets.to(dtype)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_hard_loss_names_targets_that_are_not_class_numbers(logits, dtype):
    with pytest.raises(TypeError) as error:
        hard_loss(logits[0], torch.ones(5, dtype=dtype))
    assert str(error.value) == (f"hard_loss: targets must be class numbers (integers), got {dtype}")


# -- soft_loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_loss_is_T_squared_times_KL_worked_out_by_hand(logits, temperature):
    student, teacher, _ = logits
    by_hand = [soft_by_hand(s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert_close(soft_loss(student, teacher, temperature).tolist(), by_hand)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_is_T_times_the_gap_between_softened_probabilities(logits, temperature):
    student, teacher, _ = logits
    student.requires_grad_()
    soft_loss(student, teacher, temperature).sum().backward()
    by_hand = [gradient_by_hand(s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert_close(student.grad.tolist(), by_hand)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_before_the_factor_the_gradient_is_the_gap_over_T(logits, temperature):
    student, teacher, _ = logits
    student.requires_grad_()
    (soft_loss(student, teacher, temperature) / temperature**2).sum().backward()
    gap = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    assert_close(student.grad, gap.detach() / temperature)


def test_the_factor_keeps_the_size_of_the_gradient_when_T_grows(logits):
    student, teacher, _ = logits
    sizes = [grad(lambda z, t=t: soft_loss(z, teacher, t).sum())(student).norm() for t in (50.0, 5000.0)]
    assert 0.9 < sizes[0] / sizes[1] < 1.1


@pytest.mark.parametrize("temperature", [0.5, 4.0, 1e3])
def test_first_and_second_derivatives_pass_gradcheck(logits, temperature):
    student, teacher, targets = logits[0][:2, :4], logits[1][:2, :4], logits[2][:2] % 4
    student.requires_grad_()
    for loss in (
        lambda z: soft_loss(z, teacher, temperature),
        lambda z: distillation_loss(z, teacher, targets, temperature=temperature, soft_weight=0.3),
    ):
        assert torch.autograd.gradcheck(loss, student)
        assert torch.autograd.gradgradcheck(loss, student)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own
def test_forward_mode_derivatives_are_the_gradient(logits):
    student, teacher, _ = logits
    direction = draw(5, 7, seed=9)
    loss = lambda z: soft_loss(z, teacher, 3.0).sum()  # noqa: E731
    _, forward = torch.func.jvp(loss, (student,), (direction,))
    assert_close(forward, (grad(loss)(student) * direction).sum())


def test_the_derivative_for_the_temperature_is_right_so_that_it_can_be_learned(logits):
    student, teacher, _ = logits
    temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: soft_loss(student, teacher, t), temperature)


def test_no_gradient_reaches_the_teacher(logits):
    student, teacher, targets = (part.clone() for part in logits)
    student.requires_grad_()
    teacher.requires_grad_()
    distillation_loss(student, teacher, targets, temperature=2.0, soft_weight=0.5).sum().backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    soft = lambda v: soft_loss(student.detach(), v, 2.0).sum()  # noqa: E731
    assert grad(soft)(teacher.detach()).abs().sum() == 0


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perfect_copy_costs_nothing_and_moves_nothing(temperature, dtype):
    student = draw(6, 10, scale=10, dtype=dtype).requires_grad_()
    loss = soft_loss(student, student.detach().clone(), temperature)
    loss.sum().backward()
    assert loss.tolist() == [0.0] * 6
    # q - p is 0 to the rounding of a probability; the factor T stands before it.
    assert student.grad.abs().max() <= 4 * temperature * torch.finfo(dtype).eps


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0, 1e4])
def test_a_copy_up_to_a_constant_costs_nothing_either(temperature):
    student = draw(6, 10, scale=10)
    assert soft_loss(student, student + 8.0, temperature).max() < 1e-24


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=6),
    st.floats(0.5, 100),
)
def test_soft_loss_equals_its_formula_for_any_logits(pairs, temperature):
    student, teacher = map(list, zip(*pairs, strict=True))
    got = soft_loss(*torch.tensor([student, teacher], dtype=torch.float64), temperature)
    exact = soft_by_hand(student, teacher, temperature)
    assert got >= 0
    assert_close(got.item(), exact, rtol=1e-6, atol=1e-24)


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.03, 0.1, 0.3, 0.6, 1.0, 1.5, 3.0, 30.0])
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_float64_keeps_six_digits_at_any_distance_of_the_two(distance, temperature):
    teacher = draw(6, 5, seed=7, scale=3)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5], dtype=torch.float64)
    student = teacher + temperature * distance * signs
    by_hand = [soft_by_hand(s, t, temperature) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    assert_close(soft_loss(student, teacher, temperature).tolist(), by_hand, rtol=1e-6, atol=0)


def test_as_T_goes_to_infinity_only_centred_logits_count():
    student, teacher = draw(5, 7, seed=1), draw(5, 7, seed=2)
    difference = (student - student.mean(-1, True)) - (teacher - teacher.mean(-1, True))
    limit = difference.square().sum(-1) / (2 * 7)
    for temperature in (1e3, 1e4, 1e5):
        got = soft_loss(student, teacher, temperature)
        assert_close(got, limit, rtol=10 / temperature, atol=0)
    # float32 reaches the same limit, where the plain formula has no digit left.
    single = soft_loss(student.float(), teacher.float(), 1e4)
    assert_close(single.double(), limit, rtol=1e-3, atol=0)


def test_as_T_goes_to_zero_a_wrong_choice_costs_T_times_the_gap_of_the_students_logits():
    student = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    teacher = torch.tensor([0.0, 5.0, 1.0], dtype=torch.float64)
    for temperature in (1e-1, 1e-2, 1e-3):
        got = soft_loss(student, teacher, temperature)
        assert_close(got.item(), temperature * (3.0 - 1.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("distance", ["unrelated", "nearly equal"])
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 20.0, 1e3, 1e4])
def test_float32_keeps_three_digits_and_its_sign(classes, distance, temperature):
    scales = [0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4] if classes < 1000 else [0.01, 10.0, 1e4]
    examples = 4 if classes < 1000 else 1
    for seed, scale in enumerate(scales):
        student = draw(examples, classes, seed=seed, scale=scale, dtype=torch.float32)
        teacher = draw(examples, classes, seed=seed + 50, scale=scale, dtype=torch.float32)
        if distance == "nearly equal":
            teacher = student + teacher / 100
        got = soft_loss(student, teacher, temperature)
        assert got.isfinite().all() and (got >= 0).all()
        for s, t, value in zip(student.tolist(), teacher.tolist(), got.tolist(), strict=True):
            # 1e-30 is near the smallest numbers that float32 has at all.
            assert value == pytest.approx(soft_by_hand(s, t, temperature), rel=1e-3, abs=1e-30)


@pytest.mark.parametrize("temperature", [0.5, 4.0, 20.0, 100.0])
def test_float32_keeps_its_digits_when_the_networks_differ_by_a_large_constant(temperature):
    teacher = draw(20, 2, seed=5, scale=100, dtype=torch.float32)
    student = teacher + torch.tensor([0.4, -0.4]) + 200
    for s, t, value in zip(
        student.tolist(),
        teacher.tolist(),
        soft_loss(student, teacher, temperature).tolist(),
        strict=True,
    ):
        assert value == pytest.approx(soft_by_hand(s, t, temperature), rel=1e-3, abs=1e-30)


@given(
    st.lists(
        st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1, 1, width=32)),
        min_size=1,
        max_size=5,
    ),
    st.floats(1e-3, 1e4),
)
def test_float32_is_never_negative_nan_or_infinite(pairs, temperature):
    student = torch.tensor([a for a, _ in pairs]).requires_grad_()
    teacher = torch.tensor([a + b for a, b in pairs])
    for one, other in ((student, teacher), (student, -teacher)):
        loss = soft_loss(one, other, temperature)
        assert loss.isfinite() and loss >= 0
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 4.0, 100.0, 1e4])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0, 1e4])
def test_the_float32_gradient_is_off_by_the_rounding_of_a_probability(temperature, scale):
    student, teacher = draw(8, 10, seed=3, scale=scale), draw(8, 10, seed=4, scale=scale)
    loss = lambda z, v: soft_loss(z, v, temperature).sum()  # noqa: E731
    single, double = student.float(), teacher.float()
    exact = grad(loss)(single.double(), double.double())
    # z/T is rounded to 24 bits, q by as much as z/T; the factor T stands before q - p.
    atol = 1e-6 * max(temperature, scale)
    assert_close(grad(loss)(single, double).double(), exact, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_and_returned_in_float32(dtype):
    student, teacher = draw(4, 6, seed=1, scale=5).to(dtype), draw(4, 6, seed=2, scale=5).to(dtype)
    targets = torch.tensor([0, 5, 2, 1])
    losses = [
        lambda s, t: hard_loss(s, targets),
        lambda s, t: soft_loss(s, t, 7.0),
        lambda s, t: distillation_loss(s, t, targets, temperature=7.0, soft_weight=0.9),
    ]
    for loss in losses:
        got = loss(student, teacher)
        assert got.dtype == torch.float32
        assert_close(got, loss(student.float(), teacher.float()), rtol=0, atol=0)
    # One half and one full: the difference of the logits must not be taken in half.
    assert soft_loss(student, teacher.float(), 1e3).dtype == torch.float32
    assert_close(soft_loss(student, teacher.float(), 1e3), soft_loss(student.float(), teacher.float(), 1e3))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7), (2, 3, 5, 7)])
def test_a_loss_is_one_number_for_each_example_whatever_stands_before_the_classes(shape):
    student, teacher = draw(*shape, seed=1), draw(*shape, seed=2)
    targets = torch.arange(math.prod(shape[:-1])).view(shape[:-1]) % 7
    settings = {"temperature": 2.0, "soft_weight": 0.7}
    got = distillation_loss(student, teacher, targets, **settings)
    assert got.shape == shape[:-1]
    flat = distillation_loss(student.view(-1, 7), teacher.view(-1, 7), targets.view(-1), **settings)
    assert_close(got.view(-1), flat)


def test_one_teacher_serves_many_students(logits):
    student, teacher, _ = logits
    students = torch.stack([student, student.flip(0)])
    expected = torch.stack([soft_loss(one, teacher, 3.0) for one in students])
    assert_close(soft_loss(students, teacher, 3.0), expected)


def test_a_view_of_other_memory_gives_the_same_numbers():
    student, teacher = draw(7, 5, seed=1), draw(5, 14, seed=2)
    got = soft_loss(student.t(), teacher[:, ::2], 3.0)
    assert_close(got, soft_loss(student.t().contiguous(), teacher[:, ::2].contiguous(), 3.0))


def test_soft_loss_names_the_shapes_that_disagree(logits):
    student, teacher, _ = logits
    with pytest.raises(ValueError) as error:
        soft_loss(student[:, :6], teacher, temperature=1.0)
    assert str(error.value) == (
        "soft_loss: student and teacher must score the same classes (the last axis), "
        "got student_logits (5, 6) and teacher_logits (5, 7)"
    )


@pytest.mark.parametrize("which", ["student_logits", "teacher_logits"])
def test_soft_loss_names_the_logits_that_are_whole_numbers(logits, which):
    arguments = {"student_logits": logits[0], "teacher_logits": logits[1], "temperature": 1.0}
    with pytest.raises(TypeError) as error:
        soft_loss(**arguments | {which: arguments[which].long()})
    assert str(error.value) == (f"soft_loss: {which} must be a floating-point tensor, got torch.int64")


@pytest.mark.parametrize("temperature", [0, -2.0, math.nan, math.inf, True, "4", None])
def test_soft_loss_names_a_temperature_that_is_not_positive_and_finite(logits, temperature):
    with pytest.raises(ValueError) as error:
        soft_loss(logits[0], logits[1], temperature)
    assert str(error.value) == (f"soft_loss: temperature must be positive and finite, got {temperature!r}")


# -- distillation_loss ----------------------------------------------------------------------------


@pytest.mark.parametrize("soft_weight", [0.0, 0.25, 0.9, 1.0])
def test_distillation_loss_is_the_weighted_sum_of_soft_and_hard(logits, soft_weight):
    student, teacher, targets = logits
    got = distillation_loss(student, teacher, targets, temperature=4.0, soft_weight=soft_weight)
    soft, hard = soft_loss(student, teacher, 4.0), hard_loss(student, targets)
    assert_close(got, soft_weight * soft + (1 - soft_weight) * hard)


def test_at_the_corners_one_loss_is_left(logits):
    student, teacher, targets = logits
    at = partial(distillation_loss, student, teacher, targets, temperature=4.0)
    assert_close(at(soft_weight=0), hard_loss(student, targets), rtol=0, atol=0)
    assert_close(at(soft_weight=1), soft_loss(student, teacher, 4.0), rtol=0, atol=0)


@pytest.mark.parametrize("soft_weight", [0.0, 0.9, 1.0])
def test_a_single_class_leaves_nothing_to_learn(soft_weight):
    student = torch.tensor([[3.0], [-1e4]], requires_grad=True)
    loss = distillation_loss(student, torch.zeros(2, 1), torch.tensor([0, 0]), temperature=2.0, soft_weight=soft_weight)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0] and student.grad.abs().sum() == 0


@given(st.floats(0, 1), st.floats(0.5, 50))
def test_distillation_loss_lies_between_its_parts(soft_weight, temperature):
    student, teacher, targets = draw(9, 4, seed=1), draw(9, 4, seed=2), torch.arange(9) % 4
    got = distillation_loss(student, teacher, targets, temperature=temperature, soft_weight=soft_weight)
    parts = torch.stack([soft_loss(student, teacher, temperature), hard_loss(student, targets)])
    assert (parts.min(0).values - 1e-12 <= got).all() and (got <= parts.max(0).values + 1e-12).all()


def test_a_temperature_and_a_weight_for_each_run_equal_one_run_at_a_time():
    student, teacher, targets = draw(3, 5, 7, seed=1), draw(5, 7, seed=2), torch.arange(5)
    temperature, soft_weight = torch.tensor([0.5, 2.0, 8.0]), torch.tensor([0.0, 0.5, 1.0])
    one_by_one = torch.stack(
        [
            distillation_loss(one, teacher, targets, temperature=t, soft_weight=w)
            for one, t, w in zip(student, temperature.tolist(), soft_weight.tolist(), strict=True)
        ]
    )
    together = distillation_loss(
        student, teacher, targets,
        temperature=temperature[:, None], soft_weight=soft_weight[:, None],
    )  # fmt: skip
    assert_close(together, one_by_one)

    def one_run(logits: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return distillation_loss(logits, teacher, targets, temperature=t, soft_weight=w)

    assert_close(vmap(one_run)(student, temperature, soft_weight), one_by_one)


def test_the_loss_and_its_gradient_can_be_mapped_traced_and_compiled(logits):
    student, teacher, targets = logits

    def mean_loss(z: Tensor, temperature: Tensor) -> Tensor:
        loss = distillation_loss(z, teacher, targets, temperature=temperature, soft_weight=0.9)
        return loss.mean()

    runs, temperatures = torch.stack([student, student.flip(0)]), torch.tensor([2.0, 5.0])
    expected = torch.stack([grad(mean_loss)(z, t) for z, t in zip(runs, temperatures.unbind(), strict=True)])
    mapped = vmap(grad(mean_loss))
    assert_close(mapped(runs, temperatures), expected)
    # Traced once with other numbers: nothing of them may be frozen in.
    traced = make_fx(mapped)(torch.randn_like(runs) * 50, temperatures + 40)
    assert_close(traced(runs, temperatures), expected)
    compiled = torch.compile(mean_loss, backend="eager")
    assert_close(compiled(student, torch.tensor(2.0)), mean_loss(student, torch.tensor(2.0)))


@pytest.mark.parametrize("soft_weight", [-0.1, 1.0001, 90, math.nan, math.inf])
def test_distillation_loss_names_a_weight_outside_zero_to_one(logits, soft_weight):
    with pytest.raises(ValueError) as error:
        distillation_loss(*logits, temperature=1.0, soft_weight=soft_weight)
    assert str(error.value) == (f"distillation_loss: soft_weight must lie between 0 and 1, got {soft_weight!r}")


@pytest.mark.parametrize("temperature", [0, math.nan, "4"])
def test_distillation_loss_passes_on_what_its_parts_say(logits, temperature):
    with pytest.raises(ValueError, match="temperature must be positive and finite, got"):
        distillation_loss(*logits, temperature=temperature, soft_weight=0.5)


def test_weights_cannot_be_swapped_by_position(logits):
    with pytest.raises(TypeError, match="positional"):
        distillation_loss(*logits, 4.0, 0.9)


@given(st.floats(0.5, 20), st.integers(0, 1000))
def test_KL_is_not_symmetric(temperature, seed):
    student, teacher = draw(6, seed=seed), draw(6, seed=seed + 1, scale=2)
    there, back = soft_loss(student, teacher, temperature), soft_loss(teacher, student, temperature)
    assume(there > 0.05)
    assert there.item() != pytest.approx(back.item(), rel=1e-6)
