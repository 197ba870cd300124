"""The ImageNet recipe on a folder of 27 made images: two gloo processes, started by torchrun, against plain torch."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from kdcourse.experiments import imagenet
from kdcourse.experiments.imagenet import Recipe, Views, image_folders

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL: run it on Linux or macOS")
ROOT = Path(__file__).resolve().parents[1]
EXACT = Recipe("toy", "toy", epochs=2, batch=8, lr=0.05, temperature=2.0, soft_weight=0.7, image_size=16, seed=3)
HARD = Recipe("toy", "toy", epochs=3, batch=8, lr=0.05, image_size=16)
MARK = "now process 1 is killed"
STEPS = 2  # of 8 images; the other 2 of 18 are dropped


def small(seed: int, norm: nn.Module, *more: nn.Module) -> nn.Module:
    torch.manual_seed(seed)
    convolution = nn.Conv2d(3, 4, 3, stride=2)
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *more, nn.Linear(4, 2))


def grouped(seed: int) -> nn.Module:
    """A network that answers each image by itself, so that shares of a batch can be put together."""
    return small(seed, nn.GroupNorm(2, 4))


def hardest(seed: int) -> nn.Module:
    """What a resumed run could get wrong: running means, which differ by process, and dropout."""
    return small(seed, nn.BatchNorm2d(4), nn.Dropout(0.5))


def watch(network: nn.Module) -> dict[bool, list[torch.Tensor]]:
    """What the network will see, in training (True) and else."""
    seen = {True: [], False: []}
    network.register_forward_pre_hook(lambda module, inputs: seen[module.training].append(inputs[0].clone()))
    return seen


# --- what each process of torchrun runs -------------------------------------------------------------------------------


def first(folder: Path, out: Path) -> None:
    """What follows in one start of torchrun, since a start takes longer than all of it; the last run is killed."""
    with imagenet.processes("cpu"):
        rank = torch.distributed.get_rank()
        facts = run_exact(folder, out / "exact", rank) | {"whole": run_hardest(folder, out / "whole")}
        facts["exits"] = [two_mistakes(folder, out, rank, mistake) for mistake in ("batch", "weights")]
        torch.save(facts, out / f"facts_{rank}.pt")
        print(MARK, file=sys.stderr, flush=True)
        run_hardest(folder, out / "killed", kill_at=4)


def resumed(folder: Path, out: Path) -> None:
    with imagenet.processes("cpu"):
        run_hardest(folder, out / "killed")


def run_exact(folder: Path, out: Path, rank: int) -> dict[str, object]:
    """A run that plain torch can follow."""
    student, teacher = grouped(1 + rank), grouped(10 + rank)  # those of process 0 count
    by_student, by_teacher = watch(student), watch(teacher)
    out.mkdir(exist_ok=True)
    result = imagenet.distil(student, teacher, *image_folders(folder, EXACT.image_size), out, EXACT)
    gradients = [parameter.grad for parameter in student.parameters()]
    facts = {"result": result, "student": student.state_dict(), "gradients": gradients}
    return facts | {"by_student": by_student, "by_teacher": by_teacher}


def run_hardest(folder: Path, out: Path, kill_at: int = 0) -> dict[str, torch.Tensor]:
    """A run with a checkpoint after every step; in step `kill_at` process 1 dies."""
    student = hardest(5)
    steps = iter(range(1, 100))

    def die(module: nn.Module, inputs: tuple) -> None:
        if module.training and next(steps) == kill_at and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    student.register_forward_pre_hook(die)
    out.mkdir(exist_ok=True)
    folders = image_folders(folder, HARD.image_size)
    # With a worker, since without one the views would seed the dropout too.
    imagenet.distil(student, hardest(6), *folders, out, HARD, workers=1, save_every=1, resume=True)
    return student.state_dict()


def two_mistakes(folder: Path, out: Path, rank: int, mistake: str) -> int:
    """The exit code of a mistake of both processes, or of one."""
    try:
        with imagenet.all_or_none():
            if mistake == "batch":
                imagenet.check(Recipe(batch=9), image_folders(folder, 16)[0], out, resume=False)
            elif rank == 1:
                raise FileNotFoundError("no weights")
    except typer.Exit as end:
        return end.exit_code
    return 0


def torchrun(what: str, folder: Path, out: Path) -> subprocess.CompletedProcess:
    """Two processes; --standalone finds a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, __file__, what, folder, out], env=environment, capture_output=True, text=True, timeout=300
    )


# --- what they are compared with --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """18 images to train on and 9, an odd number, to look at."""
    root = tmp_path_factory.mktemp("images")
    numbers = np.random.default_rng(0)
    for place, count in (("train/a", 9), ("train/b", 9), ("val/a", 5), ("val/b", 4)):
        (root / place).mkdir(parents=True)
        for number in range(count):
            pixels = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / place / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder, out):
    """What the two processes found, and how they ended."""
    ended = torchrun("first", folder, out)
    assert MARK in ended.stderr, ended.stderr
    return [torch.load(out / f"facts_{rank}.pt") for rank in range(2)], ended


def plain_batches(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The joined batches, by hand: each epoch a permutation of 18 images, of which 16 are used."""
    views = Views(image_folders(folder, EXACT.image_size)[0], EXACT.seed)
    batches = []
    for views.epoch in range(EXACT.epochs):
        order = torch.randperm(18, generator=torch.Generator().manual_seed(EXACT.seed + views.epoch))
        for rows in order[: 8 * STEPS].split(8):
            images, targets = zip(*(views[row] for row in rows.tolist()), strict=True)
            batches.append((torch.stack(images), torch.tensor(targets)))
    return batches


def test_two_processes_have_the_gradients_and_parameters_of_one(folder, two):
    student, teacher, T = grouped(1), grouped(10), EXACT.temperature
    optimiser = torch.optim.SGD(student.parameters(), momentum=0.9, weight_decay=1e-4)
    for step, (images, targets) in enumerate(plain_batches(folder)):
        optimiser.param_groups[0]["lr"] = (0.05, 0.005)[step // STEPS]  # epoch 1 of 2 lies between 30 % and 60 %
        answers = student(images)
        log_q, log_p = F.log_softmax(answers / T, -1), F.log_softmax(teacher(images).detach() / T, -1)
        soft = T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        optimiser.zero_grad()
        (0.7 * soft + 0.3 * F.cross_entropy(answers, targets)).backward()
        optimiser.step()
    for facts in two[0]:
        for mine, parameter in zip(facts["gradients"], student.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(facts["student"], dict(student.state_dict()), rtol=1e-5, atol=1e-7)


def test_the_program_alone_ends_where_two_processes_do(folder, two, tmp_path):
    student = grouped(1)
    with imagenet.processes("cpu"):
        folders = image_folders(folder, EXACT.image_size)
        result = imagenet.distil(student, grouped(10), *folders, tmp_path, EXACT)
    torch.testing.assert_close(dict(student.state_dict()), two[0][0]["student"], rtol=1e-5, atol=1e-7)
    for mine, theirs in zip(result["epochs"], two[0][0]["result"]["epochs"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_teacher_and_student_see_the_same_view_and_each_image_once(folder, two):
    joined = [[] for _ in range(STEPS * EXACT.epochs)]
    for facts in two[0]:
        assert not facts["by_teacher"][True], "a teacher that is trained with"
        taught = facts["by_teacher"][False][-len(joined) :]  # before that, its own score
        for step, images, same in zip(joined, facts["by_student"][True], taught, strict=True):
            assert len(images) == 4 and torch.equal(images, same)
            step.extend(images)
    for step, (images, _) in zip(joined, plain_batches(folder), strict=True):
        assert sorted(image.sum().item() for image in step) == sorted(image.sum().item() for image in images)


def test_a_view_depends_on_epoch_and_image_alone(folder):
    views = Views(image_folders(folder, 16)[0], seed=0)
    first = views[3][0]
    views[4], torch.rand(7)
    assert torch.equal(views[3][0], first)
    views.epoch = 1
    assert not torch.equal(views[3][0], first)
    assert not torch.equal(Views(views.images, seed=1)[3][0], first)


def test_validation_counts_an_odd_number_of_images_once(folder, two):
    val = image_folders(folder, EXACT.image_size)[1]
    images, targets = torch.stack([image for image, _ in val]), torch.tensor(val.targets)
    with torch.no_grad():
        right = (grouped(10)(images).argmax(-1) == targets).float().mean().item()
    for facts in two[0]:
        assert facts["result"]["test_images"] == len(val) == 9
        assert facts["result"]["teacher_top1"] == pytest.approx(right)
    before = [facts["by_teacher"][False][: -STEPS * EXACT.epochs] for facts in two[0]]
    shown = torch.cat([images for process in before for images in process])
    assert sorted(shown.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(images.sum((1, 2, 3)).tolist()), rel=1e-5)


def test_one_problem_ends_both_processes_with_one_line(two):
    facts, ended = two
    assert [each["exits"] for each in facts] == [[2, 3]] * 2
    said = ended.stderr.partition(MARK)[0]
    lines = [line for line in said.splitlines() if "imagenet:" in line]
    assert lines == [
        "imagenet: --batch must be a multiple of 2, the number of processes, and at most 18, that of images in train/, "
        "got 9",
        "imagenet: no weights",
    ]
    assert "Traceback" not in said and not re.search("[a-z]Warning", said)  # of Python, such as UserWarning


def test_the_record_says_how_it_was_made(two, out):
    result = json.loads((out / "exact" / "result.json").read_text("utf-8"))
    assert result["recipe"]["batch"] == 8 and result["train_images"] == 18
    assert result["top1"] == result["epochs"][-1]["top1"]
    assert result["best_epoch_on_test"]["top1"] == max(row["top1"] for row in result["epochs"])
    assert result["seconds"] > 0 and result["images_per_second"] > 0
    (session,) = result["sessions"]
    assert session["processes"] == 2 and {"commit", "dirty", "versions", "torchvision"} <= set(session)


def test_a_run_with_a_killed_process_resumes_to_the_same_parameters(folder, two, out):
    assert two[1].returncode != 0 and "SIGKILL" in two[1].stderr
    at = torch.load(out / "killed" / "checkpoint.pt")["at"]
    assert (at["epoch"], at["step"]) in ((1, 0), (1, 1)), "killed in step 4 of 6; the third may not have been saved"
    ended = torchrun("resumed", folder, out)
    assert ended.returncode == 0, ended.stderr
    whole, again = (torch.load(out / name / "checkpoint.pt") for name in ("whole", "killed"))
    for name, values in whole["student"].items():
        assert torch.equal(again["student"][name], values), name
    assert again["record"]["epochs"] == whole["record"]["epochs"]
    assert len(again["record"]["sessions"]) == 2
    for facts in two[0]:  # each process scored the network that was saved, running means and all
        torch.testing.assert_close(facts["whole"], dict(whole["student"]), rtol=0, atol=0)


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(imagenet.app, [*map(str, arguments), "--device", "cpu", "--workers", "0"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr or result.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(imagenet.get_model("resnet50", num_classes=2).state_dict(), file)
    return file


def test_the_command_runs_the_pair_of_the_articles(folder, weights, tmp_path):
    size = "--image-size", 32, "--batch", 18, "--epochs", 1, "--teacher-weights", weights
    code, said = command(folder, "--out", tmp_path, *size)
    assert code == 0 and "top-1 of the last epoch" in said and "chosen on these images, so no result" in said
    recipe = json.loads((tmp_path / "result.json").read_text("utf-8"))["recipe"]
    assert recipe["student"] == "mobilenet_v2" and recipe["teacher_weights"] == "resnet50.pth"
    code, said = command(folder, "--out", tmp_path, *size)
    assert code == 2 and "--resume goes on with it, another --out begins anew" in said
    code, said = command(folder, "--out", tmp_path, *size, "--resume", "--temperature", 4)
    assert code == 2 and "another recipe: temperature 1.0 then and 4.0 now" in said
    assert command(folder, "--out", tmp_path, *size, "--resume")[0] == 0, "complete, so only the result is said again"


def test_a_missing_folder_is_one_line_and_exit_code_3(tmp_path):
    code, said = command(tmp_path / "nowhere", "--out", tmp_path / "run")
    assert code == 3 and said.startswith(f"imagenet: {tmp_path}/nowhere must hold train/ and val/")
    assert "image-net.org" in said and f"torchvision.datasets.ImageNet('{tmp_path}/nowhere', split)" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_images_without_class_folders_or_with_other_classes_are_told(folder, tmp_path):
    flat, other = tmp_path / "flat", tmp_path / "other"
    for root, place in ((flat, "val"), (other, "val/a"), (other, "val/c")):
        (root / place).mkdir(parents=True)
        (root / place / "0.png").write_bytes((folder / "val/a/0.png").read_bytes())
    for root in (flat, other):
        (root / "train").symlink_to(folder / "train")
    code, said = command(flat, "--out", tmp_path)
    assert code == 3 and f"Couldn't find any class folder in {flat}/val" in said.replace("\n", "")
    code, said = command(other, "--out", tmp_path)
    assert code == 2 and "must have the same classes, got b, c in one of them only" in said


def test_weights_that_are_missing_or_do_not_fit_are_told(folder, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    batch = "--batch", 8
    code, said = command(folder, "--out", tmp_path, *batch, "--teacher-weights", "nowhere.pth")
    assert code == 3 and "IMAGENET1K_V1 or IMAGENET1K_V2, which torchvision downloads, or a file" in said
    code, said = command(folder, "--out", tmp_path, *batch)
    assert code == 3 and "no network" in said and "bring the file https://" in said
    small_file, broken = tmp_path / "small.pth", tmp_path / "broken.pth"
    torch.save({"fc.bias": torch.zeros(3)}, small_file)
    broken.write_bytes(b"<html>not found</html>")
    for file in (small_file, broken):
        code, said = command(folder, "--out", tmp_path, *batch, "--teacher-weights", file)
        assert code == 2 and "must fit a ResNet-50 of 2 classes, got" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (["--batch", 19], "at most 18, that of images in train/, got 19"),
        (["--batch", 8, "--temperature", 0], "temperature must be positive and finite, got 0.0"),
        (["--batch", 8, "--student", "mobilenet_v9"], "mobilenet_v9"),
        (["--soft-weight", 2], "soft-weight"),
        (["--device", "abacus"], None),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(arguments, rule, folder, tmp_path):
    if rule is None:
        result = CliRunner().invoke(imagenet.app, [str(folder), "--out", str(tmp_path), *arguments])
        assert result.exit_code == 2 and "--device must be cpu, or cuda where torch sees a GPU" in result.stderr
        return
    code, said = command(folder, "--out", tmp_path, *arguments)
    assert code == 2 and rule in said


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
