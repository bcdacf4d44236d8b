"""Layers without curvature, which the gradient penalty passes by.

The penalty differentiates the discriminator twice. The second derivative of these
layers is zero; torch computes it as a tensor of zeros and sends that back through the
whole network, a third of the penalty's arithmetic. Here there is none to send.

Dimensions in this file:
    B batch, C channels, H W height and width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class LeakyReLU(nn.Module):
    """Equal to ``nn.LeakyReLU(slope, inplace=True)``: its input is overwritten.

    Args:
        slope: Slope below zero, above 0.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, features: Tensor) -> Tensor:
        """Scale what is negative in features of any shape by the slope."""
        scaled: Tensor = _LeakyReLU.apply(features, self.slope)
        return scaled


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, slope: float) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(features)
        functional.leaky_relu_(features, slope)
        ctx.save_for_backward(features)
        ctx.slope = slope
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        if gradient is None:  # this path has no curvature: pass that on in place of zeros
            return None, None
        # Detached: the slope depends on the sign alone, so it is a constant factor here.
        (result,) = ctx.saved_tensors
        return torch.ops.aten.leaky_relu_backward(gradient, result.detach(), ctx.slope, True), None


def average_pool(features: Tensor) -> Tensor:
    """Compute ``avg_pool2d(features, 2)``: [B, C, H, W] to [B, C, H/2, W/2]."""
    pooled: Tensor = _AveragePool.apply(features)
    return pooled


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return functional.avg_pool2d(features, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:
            return None
        return functional.interpolate(gradient / 4, scale_factor=2)
