"""Folded convolutions against the two steps they stand for, border and gradients included."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from ratgan.ops.folding import convolve_then_average, convolve_twice, upsample_then_convolve

THREE = {"kernel_size": 3, "padding": 1}
CASES = {
    "upsample_then_convolve": (
        [nn.Conv2d(5, 4, **THREE)],
        upsample_then_convolve,
        lambda x, conv: conv(functional.interpolate(x, scale_factor=2)),
    ),
    "convolve_then_average": (
        [nn.Conv2d(5, 4, **THREE)],
        convolve_then_average,
        lambda x, conv: functional.avg_pool2d(conv(x), 2),
    ),
    "convolve_twice": (
        [nn.Conv2d(5, 4, **THREE), nn.Conv2d(4, 6, 4, stride=2, padding=1, bias=False)],
        convolve_twice,
        lambda x, first, second: second(first(x)),
    ),
    "convolve_twice without bias": (
        [nn.Conv2d(5, 4, **THREE, bias=False), nn.Conv2d(4, 6, 4, 2, 1, bias=False)],
        convolve_twice,
        lambda x, first, second: second(first(x)),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (32, 32)])
def test_folded_steps_equal_the_two_steps(case, size):
    torch.manual_seed(0)
    convs, folded, plain = CASES[case]
    convs = [conv.double() for conv in convs]
    inputs = [p for conv in convs for p in conv.parameters()]
    features = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)

    result = folded(features, *convs)

    expected = plain(features, *convs)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    pull = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(result, [features, *inputs], pull),
        torch.autograd.grad(expected, [features, *inputs], pull),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 9), (9, 8), (4, 8)])
def test_sizes_whose_border_would_be_another_one_are_refused(size):
    convs, folded, _ = CASES["convolve_twice"]

    with pytest.raises(ValueError, match=f"images of {size[0]} × {size[1]} pixels.*even"):
        folded(torch.zeros(1, 5, *size, dtype=torch.float64), *convs)
