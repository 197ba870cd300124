"""Recorded studies: nothing lost, nothing forged, everything shown."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from kdcourse import cli, data
from kdcourse.data import Batch
from kdcourse.experiments import fashion, fashion_schedules, study, tiles
from kdcourse.experiments.study import RecordError, Study, Unit

BOOK = study.ROOT / "book"
RECORDS = sorted(study.FOLDER.glob("*.json"))
HAS_FASHION = (data.folder() / "FashionMNIST" / "raw").is_dir()
FOLDERS = {  # what a study reads, beside Fashion-MNIST
    "human_labels": ("cifar10h", "CIFAR-10H", "experiments.human_labels"),
    "cifar100": ("cifar100", "CIFAR-100", "data.cifar100"),
    "image_costs": ("cifar100", "CIFAR-100", "data.cifar100"),
    "translation": ("multi30k", "Multi30k", "experiments.multi30k"),
}
NUMBERS = {
    "tiny": {"seeds": [1, 2, 3], "units": 12, "wait": 0.0},
    "slow": {"seeds": [1, 2, 3], "units": 12, "wait": 0.05},
}


def toy(name: str = "toy") -> Study:
    """A study of no interest whose results depend on nothing but its settings."""

    def compute(shared, settings, device, *, number):
        time.sleep(settings["wait"])
        rows = [
            {"seed": seed, "number": number, "score": torch.randn(1, generator=_generator(seed, number)).item()}
            for seed in settings["seeds"]
        ]
        return DataFrame(rows)

    return Study(
        name=name,
        question="Does it go on?",
        page="05_choosing_the_temperature",
        scales=NUMBERS,
        key=("number",),
        judged=("score",),
        units=lambda settings: [Unit(f"number {n}", {"number": n}, 64) for n in range(settings["units"])],
        prepare=lambda settings, device: (None, {"answer": 42}),
        compute=compute,
    )


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * number + seed)


def runs(file: Path, scale: str) -> dict:
    return {name: unit["runs"] for name, unit in study.read(file)["scales"][scale]["units"].items()}


# --- the frame --------------------------------------------------------------------------------------------------------


def test_scales_stand_side_by_side_in_one_valid_file(tmp_path):
    file = study.run(toy(), "tiny", folder=tmp_path)
    study.run(toy(), "slow", folder=tmp_path)
    content = study.read(file)
    assert list(content["scales"]) == ["tiny", "slow"]
    assert content["scales"]["tiny"]["facts"] == {"answer": 42}
    assert not list(tmp_path.glob("*.partial"))
    assert study.missing(toy(), "tiny", tmp_path) == []
    assert study.card(file).loc["runs", "tiny"] == "36"
    for line in file.read_text("utf-8").splitlines():
        assert line.count("number") <= 2, "a unit has a line of its own"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL: run it on Linux or macOS")
def test_a_study_killed_three_times_ends_with_the_same_runs(tmp_path):
    whole = study.run(toy(), "slow", folder=tmp_path / "whole")
    killed = tmp_path / "killed"
    subprocess.run([sys.executable, __file__, str(killed)], check=True)
    file = killed / "toy.json"
    assert runs(file, "slow") == runs(whole, "slow")
    assert 2 <= len(study.read(file)["scales"]["slow"]["sessions"]) <= 4


def run_and_kill(folder: Path) -> None:
    """In a process of its own, which has no threads yet: run in a child, kill the child, three times; then finish."""
    file = folder / "toy.json"

    def recorded() -> int:
        return len(runs(file, "slow")) if file.exists() else 0

    for goal in (0, 3, 7):  # before the first unit is recorded, and twice among them
        child = os.fork()
        if not child:
            study.run(toy(), "slow", folder=folder, resume=True)
            os._exit(0)
        while recorded() < goal:
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL and goal <= recorded() < 12, "killed in the middle"
    study.run(toy(), "slow", folder=folder, resume=True)


def test_a_record_is_neither_overwritten_nor_mixed(tmp_path, monkeypatch):
    file = study.run(toy(), "tiny", folder=tmp_path)
    before = file.read_text("utf-8")
    with pytest.raises(RecordError, match="12 of 12 units at scale tiny; --resume goes on, --anew begins again"):
        study.run(toy(), "tiny", folder=tmp_path)
    study.run(toy(), "tiny", folder=tmp_path, resume=True)
    assert file.read_text("utf-8") == before, "nothing was missing"
    monkeypatch.setitem(NUMBERS, "tiny", NUMBERS["tiny"] | {"seeds": [4, 5, 6]})
    with pytest.raises(RecordError, match="other settings"):
        study.run(toy(), "tiny", folder=tmp_path, resume=True)
    study.run(toy(), "tiny", folder=tmp_path, anew=True)
    assert runs(file, "tiny")["number 0"]["seed"] == [4, 5, 6]


def test_two_processes_that_record_at_once_lose_nothing(tmp_path):
    file = study.run(toy(), "tiny", folder=tmp_path)
    with study._changing(file, toy()) as scales:
        assert "slow" not in scales
    study.run(toy(), "slow", folder=tmp_path)
    with study._changing(file, toy()) as scales:
        scales["tiny"]["units"].pop("number 3")
    assert study.missing(toy(), "tiny", tmp_path) == ["number 3"]
    assert study.missing(toy(), "slow", tmp_path) == []


def test_what_another_process_records_while_this_one_prepares_is_kept(tmp_path):
    file = study.run(toy(), "tiny", folder=tmp_path)
    with study._changing(file, toy()) as scales:
        scales["tiny"]["units"].pop("number 3")

    def prepare(settings, device):
        study.run(toy(), "tiny", folder=tmp_path, resume=True)
        return None, {"answer": 42}

    def killed(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(replace(toy(), prepare=prepare, compute=killed), "tiny", folder=tmp_path, resume=True)
    assert study.missing(toy(), "tiny", tmp_path) == []
    assert len(study.read(file)["scales"]["tiny"]["sessions"]) == 3


def test_what_is_not_a_number_is_recorded_as_missing(tmp_path):
    columns = study._columns(DataFrame({"seed": [1, 2], "nll": [float("nan"), float("inf")], "x": [0.123456, 1e-7]}))
    assert columns == {"seed": [1, 2], "nll": None, "x": [0.1235, 1e-07]}


def test_reproduce_compares_means_and_sees_a_forged_number(tmp_path):
    file = study.run(toy(), "tiny", folder=tmp_path)
    table = study.reproduce(toy(), "tiny", folder=tmp_path, only="number 1*")
    assert list(table.columns) == ["number", "metric", "recorded", "yours", "tolerance", "reproduced"]
    assert set(table.number) == {1, 10, 11} and table.reproduced.all() and (table.tolerance > 0).all()
    with study._changing(file, toy()) as scales:
        scores = scales["tiny"]["units"]["number 1"]["runs"]["score"]
        scores[:] = [value + 100 for value in scores]
    forged = study.reproduce(toy(), "tiny", folder=tmp_path, only="number 1")
    assert not forged.reproduced.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("question"), "the record must have the keys"),
        (lambda c: c.update(format=0), "format must be 1, got 0"),
        (lambda c: c["scales"]["tiny"].pop("sessions"), "tiny must have the keys"),
        (lambda c: c["scales"]["tiny"]["sessions"][0].pop("commit"), "a session must have the keys"),
        (lambda c: c["scales"]["tiny"]["units"]["number 1"].update(session=1), "no session 1"),
        (lambda c: c["scales"]["tiny"]["units"]["number 1"]["runs"].pop("score"), "columns must be"),
        (lambda c: c["scales"]["tiny"]["units"]["number 1"]["runs"]["score"].pop(), "columns must have one length"),
        (lambda c: c["scales"]["tiny"]["units"]["number 1"]["runs"].update(seed=[1, 2, 9]), "seeds must be among"),
    ],
)
def test_a_malformed_record_is_named(tmp_path, change, message):
    content = copy.deepcopy(study.read(study.run(toy(), "tiny", folder=tmp_path)))
    change(content)
    with pytest.raises(RecordError, match=message):
        study.validate(content)


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "toy.json").write_text("{", "utf-8")
    with pytest.raises(RecordError, match="toy.json: not JSON"):
        study.missing(toy(), "tiny", tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(study, "study", lambda name: toy(name))
    return lambda *arguments: CliRunner().invoke(cli.app, list(map(str, arguments)))


def test_the_exit_code_says_what_happened(command, tmp_path):
    assert command("reproduce", "toy", "--scale", "tiny", "--folder", tmp_path).exit_code == cli.WRONG_USE
    done = command("run", "toy", "--scale", "tiny", "--folder", tmp_path)
    assert done.exit_code == 0 and "complete in" in done.output
    again = command("run", "toy", "--scale", "tiny", "--folder", tmp_path)
    assert again.exit_code == cli.WRONG_USE and "--resume goes on" in again.output
    good = command("reproduce", "toy", "--scale", "tiny", "--folder", tmp_path, "--only", "number 2")
    assert good.exit_code == 0 and "reproduced: all 1 means" in good.output
    with study._changing(tmp_path / "toy.json", toy()) as scales:
        scales["tiny"]["units"]["number 2"]["runs"]["score"] = [7.0, 7.0, 7.1]
    bad = command("reproduce", "toy", "--scale", "tiny", "--folder", tmp_path)
    assert bad.exit_code == cli.NOT_REPRODUCED and "not reproduced: 1 of 12 means" in bad.output
    device = command("run", "toy", "--scale", "slow", "--folder", tmp_path, "--device", "abacus")
    assert device.exit_code == cli.WRONG_USE and "got 'abacus'" in device.output


def test_interrupted_says_how_to_go_on(command, tmp_path, monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupt)
    done = command("run", "toy", "--scale", "tiny", "--folder", tmp_path)
    assert done.exit_code == cli.INTERRUPTED and "--resume" in done.output


def test_wrong_names_are_named():
    runner = CliRunner()
    unknown = runner.invoke(cli.app, ["run", "phrenology"])
    assert unknown.exit_code == cli.WRONG_USE and "name must be one of fashion_temperature" in unknown.output
    scale = runner.invoke(cli.app, ["run", "fashion_temperature", "--scale", "huge"])
    assert scale.exit_code == cli.WRONG_USE and "scale must be one of smoke, cpu, got 'huge'" in scale.output


def test_missing_data_name_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCOURSE_DATA", str(tmp_path))
    done = CliRunner().invoke(
        cli.app, ["run", "fashion_temperature", "--scale", "smoke", "--folder", str(tmp_path / "results")]
    )
    assert done.exit_code == cli.NO_DATA and "download=True" in done.output
    assert not (tmp_path / "results").exists()


def test_a_card_says_which_scales_are_not_yet_recorded(tmp_path, monkeypatch):
    file = study.run(toy("cifar100"), "tiny", folder=tmp_path)
    card = study.card(file)
    assert list(card.columns) == ["tiny", "cpu", "gpu"]
    assert card.loc["runs", "gpu"] == "not yet recorded" and card.loc["device", "gpu"] == "–"


def test_results_lists_records_and_what_is_missing(tmp_path):
    listed = CliRunner().invoke(cli.app, ["results", "--folder", str(tmp_path)])
    assert listed.exit_code == 0
    for name in study.STUDIES:
        assert f"{name}: {study.study(name).question}" in listed.output


def test_an_arm_without_a_metric_is_read_as_not_a_number_and_not_compared(tmp_path):
    def compute(shared, settings, device, *, number):
        return DataFrame({"seed": [1, 2, 3], "number": number, "score": None if number == 3 else [0.1, 0.2, 0.3]})

    hollow = replace(toy("hollow"), compute=compute)
    study.run(hollow, "tiny", folder=tmp_path)
    table = study.reproduce(hollow, "tiny", folder=tmp_path)
    assert sorted(table.number) == [n for n in range(12) if n != 3] and table.reproduced.all()
    unit = study.read(tmp_path / "hollow.json")["scales"]["tiny"]["units"]["number 3"]
    assert study._table(unit["runs"]).score.isna().all()


# --- the studies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", study.STUDIES)
def test_smoke_scale_runs_and_is_reproduced(name, needs, tmp_path):
    if name.startswith("fashion"):
        needs(HAS_FASHION, "Fashion-MNIST", "see kdcourse.data.fashion_mnist")
    if name in FOLDERS:
        folder, part, how = FOLDERS[name]
        needs((data.folder() / folder).is_dir(), part, f"see kdcourse.{how}")
    file = study.run(study.study(name), "smoke", folder=tmp_path)
    table = study.reproduce(study.study(name), "smoke", folder=tmp_path)
    assert table.reproduced.all()
    assert (table.recorded - table.yours).abs().max() < 1e-3
    assert study.missing(study.study(name), "smoke", tmp_path) == []
    assert len(file.read_bytes()) < 10_000


@pytest.mark.parametrize("name", study.STUDIES)
def test_a_study_is_consistent(name):
    chosen = study.study(name)
    assert chosen.name == name
    for scale in chosen.scales:
        names = [unit.name for unit in chosen.chosen(scale)]
        assert len(set(names)) == len(names)
    assert len(chosen.scales["cpu"]["seeds"]) >= 5
    with pytest.raises(ValueError, match="no unit matches 'nothing'"):
        chosen.chosen("cpu", "nothing")


def test_smoothed_labels_are_torch_s():
    logits, targets = torch.randn(7, 10), torch.arange(7)
    theirs = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1, reduction="none")
    assert torch.allclose(fashion.smoothed(logits, Batch(logits, targets), 0.1), theirs, atol=1e-6)


def test_the_articles_schedules_are_what_they_say():
    tenth, floored = (fashion_schedules.tenth_per_epoch(1000, floor) for floor in (0.0, 1.0))
    assert [tenth(step) for step in (0, 49, 50, 100)] == pytest.approx([10, 10, 1, 0.1])
    assert [floored(step) for step in (0, 50, 999)] == [10, 1, 1]
    assert tenth(999) > 0
    sigmoid = fashion_schedules.sigmoid(1000)
    assert sigmoid(0) == 0.5 and sigmoid(999) == pytest.approx(0.870, abs=1e-3)


def test_fewer_images_are_the_first_of_more():
    pool = Batch(torch.arange(50.0).view(50, 1), torch.zeros(50, dtype=torch.long))
    world = fashion.World(pool, pool, pool)
    few, more = (world.labelled(n, [7])[7].inputs for n in (10, 20))
    assert torch.equal(few, more[:10]) and len(set(more.flatten().tolist())) == 20


def test_the_tiles_of_a_seed_share_no_digit_between_training_validation_and_test():
    world = tiles.cut(5, images=50, tests=200)
    own, valid, test = (
        batch.inputs[torch.arange(len(batch))[:, None], tile[:, None]].flatten(1) if tile is not None else batch.inputs
        for batch, tile in ((world.own, world.own_tile), (world.validation, None), (world.test, world.test_tile))
    )
    shown = {tuple(row.tolist()) for row in test}
    pool = {tuple(row.tolist()) for row in world.pool.inputs}
    assert {tuple(row.tolist()) for row in own} <= pool and not shown & pool
    assert not shown & {tuple(tile.tolist()) for tile in valid.flatten(0, 1)}
    assert len(shown) > 150 and [len(batch) for batch in world.foreign.values()] == [200] * 3
    # fragments come from the pool, at test time as well
    quarters = {tuple(q.tolist()) for q in world.pool.inputs.view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 16)}
    for inputs in (world.test.inputs[0][torch.arange(9) != world.test_tile[0]], world.foreign["none"].inputs[0]):
        pieces = inputs.reshape(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 16)
        assert {tuple(piece.tolist()) for piece in pieces} <= quarters
    again = tiles.cut(5, images=50, tests=200)
    assert torch.equal(again.foreign["two"].inputs, world.foreign["two"].inputs)


def test_the_maps_of_the_tiles_study_are_distributions():
    shown = torch.rand(6, 9).softmax(-1)
    for name, make in tiles.MAPS.items():
        made = make(shown, torch.arange(6))
        assert torch.allclose(made.sum(-1), torch.ones(6)) and (made >= 0).all(), name
    assert torch.allclose(tiles.MAPS["true tile, blurred"](shown, torch.arange(6))[2, 2], torch.tensor(0.88))


def test_a_row_of_the_tiles_study_agrees_with_what_the_networks_say():
    world = tiles.cut(5, images=50, tests=200)
    torch.manual_seed(0)
    nets = [tiles.student().eval() for _ in range(3)]
    row = tiles.judge(nets, world, torch.zeros(200, 10))
    answers = [net(world.test.inputs) for net in nets]
    mean = torch.stack([logits.softmax(-1) for logits, _ in answers]).mean(0)
    weights = torch.stack([weights[:, 0] for _, weights in answers]).mean(0)
    assert row["accuracy"] == pytest.approx((mean.argmax(-1) == world.test.targets).float().mean().item())
    assert row["hit"] == pytest.approx((weights.argmax(-1) == world.test_tile).float().mean().item())
    assert row["nll"] == pytest.approx(-mean.gather(-1, world.test.targets[:, None]).log().mean().item(), rel=1e-4)
    assert row["two_distance"] != row["two_distance"], "three networks have no common features"
    foreign = torch.stack([net(world.foreign["two"].inputs)[1][:, 0] for net in nets]).mean(0)
    inside, outside = (torch.special.entr(w).sum(-1) for w in (weights, foreign))
    above = (outside[:, None] > inside).float().mean().item()
    assert row["two_map"] == pytest.approx(above, abs=1e-3)
    single = tiles.judge(nets[:1], world, torch.zeros(200, 10))
    known, asked = (F.normalize(nets[0].pooled(x)[0], dim=-1) for x in (world.own.inputs, world.test.inputs))
    assert single["two_knowledge"] != single["two_knowledge"] and 0 <= single["two_distance"] <= 1
    seen = tiles.read(nets[:1], world.test.inputs)
    near = tiles.uncertainties(seen, tiles.read(nets[:1], world.own.inputs))["distance"]
    assert torch.allclose(near, (1 - asked @ known.T).sort(-1).values[:, :3].mean(-1), atol=1e-5)


# --- the records and the book -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_a_committed_record_is_valid_complete_and_small(file):
    content, chosen = study.read(file), study.study(file.stem)
    assert content["study"] == file.stem and content["question"] == chosen.question
    assert len(file.read_bytes()) < 300_000
    assert "smoke" not in content["scales"], "smoke proves that a study runs; its numbers mean nothing"
    for scale, entry in content["scales"].items():
        assert entry["settings"] == chosen.settings(scale), "the study was edited after it was recorded"
        assert not study.missing(chosen, scale)
        table = study.recorded(f"results/{file.name}", scale)
        assert not table.duplicated([*chosen.key, "seed"]).any()
        assert (table.groupby(list(chosen.key)).seed.nunique() == len(entry["settings"]["seeds"])).all()
        optional = list(chosen.optional)
        assert table.drop(columns=["frozen_at", *optional], errors="ignore").notna().all(axis=None)
        lacking = table.groupby(list(chosen.key))[optional].agg(lambda column: column.isna().mean())
        assert lacking.isin([0.0, 1.0]).all(axis=None), "an arm lacks a column in every seed or in none"


def named_in(page: Path) -> set[str]:
    return set(re.findall(r"results/(\w+)\.json", page.read_text("utf-8")))


def test_every_record_is_shown_and_every_shown_record_exists():
    recorded = {file.stem for file in RECORDS}
    for page in BOOK.rglob("*.md"):
        assert named_in(page) <= recorded, f"{page.name} shows a record that does not exist"
    assert named_in(BOOK / "back" / "results.md") == recorded
    for name in recorded:
        page = BOOK / f"{study.study(name).page}.md"
        assert not page.exists() or name in named_in(page), f"{page.name} does not show {name}"


def test_a_page_reads_a_record_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in RECORDS:
        assert len(study.recorded(f"results/{file.name}"))
        assert json.loads(file.read_text("utf-8"))["scales"]["cpu"] == study.record(f"results/{file.name}")
    with pytest.raises(RecordError, match="kdcourse run alchemy makes it"):
        study.recorded("results/alchemy.json")


def test_seeds_of_arms_are_paired(tmp_path):
    whole, again = (study.run(toy(), "tiny", folder=tmp_path / name) for name in "ab")
    first, second = (DataFrame(runs(file, "tiny")["number 4"]) for file in (whole, again))
    assert_frame_equal(first, second)


if __name__ == "__main__":
    run_and_kill(Path(sys.argv[1]))
