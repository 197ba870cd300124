"""The benchmark's networks: sizes as published, and every pair runs on both image sizes."""

import pytest
import torch

from kdcourse.models import count_parameters
from kdcourse.networks import NETWORKS, multiply_adds, network

# Millions of parameters of the benchmark's own program at 100 classes, and of multiply-adds at 32 x 32.
PUBLISHED = {
    "vgg8": (3.965, 96.2),
    "vgg13": (9.462, 284.9),
    "resnet20": (0.278, 40.8),
    "resnet56": (0.862, 125.8),
    "resnet8x4": (1.234, 177.1),
    "resnet32x4": (7.434, 1083.0),
    "wrn-16-2": (0.703, 101.1),
    "wrn-40-2": (2.255, 327.6),
    "mobilenetv2": (0.813, 6.5),
    "resnet50": (23.71, 1298.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_benchmark_s(name):
    parameters, adds = PUBLISHED[name]
    net = network(name)
    assert count_parameters(net) / 1e6 == pytest.approx(parameters, abs=6e-3)
    assert multiply_adds(net, torch.zeros(1, 3, 32, 32)) / 1e6 == pytest.approx(adds, rel=1e-2)
    assert net.training, "counting leaves the mode as it was"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_and_every_parameter_learns(name):
    torch.manual_seed(0)
    net = network(name, classes=5)
    logits = net(torch.randn(2, 3, 16, 16))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_multiply_adds_of_a_layer_are_those_of_its_definition():
    conv = torch.nn.Conv2d(3, 8, 5, stride=2, padding=2, groups=1)
    assert multiply_adds(conv, torch.zeros(1, 3, 28, 28)) == 14 * 14 * 8 * 3 * 5 * 5
    depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert multiply_adds(depthwise, torch.zeros(1, 8, 14, 14)) == 14 * 14 * 8 * 3 * 3


def test_an_unknown_name_is_named():
    with pytest.raises(ValueError, match="network: name must be one of strided 8-16, .*, got 'vgg99'"):
        network("vgg99")
