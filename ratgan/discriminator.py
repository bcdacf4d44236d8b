"""The discriminator: does this image show what this sentence says?

Dimensions in this file:
    B batch, C channels, H W height and width, S sentence size.
"""

from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ratgan.attention import ATTENTIONS, spread
from ratgan.generator import IMAGE_SIZES, LEAK
from ratgan.networks import TextDiscriminator
from ratgan.ops.convolution import Conv2d
from ratgan.ops.folding import convolve_then_average, convolve_twice
from ratgan.ops.piecewise_linear import LeakyReLU, average_pool
from ratgan.ops.precision import full_precision
from ratgan.options import AttentionKind


class DownBlock(nn.Module):
    """Residual block that halves height and width: ``shortcut(x) + g · R(x)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        residual_start: Initial value of g.
    """

    def __init__(self, in_channels: int, out_channels: int, residual_start: float = 0.0) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
            LeakyReLU(LEAK),
            Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LeakyReLU(LEAK),
        )
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        )
        self.residual_scale = nn.Parameter(torch.full((1,), float(residual_start)))

    def forward(self, features: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H/2, W/2]."""
        return self.join(average_pool(features), self.residual[0](features))

    def join(self, pooled: Tensor, convolved: Tensor) -> Tensor:
        """Compute the output from the two halved forms of the input.

        Args:
            pooled: The input averaged over 2 × 2, [B, C_in, H/2, W/2].
            convolved: The input after the first convolution, [B, C_out, H/2, W/2]; overwritten.

        Returns:
            [B, C_out, H/2, W/2].
        """
        # Equal to pooling last, as in the paper: an average and a 1 × 1 convolution commute.
        shortcut = self.shortcut(pooled)
        residual = self.residual[1:](convolved)
        return torch.addcmul(shortcut, residual, self.residual_scale.to(residual.dtype))


class PlainHead(nn.Module):
    """Scores image features against a sentence that is repeated at each position.

    Args:
        in_channels: Channels of the 4 × 4 features.
        hidden_channels: Channels of the hidden layer.
        sentence_dim: Size S of the sentence.
    """

    def __init__(self, in_channels: int, hidden_channels: int, sentence_dim: int) -> None:
        super().__init__()
        # No bias in the score: it would shift real and generated logits equally.
        self.score = nn.Sequential(
            Conv2d(in_channels + sentence_dim, hidden_channels, 3, padding=1, bias=False),
            LeakyReLU(LEAK),
            Conv2d(hidden_channels, 1, 4, bias=False),
        )

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Score features [B, C, 4, 4] against sentences [B, S]: logits [B]."""
        # In the weights' precision: the gradients of real, generated and mismatched logits nearly
        # cancel in the score's first kernel, and bfloat16 would round the small rest away.
        with full_precision(features):
            features = features.to(sentence.dtype)
            return self.score(torch.cat([features, spread(sentence, features)], dim=1)).flatten()


class AttentionHead(PlainHead):
    """Scores image features against a sentence, with spatial attention.

    Args:
        in_channels: Channels of the 8 × 8 features.
        out_channels: Channels after the last halving.
        hidden_channels: Channels of the hidden layers of attention and score.
        sentence_dim: Size S of the sentence.
        attention: Kind of attention.
        residual_start: Initial residual scale of the last halving.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int,
        sentence_dim: int,
        attention: AttentionKind,
        residual_start: float,
    ) -> None:
        super().__init__(out_channels, hidden_channels, sentence_dim)
        self.attention = ATTENTIONS[attention](in_channels, sentence_dim, hidden_channels)
        self.down = DownBlock(in_channels + sentence_dim, out_channels, residual_start)

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Score features [B, C, 8, 8] against sentences [B, S]: logits [B]."""
        attended = spread(sentence, features) * self.attend(features, sentence)  # S = s · α
        features = torch.cat([features, attended.to(features.dtype)], dim=1)
        return super().forward(self.down(features), sentence)

    def attend(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Weigh the positions of features [B, C, 8, 8] by sentences [B, S]: [B, 1, 8, 8]."""
        with full_precision(features):
            weights: Tensor = self.attention(features.to(sentence.dtype), sentence)
            return weights


class Discriminator(TextDiscriminator):
    """One-way conditional discriminator with spatial attention.

    Args:
        image_size: Height and width of the images, one of 32, 64, 128, 256, 512 pixels.
        sentence_dim: Size S of the sentence vectors.
        base_channels: Channels at full size; deeper levels have up to 16 × as many.
        attention: `soft_threshold` as in the paper, `softmax` as in an earlier version of the
            published code, `none` as that code trains.
        residual_start: Initial value of the residual scales; 0 in the published code.

    Raises:
        ValueError: If the image size or the attention is invalid.
    """

    def __init__(
        self,
        image_size: int = 256,
        sentence_dim: int = 256,
        base_channels: int = 64,
        attention: AttentionKind = "soft_threshold",
        residual_start: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size not in IMAGE_SIZES:
            raise ValueError(f"image_size={image_size} must be one of {IMAGE_SIZES} pixels.")
        if attention not in get_args(AttentionKind):
            raise ValueError(
                f"attention={attention!r} must be one of {', '.join(get_args(AttentionKind))}."
            )
        self.arguments: dict[str, Any] = {
            "image_size": image_size,
            "sentence_dim": sentence_dim,
            "base_channels": base_channels,
            "attention": attention,
        }
        halvings = image_size.bit_length() - 3  # to 4 px
        channels = [base_channels * min(2**i, 16) for i in range(halvings + 1)]
        blocks = [DownBlock(*pair, residual_start) for pair in pairwise(channels)]
        self.from_rgb = Conv2d(3, base_channels, 3, padding=1)
        if attention == "none":
            self.trunk = nn.Sequential(*blocks)
            self.head = PlainHead(channels[-1], 2 * base_channels, sentence_dim)
        else:  # the last halving is in the head, after the attention
            self.trunk = nn.Sequential(*blocks[:-1])
            self.head = AttentionHead(
                channels[-2],
                channels[-1],
                2 * base_channels,
                sentence_dim,
                attention,
                residual_start,
            )

    def forward(self, images: Tensor, *sentences: Tensor) -> tuple[Tensor, ...]:
        """Score images against one or more batches of sentences.

        The image trunk runs once for all batches of sentences.

        Args:
            images: In [-1, 1], [B, 3, H, W].
            *sentences: Each [B, S].

        Returns:
            For each batch of sentences the logits [B]: above 0 for "real and matching".

        Raises:
            ValueError: If the images have another size than the discriminator is for.
        """
        features = self.features(images)
        return tuple(self.head(features, sentence) for sentence in sentences)

    def features(self, images: Tensor) -> Tensor:
        """Compute the head's input from images [B, 3, H, W]: [B, C, 8, 8], or 4 × 4 for `none`."""
        height, width, size = *images.shape[2:], self.arguments["image_size"]
        if (height, width) != (size, size):
            # A larger image would give the score more places to look at, and each a logit.
            raise ValueError(
                f"images of {height} × {width} pixels, and this discriminator is for {size} × "
                f"{size}: resize them, or build one with image_size={height}."
            )
        # Equal to trunk(from_rgb(images)). No activation follows from_rgb, so it is folded into
        # the two steps that halve its output: the network's largest map is never computed.
        first: Any = self.trunk[0]
        pooled = convolve_then_average(images, self.from_rgb)
        convolved = convolve_twice(images, self.from_rgb, first.residual[0])
        features: Tensor = self.trunk[1:](first.join(pooled, convolved))
        return features

    def attention_maps(self, images: Tensor, sentence: Tensor) -> Tensor | None:
        """Return the attention of each sentence to its image.

        Args:
            images: In [-1, 1], [B, 3, H, W].
            sentence: [B, S].

        Returns:
            Weights that add up to 1, [B, 1, 8, 8]; None without attention.
        """
        if not isinstance(self.head, AttentionHead):
            return None
        weights: Tensor = self.head.attend(self.features(images), sentence)
        return weights
