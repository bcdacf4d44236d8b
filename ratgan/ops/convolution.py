"""Convolution whose gradient can be differentiated at the price of a gradient.

The gradient penalty differentiates the discriminator twice. What torch then computes for a kernel
is a convolution with kernels as large as the feature maps, for which a GPU has no fast way: half of
the time of a whole step. It is the gradient of a kernel like any other, and computed as one here.

Dimensions in this file:
    B batch, C channels, H W height and width, K size of the kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.ops.precision import full_precision

Pair = tuple[int, int]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Conv2d(nn.Conv2d):
    """Equal to ``nn.Conv2d`` with zeros around the image, one group and no dilation.

    Raises:
        ValueError: If another kind of convolution is asked for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stride, padding = self.stride[0], self.padding[0]
        wanted = {
            "stride": (stride,) * 2,
            "padding": (padding,) * 2,
            "dilation": (1, 1),
            "groups": 1,
            "padding_mode": "zeros",
        }
        for name, value in wanted.items():
            if (found := getattr(self, name)) != value:
                raise ValueError(
                    f"{name}={found!r}: this convolution has equal strides, equal numbers of zeros "
                    "around the image, one group and no dilation; use nn.Conv2d for another."
                )

    def forward(self, features: Tensor) -> Tensor:
        """Convolve features [B, C_in, H, W]."""
        stride, padding = self.stride[0], self.padding[0]
        return convolve(features, self.weight, self.bias, stride=stride, padding=padding)


def convolve(
    features: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: Any = 0,
) -> Tensor:
    """Compute ``functional.conv2d``, under autocast too; differentiable any number of times.

    Args:
        features: [B, C_in, H, W].
        kernel: [C_out, C_in, K, K].
        bias: [C_out].
        stride: Pixels, in both directions.
        padding: Pixels of zeros around the image.

    Returns:
        [B, C_out, (H + 2 padding - K) // stride + 1, …].
    """
    # Cast here, where it is differentiated, and not inside.
    features, kernel = _as_autocast_would(features), _as_autocast_would(kernel)
    bias = None if bias is None else _as_autocast_would(bias)
    convolved: Tensor = _Convolution.apply(features, kernel, bias, (stride,) * 2, (padding,) * 2)
    return convolved


def _as_autocast_would(tensor: Tensor) -> Tensor:
    device = tensor.device.type
    if (
        torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
        and tensor.dtype != torch.float64
    ):
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, kernel: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(features, kernel)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(features, kernel, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 5
        features, kernel = ctx.saved_tensors
        wanted = [_is_wanted(ctx, i) for i in range(3)]
        if not wanted[1]:  # then nothing below depends on them
            features = features.detach()
        gradients: Gradients = _Gradients.apply(
            gradient, features, kernel, ctx.stride, ctx.padding, wanted
        )
        return *gradients, None, None


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        features: Tensor,
        kernel: Tensor,
        stride: Pair,
        padding: Pair,
        wanted: list[bool],
    ) -> Gradients:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gradient, features, kernel)
        ctx.stride, ctx.padding = stride, padding
        return _gradients(gradient, features, kernel, stride, padding, wanted)

    @staticmethod
    def backward(
        ctx: Any, to_features: Tensor | None, to_kernel: Tensor | None, to_bias: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gradient, features, kernel = ctx.saved_tensors
        layout = ctx.stride, ctx.padding
        of_gradient = of_features = of_kernel = None
        with full_precision(gradient):  # all are of one type already
            if to_features is not None:
                of_gradient = _Convolution.apply(to_features, kernel, None, *layout)
                if _is_wanted(ctx, 2):
                    only_kernel = [False, True, False]
                    of_kernel = _Gradients.apply(
                        gradient, to_features, kernel, *layout, only_kernel
                    )[1]
            if to_kernel is not None:
                term = _Convolution.apply(features, to_kernel, None, *layout)
                of_gradient = term if of_gradient is None else of_gradient + term
                if _is_wanted(ctx, 1):
                    only_features = [True, False, False]
                    of_features = _Gradients.apply(
                        gradient, features, to_kernel, *layout, only_features
                    )[0]
            if to_bias is not None:
                term = to_bias[:, None, None].expand_as(gradient)
                of_gradient = term if of_gradient is None else of_gradient + term
        return of_gradient, of_features, of_kernel, None, None, None


def _gradients(
    gradient: Tensor,
    features: Tensor,
    kernel: Tensor,
    stride: Pair,
    padding: Pair,
    wanted: list[bool],
) -> Gradients:
    """Compute the gradients of features, kernel and bias; None for what is not wanted."""
    found: Gradients = torch.ops.aten.convolution_backward(
        gradient,
        features,
        kernel,
        [kernel.shape[0]],
        stride,
        padding,
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=1,
        output_mask=wanted,
    )
    return found


def _is_wanted(ctx: Any, index: int) -> bool:
    """Say whether this backward pass goes on to an input.

    `ctx.needs_input_grad` only says whether another might: with it, a pass towards the generator
    would compute the gradients of all kernels of the discriminator, and throw them away.
    """
    if not ctx.needs_input_grad[index]:
        return False
    try:
        wanted: bool = torch._C._will_engine_execute_node(ctx.next_functions[index][0])
    except RuntimeError:  # a leaf that `autograd.grad` was asked for
        return True
    return wanted
