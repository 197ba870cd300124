"""The study of character models: what a sampler may and may not do, the frontier, data, resuming."""

import math
from dataclasses import replace

import pandas
import pytest
import torch
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from torch.testing import assert_close

from kdcourse import data
from kdcourse.experiments import character_model as study_file
from kdcourse.experiments import study
from kdcourse.experiments.character_model import (
    ARMS,
    DIVERGENCES,
    PREFIX,
    STUDY,
    UNSCORED,
    CharacterModel,
    Text,
    arm_loss,
    beyond_frontier,
    cross_entropy,
    distinct,
    fit,
    sample,
    words,
)
from kdcourse.losses import hard_loss, soft_loss
from kdcourse.methods.divergences import jensen_shannon, reverse_kl

SMOKE = STUDY.settings("smoke")
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(seed: int, vocabulary: int = 11) -> CharacterModel:
    torch.manual_seed(seed)
    return CharacterModel(vocabulary, [4, 6, 1])


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(11, (5, 21), generator=generator(3))


@pytest.fixture(scope="module")
def world() -> study_file.World:
    return study_file.prepare(SMOKE, CPU)[0]


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_a_sample_goes_on_from_its_prefix_and_is_the_same_for_the_same_seed(tokens):
    drawn = sample(model(0), tokens[:, :6], 30, generator())
    assert drawn.shape == (5, 36) and torch.equal(drawn[:, :6], tokens[:, :6])
    assert torch.equal(drawn, sample(model(0), tokens[:, :6], 30, generator()))
    assert not torch.equal(drawn, sample(model(0), tokens[:, :6], 30, generator(1)))


def test_the_state_that_is_carried_is_that_of_the_whole_text(tokens):
    """A nearly cold sampler is greedy, and greedy from the whole prefix each time says the same."""
    net = model(0)
    net.head.weight.data *= 50
    cold = sample(net, tokens[:, :6], 10, generator(), temperature=1e-3)
    expected = tokens[:, :6]
    for _ in range(10):
        expected = torch.cat([expected, net(expected)[0][:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cold, expected)


def test_the_sampler_s_temperature_changes_what_is_said_and_nothing_that_is_learned(tokens):
    net = model(0)
    net.head.weight.data *= 20
    before = {name: value.clone() for name, value in net.state_dict().items()}
    logits = net(tokens[:, :-1])[0]
    drawn = {T: sample(net, tokens[:, :6].repeat(40, 1), 30, generator(), T) for T in (0.3, 1.0, 3.0)}
    said = {T: hard_loss(study_file.answers(net, rows), rows[:, 1:])[:, 5:].mean().item() for T, rows in drawn.items()}
    assert said[0.3] < said[1.0] < said[3.0]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(net(tokens[:, :-1])[0], logits), "NLL on text knows no sampling temperature"


def test_samples_at_temperature_one_follow_the_model_s_distribution():
    net = model(5)
    net.head.weight.data *= 5
    prefix = torch.tensor([[1, 2, 3]])
    drawn = sample(net, prefix.expand(20_000, -1), 1, generator())[:, -1]
    expected = net(prefix)[0][0, -1].softmax(-1)
    assert_close(torch.bincount(drawn, minlength=11) / 20_000, expected, atol=0.012, rtol=0)


# --- the losses of the arms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_on_policy_the_loss_is_the_divergence_on_what_the_student_wrote_and_no_gradient_runs_through_it(kind, tokens):
    student, teacher = model(0), model(1)
    loss = arm_loss(f"on-policy {kind}", student, tokens, teacher, generator(7))
    own = sample(student, tokens[:, :PREFIX], tokens.shape[1] - PREFIX, generator(7))
    assert own.shape == tokens.shape and not own.requires_grad
    asked, taught = student(own[:, :-1])[0], teacher(own[:, :-1])[0].detach()
    each = DIVERGENCES[kind](asked, taught)
    expected = each[:, PREFIX - 1 :].mean()  # what stands behind the given characters
    assert_close(loss, expected)
    ours = torch.autograd.grad(loss, list(student.parameters()))
    theirs = torch.autograd.grad(expected, list(student.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)
    assert all(value.grad is None for value in teacher.parameters())


def test_the_arms_on_text_are_their_formulas(tokens):
    student, teacher = model(0), model(1)
    asked, taught = student(tokens[:, :-1])[0], teacher(tokens[:, :-1])[0].detach()
    hard = torch.nn.functional.cross_entropy(asked.transpose(1, 2), tokens[:, 1:], reduction="none")
    smoothed = torch.nn.functional.cross_entropy(asked.transpose(1, 2), tokens[:, 1:], label_smoothing=0.1)
    soft = soft_loss(asked, taught, 1.0)
    expected = {
        "CE": hard.mean(),
        "CE, four times the steps": hard.mean(),
        "CE, label smoothing": smoothed,
        "forward KL": soft.mean(),
        "half CE, half forward KL": (hard.mean() + soft.mean()) / 2,
        "JSD": jensen_shannon(asked, taught, beta=0.5).mean(),
        "reverse KL": reverse_kl(asked, taught).mean(),
        "sequence-level": hard[:, PREFIX - 1 :].mean(),
    }
    assert set(ARMS) == {*expected, *(f"on-policy {kind}" for kind in DIVERGENCES)}
    for arm, value in expected.items():
        assert_close(arm_loss(arm, student, tokens, teacher, generator()), value)
        assert_close(arm_loss(arm, student, tokens, teacher, generator(), taught), value)


def test_the_rate_rises_then_falls_and_no_step_is_wasted():
    net, rates = torch.nn.Linear(1, 1), []

    class Watching(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watching)
        fit(net, lambda step: net(torch.ones(1)).square().sum(), steps=10, lr=1.0, warm_up=3, end=0.1)
    assert rates == pytest.approx([0.25, 0.5 * 0.91, 0.75 * 0.82, *(1 - 0.09 * step for step in range(3, 10))])


def test_training_lowers_the_loss_and_a_copy_starts_where_the_warm_start_ended(world):
    student = study_file.Student(world, SMOKE, 540, CPU)
    trained, seconds = student.trained("CE, four times the steps", 2e-2)
    batch = torch.cat(student.batches)
    assert cross_entropy(trained, batch) < cross_entropy(student.start, batch)
    assert seconds > 0
    again, _ = student.trained("CE, four times the steps", 2e-2)
    for one, other in zip(trained.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(student.copy().parameters(), student.start.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_teacher_s_own_text_begins_with_the_same_characters_as_the_real_one(world):
    student = study_file.Student(world, SMOKE, 540, CPU)
    assert len(student.written) == SMOKE["steps"]
    for own, real in zip(student.written, student.batches, strict=False):
        assert own.shape == real.shape and torch.equal(own[:, :PREFIX], real[:, :PREFIX])


def test_the_rate_of_an_arm_has_the_lowest_loss_of_its_own_on_validation(world):
    student = study_file.Student(world, SMOKE, SMOKE["tuning_seed"], CPU)
    assert set(world.rates) == set(ARMS) and SMOKE["tuning_seed"] not in SMOKE["seeds"]
    for arm in ("reverse KL", "sequence-level"):
        found = {lr: student.own_loss(arm, student.trained(arm, lr)[0]) for lr in SMOKE["lr"]}
        assert world.rates[arm] == min(found, key=found.get)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_distinct_n_by_hand():
    # abcd bcda cdab dabc abcd: four of five; xyzx yzxy zxyz xyzx, and no gram spans two rows
    assert distinct(["abcdabcd"]) == 4 / 5
    assert distinct(["abcdabcd", "xyzxyzx"]) == 7 / 9
    assert distinct(["aaaaaaa"]) == 1 / 4


def test_words_keep_their_apostrophes():
    assert words("ROMEO:\nO, 'tis she! I'll go--o'er\n") == ["romeo", "o", "tis", "she", "i'll", "go", "o'er"]


def runs(**teacher_nll: float) -> DataFrame:
    """One seed whose frontier runs through (.4, 2), (.5, 2.4), (.7, 3); the arms have distinct-4 .6."""
    line = [
        {"arm": "CE", "sampling_temperature": T, "distinct_4": d, "teacher_nll": n}
        for T, d, n in [(1.0, 0.7, 3.0), (0.8, 0.5, 2.4), (0.6, 0.4, 2.0)]
    ]
    arms = [
        {"arm": arm, "sampling_temperature": 1.0, "distinct_4": 0.6, "teacher_nll": nll}
        for arm, nll in teacher_nll.items()
    ]
    return DataFrame([*line, *arms]).assign(seed=1)


def test_the_frontier_is_a_line_between_sampling_temperatures():
    table = runs(better=2.5, same=2.7, worse=2.8)
    gaps = beyond_frontier(table, "CE").set_index("arm").gap
    assert gaps.to_dict() == pytest.approx({"better": -0.2, "same": 0.0, "worse": 0.1})


def test_the_frontier_keeps_seeds_apart_and_does_not_reach_beyond_its_ends():
    wide = runs(arm=2.7)
    wide.loc[wide.arm == "arm", "distinct_4"] = 0.71
    both = pandas.concat([wide, runs(arm=2.6).assign(seed=2)])
    gaps = beyond_frontier(both, "CE").set_index("seed").gap
    assert math.isnan(gaps[1]) and gaps[2] == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="no runs of the arm 'forward KL' in seed 1"):
        beyond_frontier(both, "forward KL")


def test_scores_are_means_over_what_is_scored(world):
    student = study_file.Student(world, SMOKE, 540, CPU).start
    row = study_file.scores(student, world, SMOKE)
    tokens = world.pieces["test"]
    logits, taught = (net(tokens[:, :-1])[0][:, UNSCORED:] for net in (student, world.teacher))
    log_q, log_p = logits.log_softmax(-1), taught.log_softmax(-1)
    nll = -log_q.gather(-1, tokens[:, 1 + UNSCORED :, None]).mean()
    assert row["nll"] == pytest.approx(nll.item(), rel=1e-5)
    assert row["kl"] == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-3)
    assert study_file.scores(world.teacher, world, SMOKE)["kl"] == pytest.approx(0, abs=1e-6)


def test_scores_of_samples_are_about_what_follows_the_real_characters(world):
    drawn = sample(world.teacher, world.pieces["test"][:, :UNSCORED], 20, generator())
    row = study_file.sample_scores(drawn, world.teacher, world)
    log_p = world.teacher(drawn[:, :-1])[0].log_softmax(-1)
    nll = -log_p.gather(-1, drawn[:, 1:, None])[:, -20:].mean()
    assert row["teacher_nll"] == pytest.approx(nll.item(), rel=1e-5)
    assert row["distinct_4"] == distinct(world.text.read(drawn[:, -20:]))
    assert row["entropy"] == pytest.approx(-(log_p.exp() * log_p).sum(-1)[:, -20:].mean().item(), rel=1e-4)
    real = study_file.sample_scores(world.pieces["test"], None, world)
    assert real["entropy"] is None and real["real_words"] > 0.95, "made-up text has sixty words"


# --- text -------------------------------------------------------------------------------------------------------------


def test_the_parts_of_the_text_share_no_character_s_place():
    text = Text.of("made up")
    whole = torch.cat([text.train, text.validation, text.test])
    assert "".join(text.read(whole[None])) == study_file.made_up()
    assert len(text.train) == int(0.9 * len(whole)) and abs(len(text.validation) - len(text.test)) <= 1
    pieces = study_file.pieces_of(text.test, 4, 64)
    assert torch.equal(pieces.flatten(), text.test[: 4 * 65])
    with pytest.raises(ValueError, match="pieces_of: 99 pieces of 65 need more than .* characters"):
        study_file.pieces_of(text.test, 99, 64)


def test_missing_text_is_an_error_that_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="karpathy/char-rnn: mkdir -p .* && curl -o .*input.txt http"):
        study.run(STUDY, "cpu", folder=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_another_text_under_that_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "input.txt").write_text("To be, or not to be\n")
    with pytest.raises(ValueError, match="must have the SHA-256 86c4e6aa.*, got [0-9a-f]{64}; delete it"):
        study_file.tiny_shakespeare()


def test_tiny_shakespeare_is_what_it_should_be(needs):
    needs((data.folder() / "shakespeare").is_dir(), "tiny Shakespeare", "see kdcourse.experiments.character_model")
    text = Text.of("tiny Shakespeare")
    assert len(text.characters) == 65 and len(text.train) == 1_003_854
    for scale in ("cpu", "gpu"):
        for part in (text.validation, text.test):
            study_file.pieces_of(part, **STUDY.settings(scale)["pieces"])


# --- the study --------------------------------------------------------------------------------------------------------


def runs_of(file) -> DataFrame:
    content = study.read(file)["scales"]["smoke"]["units"].values()
    table = pandas.concat([study._table(unit["runs"]) for unit in content], ignore_index=True)
    return table.drop(columns="seconds")  # which no two runs share


def test_smoke_needs_no_data_and_a_killed_run_resumes_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path / "none"))
    whole = study.run(STUDY, "smoke", folder=tmp_path / "whole")
    assert not (tmp_path / "none").exists(), "made-up text leaves nothing behind"
    compute = STUDY.compute

    def killed(*arguments, seed, **more):
        if seed == 541:
            raise KeyboardInterrupt
        return compute(*arguments, seed=seed, **more)

    with pytest.raises(KeyboardInterrupt):
        study.run(replace(STUDY, compute=killed), "smoke", folder=tmp_path / "parts")
    assert study.missing(STUDY, "smoke", tmp_path / "parts") == ["seed 541"]
    parts = study.run(STUDY, "smoke", folder=tmp_path / "parts", resume=True)
    assert_frame_equal(runs_of(parts), runs_of(whole))
    table = runs_of(whole)
    assert set(table.arm) == {*ARMS, "warm start", "teacher", "real text"}
    assert not table.duplicated(["seed", "arm", "sampling_temperature"]).any()
    frontier = table[table.arm.isin(study_file.FRONTIERS)]
    assert set(frontier.sampling_temperature) == set(SMOKE["sampling_temperatures"])
    plain = table[~table.arm.isin(["warm start", "teacher", "real text"])]
    assert plain.notna().all(axis=None)


def test_all_scales_have_the_same_settings_and_a_tuning_seed_of_their_own():
    shapes = [sorted(settings) for settings in STUDY.scales.values()]
    assert all(shape == shapes[0] for shape in shapes)
    for settings in STUDY.scales.values():
        assert settings["tuning_seed"] not in settings["seeds"] and 1.0 in settings["sampling_temperatures"]
