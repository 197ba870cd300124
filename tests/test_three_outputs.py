"""The toy of chapters 16 and 17: exact, so checked against sums that are written out and against gradient descent."""

import itertools
import math

import pytest
import torch

from kdcourse.experiments import three_outputs as toy

P = toy.teacher()


def test_there_are_240_sources_with_three_different_outputs():
    outputs = toy.valid_outputs().tolist()
    assert len(outputs) == 240
    for first, second, third in outputs:
        assert len({tuple(first), tuple(second), tuple(third)}) == 3
        assert second == [(token + 1) % 4 for token in reversed(first)]
        assert third == [second[t] if t in (1, 3) else (first[t] + 2) % 4 for t in range(4)]


def test_the_teacher_is_the_sum_over_its_outputs_and_slips():
    sequences = list(itertools.product(range(4), repeat=4))
    assert toy.SEQUENCES.tolist() == [list(sequence) for sequence in sequences]
    for source in (0, 17, 239):
        outputs = toy.valid_outputs()[source].tolist()
        for number in (0, 27, 255):
            expected = sum(
                weight * math.prod(0.925 if a == b else 0.025 for a, b in zip(output, sequences[number], strict=True))
                for weight, output in zip(toy.THREE, outputs, strict=True)
            )
            assert P[source, number].item() == pytest.approx(expected)
    assert torch.allclose(P.sum(-1), torch.ones(240, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"at most three and sum to 1, got \(0.5, 0.4\)"):
        toy.teacher((0.5, 0.4))


@pytest.mark.parametrize("memory", [0, 1, 2, 3])
def test_a_context_is_the_last_tokens(memory):
    seen = toy.contexts(memory)
    for tokens, numbers in zip(toy.SEQUENCES.tolist(), seen.tolist(), strict=True):
        for t, number in enumerate(numbers):
            last = tokens[max(0, t - memory) : t][::-1]
            assert number == sum(token * 4**place for place, token in enumerate(last))
    with pytest.raises(ValueError, match="between 0 and 3, got 4"):
        toy.contexts(4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("memory", [0, 1])
def test_word_level_is_where_gradient_descent_on_the_loss_over_words_ends(memory, temperature):
    p = P[:3]
    mass = toy.next_tokens(p)
    soft = (mass / mass.sum(-1, keepdim=True)).nan_to_num() ** (1 / temperature)  # early, most contexts never come
    soft = (soft / soft.sum(-1, keepdim=True)).nan_to_num()
    context = torch.arange(64) % 4**memory  # the lowest digits are the latest tokens
    logits = torch.zeros(3, 4, 4**memory, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        log_q = (logits[:, :, context] / temperature).log_softmax(-1)
        value = -(mass.sum(-1) * (soft * log_q).sum(-1)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    trained = toy.sequences(logits.detach().log_softmax(-1), memory).exp()
    assert torch.allclose(trained, toy.word_level(p, memory, temperature), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 8.0])
def test_a_student_that_sees_all_becomes_the_teacher_at_any_temperature_of_distillation(temperature):
    assert torch.allclose(toy.word_level(P, toy.MEMORY, temperature), P)


def test_forward_kl_between_whole_outputs_has_the_same_optimum_as_word_level():
    """Sequence level by sampling and word level under the teacher's prefixes are one loss."""
    best = toy.word_level(P, 1)
    generator = torch.Generator().manual_seed(0)
    log_best = toy.next_tokens(best, 1).log().log_softmax(-1)
    for _ in range(5):
        other = log_best + 0.1 * torch.randn(log_best.shape, generator=generator, dtype=torch.float64)
        worse = toy.sequences(other.log_softmax(-1), 1).exp()
        assert (toy.kl(P, worse) > toy.kl(P, best)).all()


def test_sequence_level_is_the_best_output_whatever_the_memory():
    one = toy.sequence_level(P)
    for memory in (0, 1, 3):
        assert torch.equal(toy.word_level(one, memory), one)
    assert torch.isinf(toy.measures(one, P)["kl"]).all()


def test_cooling_changes_how_a_model_is_read_and_not_what_is_likeliest_in_a_step():
    assert torch.allclose(toy.cooled(P, 1.0), P)
    cold, hot = toy.cooled(P, 0.5), toy.cooled(P, 2.0)
    assert torch.equal(toy.greedy(cold), toy.greedy(P))
    entropy = [toy.measures(q, P)["entropy"].mean() for q in (cold, P, hot)]
    assert entropy[0] < entropy[1] < entropy[2]
    assert torch.allclose(cold.sum(-1), torch.ones(240, dtype=torch.float64))


def test_greedy_takes_the_likeliest_token_at_each_step():
    q = toy.word_level(P, 1)
    found = toy.greedy(q)
    for source in (3, 100):
        prefix = []
        for t in range(4):
            share = [
                sum(q[source, i] for i, y in enumerate(toy.SEQUENCES.tolist()) if y[: t + 1] == [*prefix, token])
                for token in range(4)
            ]
            prefix.append(max(range(4), key=share.__getitem__))
        assert toy.SEQUENCES[found[source]].tolist() == prefix


def test_little_memory_mixes_three_outputs_and_not_two():
    for weights, shares in ((toy.THREE, (0.2, 0.87, 1, 1)), ((0.6, 0.2, 0.2), (1,) * 4), ((0.6, 0.4), (1,) * 4)):
        p = toy.teacher(weights)
        for memory, share in enumerate(shares):
            found = toy.measures(toy.word_level(p, memory), p, outputs=len(weights))
            assert found["greedy"].mean().item() == pytest.approx(share, abs=0.005)
        assert toy.measures(toy.sequence_level(p), p, outputs=len(weights))["greedy"].min() == 1
