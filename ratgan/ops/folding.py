"""Two linear steps as one convolution, its kernel folded from those of the steps.

Each function equals the two steps it names, border included, and reads their
own weights, so that models and checkpoints keep the layers of the paper.

Dimensions in this file:
    B batch, C channels, H W height and width; ⋆ is what a convolution layer does.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.ops.convolution import convolve
from ratgan.ops.precision import full_precision


def upsample_then_convolve(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """Compute ``conv(interpolate(features, scale_factor=2))`` with 4/9 of its products.

    The copies of a pixel meet the same weights of the 3 × 3 kernel again and again;
    a transposed convolution with the sums of those weights meets each pixel once.

    Args:
        features: [B, C_in, H, W].
        conv: 3 × 3, padding 1.

    Returns:
        [B, C_out, 2H, 2W].
    """
    kernel = _sum_of_shifts(conv.weight).flip(2, 3).transpose(0, 1)  # [C_in, C_out, 4, 4]
    return functional.conv_transpose2d(features, kernel, conv.bias, stride=2, padding=1)


def convolve_then_average(images: Tensor, conv: nn.Conv2d) -> Tensor:
    """Compute ``avg_pool2d(conv(images), 2)`` without the map of full size.

    Args:
        images: [B, C_in, H, W].
        conv: 3 × 3, padding 1.

    Returns:
        [B, C_out, H/2, W/2].
    """
    kernel = _sum_of_shifts(conv.weight) / 4  # [C_out, C_in, 4, 4]
    return convolve(images, kernel, conv.bias, stride=2, padding=1)


def convolve_twice(images: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """Compute ``second(first(images))`` without the map of full size between them.

    Inside, W₂ ⋆ (W₁ ⋆ x) = (W₂ ∗ W₁) ⋆ x with one kernel of 6 × 6. At the border the second
    convolution sees zeros where the folded kernel would see the first one run on
    outside the image, so the outermost results come from the two steps themselves.

    Args:
        images: [B, C_in, H, W].
        first: 3 × 3, padding 1.
        second: 4 × 4, stride 2, padding 1, without bias.

    Returns:
        [B, C_out, H/2, W/2].

    Raises:
        ValueError: If H or W is odd or below 6: the border would be another one.
    """
    if any(side % 2 or side < 6 for side in images.shape[2:]):
        raise ValueError(
            f"images of {images.shape[2]} × {images.shape[3]} pixels: height and width must be "
            "even, and 6 or more; 32 × 32 are."
        )
    with full_precision(images):
        kernel = functional.conv_transpose2d(second.weight, first.weight)  # [C_out, C_in, 6, 6]
        bias = None if first.bias is None else second.weight.sum((2, 3)) @ first.bias
    inside = convolve(images, kernel, bias, stride=2)  # [B, C_out, H/2 - 2, W/2 - 2]

    def edge(strip: Tensor, dim: int, start: int) -> Tensor:
        between = functional.pad(first(strip), (1, 1, 1, 1))
        return convolve(between.narrow(dim, start, 4), second.weight, stride=2)

    top, bottom = edge(images[..., :4, :], 2, 0), edge(images[..., -4:, :], 2, 2)
    left, right = edge(images[..., :4], 3, 0), edge(images[..., -4:], 3, 2)
    middle = torch.cat([left[..., 1:-1, :], inside, right[..., 1:-1, :]], dim=3)
    return torch.cat([top, middle, bottom], dim=2)


def _sum_of_shifts(kernel: Tensor) -> Tensor:
    """Add a kernel [.., h, w] to itself moved right, down and both: [.., h + 1, w + 1]."""
    padded = functional.pad(kernel, (1, 1, 1, 1))
    rows = padded[..., :-1, :] + padded[..., 1:, :]
    return rows[..., :-1] + rows[..., 1:]
