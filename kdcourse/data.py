"""The data sets of the course, and `Batch`, the only form in which data enter a loop.

Digits come with scikit-learn. Other sets are read from the folder that KDCOURSE_DATA names, or
from ~/.cache/kdcourse; a set that is not there is an error that says how to get it.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcourse.softmax import tempered_log_softmax


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples that stay together: row i of each field belongs to example i.

    inputs [batch, ...], targets [batch] (class numbers), teacher_logits [batch, (members,) classes] or None;
    teacher_features [batch, ...] or None: what else the teacher shows, such as its attention map.
    `labelled` [batch] is None except inside a loss that trains on two streams: there it is True
    where the row has a label of its own and False where it comes from the transfer set.
    Values are checked once, here, so that a loss need not look at them.
    """

    inputs: Tensor
    targets: Tensor
    teacher_logits: Tensor | None = None
    labelled: Tensor | None = None
    teacher_features: Tensor | None = None

    def __post_init__(self) -> None:
        lengths = {
            name: len(value)
            for name in ("inputs", "targets", "teacher_logits", "labelled", "teacher_features")
            if (value := getattr(self, name)) is not None
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Batch: all fields must have the same length, got {lengths}")
        kind = self.targets.dtype
        if kind.is_floating_point or kind == torch.bool or self.targets.ndim != 1:
            raise TypeError(
                "Batch: targets must be class numbers, integers of shape [batch], got "
                f"{kind} of shape {tuple(self.targets.shape)}"
            )
        for name in ("inputs", "teacher_logits", "teacher_features"):
            value = getattr(self, name)
            if value is not None and value.is_floating_point() and not value.isfinite().all():
                row = value.isfinite().logical_not().nonzero()[0, 0].item()
                bad = value[row][~value[row].isfinite()][0].item()
                raise ValueError(f"Batch: {name} must be finite, got {bad} in row {row}")
        classes = math.inf if self.teacher_logits is None else self.teacher_logits.shape[-1]
        if len(self) and not 0 <= self.targets.min() <= self.targets.max() < classes:
            limit = "not be negative" if classes == math.inf else f"lie in 0 to {classes - 1}"
            raise ValueError(
                f"Batch: targets must {limit}, got {self.targets.min().item()} to {self.targets.max().item()}"
            )

    @classmethod
    def trusted(cls, **fields: Tensor | None) -> "Batch":
        """A batch of values that were checked before; inside `vmap` nobody may look at them."""
        batch = object.__new__(cls)
        batch.__dict__.update({"teacher_logits": None, "labelled": None, "teacher_features": None} | fields)
        return batch

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor | slice) -> "Batch":
        """The examples that a slice, a list of row numbers or a mask picks."""
        fields = {name: value[index] for name, value in vars(self).items() if value is not None}
        return Batch.trusted(**fields)

    def with_teacher(self, teacher_logits: Tensor, teacher_features: Tensor | None = None) -> "Batch":
        """The same examples with what a teacher answers, detached."""
        features = None if teacher_features is None else teacher_features.detach()
        return Batch(self.inputs, self.targets, teacher_logits.detach(), teacher_features=features)


def split(batch: Batch, sizes: list[int], seed: int) -> list[Batch]:
    """Disjoint random parts of the given sizes; the same seed gives the same parts."""
    if sum(sizes) > len(batch) or min(sizes) < 0:
        raise ValueError(f"split: sizes must sum to at most {len(batch)}, got {sizes}")
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))
    return [batch[rows] for rows in order[: sum(sizes)].split(sizes)]


def digits() -> Batch:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, as inputs [1797, 64].

    All pixels share one mean and one standard deviation, so an image keeps its look.
    Source: Alpaydin and Kaynak (1998), UCI machine learning repository.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32)
    return Batch((pixels - pixels.mean()) / pixels.std(), torch.tensor(labels, dtype=torch.long))


def composites(
    digits: Tensor, pool: Tensor, generator: torch.Generator, show: str = "one", chimeras: bool = True
) -> tuple[Tensor, Tensor]:
    """A digit among nine tiles: `digits` [n, 64] -> inputs [n, 9, 64] and the tile of each digit, [n].

    The other tiles are fragments: four quadrants of four images of `pool` [m, 64], in shuffled places. They have the
    look of digits and show none. With `show` "none" all nine tiles are fragments, with "occluded" a random half of the
    digit's tile is blank, with "two" row i has two digits, rows i and n / 2 + i of `digits`: [n / 2, 9, 64].
    One fragment in 24 is a chimera, its quadrants all in their own places; without `chimeras` there is none.
    """
    if show not in ("one", "none", "two", "occluded"):
        raise ValueError(f"composites: show must be one, none, two or occluded, got {show!r}")
    if show == "two" and len(digits) % 2:
        raise ValueError(f"composites: two digits each need an even number of rows, got {len(digits)}")
    n, device = len(digits) // 2 if show == "two" else len(digits), digits.device
    quarters = pool.view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 16)  # [m, quadrants, pixels]
    images = torch.randint(len(pool), (n, 9, 4), generator=generator, device=device)
    places = torch.rand(n, 9, 4, generator=generator, device=device).argsort(-1)
    if not chimeras:
        in_order = (places == torch.arange(4, device=device)).all(-1, keepdim=True)
        places = torch.where(in_order, places.roll(1, -1), places)
    tiles = quarters[images, places].view(n, 9, 2, 2, 4, 4).transpose(3, 4).reshape(n, 9, 64)
    tile = torch.rand(n, 9, generator=generator, device=device).argsort(-1)
    if show == "occluded":
        digits = _half_blank(digits, torch.randint(4, (n,), generator=generator, device=device))
    if show != "none":
        tiles[torch.arange(n, device=device), tile[:, 0]] = digits[:n]
    if show == "two":
        tiles[torch.arange(n, device=device), tile[:, 1]] = digits[n:]
    return tiles, tile[:, 0]


def _half_blank(digits: Tensor, side: Tensor) -> Tensor:
    """Top, bottom, left or right half of each digit as paper."""
    place = torch.arange(8, device=digits.device) < 4
    rows = torch.stack([place, ~place])[:, :, None].expand(2, 8, 8)
    halves = torch.cat([rows, rows.transpose(1, 2)]).reshape(4, 64)
    return torch.where(halves[side], digits.min(), digits)


def fashion_mnist(train: bool = True) -> Batch:
    """Fashion-MNIST: 60,000 or 10,000 images of clothes, inputs [n, 1, 28, 28], standardised.

    Source: Xiao, Rasul and Vollgraf (2017), arXiv:1708.07747; read by torchvision's class.
    """
    from torchvision.datasets import FashionMNIST

    root = folder()
    try:
        dataset = FashionMNIST(str(root), train=train)
    except RuntimeError:
        raise FileNotFoundError(
            f"fashion_mnist: no Fashion-MNIST in {root}; get it with: python -c "
            f"\"from torchvision.datasets import FashionMNIST as F; F('{root}', download=True)\""
        ) from None
    # One pair of numbers for both halves: they are the training half's, computed once by us.
    pixels = dataset.data.float().div(255).sub(0.2860).div(0.3530)
    return Batch(pixels.unsqueeze(1), dataset.targets.long())


CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the training images, by channel


def cifar100(train: bool = True) -> Batch:
    """CIFAR-100: 50,000 or 10,000 images of 100 classes, inputs [n, 32, 32, 3] in bytes, as they are kept.

    Bytes, since an augmentation wants pixels, and four times the memory would be the rest. Read from the arrays
    cifar100/train-images.npy and train-labels.npy in the data folder where they are, else by torchvision's class.
    Source: Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    root, part = folder(), "train" if train else "test"
    if (root / "cifar100" / f"{part}-images.npy").exists():
        import numpy as np

        images, targets = (np.load(root / "cifar100" / f"{part}-{what}.npy") for what in ("images", "labels"))
    else:
        from torchvision.datasets import CIFAR100

        try:
            dataset = CIFAR100(str(root), train=train)
        except RuntimeError:
            raise FileNotFoundError(
                f"cifar100: no CIFAR-100 in {root}; get it with: python -c "
                f"\"from torchvision.datasets import CIFAR100 as C; C('{root}', download=True)\""
            ) from None
        images, targets = dataset.data, dataset.targets
    return Batch(torch.as_tensor(images), torch.as_tensor(targets, dtype=torch.long))


def folder() -> Path:
    """Where data sets live: KDCOURSE_DATA, or ~/.cache/kdcourse."""
    return Path(os.environ.get("KDCOURSE_DATA") or "~/.cache/kdcourse").expanduser()


@dataclass(frozen=True)
class GaussianMixture:
    """Round Gaussians of standard deviation 1 in the plane, their means on a circle.

    The true posterior is known, so a student can be compared with the truth, not with labels.
    """

    classes: int = 5
    radius: float = 1.5

    def sample(self, examples: int, seed: int) -> Batch:
        """`examples` points [examples, 2], each class equally likely, with their labels."""
        generator = torch.Generator().manual_seed(seed)
        targets = torch.randint(self.classes, (examples,), generator=generator)
        noise = torch.randn(examples, 2, generator=generator)
        return Batch(self.means()[targets] + noise, targets)

    def posterior(self, inputs: Tensor) -> Tensor:
        """log p(class | x) for points [..., 2] -> [..., classes], in nats: the perfect teacher."""
        return tempered_log_softmax(inputs @ self.means().T)

    def means(self) -> Tensor:
        """The centre of each class: [classes, 2]."""
        angle = torch.arange(self.classes) * (2 * math.pi / self.classes)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=-1)
