"""Our convolution against torch's: its values, its gradients, and theirs."""

import pytest
import torch
from torch import nn

from ratgan.ops.convolution import Conv2d
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


def test_a_third_derivative_is_refused():
    _, ours = pair(kernel_size=3)
    features = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(ours(features).pow(2).sum(), features, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), features, create_graph=True)

    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()
