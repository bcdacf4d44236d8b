"""Our convolution against torch's: its values, its gradients, and theirs."""

import pytest
import torch
from torch import nn

from ratgan.ops.convolution import Conv2d, convolve
from ratgan.ops.op_counter import Counter

LAYERS = {
    "4 x 4, halving": {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    "3 x 3": {"kernel_size": 3, "padding": 1},
    "1 x 1": {"kernel_size": 1},
}


def pair(dtype=torch.float64, **layer) -> tuple[nn.Conv2d, Conv2d]:
    """Make a layer of torch's and one of ours with the same weights."""
    torch.manual_seed(0)
    plain, ours = nn.Conv2d(3, 5, **layer).to(dtype), Conv2d(3, 5, **layer).to(dtype)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def penalty_gradients(conv: nn.Conv2d, features: torch.Tensor) -> list[torch.Tensor | None]:
    """Differentiate a function of the gradients of features and weights by all of them."""
    inputs = [features, *conv.parameters()]
    first = torch.autograd.grad(conv(features).pow(3).sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(g.pow(2).sum() for g in first), inputs)


@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_torchs_twice_differentiated(layer):
    plain, ours = pair(**LAYERS[layer])
    features = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)

    found = [ours(features), *penalty_gradients(ours, features)]

    expected = [plain(features), *penalty_gradients(plain, features)]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_torchs_under_autocast(layer):
    plain, ours = pair(torch.float32, **LAYERS[layer])
    features = torch.randn(2, 3, 9, 8, requires_grad=True)

    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(features), plain(features)
        gradients = penalty_gradients(ours, features)
    expected_gradients = penalty_gradients(*pair(torch.float32, **LAYERS[layer])[:1], features)

    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for mine, exact in zip(gradients, expected_gradients, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("wanted", ["features", "weights"])
def test_a_pass_to_one_side_does_not_compute_the_other(wanted):
    counts = []
    for conv in pair(kernel_size=3, padding=1):
        features = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        loss = conv(features).sum()
        inputs = [features] if wanted == "features" else list(conv.parameters())
        with Counter() as counter:
            loss.backward(inputs=inputs)
        counts.append(counter.flops)

    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("layer", LAYERS)
def test_a_third_derivative_is_torchs_too(layer):
    found = []
    for conv in pair(**LAYERS[layer]):
        torch.manual_seed(1)
        features = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(conv(features).pow(2).sum(), features, create_graph=True)
        # What comes back to this derivative is constant: its graph must not end there.
        (second,) = torch.autograd.grad(first.sum(), features, create_graph=True)
        found.append(torch.autograd.grad(second.sum(), conv.weight)[0])

    assert found[0].abs().max() > 1
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    shapes = (1, 2, 5, 4), (3, 2, 3, 3), (3,)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def gradients(*inputs):
        result = convolve(*inputs, stride=2, padding=1).pow(3).sum()
        return torch.autograd.grad(result, inputs, create_graph=True)

    assert torch.autograd.gradgradcheck(gradients, inputs)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"dilation": 2}, r"dilation=\(2, 2\)"),
        ({"groups": 3, "out_channels": 6}, "groups=3"),
        ({"padding": 1, "padding_mode": "reflect"}, "padding_mode='reflect'"),
        ({"padding": "same"}, "padding='same'"),
        ({"stride": (1, 2)}, r"stride=\(1, 2\)"),
        ({"padding": (0, 1)}, r"padding=\(0, 1\)"),
    ],
)
def test_what_it_would_compute_wrongly_is_refused(option, said):
    with pytest.raises(ValueError, match=f"{said}.*use nn.Conv2d"):
        Conv2d(**{"in_channels": 3, "out_channels": 5, "kernel_size": 3} | option)
