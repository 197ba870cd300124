"""ImageNet: a pretrained ResNet-50 teaches a MobileNetV2 that starts from nothing, on one GPU or on many.

    torchrun --nproc-per-node 8 -m kdcourse.experiments.imagenet FOLDER --out RUN

    python -m kdcourse.experiments.imagenet FOLDER --out RUN

The settings are those of the code of Zhao et al. (2022), arXiv:2203.08679, for this teacher and MobileNetV1. With
--soft-weight 0 the same program trains the rival, which learns from labels alone.

Every random draw follows from numbers: the order of the images from seed and epoch, the view of an image from seed,
epoch and image, dropout from seed, epoch, step and process. So a checkpoint keeps no generator, and --resume goes on
with the same images in the same views. A batch is that of all processes together, in equal shares, so the mean of their
gradients, which DDP takes, is the gradient of the batch; batch norm knows only its own share. Images that are left over
at the end of an epoch, fewer than a batch, are dropped, others each time. RUN must be on a disk that all machines see.
"""

import json
import os
import pickle
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Subset
from tqdm import tqdm

try:
    import torchvision
    import typer
    from torchvision.datasets import ImageFolder
    from torchvision.models import ResNet50_Weights, get_model
    from torchvision.transforms import v2
except ModuleNotFoundError:
    sys.exit("imagenet: this program needs torchvision and typer: pip install 'kdcourse[book]'")

from kdcourse.experiments.study import provenance
from kdcourse.losses import distillation_loss
from kdcourse.softmax import check_temperature

WRONG_USE, NO_DATA = 2, 3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """What decides the result, beside the images. The learning rate falls by 10 at 30, 60 and 90 % of the epochs."""

    student: str = "mobilenet_v2"
    teacher_weights: str = "IMAGENET1K_V1"
    epochs: int = 100
    batch: int = 512  # of all processes together
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    temperature: float = 1.0
    soft_weight: float = 0.5
    image_size: int = 224
    seed: int = 0

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch; the first is 0."""
        return self.lr * 0.1 ** sum(10 * epoch >= tenths * self.epochs for tenths in (3, 6, 9))


# --- images and teacher -----------------------------------------------------------------------------------------------


class Views(Dataset):
    """Images in random views: a view is a function of seed, epoch and image, whichever process makes it."""

    def __init__(self, images: Dataset, seed: int) -> None:
        self.images, self.seed, self.epoch = images, seed, 0

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        _seed(self.seed, self.epoch, index)
        return self.images[index]


def image_folders(folder: Path, size: int) -> tuple[ImageFolder, ImageFolder]:
    """folder/train, cropped and mirrored at random, and folder/val, cropped from the centre."""
    crops = {
        "train": [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()],
        "val": [v2.Resize(size * 256 // 224), v2.CenterCrop(size)],
    }
    normal = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what torchvision's weights expect
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normal]
    try:
        train, val = (ImageFolder(folder / part, v2.Compose([*crop, *tensor])) for part, crop in crops.items())
    except OSError as error:
        raise FileNotFoundError(
            f"{folder} must hold train/ and val/, each with a folder of images for each class, got: {error}. To get "
            "ImageNet, register at image-net.org and put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
            f"ILSVRC2012_devkit_t12.tar.gz there; torchvision.datasets.ImageNet({str(folder)!r}, split), for split "
            "'train' and 'val', unpacks them into this form"
        ) from None
    if other := sorted(set(train.classes) ^ set(val.classes)):
        names = ", ".join(other[:5]) + (" and more" if other[5:] else "")
        raise ValueError(f"train/ and val/ must have the same classes, got {names} in one of them only")
    return train, val


def resnet50(weights: str, classes: int) -> nn.Module:
    """torchvision's ResNet-50; `weights` is a name that torchvision knows, or a file with a state dict."""
    known = {each.name: each for each in ResNet50_Weights}
    network = get_model("resnet50", num_classes=classes)
    try:
        if weights in known:
            state = known[weights].get_state_dict(progress=False, check_hash=True)
        else:
            state = torch.load(weights, map_location=CPU, weights_only=True)
        network.load_state_dict(state)
    except OSError as error:  # no such file, or no network
        url = known.get(weights, ResNet50_Weights.IMAGENET1K_V1).url
        raise FileNotFoundError(
            f"--teacher-weights must be {' or '.join(known)}, which torchvision downloads, or a file with the state "
            f"dict of its ResNet-50, got {weights!r}: {error}. Without a network, bring the file {url}"
        ) from None
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = f"{weights!r}: {shorten(str(error), 200)}"
        raise ValueError(f"--teacher-weights must fit a ResNet-50 of {classes} classes, got {reason}") from None
    return network


# --- training ---------------------------------------------------------------------------------------------------------


def distil(
    student: nn.Module,
    teacher: nn.Module,
    train: Dataset,
    val: Dataset,
    out: Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    save_every: int = 1000,
    resume: bool = False,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Train `student`, in place, on the labels and on what `teacher` answers to the same views; inside `processes`.

    The teacher's weights, and the student's first ones, are those of process 0. Returns what out/result.json holds.
    """
    rank, world, cuda = dist.get_rank(), dist.get_world_size(), device.type == "cuda"
    share, steps = recipe.batch // world, len(train) // recipe.batch
    form = {"memory_format": torch.channels_last if cuda else torch.preserve_format}
    student, teacher = student.to(device, **form), teacher.to(device, **form).eval().requires_grad_(False)
    _from_process_0(teacher.state_dict().values())
    network = DistributedDataParallel(student)
    optimiser = torch.optim.SGD(student.parameters(), momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    if resume and (out / "checkpoint.pt").exists():
        saved = torch.load(out / "checkpoint.pt", map_location=device, weights_only=True)
        student.load_state_dict(saved["student"])
        optimiser.load_state_dict(saved["optimiser"])
        at, record = saved["at"], saved["record"]
    else:
        right, images = evaluate(teacher, val, share, workers, device)
        at = {"epoch": 0, "step": 0, "loss": 0.0}
        record = {"recipe": asdict(recipe), "train_images": len(train), "test_images": images}
        record |= {"teacher_top1": right / images, "seconds": 0.0, "epochs": [], "sessions": []}
    record["sessions"].append(provenance(device) | {"torchvision": torchvision.__version__, "processes": world})
    views, sampler = Views(train, recipe.seed), DistributedSampler(train, world, rank, seed=recipe.seed, drop_last=True)

    def save() -> None:
        if rank == 0:
            states = {"student": student.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({"at": at, "record": record, **states}, out / "checkpoint.unfinished")
            os.replace(out / "checkpoint.unfinished", out / "checkpoint.pt")  # whole, whenever a process is killed

    for epoch in range(at["epoch"], recipe.epochs):
        views.epoch = epoch
        sampler.set_epoch(epoch)
        optimiser.param_groups[0]["lr"] = recipe.lr_at(epoch)
        batches = list(BatchSampler(sampler, share, drop_last=True))[at["step"] :]
        loader = DataLoader(views, batch_sampler=batches, num_workers=workers, pin_memory=cuda)
        bar = tqdm(loader, f"epoch {epoch + 1}", initial=at["step"], total=steps, disable=None if rank == 0 else True)
        network.train()
        total, clock = torch.zeros((), device=device), time.perf_counter()
        for images, targets in bar:
            images, targets = images.to(device, non_blocking=True, **form), targets.to(device, non_blocking=True)
            _seed(recipe.seed, epoch, at["step"], rank)  # the student's dropout
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                with torch.no_grad():
                    teacher_logits = teacher(images)
                student_logits = network(images)
            kind = {"temperature": recipe.temperature, "soft_weight": recipe.soft_weight}
            loss = distillation_loss(student_logits, teacher_logits, targets, **kind).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
            at["step"] += 1
            if at["step"] % save_every == 0 or at["step"] == steps:
                dist.all_reduce(total)
                at["loss"] += total.item() / world / steps  # waits for the GPU, so the clock below is right
                record["seconds"] += time.perf_counter() - clock
                total, clock = torch.zeros_like(total), time.perf_counter()
                save()
        right, images = evaluate(student, val, share, workers, device)
        row = {"epoch": epoch + 1, "lr": recipe.lr_at(epoch), "loss": at["loss"], "top1": right / images}
        record["epochs"].append(row)
        at = {"epoch": epoch + 1, "step": 0, "loss": 0.0}
        save()
        if rank == 0:
            print(f"epoch {epoch + 1} of {recipe.epochs}: loss {row['loss']:.4f}, top-1 {row['top1']:.2%}", flush=True)
    best = max(record["epochs"], key=lambda row: row["top1"])
    speed = round(recipe.epochs * steps * recipe.batch / record["seconds"])
    result = {"top1": record["epochs"][-1]["top1"], "best_epoch_on_test": best, "images_per_second": speed} | record
    if rank == 0:
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


@torch.no_grad()
def evaluate(network: nn.Module, images: Dataset, batch: int, workers: int, device: torch.device) -> tuple[int, int]:
    """(right answers, images), each image once: a DistributedSampler would repeat some, to make equal shares."""
    rank, world = dist.get_rank(), dist.get_world_size()
    _from_process_0(network.buffers())  # batch norm's means: the processes have seen different images
    network.eval()
    counts = torch.zeros(2, dtype=torch.long, device=device)
    for inputs, targets in DataLoader(Subset(images, range(rank, len(images), world)), batch, num_workers=workers):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            right = network(inputs.to(device)).argmax(-1) == targets.to(device)
        counts += torch.stack([right.sum(), torch.ones_like(right).sum()])
    dist.all_reduce(counts)
    right, count = counts.tolist()
    return right, count


def _seed(*numbers: int) -> None:
    torch.manual_seed(np.random.SeedSequence(numbers).generate_state(1, np.uint64).item())


def _from_process_0(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        dist.broadcast(tensor, 0)


# --- processes and command --------------------------------------------------------------------------------------------


@contextmanager
def processes(device: str) -> Iterator[None]:
    """The group of torchrun's processes, or of this one alone."""
    gpu = device == "cuda" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    alone = {} if "WORLD_SIZE" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("nccl" if gpu else "gloo", **alone)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def all_or_none() -> Iterator[None]:
    """What a user can mend ends all processes with one line, not each with a traceback, and none waits for another."""
    mine = None
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        mine = error
    problems = [None] * dist.get_world_size()
    dist.all_gather_object(problems, mine)
    for problem in filter(None, problems):
        if dist.get_rank() == 0:
            typer.echo(f"imagenet: {problem}", err=True)
        dist.barrier()  # the first process that ends takes the others with it
        raise typer.Exit(NO_DATA if isinstance(problem, FileNotFoundError) else WRONG_USE)


def check(recipe: Recipe, train: Dataset, out: Path, resume: bool) -> None:
    """Raise unless this recipe can run on these images, and go on with what is in `out`."""
    check_temperature("imagenet", recipe.temperature)
    world, file = dist.get_world_size(), out / "checkpoint.pt"
    if recipe.batch % world or recipe.batch > len(train):
        rule = f"a multiple of {world}, the number of processes, and at most {len(train):,}, that of images in train/"
        raise ValueError(f"--batch must be {rule}, got {recipe.batch}")
    if not file.exists():
        return
    if not resume:
        raise ValueError(f"{file} is there; --resume goes on with it, another --out begins anew")
    before = torch.load(file, map_location=CPU, weights_only=True)["record"]
    old, new = before["recipe"] | {"images": before["train_images"]}, asdict(recipe) | {"images": len(train)}
    if other := [f"{name} {old[name]} then and {new[name]} now" for name in new if old[name] != new[name]]:
        raise ValueError(f"{file} was made with another recipe: {', '.join(other)}; another --out begins anew")


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    folder: Annotated[Path, typer.Argument(help="Holds train/ and val/, each with a folder of images for each class.")],
    out: Annotated[Path, typer.Option(help="The folder for checkpoint.pt and result.json.")],
    student: Annotated[str, typer.Option(help="A classifier of torchvision.models.")] = Recipe.student,
    teacher_weights: Annotated[str, typer.Option(help="A name of torchvision's, or a file.")] = Recipe.teacher_weights,
    epochs: Annotated[int, typer.Option(min=1)] = Recipe.epochs,
    batch: Annotated[int, typer.Option(min=1, help="Of all processes together.")] = Recipe.batch,
    lr: float = Recipe.lr,
    temperature: float = Recipe.temperature,
    soft_weight: Annotated[float, typer.Option(min=0, max=1)] = Recipe.soft_weight,
    image_size: Annotated[int, typer.Option(min=1, help="Pixels of a side.")] = Recipe.image_size,
    seed: Annotated[int, typer.Option(min=0)] = Recipe.seed,
    workers: Annotated[int, typer.Option(min=0, help="Loading processes for each GPU.")] = 8,
    save_every: Annotated[int, typer.Option(min=1, help="Steps; the end of an epoch is saved in any case.")] = 1000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the checkpoint, if there is one.")] = False,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
) -> None:
    chosen = {"student": student, "teacher_weights": Path(teacher_weights).name, "epochs": epochs, "batch": batch}
    chosen |= {"lr": lr, "temperature": temperature, "soft_weight": soft_weight, "image_size": image_size}
    recipe = Recipe(**chosen, seed=seed)
    with processes(device):
        with all_or_none():
            if device not in ("cpu", "cuda") or device == "cuda" and not torch.cuda.is_available():
                raise ValueError(f"--device must be cpu, or cuda where torch sees a GPU, got {device!r}")
            train, val = image_folders(folder, image_size)
            check(recipe, train, out, resume)
            torch.manual_seed(seed)
            pupil = get_model(student, num_classes=len(train.classes))
            if dist.get_rank() == 0:
                out.mkdir(parents=True, exist_ok=True)
                teacher = resnet50(teacher_weights, len(train.classes))
            else:  # process 0 sends the weights
                teacher = get_model("resnet50", num_classes=len(train.classes))
        options = {"workers": workers, "save_every": save_every, "resume": resume, "device": torch.device(device)}
        result = distil(pupil, teacher, train, val, out, recipe, **options)
        if dist.get_rank() == 0:
            best, images = result["best_epoch_on_test"], f"of {result['test_images']:,} images"
            print(f"top-1 of the last epoch {result['top1']:.2%} {images}, teacher {result['teacher_top1']:.2%}")
            print(f"best epoch {best['epoch']}, chosen on these images, so no result: {best['top1']:.2%}")


if __name__ == "__main__":
    app()
