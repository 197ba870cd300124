"""The networks of the course: small enough that hundreds of them train while a page is built."""

import itertools

import torch
from torch import Tensor, nn


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


class SeededDropout(nn.Module):
    """Dropout whose masks belong to the run: a hash of a seed, the step and the element, not a draw from one stream.

    So a run drops the same units alone and in company. The seed is drawn when the module is made, hence follows from
    the run's seed and differs from layer to layer; the step counts the batches seen in training mode.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"SeededDropout: p must lie in [0, 1), got {p!r}")
        self.p = p
        self.register_buffer("seed", torch.randint(2**32, ()))
        self.register_buffer("step", torch.tensor(0))

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return inputs
        self.step.add_(1)
        element = torch.arange(inputs.numel(), device=inputs.device).view(inputs.shape)
        bits = _mixed(element + _mixed(self.step + _mixed(self.seed)))
        return torch.where(bits >= self.p * 2**32, inputs / (1 - self.p), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _mixed(bits: Tensor) -> Tensor:
    """32 bits, thoroughly mixed: the last lines of MurmurHash3 (Appleby 2011)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = bits & 0xFFFFFFFF
        bits = (bits ^ (bits >> shift)) * factor
    return bits & 0xFFFFFFFF


def count_parameters(module: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
