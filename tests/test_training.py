"""The engine: side by side equals one after the other equals the loop of every tutorial."""

import itertools
import math
import warnings

import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from kdcourse.data import Batch, GaussianMixture, split
from kdcourse.losses import distillation_loss, hard_loss, soft_loss
from kdcourse.metrics import accuracy
from kdcourse.models import convnet, mlp
from kdcourse.schedules import cosine, linear
from kdcourse.training import Students, grid, order, train

MIXTURE = GaussianMixture(classes=4)


def labels(logits: Tensor, batch: Batch) -> Tensor:
    return hard_loss(logits, batch.targets)


def distil(logits: Tensor, batch: Batch, temperature: Tensor, soft_weight: Tensor) -> Tensor:
    return distillation_loss(
        logits, batch.teacher_logits, batch.targets, temperature=temperature, soft_weight=soft_weight
    )


def two_streams(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    """Labels where there are some, the teacher elsewhere."""
    hard = hard_loss(logits, batch.targets)
    soft = soft_loss(logits, batch.teacher_logits, temperature)
    return torch.where(batch.labelled, hard, soft)


def small() -> nn.Module:
    return mlp(2, 8, 4)


def tiny_convnet() -> nn.Module:
    return convnet(width=4, classes=4)


def sample(examples: int = 50, seed: int = 0) -> Batch:
    """Points of the mixture with the true posterior as their teacher."""
    data = MIXTURE.sample(examples, seed)
    return data.with_teacher(3 * MIXTURE.posterior(data.inputs))


def images(examples: int = 50, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(4, (examples,), generator=generator)
    inputs = torch.randn(examples, 1, 8, 8, generator=generator) + targets[:, None, None, None]
    return Batch(inputs, targets, torch.randn(examples, 4, generator=generator))


def assert_same_students(one: Students, other: Students, runs: slice = slice(None)) -> None:
    """Equal parameters, buffers and losses, to 1e-5; NaN where the other has NaN."""
    close = {"rtol": 1e-5, "atol": 1e-5, "equal_nan": True}
    for state, others in ((one.parameters, other.parameters), (one.buffers, other.buffers)):
        assert state.keys() == others.keys()
        for name in state:
            assert_close(state[name], others[name][runs], **close, msg=lambda m, n=name: f"{n}: {m}")
    assert_close(one.losses, other.losses[:, runs], **close)


# -- the oracle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_training_is_the_six_lines_of_every_tutorial(engine):
    data = sample()
    torch.manual_seed(7)
    student = small()
    adam = torch.optim.Adam(student.parameters(), lr=0.01)
    for rows in order(len(data), 16, 30, seed=7):
        logits = student(data.inputs[rows])
        p = F.softmax(data.teacher_logits[rows] / 4, -1)
        soft = F.kl_div(F.log_softmax(logits / 4, -1), p, reduction="batchmean") * 4**2
        loss = 0.9 * soft + 0.1 * F.cross_entropy(logits, data.targets[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
    students = train(
        small, data, distil, seeds=7, lr=0.01, steps=30, batch=16,
        temperature=4.0, soft_weight=0.9, engine=engine,
    )  # fmt: skip
    trained = dict(students[0].named_parameters())
    for name, parameter in student.named_parameters():
        assert_close(trained[name], parameter, rtol=1e-5, atol=1e-5)
    assert_close(students.losses[-1, 0], loss.detach(), rtol=1e-5, atol=1e-6)


class Turned(nn.Module):
    """Weights that lie in memory in another order than their shape, and one that is used turned round."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2).to(memory_format=torch.channels_last)
        self.weight = nn.Parameter(torch.randn(4, 36).T / 6)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv(inputs).relu().flatten(1) @ self.weight


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_order_of_weights_in_memory_does_not_matter(optimizer):
    settings = {"steps": 20, "lr": 0.01, "weight_decay": 0.1, "seeds": [3, 4], "optimizer": optimizer}
    beside, after = (train(Turned, images(), labels, engine=engine, **settings) for engine in ("vmap", "loop"))
    assert_same_students(beside, after)


THREE_SEEDS = {seed: sample(50, seed) for seed in (3, 4, 5)}
SETTINGS = {
    "defaults": {},
    "sgd with momentum": {"optimizer": "sgd", "lr": 0.05},
    "sgd without momentum": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0},
    "adam with weight decay": {"weight_decay": 0.1},
    "sgd with weight decay": {"optimizer": "sgd", "lr": 0.05, "weight_decay": [0.0, 0.01, 0.1]},
    "a learning rate for each run": {"lr": [1e-3, 3e-3, 1e-2]},
    "a schedule of the learning rate": {"lr_schedule": cosine(1.0, 0.1, steps=20)},
    "a learning rate that is a schedule": {"lr": linear(0.0, 0.01, steps=10)},
    "a temperature for each run": {"temperature": [1.0, 4.0, 20.0]},
    "a temperature that is a schedule": {"temperature": cosine(8.0, 1.0, steps=20)},
    "a weight that is a schedule": {"soft_weight": linear(1.0, 0.0, steps=20)},
    "a batch that does not divide the data": {"batch": 7},
    "a batch larger than the data": {"batch": 64, "steps": 5},
    "a single example a step": {"batch": 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_side_by_side_equals_the_loop(settings):
    arguments = {"seeds": [3, 4, 5], "steps": 25, "batch": 16, "temperature": 4.0}
    arguments |= {"soft_weight": 0.7} | settings
    one, other = (train(small, sample(), distil, engine=e, **arguments) for e in ("vmap", "loop"))
    assert_same_students(one, other)
    pandas.testing.assert_frame_equal(one.table, other.table, rtol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"optimizer": "sgd", "lr": 0.05}, {"weight_decay": [0.0, 0.1], "batch": 7}],
    ids=["adam", "sgd", "weight decay"],
)
def test_side_by_side_equals_the_loop_with_convolutions_and_batch_norm(arguments):
    one, other = (
        train(tiny_convnet, images(), labels, seeds=[0, 1], steps=12, engine=e, **arguments) for e in ("vmap", "loop")
    )
    assert_same_students(one, other)
    assert one.buffers["1.num_batches_tracked"].tolist() == [12, 12]
    assert_close(one.logits(images().inputs), other.logits(images().inputs), rtol=1e-4, atol=1e-4)


def test_side_by_side_equals_the_loop_with_data_of_its_own_for_each_seed():
    one, other = (
        train(small, THREE_SEEDS, distil, **grid(temperature=[1, 4], seeds=[3, 5]), steps=20,
              batch=16, soft_weight=0.5, engine=e)
        for e in ("vmap", "loop")
    )  # fmt: skip
    assert_same_students(one, other)
    # Seed 5 alone with its own data is seed 5 of the four.
    alone = train(small, THREE_SEEDS[5], distil, seeds=5, steps=20, batch=16, temperature=4,
                  soft_weight=0.5)  # fmt: skip
    assert_same_students(alone, one, slice(3, 4))


@pytest.mark.parametrize("by_seed", [False, True])
def test_side_by_side_equals_the_loop_with_two_streams(by_seed):
    data = {0: sample(30, 1), 1: sample(30, 2)} if by_seed else sample(30, 1)
    transfer = {0: sample(80, 3), 1: sample(80, 4)} if by_seed else sample(80, 3)
    one, other = (
        train(small, data, two_streams, transfer=transfer, transfer_batch=24, seeds=[0, 1],
              steps=20, batch=8, temperature=3.0, engine=e)
        for e in ("vmap", "loop")
    )  # fmt: skip
    assert_same_students(one, other)


def test_two_streams_are_two_means_added_and_the_rows_say_which_is_theirs():
    data, transfer = sample(30, 1), sample(80, 3)
    seen = []

    def look(logits: Tensor, batch: Batch) -> Tensor:
        seen.append((batch.inputs, batch.labelled))
        return torch.where(batch.labelled, 10.0, 1.0) + 0 * logits.sum(-1)

    students = train(small, data, look, transfer=transfer, transfer_batch=24, steps=2, batch=8,
                     seeds=6, engine="loop")  # fmt: skip
    assert students.losses.tolist() == [[11.0], [11.0]]
    for step, (inputs, labelled) in enumerate(seen):
        assert labelled.tolist() == [True] * 8 + [False] * 24
        assert_close(inputs[:8], data.inputs[order(30, 8, 2, 6)[step]])
        assert_close(inputs[8:], transfer.inputs[order(80, 24, 2, 6)[step]])


def test_a_parameter_that_the_loss_does_not_reach_stays_where_it_was():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 4), nn.Linear(2, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.used(inputs)

    for engine in ("vmap", "loop"):
        students = train(Idle, sample(), labels, steps=5, engine=engine)
        torch.manual_seed(0)
        assert_close(students[0].idle.weight, Idle().idle.weight, rtol=0, atol=0)


# -- company --------------------------------------------------------------------------------------


def test_alone_equals_in_company():
    arguments = {"lr": [1e-3, 1e-2, 1e-3, 1e-2], "temperature": [1.0, 2.0, 4.0, 8.0]}
    fixed = {"steps": 30, "batch": 16, "soft_weight": 0.9}
    together = train(small, sample(), distil, seeds=[0, 1, 0, 1], **arguments, **fixed)
    for run in range(4):
        own = {name: values[run] for name, values in arguments.items()}
        alone = train(small, sample(), distil, seeds=[0, 1, 0, 1][run], **own, **fixed)
        assert_same_students(alone, together, slice(run, run + 1))


@pytest.mark.parametrize(("model", "chunks"), [(small, (1, 3)), (tiny_convnet, (3,))])
def test_the_size_of_a_chunk_changes_nothing(model, chunks):
    data = images() if model is tiny_convnet else sample()
    everyone, *others = (
        train(model, data, distil, seeds=range(4), temperature=[1, 2, 4, 8], soft_weight=0.9,
              steps=10, batch=16, chunk=chunk)
        for chunk in (160, *chunks)
    )  # fmt: skip
    for other in others:
        assert_same_students(everyone, other)


def test_equal_seeds_share_their_start_and_the_order_of_the_examples():
    seen = {}

    def look(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
        seen.setdefault(temperature.item(), []).append((batch.inputs, logits.detach()))
        return hard_loss(logits, batch.targets)

    train(small, sample(), look, seeds=[1, 1, 2], temperature=[1.0, 2.0, 3.0], lr=0.0, steps=5,
          batch=16, engine="loop")  # fmt: skip
    for (inputs, logits), (same, equal), (other, different) in zip(*seen.values(), strict=True):
        assert_close((inputs, logits), (same, equal), rtol=0, atol=0)
        assert not torch.equal(inputs, other) and not torch.equal(logits, different)


def test_runs_with_equal_seeds_and_settings_are_equal():
    students = train(small, sample(), labels, seeds=[3, 4, 3], steps=10)
    for value in students.parameters.values():
        assert_close(value[0], value[2], rtol=0, atol=0)
        assert not torch.equal(value[0], value[1])


def test_a_second_call_gives_the_same_students():
    one, other = (train(small, sample(), labels, seeds=[0, 1], steps=10) for _ in range(2))
    assert_close(one.parameters, other.parameters, rtol=0, atol=0)


# -- the order of the examples --------------------------------------------------------------------


@pytest.mark.parametrize(("examples", "batch", "steps"), [(50, 10, 12), (50, 7, 20), (5, 16, 3)])
def test_each_pass_holds_every_example_once_and_every_batch_is_full(examples, batch, steps):
    rows = order(examples, batch, steps, seed=0)
    assert rows.shape == (steps, batch)
    passes = rows.flatten().split(examples)
    for one in passes[:-1] if len(passes[-1]) < examples else passes:
        assert sorted(one.tolist()) == list(range(examples))
    assert len(set(passes[-1].tolist())) == len(passes[-1])
    if len(passes) > 1:
        assert not torch.equal(passes[0][: len(passes[-1])], passes[-1])


def test_more_steps_begin_as_fewer_do():
    assert torch.equal(order(50, 7, 30, seed=2)[:10], order(50, 7, 10, seed=2))
    assert not torch.equal(order(50, 7, 10, seed=2), order(50, 7, 10, seed=3))


@pytest.mark.parametrize(("epochs", "steps"), [(1, 4), (3, 10), (0.5, 2), (0.01, 1)])
def test_epochs_are_passes_over_the_data_rounded_up_to_whole_steps(epochs, steps):
    assert len(train(small, sample(50), labels, epochs=epochs, batch=16).losses) == steps


# -- runs that break ------------------------------------------------------------------------------


def broken_at(step: int, how: str):
    """A loss that breaks in run 1 at a step: its value, or only its gradient."""

    def loss(logits: Tensor, batch: Batch, run: Tensor, now: Tensor) -> Tensor:
        breaks = (run == 1) & (now >= step)
        value = hard_loss(logits, batch.targets)
        if how == "value":
            return value + torch.where(breaks, torch.inf, 0.0)
        # The square root of 0 has the value 0 and an infinite slope.
        zero_or_one = torch.where(breaks, (0 * logits).square().sum(), 1.0)
        return value + zero_or_one.sqrt() - torch.where(breaks, 0.0, 1.0)

    return loss


@pytest.mark.parametrize(
    ("model", "how", "optimizer"),
    [
        (small, "value", "adam"),
        (small, "gradient", "adam"),
        (small, "gradient", "sgd"),
        (tiny_convnet, "value", "adam"),
    ],
)
@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_run_that_breaks_keeps_its_last_parameters_and_touches_no_other(model, engine, how, optimizer):
    data = images() if model is tiny_convnet else sample()
    arguments = {"seeds": [0, 1, 2], "run": [0.0, 1.0, 2.0], "now": float, "batch": 16}
    arguments |= {"engine": engine, "optimizer": optimizer, "weight_decay": 0.01}
    with pytest.warns(UserWarning, match="not finite in 1 of 3 runs") as record:
        broken = train(model, data, broken_at(6, how), steps=10, **arguments)
    assert str(record[0].message) == (
        "train: loss or gradient was not finite in 1 of 3 runs, which keep their last parameters "
        "(column frozen_at): runs [1]"
    )
    assert record[0].filename == __file__
    table = broken.table
    assert table.frozen_at.isna().tolist() == [True, False, True]
    assert table.frozen_at[1] == 6 and math.isnan(table.loss[1])
    assert broken.losses.isfinite().sum(0).tolist() == [10, 6, 10]
    whole = train(model, data, broken_at(99, how), steps=10, **arguments)
    before = train(model, data, broken_at(99, how), steps=6, **arguments)
    for run, expected in enumerate([whole, before, whole]):
        for name, value in (broken.parameters | broken.buffers).items():
            assert value[run].isfinite().all()
            state = expected.parameters | expected.buffers
            assert_close(value[run], state[name][run], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_run_that_flies_off_is_frozen_and_its_neighbour_learns_on(engine):
    arguments = {"optimizer": "sgd", "steps": 20, "engine": engine}
    with pytest.warns(UserWarning, match="runs \\[0\\]"):
        students = train(small, sample(), labels, seeds=[0, 0], lr=[1e30, 0.05], **arguments)
    assert all(value.isfinite().all() for value in students.parameters.values())
    alone = train(small, sample(), labels, seeds=0, lr=0.05, **arguments)
    assert_same_students(alone, students, slice(1, 2))


def test_a_run_that_is_fine_is_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(small, sample(), labels, steps=3).table.frozen_at.isna().all()


# -- what train leaves alone, what it shows -------------------------------------------------------


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_global_random_numbers_threads_and_data_stay_as_they_were(engine):
    data, threads = sample(), torch.get_num_threads()
    fields = [value.clone() for value in (data.inputs, data.targets, data.teacher_logits)]
    torch.manual_seed(123)
    before = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        students = train(tiny_convnet, images(), labels, steps=3, engine=engine)
        students.logits(images().inputs)
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            train(lambda: mlp(3, 4), data, labels, steps=1, engine=engine)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(before, torch.get_rng_state())
    for value, copy in zip((data.inputs, data.targets, data.teacher_logits), fields, strict=True):
        assert torch.equal(value, copy)


def test_the_model_is_made_under_the_seed_and_once_for_each():
    made = []

    def model() -> nn.Module:
        made.append(torch.initial_seed())
        return small()

    train(model, sample(), labels, seeds=[5, 6, 5], steps=1)
    assert made == [5, 6]


def test_no_word_is_said_unless_asked_for(capfd):
    train(small, sample(), labels, seeds=[0, 1], steps=3, chunk=1)
    assert capfd.readouterr() == ("", "")
    train(small, sample(), labels, seeds=[0, 1], steps=3, chunk=1, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "train" in err and "2/2" in err


# -- what comes back ------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_run_and_a_column_for_each_setting():
    students = train(
        small, sample(), distil, **grid(temperature=[1, 4], seeds=[0, 1, 2]), steps=4,
        soft_weight=0.9, lr=cosine(0.01, 0.001, steps=4),
    )  # fmt: skip
    table = students.table
    assert isinstance(table, pandas.DataFrame) and len(table) == len(students) == 6
    assert set(table.columns) == {
        "seed", "lr", "weight_decay", "temperature", "soft_weight", "loss", "frozen_at",
    }  # fmt: skip
    assert table.seed.tolist() == [0, 1, 2, 0, 1, 2]
    assert table.temperature.tolist() == [1, 1, 1, 4, 4, 4]
    assert table.soft_weight.tolist() == [0.9] * 6
    assert table.lr.tolist() == ["schedule"] * 6
    assert_close(table.loss.tolist(), students.losses[-1].tolist())
    # A column is a number for each run, not an object: it can be averaged.
    assert table.groupby("temperature").loss.mean().notna().all()
    table["loss"] = 0.0
    assert students.table.loss.abs().sum() > 0


@pytest.mark.parametrize("value", [2.0, [2.0], torch.tensor(2.0), torch.tensor([2.0])])
def test_one_value_stands_for_all_runs_in_whatever_form_it_comes(value):
    students = train(small, sample(), distil, seeds=range(2), steps=2, temperature=value,
                     soft_weight=0.5)  # fmt: skip
    expected = train(small, sample(), distil, seeds=range(2), steps=2, temperature=2.0,
                     soft_weight=0.5)  # fmt: skip
    assert_same_students(students, expected)
    assert students.table.temperature.tolist() == [2.0, 2.0]
    assert students.table.temperature.dtype == float


@pytest.mark.parametrize("model", [small, tiny_convnet])
@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_student_is_an_ordinary_module_with_the_same_answers(model, engine, tmp_path):
    data = images() if model is tiny_convnet else sample()
    students = train(model, data, labels, seeds=range(3), steps=5, engine=engine)
    logits = students.logits(data.inputs)
    assert logits.shape == (3, len(data), 4)
    for student, expected in zip(list(students), logits, strict=True):
        assert isinstance(student, nn.Sequential) and not student.training
        assert_close(student(data.inputs), expected, rtol=1e-5, atol=1e-5)
    # It can be saved, loaded and trained further, without the others noticing.
    torch.save(students[1].state_dict(), tmp_path / "student.pt")
    loaded = model()
    loaded.load_state_dict(torch.load(tmp_path / "student.pt"))
    assert_close(loaded.eval()(data.inputs), logits[1], rtol=1e-5, atol=1e-5)
    student = students[1]
    student(data.inputs).sum().backward()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert_close(students.logits(data.inputs), logits, rtol=0, atol=0)
    with pytest.raises(IndexError):
        students[3]


def test_each_seed_can_be_asked_about_inputs_of_its_own():
    students = train(small, THREE_SEEDS, labels, seeds=[3, 4, 3], steps=5)
    tests = {seed: sample(9, seed + 100).inputs for seed in (3, 4)}
    logits = students.logits(tests)
    for run, seed in enumerate([3, 4, 3]):
        assert_close(logits[run], students[run](tests[seed]).detach(), rtol=1e-5, atol=1e-5)


def test_students_learn():
    data, test = split(sample(1000), [600, 400], seed=0)
    students = train(small, data, labels, seeds=range(4), lr=0.01, epochs=10)
    truth = accuracy(MIXTURE.posterior(test.inputs), test.targets)
    assert (accuracy(students.logits(test.inputs), test.targets) > truth - 0.05).all()


def test_grid_is_the_product_in_the_order_of_nested_loops():
    got = grid(temperature=[1, 4], soft_weight=[0.5, 0.9], seeds=range(2))
    rows = list(zip(*got.values(), strict=True))
    assert list(got) == ["temperature", "soft_weight", "seeds"]
    assert rows == list(itertools.product([1, 4], [0.5, 0.9], range(2)))


# -- messages -------------------------------------------------------------------------------------

GOOD = {"temperature": 4.0, "soft_weight": 0.9, "steps": 5}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"engine": "jax"}, "train: engine must be one of vmap, loop, auto, got 'jax'"),
        ({"optimizer": "lion"}, "train: optimizer must be one of adam, sgd, got 'lion'"),
        ({"steps": None}, "train: give either steps or epochs, got steps=None and epochs=None"),
        ({"epochs": 2}, "train: give either steps or epochs, got steps=5 and epochs=2"),
        ({"steps": 0}, "train: steps must be at least 1, got 0"),
        ({"steps": None, "epochs": 0}, "train: steps must be at least 1, got 0"),
        ({"batch": 0}, "train: batch must be at least 1, got 0"),
        ({"batch": 0, "steps": None, "epochs": 1}, "train: batch must be at least 1, got 0"),
        ({"transfer_batch": 0}, "train: transfer_batch must be at least 1, got 0"),
        ({"chunk": 0}, "train: chunk must be at least 1, got 0"),
        (
            {"temperature": 0.0},
            "train: temperature must be positive and finite, got 0.0 (value 0)",
        ),
        (
            {"temperature": torch.tensor([1.0, 2.0, -3.0])},
            "train: temperature must be positive and finite, got -3.0 (value 2)",
        ),
        (
            {"temperature": [1.0, math.nan]},
            "train: temperature must be positive and finite, got nan (value 1)",
        ),
        (
            {"temperature": linear(4.0, -1.0, steps=4)},
            "train: temperature must be positive and finite, got -1.0 (value 4)",
        ),
        (
            {"soft_weight": [0.5, 1.5]},
            "train: soft_weight must be between 0 and 1, got 1.5 (value 1)",
        ),
        ({"lr": [1e-3, math.inf]}, "train: lr must be finite, got inf (value 1)"),
        ({"weight_decay": math.nan}, "train: weight_decay must be finite, got nan (value 0)"),
        (
            {"temperature": [1.0, 2.0], "seeds": range(3)},
            "train: settings with a value for each run must agree in length, got {'seed': 3, 'temperature': 2}",
        ),
        (
            {"seeds": []},
            "train: settings with a value for each run must agree in length, got {'seed': 0}",
        ),
    ],
)
@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_setting_that_cannot_be_meant_is_named_before_the_first_step(changed, message, engine):
    with pytest.raises(ValueError) as error:
        train(small, sample(), distil, **{"engine": engine} | GOOD | changed)
    assert str(error.value) == message


def test_a_seed_without_data_is_named():
    with pytest.raises(ValueError) as error:
        train(small, THREE_SEEDS, labels, seeds=[3, 9], steps=1)
    assert str(error.value) == "train: data has no seed 9, only [3, 4, 5]"


def test_seeds_with_data_of_other_lengths_are_named():
    with pytest.raises(ValueError) as error:
        train(small, {0: sample(5), 1: sample(6)}, labels, seeds=[0, 1], steps=1)
    assert str(error.value) == ("train: every seed needs the same number of examples, at least one, got [5, 6]")


def test_no_data_are_named():
    with pytest.raises(ValueError, match=r"at least one, got \[0\]"):
        train(small, sample(5)[:0], labels, steps=1)


def test_a_teacher_for_some_seeds_only_is_named():
    with pytest.raises(ValueError) as error:
        train(small, {0: sample(5), 1: MIXTURE.sample(5, seed=1)}, labels, seeds=[0, 1], steps=1)
    assert str(error.value) == ("train: teacher_logits must be there for every seed or for none")


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_teacher_for_one_stream_only_is_named(engine):
    with pytest.raises(ValueError) as error:
        train(small, MIXTURE.sample(9, 0), labels, transfer=sample(), steps=1, engine=engine)
    assert str(error.value) == ("train: data and transfer must both have teacher_logits, or none")


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_loss_that_takes_the_mean_itself_is_named(engine):
    def mean(logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits, batch.targets)

    with pytest.raises(ValueError) as error:
        train(small, sample(), mean, batch=16, steps=1, engine=engine)
    assert str(error.value) == ("train: the loss must return one number for each of 16 examples, got shape ()")


@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_a_model_whose_answers_are_not_a_row_of_classes_is_named(engine):
    def no_flatten() -> nn.Module:
        return nn.Conv2d(1, 4, 3)

    with pytest.raises(ValueError) as error:
        train(no_flatten, images(), labels, batch=16, steps=1, engine=engine)
    assert str(error.value) == ("train: the model must map a batch to [batch, classes], got (16, 4, 6, 6)")


def test_a_setting_that_the_loss_does_not_know_is_pythons_own_error():
    with pytest.raises(TypeError, match="temprature"):
        train(small, sample(), labels, steps=1, temprature=4.0)
