"""The networks of the course: small enough that hundreds of them train while a page is built."""

import itertools

from torch import nn


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them; the last width is the classes.

    >>> count_parameters(mlp(64, 16, 10))
    1210
    """
    if len(widths) < 2:
        raise ValueError(f"mlp: at least an input and an output width are needed, got {widths}")
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convnet(channels: int = 1, size: int = 8, width: int = 8, classes: int = 10) -> nn.Sequential:
    """Two stride-2 convolutions with batch norm, then a linear layer.

    Images are [batch, channels, size, size]. Strides stand in for pooling, which is slow in a batch
    of runs. A bias before batch norm has no effect on the output, so there is none; its gradient
    would be rounding noise, which Adam scales up.
    """
    if size % 4:
        raise ValueError(f"convnet: size must be divisible by 4, got {size}")
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * (size // 4) ** 2, classes),
    )


def count_parameters(module: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
