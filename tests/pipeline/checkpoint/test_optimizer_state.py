"""Adam's moments out of an optimizer and back, in whatever layout the weights are."""

import torch
from torch import nn

from pipeline.checkpoint.optimizer_state import moments, reset_moments, restore_moments


def trained(layer: nn.Conv2d, steps: int, optimizer: torch.optim.Optimizer | None = None):
    optimizer = optimizer or torch.optim.Adam(layer.parameters(), fused=True)
    for step in range(steps):
        images = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        layer(images).square().sum().backward()
        optimizer.step()
    return optimizer


def test_moments_return_in_the_layout_of_the_weights_and_train_the_same():
    torch.manual_seed(0)
    layer, fresh = (nn.Conv2d(4, 5, 3).to(memory_format=torch.channels_last) for _ in range(2))
    optimizer = trained(layer, 3)
    # As a checkpoint keeps them: one number after the other.
    saved = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in moments(optimizer, dict(layer.named_parameters())).items()
    }
    fresh.load_state_dict(layer.state_dict())
    resumed = torch.optim.Adam(fresh.parameters(), fused=True)

    restore_moments(resumed, dict(fresh.named_parameters()), saved, "here")

    for moment in ("exp_avg", "exp_avg_sq"):
        assert resumed.state[fresh.weight][moment].stride() == fresh.weight.stride()
    # Adam pairs weights and moments by their place in memory: of another layout, it mixes them up.
    trained(fresh, 2, resumed)
    trained(layer, 2, optimizer)
    assert torch.equal(fresh.weight, layer.weight)


def test_moments_of_a_fresh_optimizer_are_those_its_first_step_begins_with():
    torch.manual_seed(0)
    layer, other = nn.Conv2d(4, 5, 3), nn.Conv2d(4, 5, 3)
    other.load_state_dict(layer.state_dict())
    fresh, saved = (torch.optim.Adam(each.parameters(), fused=True) for each in (layer, other))

    reset_moments(saved)

    assert len(moments(saved, dict(other.named_parameters()))) == 6
    trained(layer, 2, fresh)
    trained(other, 2, saved)
    assert torch.equal(layer.weight, other.weight)
