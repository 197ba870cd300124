"""The networks of the CIFAR-100 distillation benchmark: images [batch, 3, 32, 32] to logits [batch, classes].

Widths, depths, strides and shortcuts as in Tian, Krishnan and Isola, Contrastive Representation Distillation (2020),
arXiv:1910.10699, with which published numbers compare; `network` knows them by their names there. They pool over
whatever is left of the image, so 16 x 16 pixels fit too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def network(name: str, classes: int = 100) -> nn.Module:
    """A network by its name: "vgg8", "resnet56", "resnet8x4", "wrn-16-2", "resnet50", "mobilenetv2", "strided 8-16"."""
    if name not in NETWORKS:
        raise ValueError(f"network: name must be one of {', '.join(NETWORKS)}, got {name!r}")
    return NETWORKS[name](classes)


def _head(width: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def _conv(wide: int, narrow: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, and its batch norm."""
    conv = nn.Conv2d(wide, narrow, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(narrow)]


def strided(widths: Sequence[int], hidden: int | None, classes: int) -> nn.Sequential:
    """Stride-2 convolutions for 16 x 16 pixels: at equal size several times as fast on a processor as a ResNet."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise((3, *widths)):
        layers += [*_conv(wide, narrow, 3, stride=2), nn.ReLU()]
    features = widths[-1] * (16 >> len(widths)) ** 2
    top = [nn.Linear(features, hidden), nn.ReLU()] if hidden else []
    return nn.Sequential(*layers, nn.Flatten(), *top, nn.Linear(hidden or features, classes))


def vgg(convolutions: int, classes: int) -> nn.Sequential:
    """Five stages with one (vgg8) or two (vgg13) 3 x 3 convolutions each, and a pool after each of the first three."""
    layers: list[nn.Module] = []
    for stage, (wide, narrow) in enumerate(pairwise((3, 64, 128, 256, 512, 512))):
        for inputs in (wide, *[narrow] * (convolutions - 1)):
            # A bias before batch norm does nothing; the benchmark's networks have it, and its parameters count.
            layers += [nn.Conv2d(inputs, narrow, 3, padding=1), nn.BatchNorm2d(narrow), nn.ReLU()]
        if stage < 3:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_head(512, classes))


class Residual(nn.Module):
    """ReLU(body(x) + shortcut(x)); the shortcut is a 1 x 1 convolution where the shape changes."""

    def __init__(self, body: list[nn.Module], wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        same = stride == 1 and wide == narrow
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(wide, narrow, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def basic(wide: int, narrow: int, stride: int) -> Residual:
    """Two 3 x 3 convolutions."""
    return Residual([*_conv(wide, narrow, 3, stride), nn.ReLU(), *_conv(narrow, narrow, 3)], wide, narrow, stride)


def bottleneck(wide: int, narrow: int, stride: int) -> Residual:
    """1 x 1 to a quarter of the width, 3 x 3, and back."""
    inner = narrow // 4
    body = [*_conv(wide, inner, 1), nn.ReLU(), *_conv(inner, inner, 3, stride), nn.ReLU(), *_conv(inner, narrow, 1)]
    return Residual(body, wide, narrow, stride)


def resnet(
    block: Callable[[int, int, int], nn.Module], stem: int, widths: Sequence[int], blocks: Sequence[int], classes: int
) -> nn.Sequential:
    """Stages of residual blocks, each stage but the first at half the size; He et al. (2016), arXiv:1512.03385."""
    layers: list[nn.Module] = [*_conv(3, stem, 3), nn.ReLU()]
    before = stem
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for number in range(count):
            layers.append(block(before, width, 2 if stage and not number else 1))
            before = width
    return nn.Sequential(*layers, *_head(before, classes))


class PreActivation(nn.Module):
    """Batch norm and ReLU before each convolution, as in a wide ResNet."""

    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(wide)
        self.body = nn.Sequential(
            nn.Conv2d(wide, narrow, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, 3, padding=1, bias=False),
        )
        self.shortcut = None if wide == narrow else nn.Conv2d(wide, narrow, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm(x))
        return self.body(active) + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(depth: int, factor: int, classes: int) -> nn.Sequential:
    """Zagoruyko and Komodakis (2016), arXiv:1605.07146."""
    widths, layers = [16, 16 * factor, 32 * factor, 64 * factor], [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    for stage, (wide, narrow) in enumerate(pairwise(widths)):
        for number in range((depth - 4) // 6):
            layers.append(PreActivation(narrow if number else wide, narrow, 2 if stage and not number else 1))
    return nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.ReLU(), *_head(widths[-1], classes))


class Inverted(nn.Module):
    """A block of MobileNetV2: widen, filter each channel alone, narrow without an activation."""

    def __init__(self, wide: int, narrow: int, stride: int, expand: int) -> None:
        super().__init__()
        inner, self.residual = wide * expand, stride == 1 and wide == narrow
        depthwise = _conv(inner, inner, 3, stride, groups=inner)
        self.body = nn.Sequential(*_conv(wide, inner, 1), nn.ReLU(), *depthwise, nn.ReLU(), *_conv(inner, narrow, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2(classes: int) -> nn.Sequential:
    """Half the width of Sandler et al. (2018), arXiv:1801.04381; stem and stages leave 2 x 2 of 32 x 32 pixels."""
    layers, wide = [*_conv(3, 16, 3, stride=2), nn.ReLU()], 16
    stages = [(1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)]
    for expand, narrow, count, stride in stages:
        for number in range(count):
            layers.append(Inverted(wide, narrow, 1 if number else stride, expand))
            wide = narrow
    return nn.Sequential(*layers, *_conv(wide, 1280, 1), nn.ReLU(), *_head(1280, classes))


def _resnet(depth: int, factor: int = 1) -> Callable[[int], nn.Module]:
    """The name says the depth: three stages of (depth - 2) / 6 blocks, `factor` times as wide."""
    stem = 16 if factor == 1 else 32
    return partial(resnet, basic, stem, [16 * factor, 32 * factor, 64 * factor], [(depth - 2) // 6] * 3)


# What is left to say is the number of classes.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "strided 8-16": partial(strided, [8, 16], None),
    "strided 32-64-128": partial(strided, [32, 64, 128], 128),
    "vgg8": partial(vgg, 1),
    "vgg13": partial(vgg, 2),
    "resnet20": _resnet(20),
    "resnet56": _resnet(56),
    "resnet8x4": _resnet(8, 4),
    "resnet32x4": _resnet(32, 4),
    "wrn-16-2": partial(wide_resnet, 16, 2),
    "wrn-40-2": partial(wide_resnet, 40, 2),
    "mobilenetv2": mobilenet_v2,
    "resnet50": partial(resnet, bottleneck, 64, [256, 512, 1024, 2048], [3, 4, 6, 3]),
}


def multiply_adds(module: nn.Module, image: Tensor) -> int:
    """Multiplications, each with its addition, of one forward pass over inputs [1, ...]: convolutions and products.

    Counted by torch's own counter, which counts two operations for each. Norms, activations and pools are not counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    was_training = module.training
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image)
    module.train(was_training)
    return counter.get_total_flops() // 2
