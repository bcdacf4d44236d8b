"""Layers without curvature: equal to torch's, with nothing to send back a second time."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ratgan.ops.piecewise_linear import LeakyReLU, average_pool

LAYERS = {
    "LeakyReLU": (lambda x: LeakyReLU(0.2)(x.clone()), nn.LeakyReLU(0.2)),
    "average_pool": (average_pool, lambda x: functional.avg_pool2d(x, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_and_its_gradient_equal_those_of_torch(name):
    torch.manual_seed(0)
    ours, theirs = LAYERS[name]
    features = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)

    result = ours(features)

    expected = theirs(features)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-15)
    pull = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(result, features, pull),
        torch.autograd.grad(expected, features, pull),
        rtol=0,
        atol=1e-15,
    )
    assert torch.autograd.gradgradcheck(ours, features)


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivative_is_absent_and_no_tensor_of_zeros(name):
    layer, _ = LAYERS[name]
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    features = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)

    (slope,) = torch.autograd.grad(layer(features * weight).sum(), features, create_graph=True)

    # The slope is a constant times the weight: it knows the weight, and not the features.
    assert torch.autograd.grad(slope.sum(), weight, retain_graph=True)[0] != 0
    assert torch.autograd.grad(slope.sum(), features, allow_unused=True) == (None,)


def test_leaky_relu_overwrites_its_input():
    features = torch.tensor([-1.0, 2.0])

    result = LeakyReLU(0.2)(features)

    assert result.data_ptr() == features.data_ptr()
    torch.testing.assert_close(features, torch.tensor([-0.2, 2.0]))
