"""The API of a trained model: captions in, images out.

Dimensions in this file:
    N captions, S sentence size, Z noise size, H W height and width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ratgan.networks import TextGenerator
from ratgan.options import Device
from ratgan.picture import Picture, between_captions, between_noises, each, variations
from ratgan.randomness import noise_of
from ratgan.sampling import interpolate_noise, interpolate_sentences, sample
from ratgan.text.encoder import TextEncoder
from ratgan.text.loading import load_encoder
from ratgan.text.transform import SentenceTransform
from ratgan.visualize import to_pil

AT_ONCE = 4  # images drawn at once, always: another number would change their last bits
UNFAMILIAR = 2.0  # times the length of a training caption's vector; 2.6 and more is measured for
# captions in another script or of other things


def find_device(device: Device) -> torch.device:
    """Return the device that images are drawn on.

    Raises:
        ValueError: If it is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: PyTorch finds no GPU here. Use auto or cpu.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


class TextToImage:
    """A trained model: captions in, images out.

    Args:
        generator: The generator in evaluation mode.
        encoder: Name and sha256 of the text encoder of the training.
        origin: Run, step, dataset and versions of the training.
        encoder_path: Place of the text encoder, if the model does not contain it.
        digest: sha256 of the model's tensors.
    """

    def __init__(
        self,
        generator: TextGenerator,
        transform: SentenceTransform,
        encoder: dict[str, str],
        origin: dict[str, Any],
        encoder_path: str | Path | None = None,
        digest: str = "",
    ) -> None:
        self.generator = generator
        self.transform = transform
        self.encoder_record = encoder
        self.origin = origin
        self.digest = digest
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
        self,
        captions: str | Sequence[str],
        *,
        seed: int = 0,
        same_noise: bool = False,
        truncation: float | None = None,
    ) -> Tensor:
        """Draw one image for each of N captions.

        Args:
            captions: One text or several.
            seed: The same captions and seed give the same images.
            same_noise: Use the same noise for all, so that images differ only by their captions.
            truncation: Factor of noise that is cut at two deviations, in [0, 2]: less variety,
                fewer odd images. None for a whole normal, as in training.

        Returns:
            uint8, [N, 3, H, W].
        """
        texts = [captions] if isinstance(captions, str) else list(captions)
        pictures = each(texts, seed=seed, same_noise=same_noise)
        return self.draw_pictures(replace(picture, truncation=truncation) for picture in pictures)

    def variations(self, captions: Sequence[str], count: int, *, seed: int = 0) -> Tensor:
        """Draw several images of each of N captions, from the same noises for all captions.

        Returns:
            uint8, [N, count, 3, H, W]: a row has one caption, a column one noise.
        """
        return self._draw_rows(variations(captions, count, seed=seed), count)

    def between_captions(self, captions: Sequence[str], steps: int, *, seed: int = 0) -> Tensor:
        """Draw interpolations from each of N captions to the next, all from one noise.

        Returns:
            uint8, [N - 1, steps, 3, H, W], both ends included.

        Raises:
            ValueError: If there are fewer than two captions.
        """
        return self._draw_rows(between_captions(captions, steps, seed=seed), steps)

    def between_noises(self, captions: Sequence[str], steps: int, *, seed: int = 0) -> Tensor:
        """Draw each of N captions with an interpolation from one noise to another.

        Returns:
            uint8, [N, steps, 3, H, W], both ends included.
        """
        return self._draw_rows(between_noises(captions, steps, seed=seed), steps)

    def draw_pictures(self, pictures: Iterable[Picture]) -> Tensor:
        """Draw N pictures. Each is the same whatever is drawn beside it.

        Returns:
            uint8, [N, 3, H, W].

        Raises:
            ValueError: If there is none, or as `encode`.
        """
        wanted = list(pictures)
        if not wanted:
            raise ValueError("there is nothing to draw: give at least one caption.")
        # One by one: what an encoder makes of a caption depends in its last bits on the batch.
        vectors = {
            text: self.encode([text])[0]
            for text in dict.fromkeys(text for picture in wanted for text in picture.captions)
        }
        return self.draw_vectors(wanted, vectors)

    def draw_vectors(self, pictures: Sequence[Picture], vectors: Mapping[str, Tensor]) -> Tensor:
        """Draw N pictures whose captions are encoded already.

        Args:
            vectors: Of each caption, as `encode` returns it for that caption alone, [S].

        Returns:
            uint8, [N, 3, H, W].
        """
        sentences = [
            vectors[picture.caption]
            if picture.other_caption is None
            else interpolate_sentences(
                vectors[picture.caption], vectors[picture.other_caption], picture.caption_share
            )
            for picture in pictures
        ]
        noise = [self._noise(picture) for picture in pictures]
        return sample(
            self.generator, torch.stack(sentences), torch.stack(noise), AT_ONCE, fill=True
        )

    def unfamiliar(self, vector: Tensor) -> bool:
        """Whether a caption is far from those of the training, as its vector [S] shows.

        Known for whitened vectors only, whose length in training is about √S.
        """
        limit = UNFAMILIAR * self.transform.dim**0.5
        return self.transform.kind == "whiten" and float(vector.norm()) > limit

    def _draw_rows(self, pictures: list[Picture], length: int) -> Tensor:
        return self.draw_pictures(pictures).unflatten(0, (-1, length))

    def _noise(self, picture: Picture) -> Tensor:
        size, cut = self.generator.noise_dim, picture.truncation
        noise = noise_of(picture.seed, picture.row, size, cut)
        if picture.other_seed is None:
            return noise
        end = noise_of(picture.other_seed, picture.other_row, size, cut)
        return interpolate_noise(noise, end, picture.noise_share)

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
