"""Sweeps: interrupted, sent elsewhere, of several networks, with rules, stops, views and curves."""

import functools
import itertools
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pandas
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from kdcourse import chunks, schedules, training
from kdcourse.data import Batch, GaussianMixture
from kdcourse.losses import distillation_loss, hard_loss, soft_loss
from kdcourse.metrics import accuracy, nll
from kdcourse.models import SeededDropout, convnet, mlp
from kdcourse.training import Students, grid, train

MIXTURE = GaussianMixture(classes=4)


def labels(logits: Tensor, batch: Batch) -> Tensor:
    return hard_loss(logits, batch.targets)


def distil(logits: Tensor, batch: Batch, temperature: Tensor, soft_weight: Tensor) -> Tensor:
    return distillation_loss(
        logits, batch.teacher_logits, batch.targets, temperature=temperature, soft_weight=soft_weight
    )


def soft(logits: Tensor, batch: Batch, temperature: Tensor) -> Tensor:
    return soft_loss(logits, batch.teacher_logits, temperature)


def small() -> nn.Module:
    return mlp(2, 8, 4)


def sample(examples: int = 50, seed: int = 0) -> Batch:
    data = MIXTURE.sample(examples, seed)
    return data.with_teacher(3 * MIXTURE.posterior(data.inputs))


def images(examples: int = 50, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(4, (examples,), generator=generator)
    inputs = torch.randn(examples, 1, 8, 8, generator=generator) + targets[:, None, None, None]
    return Batch(inputs, targets, torch.randn(examples, 4, generator=generator))


class Attention(nn.Module):
    """Eight rows of an image as tokens, one layer of attention, the mean token classified."""

    def __init__(self) -> None:
        super().__init__()
        # A bias of the keys changes no output. Its gradient is rounding noise, which Adam scales up.
        self.embed, self.mix, self.classify = nn.Linear(8, 12), nn.Linear(12, 36, bias=False), nn.Linear(12, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs.flatten(1).unflatten(1, (8, 8)))
        query, key, value = self.mix(tokens).chunk(3, dim=-1)
        weights = (query @ key.transpose(-1, -2) / 12**0.5).softmax(-1)
        return self.classify((tokens + weights @ value).mean(1))


MODELS = {"mlp": small, "convnet": functools.partial(convnet, width=4, classes=4), "attention": Attention}
SWEEP = {"steps": 12, "batch": 16, "soft_weight": 0.9, "chunk": 2} | grid(temperature=[1, 2, 4, 8], seeds=range(2))
FOUR = grid(temperature=[1, 4], seeds=range(2)) | {"chunk": 4}


def data_for(name: str) -> Batch:
    return sample() if name == "mlp" else images()


def sweep(name: str, **more) -> Students:
    return train(MODELS[name], data_for(name), distil, **SWEEP | more)


def assert_same_students(one: Students, other: Students, close: float = 1e-5) -> None:
    for states, others in ((one.parameters, other.parameters), (one.buffers, other.buffers)):
        for name in states:
            assert_close(states[name], others[name], rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}")
    assert_close(one.losses, other.losses, rtol=close, atol=close, equal_nan=True)
    pandas.testing.assert_frame_equal(one.table, other.table, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_is_the_same_alone_among_forty_and_in_the_loop(name):
    forty, some = grid(temperature=[1, 2, 4, 8], seeds=range(10)), list(range(0, 40, 13))
    company = sweep(name, **forty, chunk=40)
    few = {axis: [values[run] for run in some] for axis, values in forty.items()}
    for alone in (sweep(name, **few, chunk=1), sweep(name, **few, engine="loop")):
        for states, among in ((alone.parameters, company.parameters), (alone.buffers, company.buffers)):
            for key in states:
                assert_close(states[key], among[key][some], rtol=1e-5, atol=1e-5)


# -- keep -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def survivors(tmp_path_factory) -> Path:
    """A folder for each model, with what its sweep came to after three deaths: one process starts them all."""
    folder = tmp_path_factory.mktemp("survivors")
    assert script("killed", folder).count("chunks before each life") == len(MODELS)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_sweep_killed_three_times_ends_with_the_same_table(name, survivors):
    parameters, losses = torch.load(survivors / name / "students.pt")
    alone = sweep(name, **FOUR)
    assert_close(parameters, dict(alone.parameters), rtol=1e-5, atol=1e-5)
    assert_close(losses, alone.losses, rtol=1e-5, atol=1e-5)
    pandas.testing.assert_frame_equal(pandas.read_pickle(survivors / name / "table"), alone.table, rtol=1e-4)


def script(*arguments: object) -> str:
    """This file as a script: what it does needs a process of its own."""
    root = Path(__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def killed(name: str, folder: Path) -> None:
    """Three lives of a sweep, each ended by SIGKILL at a random moment after its first chunk; then a whole one."""

    def finished() -> int:
        return len(list((folder / "kept").glob("*.chunk")))

    moments, before = torch.rand(3, generator=torch.Generator().manual_seed(len(name))), []
    for moment in moments.tolist():
        before.append(finished())
        child = os.fork()
        if not child:
            sweep(name, **FOUR | {"chunk": 1}, keep=folder / "kept")
            os._exit(0)
        while finished() == before[-1] and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.005)
        time.sleep(moment * 0.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert before[1] < 4, "no life was cut"
    print("chunks before each life", before)
    students = sweep(name, **FOUR | {"chunk": 1}, keep=folder / "kept")
    assert finished() == 4 and not list(folder.rglob("*.unfinished"))
    torch.save((students.parameters, students.losses), folder / "students.pt")
    students.table.to_pickle(folder / "table")


def counted(monkeypatch) -> list:
    """A list that grows with each chunk that is trained."""
    trained, whole = [], training._train
    monkeypatch.setattr(training, "_train", lambda job: trained.append(job.settings.seeds) or whole(job))
    return trained


def test_a_second_call_reads_and_trains_nothing(tmp_path, monkeypatch):
    first, trained = sweep("convnet", keep=tmp_path / "kept"), counted(monkeypatch)
    second = sweep("convnet", keep=tmp_path / "kept")
    assert trained == []
    assert_same_students(second, first, close=0)
    assert_close(second.logits(images().inputs), first.logits(images().inputs), rtol=0, atol=0)
    assert_close(second[3](images().inputs), first[3](images().inputs), rtol=0, atol=0)


def test_a_chunk_that_fails_leaves_those_before_it(tmp_path, monkeypatch):
    whole, calls = training._train, []

    def fails(job):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(training, "_train", fails)
    with pytest.raises(KeyboardInterrupt):
        sweep("mlp", keep=tmp_path)
    assert len(list(tmp_path.glob("*.chunk"))) == 2
    assert_same_students(sweep("mlp", keep=tmp_path), sweep("mlp", chunk=160))
    assert len(calls) == 3 + 2 + 1


@pytest.mark.parametrize("damage", ["half", "bit", "empty"])
def test_a_damaged_chunk_is_told_of_and_trained_again(tmp_path, damage, monkeypatch):
    first = sweep("mlp", keep=tmp_path)
    file = tmp_path / "0002.chunk"
    content = file.read_bytes()
    bit = bytes([*content[:500], content[500] ^ 1, *content[501:]])
    file.write_bytes({"half": content[: len(content) // 2], "bit": bit, "empty": b""}[damage])
    trained = counted(monkeypatch)
    with pytest.warns(UserWarning, match=r"0002\.chunk cannot be read and is trained again"):
        second = sweep("mlp", keep=tmp_path)
    assert trained == [[0, 1]]
    assert file.read_bytes() == content
    assert_same_students(second, first, close=0)


def other_loss(logits: Tensor, batch: Batch, temperature: Tensor, soft_weight: Tensor) -> Tensor:
    return distil(logits, batch, temperature, 1 - soft_weight)


OTHERS = {
    "data": {"data": sample(50, seed=1)},
    "data by one bit": {"data": sample().with_teacher(sample().teacher_logits.nextafter(torch.ones(())))},
    "loss": {"loss": other_loss},
    "model": {"model": functools.partial(mlp, 2, 9, 4)},
    "a temperature": {"temperature": [1, 2, 4, 8, 1, 2, 4, 16]},
    "a seed": {"seeds": [0, 1, 0, 1, 0, 1, 0, 2]},
    "steps": {"steps": 13},
    "batch": {"batch": 17},
    "chunk": {"chunk": 4},
    "optimizer": {"optimizer": "sgd"},
    "a schedule": {"lr_schedule": schedules.cosine(1.0, 0.5, steps=12)},
    "engine": {"engine": "loop"},
}  # fmt: skip


def test_a_folder_of_another_sweep_is_named_and_keeps_what_it_has(tmp_path):
    arguments = {"model": small, "data": sample(), "loss": distil} | SWEEP
    train(**arguments, keep=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for changed in OTHERS.values():
        with pytest.raises(ValueError, match="keep must be a new folder or that of the same sweep") as error:
            train(**arguments | changed, keep=tmp_path)
        assert str(error.value).endswith("nothing in it was changed")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    train(**arguments, keep=tmp_path)


def test_the_error_names_what_differs(tmp_path, monkeypatch):
    sweep("mlp", keep=tmp_path)
    with pytest.raises(ValueError, match=r"where the sweep has another steps, rates;|another settings, steps, rates;"):
        sweep("mlp", steps=13, keep=tmp_path)
    with pytest.raises(ValueError, match="where the sweep has another loss;"):
        train(small, sample(), other_loss, **SWEEP, keep=tmp_path)
    monkeypatch.setattr(chunks, "_version", lambda: "0.0.0")
    with pytest.raises(ValueError, match="where the sweep has another kdcourse;"):
        sweep("mlp", keep=tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_folder_that_does_not_say_whose_it_is_is_left_alone(tmp_path, content):
    sweep("mlp", keep=tmp_path)
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match="nothing in it was changed"):
        sweep("mlp", keep=tmp_path)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(ValueError, match="nothing in it was changed"):
        sweep("mlp", keep=tmp_path)
    assert len(list(tmp_path.glob("*.chunk"))) == 4


def test_a_function_is_known_by_its_code_and_all_it_holds():
    def made(weight, inner=lambda x: x):
        return lambda logits, batch: weight * inner(labels(logits, batch))

    assert chunks._digest(made(0.5)) == chunks._digest(made(0.5))
    others = [made(0.6), made(0.5, lambda x: 2 * x), made(0.5, torch.exp), functools.partial(labels), labels, Attention]
    others += [schedules.cosine(8, 1, 10), schedules.cosine(8, 1, 11), schedules.plateau(8), schedules.plateau(9)]
    others += [Attention(), Attention(), torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"a": 1}]
    digests = [chunks._digest(one) for one in [made(0.5), *others]]
    assert len(set(digests)) == len(digests)


def test_files_hold_tensors_and_text_only(tmp_path):
    sweep("mlp", keep=tmp_path)
    part = chunks._unpacked((tmp_path / "0000.chunk").read_bytes())  # torch.load(weights_only=True)
    assert part["losses"].shape == (12, 2) and part["engine"] == "vmap"


# -- executors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_threads_give_the_same_students(name):
    with ThreadPoolExecutor(3) as executor:
        assert_same_students(sweep(name, executor=executor), sweep(name, chunk=160))


def test_processes_give_the_same_students_also_for_what_is_defined_here(needs):
    needs(find_spec("cloudpickle") is not None, "cloudpickle", "pip install cloudpickle")
    width = 7
    local = lambda logits, batch, temperature: soft(logits, batch, temperature) / width  # noqa: E731
    arguments = {"steps": 8, "temperature": [1, 2, 4], "chunk": 1}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        there = train(lambda: mlp(2, width, 4), sample(), local, **arguments, executor=executor)
    assert_same_students(there, train(lambda: mlp(2, width, 4), sample(), local, **arguments))


def test_without_cloudpickle_a_local_function_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match="must be importable, or cloudpickle installed"):
            train(lambda: small(), sample(), labels, steps=2, executor=executor)


class Unreliable:
    """An executor that finishes in any order and fails some chunks."""

    def __init__(self, fails: set[int]) -> None:
        self.fails, self.waiting = fails, []

    def submit(self, function, *arguments):
        future = Future()
        if len(self.waiting) in self.fails:
            future.set_exception(OSError("the machine is gone"))
        else:
            future.set_result(function(*arguments))
        self.waiting.append(future)
        return future


def test_a_chunk_that_fails_elsewhere_loses_no_other(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="the machine is gone"):
        sweep("mlp", keep=tmp_path, executor=Unreliable({0, 2}))
    assert sorted(path.name for path in tmp_path.glob("*.chunk")) == ["0001.chunk", "0003.chunk"]
    trained = counted(monkeypatch)
    assert_same_students(sweep("mlp", keep=tmp_path), sweep("mlp", chunk=160))
    assert len(trained) == 2 + 1


def test_a_worker_that_dies_midway_loses_nothing_and_doubles_nothing(needs, tmp_path):
    """Its chunks go to the other worker, or to the one that is started in its place."""
    needs(find_spec("distributed") is not None, "distributed", "pip install distributed")
    assert "the same table" in script("cluster", tmp_path)


def on_a_cluster(folder: Path) -> None:
    """In a process of its own: Dask warns and logs in ways that change from version to version."""
    from distributed import Client, LocalCluster

    here = {"steps": 10, "batch": 16, "chunk": 2, **grid(temperature=[1.0, 2.0, 4.0, 8.0], seeds=range(4))}

    def slow(logits, batch, temperature):  # by value: this script is nowhere to be imported
        time.sleep(0.3)  # once, while the step is traced
        return soft_loss(logits, batch.teacher_logits, temperature)

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=folder) as cluster:
        with Client(cluster) as client, ThreadPoolExecutor(1) as background:
            there = here | {"executor": client.get_executor(), "keep": folder / "kept"}
            future = background.submit(train, lambda: mlp(2, 8, 4), sample(), slow, **there)
            pids = client.run(os.getpid)
            while len(list((folder / "kept").glob("*.chunk"))) < 2:
                assert not future.done(), future.result()
                time.sleep(0.02)
            os.kill(next(iter(pids.values())), signal.SIGKILL)
            there = future.result(timeout=200)
            assert len(list((folder / "kept").glob("*.chunk"))) == 8
            assert set(client.run(os.getpid).values()) != set(pids.values()), "no worker was replaced"
    alone = train(lambda: mlp(2, 8, 4), sample(), slow, **here)
    assert len(there) == 16
    assert_same_students(there, alone)
    print("the same table")


# -- auto -----------------------------------------------------------------------------------------


def test_auto_gives_the_same_students_and_says_which_engine_it_took():
    auto, plain = sweep("mlp", engine="auto"), sweep("mlp", chunk=160)
    assert set(auto.table.engine) <= {"vmap", "loop"}
    assert "engine" not in plain.table
    for name in plain.parameters:
        assert_close(auto.parameters[name], plain.parameters[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("faster", "seconds"), [("vmap", 1e9), ("loop", 0.0)])
def test_auto_takes_the_faster(monkeypatch, faster, seconds):
    clocks = []

    def fastest(clock):
        clocks.append(clock)
        return seconds if len(clocks) % 2 else 1.0  # the loop is timed first

    monkeypatch.setattr(training, "_fastest", fastest)
    students = sweep("convnet", engine="auto", chunk=160)
    assert students.table.engine.tolist() == [faster] * 8
    assert [len(clock) for clock in clocks] == [training.TRIAL, training.TRIAL]
    expected = sweep("convnet", chunk=160)
    for name, value in (students.parameters | students.buffers).items():
        assert_close(value, (expected.parameters | expected.buffers)[name], rtol=1e-5, atol=1e-5)


# -- schedules and rules in the loop --------------------------------------------------------------

ENGINES = ["vmap", "loop"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_schedule_for_some_runs_is_what_each_would_have_alone(engine):
    plan = [4.0, schedules.linear(8.0, 1.0, steps=10), schedules.cosine(8.0, 1.0, steps=10), 2]
    arguments = {"steps": 15, "batch": 16, "engine": engine}
    together = train(small, sample(), soft, temperature=plan, **arguments)
    assert together.table.temperature.tolist() == [4.0, "linear(8, 1, 10)", "cosine(8, 1, 10)", 2]
    for run, temperature in enumerate(plan):
        alone = train(small, sample(), soft, temperature=temperature, **arguments)
        assert_close(together.losses[:, run], alone.losses[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tensor_gives_the_value_of_each_step_and_run(engine):
    values = torch.rand(10, 3) * 5 + 1
    students = train(small, sample(), soft, temperature=values, steps=10, engine=engine)
    for run in range(3):
        alone = train(small, sample(), soft, temperature=values[:, run].tolist().__getitem__, steps=10)
        assert_close(students.losses[:, run], alone.losses[:, 0], rtol=1e-5, atol=1e-6)


def given(logits: Tensor, batch: Batch, value: Tensor) -> Tensor:
    """A loss that is the setting itself: what a rule then sees is known."""
    return value + 0 * logits.sum(-1)


def test_a_rule_in_the_loop_is_the_rule_in_a_plain_loop():
    rule = schedules.plateau(8.0, factor=0.5, patience=2, floor=0.5)
    shown = {}

    def look(logits: Tensor, batch: Batch, temperature: Tensor, falling: Tensor) -> Tensor:
        shown.setdefault(falling.item(), []).append(temperature.item())
        return falling + 0 * logits.sum(-1)

    # A loss that stays, so each second decision halves the temperature.
    train(small, sample(), look, temperature=rule, falling=1.0, steps=20, every=4, engine="loop")
    state, expected = rule.initial(), []
    for _ in range(5):
        expected += [state["value"].item()] * 4
        state = rule.update(state, 1.0)
    assert shown[1.0] == expected and expected == [8.0] * 12 + [4.0] * 8


@pytest.mark.parametrize("watch", ["loss", "nll"])
def test_rules_side_by_side_equal_the_loop_and_each_alone(watch):
    rules = [
        schedules.plateau(8.0, factor=0.5, patience=1, improvement=0.01),
        schedules.two_way(4.0),
        3.0,
        schedules.cosine(8.0, 1.0, steps=40),
    ]
    arguments = {"steps": 40, "batch": 16, "every": 4, "lr": 0.03, "evaluate": sample(60, 9), "metrics": {"nll": nll}}
    arguments |= {"watch": watch}
    one, other = (train(small, sample(), soft, temperature=rules, **arguments, engine=e) for e in ENGINES)
    assert_same_students(one, other, close=1e-4)
    assert_close(one.curves.nll.tolist(), other.curves.nll.tolist(), rtol=1e-4, atol=1e-4)
    assert one.table.temperature.tolist() == ["plateau(8, 0.5, 1)", "two_way(4, 1.5)", 3.0, "cosine(8, 1, 40)"]
    for run, rule in enumerate(rules):
        alone = train(small, sample(), soft, temperature=rule, **arguments)
        assert_close(one.losses[:, run], alone.losses[:, 0], rtol=1e-4, atol=1e-5)
    plain = train(small, sample(), soft, temperature=8.0, steps=40, batch=16, lr=0.03)
    assert not torch.allclose(one.losses[:, 0], plain.losses[:, 0])


# -- early stopping, curves -----------------------------------------------------------------------


def stubborn(logits: Tensor, batch: Batch, learns: Tensor, now: Tensor) -> Tensor:
    """In a run that does not learn the loss falls until step 8 and stays there; its gradient goes on."""
    fixed = torch.where(now < 8, 20 - now, 12.0)
    value = hard_loss(logits, batch.targets)
    return torch.where(learns > 0, 20 - now + 0 * value, fixed + value - value.detach())


@pytest.mark.parametrize("model", ["mlp", "convnet"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stopped_run_keeps_its_parameters_exactly(model, engine):
    arguments = {"learns": [1.0, 0.0, 1.0], "now": float, "batch": 16, "engine": engine, "weight_decay": 0.1}
    arguments |= {"lr": 0.01, "seeds": [0, 1, 2]}
    stop = schedules.early_stopping(patience=3, improvement=0.5)
    ended = train(MODELS[model], data_for(model), stubborn, steps=30, every=2, stop=stop, **arguments)
    # Means over two steps: 19.5, 17.5, 15.5, 13.5, 12, 12, 12, 12: improved at step 10, not after.
    assert ended.table.stopped_at.isna().tolist() == [True, False, True]
    assert ended.table.stopped_at[1] == 16 and ended.table.frozen_at.isna().all()
    short = train(MODELS[model], data_for(model), stubborn, steps=16, **arguments)
    whole = train(MODELS[model], data_for(model), stubborn, steps=30, **arguments)
    for name, value in (ended.parameters | ended.buffers).items():
        assert_close(value[1], (short.parameters | short.buffers)[name][1], rtol=0, atol=0)
        assert_close(value[0], (whole.parameters | whole.buffers)[name][0], rtol=1e-6, atol=1e-6)
    assert ended.losses[:, 1].isfinite().sum() == 16 and ended.losses[:, 0].isfinite().all()
    assert ended.table.loss[1] == pytest.approx(12.0)
    assert ended.curves.groupby("run").step.max().tolist() == [30, 16, 30]


def test_when_all_have_stopped_the_rest_is_not_trained(tmp_path):
    seen = []

    def look(logits: Tensor, batch: Batch) -> Tensor:
        seen.append(1)
        return 0 * logits.sum(-1) + 1.0

    stop = schedules.early_stopping(patience=2)
    students = train(small, sample(), look, steps=100, every=5, stop=stop, engine="loop")
    assert len(seen) == 15 and students.table.stopped_at.tolist() == [15.0]
    arguments = {"learns": [0.0, 1.0, 0.0], "now": float, "steps": 100, "every": 2, "chunk": 1}
    stop = schedules.early_stopping(patience=3, improvement=0.5)
    for executor in (None, ThreadPoolExecutor(1)):
        students = train(small, sample(), stubborn, stop=stop, **arguments, executor=executor)
        assert students.table.stopped_at.isna().tolist() == [False, True, False]
        assert students.curves.groupby("run").step.max().tolist() == [16, 100, 16]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("by_seed", [False, True])
def test_curves_are_what_students_trained_so_far_would_show(engine, by_seed):
    test = {seed: sample(40, seed + 7) for seed in range(2)} if by_seed else sample(40, 7)
    arguments = {"seeds": range(2), "batch": 16, "temperature": 2.0, "engine": engine}
    metrics = {"accuracy": accuracy, "nll": nll}
    students = train(small, sample(), soft, steps=11, every=4, evaluate=test, metrics=metrics, **arguments)
    curves = students.curves
    assert curves.columns.tolist()[-5:] == ["run", "step", "loss", "accuracy", "nll"]
    assert curves.step.tolist() == [4, 8, 11] * 2 and curves.seed.tolist() == [0] * 3 + [1] * 3
    begin = 0
    for step in (4, 8, 11):
        so_far = train(small, sample(), soft, steps=step, **arguments)
        own = curves[curves.step == step]
        assert_close(torch.tensor(own.loss.tolist()), students.losses[begin:step].mean(0), rtol=1e-5, atol=1e-6)
        for run in range(2):
            batch = test[run] if by_seed else test
            expected = nll(so_far[run](batch.inputs).detach(), batch.targets).item()
            assert own.nll.tolist()[run] == pytest.approx(expected, rel=1e-4)
        begin = step


def test_measuring_changes_nothing():
    measured = train(
        MODELS["convnet"], images(), labels, steps=10, every=3, evaluate=images(20, 1), metrics={"nll": nll}
    )
    plain = train(MODELS["convnet"], images(), labels, steps=10)
    assert_same_students(measured, plain)


def test_without_measuring_there_are_no_curves():
    with pytest.raises(ValueError, match="nothing was measured on the way"):
        _ = train(small, sample(), labels, steps=2).curves


# -- several networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_several_networks_in_one_table(engine, tmp_path):
    models = {"small": small, "wide": functools.partial(mlp, 2, 32, 4)}
    plan = grid(temperature=[1.0, 4.0], network=["wide", "small"], seeds=range(2))
    arguments = {"steps": 8, "batch": 16, "engine": engine, "chunk": 3}
    more = {"every": 4, "evaluate": sample(20, 5), "metrics": {"nll": nll}, "keep": tmp_path}
    students = train(models, sample(), soft, **plan, **arguments, **more)
    assert students.table.network.tolist() == plan["network"] and students.table.seed.tolist() == plan["seeds"]
    answers = students.logits(sample(9, 1).inputs)
    for name, model in models.items():
        runs = [run for run, own in enumerate(plan["network"]) if own == name]
        own = {key: [plan[key][run] for run in runs] for key in ("temperature", "seeds")}
        alone = train(model, sample(), soft, **own, **arguments)
        assert_close(students.losses[:, runs], alone.losses, rtol=1e-5, atol=1e-6)
        assert_close(answers[runs], alone.logits(sample(9, 1).inputs), rtol=1e-5, atol=1e-5)
        for run, row in zip(runs, alone.logits(sample(9, 1).inputs), strict=True):
            assert_close(students[run](sample(9, 1).inputs), row, rtol=1e-5, atol=1e-5)
    assert students.curves.network.tolist() == [name for name in plan["network"] for _ in range(2)]
    with pytest.raises(ValueError, match="of several networks cannot be stacked"):
        _ = students.parameters
    with pytest.raises(ValueError, match="train: network must be one of small, wide, got 'huge'"):
        train(models, sample(), soft, temperature=1.0, network="huge", steps=1)


# -- dropout, tuples, a teacher that answers on the fly -------------------------------------------


def drops() -> nn.Module:
    return nn.Sequential(SeededDropout(0.2), nn.Linear(2, 16), nn.ReLU(), SeededDropout(0.5), nn.Linear(16, 4))


def test_dropout_drops_the_same_units_alone_and_in_company():
    arguments = {"steps": 12, "batch": 16}
    one, other = (train(drops, sample(), labels, seeds=range(3), engine=e, **arguments) for e in ENGINES)
    assert_same_students(one, other)
    alone = train(drops, sample(), labels, seeds=2, **arguments)
    for name, value in one.parameters.items():
        assert_close(value[2:], alone.parameters[name], rtol=1e-5, atol=1e-5)
    assert_close(one.logits(sample().inputs), one.logits(sample().inputs), rtol=0, atol=0)


def test_dropout_keeps_its_share_and_its_mean_and_differs_by_step_and_layer():
    torch.manual_seed(0)
    first, second = SeededDropout(0.3), SeededDropout(0.3)
    ones = torch.ones(400, 250)
    masks = [first(ones), first(ones), second(ones)]
    for mask in masks:
        assert mask.unique().tolist() == pytest.approx([0, 1 / 0.7])
        assert (mask > 0).float().mean().item() == pytest.approx(0.7, abs=0.01)
        # Neither rows nor columns have a pattern.
        assert (mask > 0).float().mean(0).sub(0.7).abs().max() < 0.12
        assert (mask > 0).float().mean(1).sub(0.7).abs().max() < 0.15
    for one, other in itertools.combinations(masks, 2):
        both = ((one > 0) & (other > 0)).float().mean().item()
        assert both == pytest.approx(0.49, abs=0.01), "independent"
    assert first.eval()(ones) is ones and SeededDropout(0.0)(ones) is ones
    with pytest.raises(ValueError, match=r"SeededDropout: p must lie in \[0, 1\), got 1.0"):
        SeededDropout(1.0)


def test_dropout_that_draws_from_the_global_stream_is_named():
    with pytest.raises(ValueError, match="take models.SeededDropout for dropout"):
        train(lambda: nn.Sequential(nn.Dropout(), small()), sample(), labels, steps=1)


class Learned(nn.Module):
    """A student that carries its own temperature, which the loss reads."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.raw = small(), nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(inputs), self.raw


@pytest.mark.parametrize("sign", [1, -1])
def test_a_temperature_is_learned_and_with_a_reversed_gradient_unlearned(sign):
    def loss(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
        logits, raw = output
        raw = schedules.reverse_gradient(raw) if sign < 0 else raw
        return soft_loss(logits, batch.teacher_logits, schedules.between(raw, 1.0, 20.0))

    one, other = (train(Learned, sample(), loss, seeds=range(2), steps=20, lr=0.03, engine=e) for e in ENGINES)
    assert_same_students(one, other)
    assert (one.parameters["raw"] * sign).abs().min() > 0.05
    assert one.logits(sample().inputs).shape == (2, 50, 4)
    fixed = train(small, sample(), soft, temperature=10.5, steps=1)
    assert_close(one.losses[0, 0], fixed.losses[0, 0])
    if sign < 0:
        forward = train(Learned, sample(), functools.partial(_learned_forward), seeds=range(2), steps=1, lr=0.03)
        backward = train(Learned, sample(), loss, seeds=range(2), steps=1, lr=0.03)
        assert_close(forward.parameters["raw"], -backward.parameters["raw"])


def _learned_forward(output: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    return soft_loss(output[0], batch.teacher_logits, schedules.between(output[1], 1.0, 20.0))


def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + torch.randn(inputs.shape, generator=generator)


class Counting(nn.Module):
    """A teacher in whose training mode the answers would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.drop = nn.Parameter(torch.ones(())), nn.Dropout(0.9)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weight * self.drop(torch.cat([inputs, -inputs], -1))


def test_teacher_and_student_see_the_same_view_and_a_run_the_same_in_any_company():
    teacher, views = Counting().train(), []

    def look(logits: Tensor, batch: Batch, number: Tensor) -> Tensor:
        views.append((int(number), batch.inputs, batch.teacher_logits))
        return hard_loss(logits, batch.targets)

    arguments = {"steps": 3, "batch": 8, "teacher": teacher, "augment": noisy, "engine": "loop"}
    train(small, sample(), look, seeds=[0, 0, 1], number=[0, 1, 2], **arguments)
    for _, inputs, answers in views:
        assert_close(answers, torch.cat([inputs, -inputs], -1), rtol=0, atol=0)
    seen = {n: torch.stack([inputs for number, inputs, _ in views if number == n]) for n in range(3)}
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0][0] - seen[0][1], torch.zeros(8, 2))
    assert teacher.training and teacher.weight.grad is None
    views.clear()
    train(small, sample(), look, seeds=1, number=2, **arguments)
    assert_close(torch.stack([inputs for _, inputs, _ in views]), seen[2], rtol=0, atol=0)


@pytest.mark.parametrize("by_seed", [False, True])
def test_a_teacher_on_the_fly_side_by_side_equals_the_loop(by_seed):
    teacher = {seed: mlp(2, 5, 4) for seed in (0, 1)} if by_seed else mlp(2, 5, 4)
    arguments = {"teacher": teacher, "augment": noisy, "transfer": sample(80, 3), "transfer_batch": 24}
    arguments |= {"seeds": [0, 1, 0], "temperature": [1, 2, 4], "steps": 8, "batch": 8}
    one, other = (train(small, sample(), soft, engine=e, **arguments) for e in ENGINES)
    assert_same_students(one, other)


@pytest.mark.parametrize("by_seed", [False, True])
def test_where_inputs_never_change_the_teacher_answers_once(by_seed):
    calls = []

    class Teacher(Counting):
        def forward(self, inputs: Tensor) -> Tensor:
            calls.append(len(inputs))
            return super().forward(inputs)

    teacher = {0: Teacher(), 1: Teacher()} if by_seed else Teacher()
    students = train(small, sample(), soft, seeds=[0, 1, 0], temperature=2.0, steps=9, teacher=teacher)
    assert calls == [50] * (2 if by_seed else 1)
    data = sample().with_teacher(torch.cat([sample().inputs, -sample().inputs], -1))
    assert_same_students(students, train(small, data, soft, seeds=[0, 1, 0], temperature=2.0, steps=9))


# -- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["vmap", "loop", "auto"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": torch.ones(4, 2)}, "train: temperature must be [steps, runs] with 5 steps, got (4, 2)"),
        ({"temperature": torch.ones(2, 2, 2)}, "train: a setting must be [runs] or [steps, runs], got (2, 2, 2)"),
        ({"temperature": torch.tensor([[1.0, 2.0]] * 4 + [[1.0, -1.0]])},
         "train: temperature must be positive and finite, got -1.0 (value 4)"),
        ({"temperature": [2.0, schedules.linear(4.0, -4.0, steps=4)]},
         "train: temperature must be positive and finite, got 0.0 (value 2)"),
        ({"temperature": schedules.step(10.0, 1e-30, every=1)},
         "train: temperature must be positive and finite, got 0.0 (value 11)"),
        ({"soft_weight": schedules.plateau(2.0)},
         "train: soft_weight must be between 0 and 1, got 2.0 (rule's value 0)"),
        ({"temperature": torch.ones(5, 3), "seeds": range(2)},
         "train: settings with a value for each run must agree in length, got {'seed': 2, 'temperature': 3}"),
        ({"evaluate": sample()}, "train: evaluate and metrics go together, got evaluate alone"),
        ({"metrics": {"nll": nll}}, "train: evaluate and metrics go together, got metrics alone"),
        ({"watch": "nll"}, "train: watch must be one of loss, got 'nll'"),
        ({"every": 0}, "train: every must be at least 1, got 0"),
        ({"evaluate": {5: sample()}, "metrics": {"nll": nll}}, "train: data has no seed 0, only [5]"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named(changed, message, engine):
    arguments = {"temperature": 4.0, "soft_weight": 0.5, "steps": 5, "engine": engine}
    if "step(" in str(getattr(changed.get("temperature"), "__name__", "")):
        arguments["steps"] = 12
    with pytest.raises(ValueError) as error:
        train(small, sample(), distil, **arguments | changed)
    assert str(error.value) == message


@pytest.mark.parametrize("engine", ["vmap", "loop", "auto"])
def test_one_broken_run_is_a_row_of_the_table_and_the_rest_is_kept(engine, tmp_path):
    def breaks(logits: Tensor, batch: Batch, bad: Tensor) -> Tensor:
        return hard_loss(logits, batch.targets) + torch.where(bad > 0, torch.nan, 0.0)

    arguments = {"bad": [0.0, 1.0, 0.0], "steps": 6, "engine": engine, "keep": tmp_path, "chunk": 2, "every": 2}
    for _ in range(2):
        with pytest.warns(UserWarning, match="not finite in 1 of 3 runs"):
            students = train(small, sample(), breaks, **arguments)
        assert students.table.frozen_at.isna().tolist() == [True, False, True]
        assert students.curves.run.tolist() == [0] * 3 + [2] * 3
        assert math.isnan(students.table.loss[1]) and students.parameters["0.weight"].isfinite().all()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "killed":
        for model in MODELS:
            killed(model, Path(sys.argv[2]) / model)
    else:
        on_a_cluster(Path(sys.argv[2]))
