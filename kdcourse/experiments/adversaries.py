"""What the experiments with an adversary share: a loop that shows a loss the students themselves.

`training.train` gives a loss the logits of fixed images. An attack needs the network that it attacks, and a judge has
to learn between two steps of its student. So here loss(students, batch, generator) -> [runs, batch] gets the stack of
all students, and runs are one axis more in every tensor. Runs of one seed share images, initial parameters and order.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from kdcourse import models, training
from kdcourse.data import Batch
from kdcourse.losses import hard_loss
from kdcourse.methods.attacks import margin_loss, pgd, random_start
from kdcourse.methods.discriminator import discriminator_loss, fooling_loss

Loss = Callable[["Stack", Batch, torch.Generator], Tensor]


class Stack(nn.Module):
    """models.mlp(*widths) once for each seed: [runs, batch, inputs] -> [runs, batch, classes].

    Inputs are shifted by `mean` and divided by `spread`, so that pixels in [0, 1] arrive standardised.
    """

    def __init__(self, widths: Sequence[int], seeds: Sequence[int], *, mean: float = 0.0, spread: float = 1.0) -> None:
        super().__init__()
        layers = zip(*[self._made(widths, seed) for seed in seeds], strict=True)
        pairs = [([one.weight.T for one in layer], [one.bias[None] for one in layer]) for layer in layers]
        self.weights = nn.ParameterList([torch.stack(weights).contiguous() for weights, _ in pairs])
        self.biases = nn.ParameterList([torch.stack(biases) for _, biases in pairs])
        self.mean, self.spread = mean, spread

    @staticmethod
    def _made(widths: Sequence[int], seed: int) -> list[nn.Linear]:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return [layer for layer in models.mlp(*widths) if isinstance(layer, nn.Linear)]

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = (inputs - self.mean) / self.spread
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden if i == 0 else hidden.relu(), weight)
        return hidden


def together(batches: Mapping[int, Batch], seeds: Sequence[int]) -> Batch:
    """One batch whose fields are [runs, n, ...], the seeds' batches in this order."""
    present = [name for name, value in vars(batches[seeds[0]]).items() if value is not None]
    return Batch.trusted(**{name: torch.stack([getattr(batches[seed], name) for seed in seeds]) for name in present})


def train_stack(
    students: Stack,
    labelled: Mapping[int, Batch],
    loss: Loss,
    *,
    seeds: Sequence[int],
    lr: float,
    steps: int,
    weight_decay: float | Tensor = 0.0,
    batch: int = 64,
) -> Stack:
    """Train all runs, in place: AdamW, the learning rate a cosine to 0. `seeds[r]` is the seed of run r.

    `weight_decay` is one number or one a run, [runs], decoupled, on all parameters as in `training.train`.
    The generator that the loss gets is the same for every call, so that all arms meet the same random numbers.
    """
    everything = together(labelled, seeds)
    orders = torch.stack([training.order(everything.targets.shape[1], batch, steps, seed) for seed in seeds])
    optimizer = torch.optim.Adam(students.parameters(), lr=lr, fused=True)
    decay = torch.as_tensor(weight_decay).expand(len(seeds))[:, None, None]
    generator, run = torch.Generator().manual_seed(0), torch.arange(len(seeds))[:, None]
    for step in range(steps):
        rate = optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        drawn = everything[run, orders[:, step]]
        optimizer.zero_grad()
        loss(students, drawn, generator).mean(-1).sum().backward()
        with torch.no_grad():
            for parameter in students.parameters():
                parameter.mul_(1 - rate * decay)
        optimizer.step()
    return students


class Judge:
    """A discriminator for each run: 64-64, Adam 3e-3, one step of its own before each step of the student.

    It sees logits, centred over the classes and divided by `scale`; if `conditional`, the image beside them.
    """

    def __init__(self, seeds: Sequence[int], classes: int, scale: float, pixels: int = 0) -> None:
        self.scale, self.conditional = scale, pixels > 0
        self.net = Stack((classes + pixels, 64, 64, 1), [seed + 50_000 for seed in seeds])
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=3e-3, fused=True)
        self.right: list[float] = []

    def scores(self, logits: Tensor, images: Tensor) -> Tensor:
        """How much the logits look like the teacher's: [runs, batch]."""
        seen = (logits - logits.mean(-1, keepdim=True)) / self.scale
        return self.net(torch.cat([seen, images], -1) if self.conditional else seen).squeeze(-1)

    def learn(self, teacher_logits: Tensor, student_logits: Tensor, images: Tensor) -> None:
        """One step on a batch; it notes the share of the two answers that it took for what they are."""
        teacher, student = self.scores(teacher_logits, images), self.scores(student_logits.detach(), images)
        self.optimizer.zero_grad()
        discriminator_loss(teacher, student).mean(-1).sum().backward()
        self.optimizer.step()
        self.right.append(((teacher > 0).float().mean() + (student < 0).float().mean()).item() / 2)

    def fooled(self, student_logits: Tensor, images: Tensor) -> Tensor:
        """What the student lowers: [runs, batch]."""
        return fooling_loss(self.scores(student_logits, images))


def attacks(
    answer: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, *, radius: float, steps: int, restarts: int
) -> Iterator[tuple[str, Tensor]]:
    """The attacks that count: the name of its loss, and what PGD has made of the images, for each restart.

    Both losses, since each is blind where the other sees: cross-entropy where the network is sure, the margin where
    three classes compete. A step goes 2.5 / steps of the radius.
    """
    generator = torch.Generator().manual_seed(1)
    for _ in range(restarts):
        start = random_start(images, radius, generator)
        for name, loss in (("cross-entropy", hard_loss), ("margin", margin_loss)):

            def raised(moved: Tensor, loss: Callable = loss) -> Tensor:
                return loss(answer(moved), targets)

            ball = {"radius": radius, "steps": steps, "step_size": 2.5 * radius / steps}
            yield name, pgd(raised, images, **ball, start=start)


@torch.no_grad()
def withstands(answer: Callable[[Tensor], Tensor], views: Iterator[Tensor], targets: Tensor) -> Tensor:
    """True where the answer is right on every view of the image: [..., n]."""
    right = torch.ones_like(targets, dtype=torch.bool)
    for view in views:
        right &= answer(view).argmax(-1) == targets
    return right
