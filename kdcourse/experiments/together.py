"""Several students in one loop that see the same views: one teacher's forward pass serves them all.

Images live on the device and are cropped and mirrored there, so nothing waits for a DataLoader. On a GPU networks are
compiled, in channels-last memory, and compute in bfloat16. What is random in an epoch depends on the seed and
the epoch alone: an epoch is the unit that a kill can cost, and a run that goes on ends with the same numbers.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdcourse import metrics
from kdcourse.attention import mean_of_members

Loss = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True)
class Student:
    """A network, its loss(student_logits, teacher_logits, targets) -> [batch], and which teacher it listens to."""

    network: nn.Module
    loss: Loss
    lr: float
    weight_decay: float
    teacher: str | None = None


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum 0.9. The rate falls tenfold at each of `milestones` (epochs), or as a cosine without them."""

    epochs: int
    batch: int
    milestones: Sequence[int] = ()
    warm_up: int = 0
    nesterov: bool = False

    def share(self, epoch: float) -> float:
        """Which share of the full learning rate holds at this moment."""
        rising = min(1.0, epoch / self.warm_up) if self.warm_up else 1.0
        if self.milestones:
            return rising * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        return rising * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


class Views:
    """Images [n, size, size, 3] on a device, and random views of them: shifted by up to size / 8, mirrored or not."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.targets, self.size, self.shift = targets, images.shape[1], images.shape[1] // 8
        edge = (0, 0, self.shift, self.shift, self.shift, self.shift)
        self.padded = nn.functional.pad(images, edge)

    def epoch(self, batch: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (views [batch, 3, size, size], targets) in an order that seed and epoch decide."""
        device, n = self.padded.device, len(self.targets)
        generator = torch.Generator(device).manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(n, generator=generator, device=device)
        corner = torch.randint(2 * self.shift + 1, (2, n, 1), generator=generator, device=device)
        across = torch.arange(self.size, device=device)
        mirrored = torch.rand(n, 1, generator=generator, device=device) < 0.5
        down, right = corner[0] + across, corner[1] + torch.where(mirrored, across.flip(0), across)
        for rows in order.split(batch)[: n // batch or 1]:  # the last, short batch is left for the next epoch
            # Read in the order of channels-last memory, so the view of it costs no copy.
            pixels = self.padded[rows[:, None, None], down[rows][:, :, None], right[rows][:, None, :]]
            yield pixels.permute(0, 3, 1, 2), self.targets[rows]


def mean_answer(members: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """log of the members' mean probability, [batch, classes]; of a single network its log-probabilities."""
    return mean_of_members(torch.stack([member(inputs).float() for member in members], dim=-2))


def train_together(
    students: Sequence[Student],
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    teachers: Mapping[str, Sequence[nn.Module]] | None = None,
    watch: tuple[Tensor, Tensor] | None = None,
    checkpoint: Path | None = None,
) -> Tensor:
    """Train all students, in place, on images [n, size, size, 3]; accuracy after each epoch, [epochs, students].

    `teachers` are networks in eval mode by name; of several the mean probability teaches, on the view that the student
    sees. `watch` is (images, targets) for the accuracies, which nothing else depends on; without it there are none.
    `checkpoint` is a file that is replaced after each epoch, read at the start, and removed at the end.
    """
    views, device = Views(images, targets), images.device
    networks = [ready(student.network, device) for student in students]
    taught = {name: [ready(member, device) for member in members] for name, members in (teachers or {}).items()}
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizers = [
        torch.optim.SGD(
            student.network.parameters(),
            lr=student.lr,
            momentum=0.9,
            nesterov=recipe.nesterov,
            weight_decay=student.weight_decay,
            **fused,
        )
        for student in students
    ]
    needed = sorted({student.teacher for student in students if student.teacher})
    steps, first, log = max(len(targets) // recipe.batch, 1), 0, []
    if checkpoint and checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        first, log = saved["epoch"], list(saved["log"])
        for student, optimizer, state in zip(students, optimizers, saved["students"], strict=True):
            student.network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
    for epoch in range(first, recipe.epochs):
        for network in networks:
            network.train()
        for step, (inputs, labels) in enumerate(views.epoch(recipe.batch, seed, epoch)):
            with torch.no_grad(), precision(device):
                answers = {name: mean_answer(taught[name], inputs) for name in needed}
            share = recipe.share(epoch + step / steps)
            for student, network, optimizer in zip(students, networks, optimizers, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = student.lr * share
                with precision(device):
                    logits = network(inputs)
                optimizer.zero_grad()
                student.loss(logits.float(), answers.get(student.teacher), labels).mean().backward()
                optimizer.step()
        if watch:
            shares = [metrics.accuracy(answer(network, watch[0]), watch[1]) for network in networks]
            log.append(torch.stack(shares).cpu())
        if checkpoint:
            states = [
                {"network": student.network.state_dict(), "optimizer": optimizer.state_dict()}
                for student, optimizer in zip(students, optimizers, strict=True)
            ]
            keep(checkpoint, {"epoch": epoch + 1, "log": log, "students": states})
    if checkpoint:
        checkpoint.unlink(missing_ok=True)
    for network in networks:
        network.eval()
    return torch.stack(log) if log else torch.empty(recipe.epochs, 0)


def ready(network: nn.Module, device: torch.device) -> nn.Module:
    """The same network on the device, channels last; on a GPU compiled."""
    network.to(device, memory_format=torch.channels_last)
    if device.type == "cuda":
        network.compile()
    return network


def precision(device: torch.device):
    """bfloat16 on a GPU, float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


@torch.no_grad()
def answer(network: nn.Module, images: Tensor, rows: int = 1_000) -> Tensor:
    """Logits [n, classes] in float32 on images [n, size, size, 3], in eval mode."""
    network.eval()
    with precision(images.device):
        return torch.cat([network(piece.permute(0, 3, 1, 2)).float() for piece in images.split(rows)])


def keep(file: Path, content: object) -> None:
    """Save, so that the file is the old one or the new one and never a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    torch.save(content, partial)
    os.replace(partial, file)
