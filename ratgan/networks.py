"""What a generator and a discriminator have in common, whatever their architecture.

Dimensions in this file:
    B batch, H W height and width, S sentence size, Z noise size.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class TextGenerator(nn.Module, ABC):
    """Noise and a sentence in, an image out.

    Attributes:
        arguments: Keyword arguments that build the network again, as JSON types; `image_size` in
            pixels and `sentence_dim` are among them.
        noise_dim: Size Z of the noise.
        blocks: The parts that `torch.compile` compiles one by one.
    """

    arguments: dict[str, Any]
    noise_dim: int
    blocks: nn.ModuleList

    @abstractmethod
    def forward(self, noise: Tensor, sentence: Tensor) -> Tensor:
        """Draw from noise [B, Z] and sentences [B, S]: images around [-1, 1], [B, 3, H, W]."""

    def draw(self, noise: Tensor, sentence: Tensor) -> Tensor:
        """Draw as `forward` does, for all but training: black and white are the last values."""
        images: Tensor = self(noise, sentence)
        return images.clamp(-1, 1)


class TextDiscriminator(nn.Module, ABC):
    """An image and sentences in, logits out: above 0 for "real and matching".

    Attributes:
        arguments: Keyword arguments that build the network again, as JSON types.
    """

    arguments: dict[str, Any]

    @abstractmethod
    def forward(self, images: Tensor, *sentences: Tensor) -> tuple[Tensor, ...]:
        """Score images [B, 3, H, W] against each batch of sentences [B, S]: logits [B] for each."""

    def attention_maps(self, images: Tensor, sentence: Tensor) -> Tensor | None:
        """Return the attention of each sentence [B, S] to its image.

        Returns:
            Weights that add up to 1, [B, 1, H, W] at any size; None without attention.
        """
        return None
