"""The generator: noise and a sentence in, an image out.

Dimensions in this file:
    B batch, T affine blocks, C channels, H W height and width,
    S sentence size, Z noise size, K controller size.
"""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.affine import Affine, AffineBlocks, IsolatedConditioning, RecurrentController
from ratgan.networks import TextGenerator
from ratgan.ops.folding import upsample_then_convolve
from ratgan.options import Output

IMAGE_SIZES = (32, 64, 128, 256, 512)  # pixels: 3 to 7 doublings of the 4 × 4 start
LEAK = 0.2  # slope of every LeakyReLU below zero, as in DF-GAN and RAT-GAN


class GeneratorBlock(nn.Module):
    """Residual block: ``shortcut(x) + g · R(x)``.

    R is two halves of [affine, LeakyReLU] × n followed by a 3 × 3 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        upsample: Double height and width (nearest neighbour).
        residual_start: Initial value of g.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, upsample: bool, residual_start: float = 0.0
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )
        self.residual_scale = nn.Parameter(torch.full((1,), float(residual_start)))

    def forward(self, features: Tensor, affines: Sequence[Affine]) -> Tensor:
        """Compute one level.

        Args:
            features: [B, C_in, H, W].
            affines: An even number of transformations; the first half acts on
                C_in channels, the second on C_out.

        Returns:
            [B, C_out, 2H, 2W] when upsampling, otherwise [B, C_out, H, W].
        """
        half = len(affines) // 2
        residual = _modulate(features, affines[:half])
        shortcut = self.shortcut(features)
        if self.upsample:
            # Equal to upsampling the input, as in the paper: pointwise operations
            # commute with copying pixels, and cost a quarter here.
            residual = upsample_then_convolve(residual, self.conv1)
            shortcut = functional.interpolate(shortcut, scale_factor=2)
        else:
            residual = self.conv1(residual)
        residual = self.conv2(_modulate(residual, affines[half:]))
        return torch.addcmul(shortcut, residual, self.residual_scale.to(residual.dtype))


def _modulate(features: Tensor, affines: Sequence[Affine]) -> Tensor:
    for affine in affines:
        features = functional.leaky_relu(affine(features), LEAK, inplace=True)
    return features


class Generator(TextGenerator):
    """Recurrent affine generator (https://arxiv.org/abs/2204.10482).

    Defaults are those of the published model for 256 px: 7 blocks of 4 affine
    transformations, 28 steps of the controller.

    Args:
        image_size: Height and width of the images, one of 32, 64, 128, 256, 512 pixels.
        sentence_dim: Size S of the sentence vectors; 256 for the paper's encoder.
        base_channels: Channels of the last level; deeper levels have up to 8 × as many.
        noise_dim: Size Z of the noise.
        controller_dim: Size K of the controller's state.
        affine_dim: Hidden size of the MLPs that make scales and shifts.
        affines_per_block: Even number of affine transformations in a block; 4 published,
            2 in the paper's figure, 6 in the published code for flowers.
        recurrent: Condition the affine blocks on the states of the recurrent controller;
            otherwise each on noise and sentence alone, the paper's ablation.
        output: `tanh` as published, which saturates on white and black grounds: its gradient can
            become exactly 0. `linear` leaves values beyond [-1, 1] to `draw`, which clamps them.
        residual_start: Initial value of the residual scales; 0 in the published code.

    Raises:
        ValueError: If the architecture does not permit an argument.
    """

    def __init__(
        self,
        image_size: int = 256,
        sentence_dim: int = 256,
        base_channels: int = 64,
        noise_dim: int = 100,
        controller_dim: int = 256,
        affine_dim: int = 256,
        affines_per_block: int = 4,
        recurrent: bool = True,
        output: Output = "tanh",
        residual_start: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size not in IMAGE_SIZES:
            raise ValueError(f"image_size={image_size} must be one of {IMAGE_SIZES} pixels.")
        if output not in get_args(Output):
            raise ValueError(f"output={output!r} must be one of {', '.join(get_args(Output))}.")
        if affines_per_block < 2 or affines_per_block % 2:
            raise ValueError(
                f"affines_per_block={affines_per_block} must be even and at least 2: half of them "
                "come before each of the block's two convolutions. The published model has 4."
            )
        self.arguments: dict[str, Any] = {
            "image_size": image_size,
            "sentence_dim": sentence_dim,
            "base_channels": base_channels,
            "noise_dim": noise_dim,
            "controller_dim": controller_dim,
            "affine_dim": affine_dim,
            "affines_per_block": affines_per_block,
            "recurrent": recurrent,
            "output": output,
        }
        self.noise_dim = noise_dim
        self.sentence_dim = sentence_dim
        self.affines_per_block = affines_per_block
        self.output = output

        levels = image_size.bit_length() - 2  # 4 px, 8 px, … image_size
        out_channels = [base_channels * min(2**i, 8) for i in reversed(range(levels))]
        in_channels = [out_channels[0], *out_channels[:-1]]

        self.project = nn.Linear(noise_dim, in_channels[0] * 4 * 4)
        self.blocks = nn.ModuleList(
            GeneratorBlock(c_in, c_out, upsample=level > 0, residual_start=residual_start)
            for level, (c_in, c_out) in enumerate(zip(in_channels, out_channels, strict=True))
        )
        half = affines_per_block // 2
        steps = [
            c
            for c_in, c_out in zip(in_channels, out_channels, strict=True)
            for c in [c_in] * half + [c_out] * half
        ]
        self.num_steps = len(steps)
        self.controller = (
            RecurrentController(sentence_dim, noise_dim, controller_dim)
            if recurrent
            else IsolatedConditioning(sentence_dim, noise_dim)
        )
        self.affines = AffineBlocks(steps, self.controller.dim, affine_dim)
        self.to_rgb = nn.Conv2d(out_channels[-1], 3, 3, padding=1)

    def forward(self, noise: Tensor, sentence: Tensor) -> Tensor:
        """Draw one image for each sentence.

        Args:
            noise: Standard normal, [B, Z].
            sentence: Transformed sentence vectors, [B, S].

        Returns:
            Images, [B, 3, image_size, image_size]; in [-1, 1] with the output `tanh`.
        """
        hidden = self.controller(noise, sentence, self.num_steps)  # [B, T, K]
        affines = self.affines(hidden)
        features = self.project(noise).unflatten(1, (-1, 4, 4))  # [B, C, 4, 4]
        if self.to_rgb.weight.is_contiguous(memory_format=torch.channels_last):
            # In the layout of the weights: otherwise each block would convert it twice.
            features = features.contiguous(memory_format=torch.channels_last)
        for level, block in enumerate(self.blocks):
            first = level * self.affines_per_block
            features = block(features, affines[first : first + self.affines_per_block])
        images: Tensor = self.to_rgb(functional.leaky_relu(features, LEAK, inplace=True))
        return images.tanh() if self.output == "tanh" else images
