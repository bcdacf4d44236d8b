"""The API of a trained model: captions in, images out.

Dimensions in this file:
    N captions, S sentence size, Z noise size, H W height and width.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ratgan.networks import TextGenerator
from ratgan.randomness import sample_noise
from ratgan.sampling import interpolate_noise, interpolate_sentences, sample
from ratgan.text.encoder import TextEncoder
from ratgan.text.loading import load_encoder
from ratgan.text.transform import SentenceTransform
from ratgan.visualize import to_pil


class TextToImage:
    """A trained model: captions in, images out.

    Args:
        generator: The generator in evaluation mode.
        encoder: Name and sha256 of the text encoder of the training.
        origin: Run, step, dataset and versions of the training.
        encoder_path: Place of the text encoder, if the model does not contain it.
    """

    def __init__(
        self,
        generator: TextGenerator,
        transform: SentenceTransform,
        encoder: dict[str, str],
        origin: dict[str, Any],
        encoder_path: str | Path | None = None,
    ) -> None:
        self.generator = generator
        self.transform = transform
        self.encoder_record = encoder
        self.origin = origin
        self._encoder_path = encoder_path
        self._encoder: TextEncoder | None = None

    def __call__(self, captions: str | Sequence[str], *, seed: int = 0) -> list[Image.Image]:
        """Draw one image for each caption.

        Args:
            captions: One text or several.
            seed: The same captions and seed give the same images.

        Returns:
            RGB images.
        """
        return [to_pil(image) for image in self.draw(captions, seed=seed)]

    def draw(
        self, captions: str | Sequence[str], *, seed: int = 0, same_noise: bool = False
    ) -> Tensor:
        """Draw one image for each of N captions.

        Args:
            captions: One text or several.
            seed: The same captions and seed give the same images.
            same_noise: Use the same noise for all, so that images differ only by their captions.

        Returns:
            uint8, [N, 3, H, W].
        """
        texts = [captions] if isinstance(captions, str) else list(captions)
        noise = self.noise(len(texts), seed)
        return self._draw(self.encode(texts), noise[:1].expand_as(noise) if same_noise else noise)

    def variations(self, captions: Sequence[str], count: int, *, seed: int = 0) -> Tensor:
        """Draw several images of each of N captions, from the same noises for all captions.

        Returns:
            uint8, [N, count, 3, H, W]: a row has one caption, a column one noise.
        """
        sentences = self.encode(captions).repeat_interleave(count, dim=0)
        noise = self.noise(count, seed).repeat(len(captions), 1)
        return self._draw(sentences, noise).unflatten(0, (-1, count))

    def between_captions(self, captions: Sequence[str], steps: int, *, seed: int = 0) -> Tensor:
        """Draw interpolations from each of N captions to the next, all from one noise.

        Returns:
            uint8, [N - 1, steps, 3, H, W], both ends included.

        Raises:
            ValueError: If there are fewer than two captions.
        """
        if len(captions) < 2:
            raise ValueError("between_captions needs at least two captions.")
        pairs = pairwise(self.encode(captions))
        ways = [interpolate_sentences(start, end, steps) for start, end in pairs]
        noise = self.noise(1, seed).expand(len(ways) * steps, -1)
        return self._draw(torch.cat(ways), noise).unflatten(0, (-1, steps))

    def between_noises(self, captions: Sequence[str], steps: int, *, seed: int = 0) -> Tensor:
        """Draw each of N captions with an interpolation from one noise to another.

        Returns:
            uint8, [N, steps, 3, H, W], both ends included.
        """
        start, end = self.noise(2, seed)
        way = interpolate_noise(start, end, steps)
        sentences = self.encode(captions).repeat_interleave(steps, dim=0)
        return self._draw(sentences, way.repeat(len(captions), 1)).unflatten(0, (-1, steps))

    def noise(self, count: int, seed: int) -> Tensor:
        """Draw noises, [count, Z]; row n does not depend on `count`."""
        return sample_noise(seed, count, self.generator.noise_dim)

    def _draw(self, sentences: Tensor, noise: Tensor) -> Tensor:
        return sample(self.generator, sentences, noise)

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode N captions for the generator, [N, S].

        Raises:
            ValueError: If a caption is empty, or the text encoder is not that of the training.
        """
        if not captions or any(not text.strip() for text in captions):
            raise ValueError("a caption is empty: give at least one word.")
        encoder = self._encoder or self.load_encoder()
        vectors: Tensor = self.transform(encoder.encode(captions))
        return vectors

    def load_encoder(self) -> TextEncoder:
        """Load the text encoder now instead of at the first caption.

        Raises:
            ValueError: If it is not that of the training, or only the model names its location.
        """
        location = self.encoder_record.get("location")
        if self._encoder_path is None and location is not None:
            raise ValueError(
                f"the text encoder {self.encoder_record['name']} is not in the model, which names "
                f"{location} for it. No place is opened because a model names it: if you trust "
                f"that one, give --encoder-path {quote(str(location))} (in Python, encoder_path=)."
            )
        encoder = load_encoder(self.encoder_record["name"], self._encoder_path)
        if encoder.sha256 != self.encoder_record["sha256"]:
            raise ValueError(
                f"the model was trained with {self.encoder_record['name']} of sha256 "
                f"{self.encoder_record['sha256']}, and the one here has {encoder.sha256}."
            )
        self._encoder = encoder
        return encoder
