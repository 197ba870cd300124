"""The networks: their shapes, their size by hand, messages."""

import pytest
import torch
from torch import nn

from kdcourse.models import convnet, count_parameters, mlp


def test_an_mlp_is_linear_layers_with_relu_between_and_none_at_the_end():
    assert [type(layer) for layer in mlp(64, 32, 16, 10)] == [
        nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    assert mlp(64, 16, 10)(torch.zeros(5, 64)).shape == (5, 10)


def test_an_mlp_computes_what_its_weights_say():
    network = mlp(3, 4, 2)
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in (network[0], network[2]))
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    by_hand = (inputs @ w1.T + b1).clamp_min(0) @ w2.T + b2
    torch.testing.assert_close(network(inputs), by_hand)


def test_parameters_are_counted_by_hand():
    assert count_parameters(mlp(64, 16, 10)) == 64 * 16 + 16 + 16 * 10 + 10
    batch_norm = 2 * 8 + 2 * 16
    by_hand = 9 * 8 + 9 * 8 * 16 + batch_norm + 16 * 2 * 2 * 10 + 10
    assert count_parameters(convnet()) == by_hand


def test_what_is_frozen_is_not_counted():
    network = mlp(64, 16, 10)
    network[0].requires_grad_(False)
    assert count_parameters(network) == 16 * 10 + 10


@pytest.mark.parametrize(("channels", "size", "width", "classes"), [(1, 8, 8, 10), (3, 28, 4, 7), (2, 4, 1, 2)])
def test_a_convnet_maps_images_to_logits(channels, size, width, classes):
    network = convnet(channels, size, width, classes)
    assert network(torch.zeros(5, channels, size, size)).shape == (5, classes)


def test_no_convolution_has_a_bias_that_batch_norm_would_cancel():
    assert all(layer.bias is None for layer in convnet() if isinstance(layer, nn.Conv2d))


def test_an_mlp_of_one_width_is_named():
    with pytest.raises(ValueError) as error:
        mlp(64)
    assert str(error.value) == ("mlp: at least an input and an output width are needed, got (64,)")


def test_an_image_that_two_strides_do_not_divide_is_named():
    with pytest.raises(ValueError) as error:
        convnet(size=10)
    assert str(error.value) == "convnet: size must be divisible by 4, got 10"
