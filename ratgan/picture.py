"""What a picture is made from, and the same as a text chunk of its PNG file.

A picture is a function of this record and of the model, never of those that are drawn beside it.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

CHUNK = "ratgan"  # keyword of the text chunk
FORMAT_VERSION = 1
MAX_SEED = 2**63 - 1
MAX_ROW = 2**20
MAX_CAPTION = 64 * 2**10  # characters


@dataclass(frozen=True)
class Picture:
    """What one picture is made from.

    Attributes:
        caption: Text to draw.
        seed: Of the noise.
        row: Noise of this number from the seed.
        truncation: Factor of noise that is cut at two deviations; None for a whole normal.
        other_caption: Caption of an interpolation's end.
        caption_share: Share of the way from `caption` to it, in [0, 1].
        other_seed: Seed of the noise at an interpolation's end; None for the same noise.
        other_row: Number of that noise.
        noise_share: Share of the way to it, in [0, 1].
    """

    caption: str
    seed: int = 0
    row: int = 0
    truncation: float | None = None
    other_caption: str | None = None
    caption_share: float = 0.0
    other_seed: int | None = None
    other_row: int = 0
    noise_share: float = 0.0

    def __post_init__(self) -> None:
        for caption in self.captions:
            if not isinstance(caption, str) or not caption.strip():
                raise ValueError("a caption is empty: give at least one word.")
            if len(caption) > MAX_CAPTION:
                raise ValueError(
                    f"a caption has {len(caption):,} characters; {MAX_CAPTION:,} is the maximum."
                )
        numbers = {"seed": MAX_SEED, "row": MAX_ROW, "other_seed": MAX_SEED, "other_row": MAX_ROW}
        for name, largest in numbers.items():
            value = getattr(self, name)
            if name == "other_seed" and value is None:
                continue
            if type(value) is not int or not 0 <= value <= largest:
                raise ValueError(f"{name}={value!r} must be a whole number from 0 to {largest}.")
        for name in ("caption_share", "noise_share"):
            _check_number(name, getattr(self, name), 0, 1)
        if self.truncation is not None:
            _check_number("truncation", self.truncation, 0, 2)

    @property
    def captions(self) -> tuple[str, ...]:
        """The one or two captions."""
        return (self.caption,) if self.other_caption is None else (self.caption, self.other_caption)

    def record(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON types."""
        defaults = {field.name: field.default for field in fields(self)}
        return {k: v for k, v in asdict(self).items() if k == "caption" or v != defaults[k]}


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be a number from {low} to {high}.")


def each(captions: Sequence[str], *, seed: int, same_noise: bool = False) -> list[Picture]:
    """Return one picture of each caption, from a noise each, or from the same one."""
    return [Picture(text, seed, 0 if same_noise else row) for row, text in enumerate(captions)]


def variations(captions: Sequence[str], count: int, *, seed: int) -> list[Picture]:
    """Return `count` pictures of each caption, from the same noises for all captions."""
    return [Picture(caption, seed, row) for caption in captions for row in range(count)]


def between_captions(captions: Sequence[str], steps: int, *, seed: int) -> list[Picture]:
    """Return interpolations from each caption to the next, both ends included, from one noise.

    Raises:
        ValueError: If there are fewer than two captions.
    """
    if len(captions) < 2:
        raise ValueError("an interpolation between captions needs at least two captions.")
    return [
        Picture(start, seed, other_caption=end, caption_share=share)
        for start, end in pairwise(captions)
        for share in _shares(steps)
    ]


def between_noises(captions: Sequence[str], steps: int, *, seed: int) -> list[Picture]:
    """Return interpolations of each caption from one noise to another, both ends included."""
    return [
        Picture(caption, seed, other_seed=seed, other_row=1, noise_share=share)
        for caption in captions
        for share in _shares(steps)
    ]


def _shares(steps: int) -> list[float]:
    return [step / max(1, steps - 1) for step in range(steps)]


def signed_png(image: Image.Image, picture: Picture, digest: str, step: int | None) -> bytes:
    """Encode an image as PNG, with what it is made from in a text chunk.

    Args:
        digest: Of the model's tensors, sha256.
        step: Training step of the model, if it is known.
    """
    info = PngInfo()
    record = {"version": FORMAT_VERSION, "picture": picture.record(), "model": digest, "step": step}
    info.add_itxt(CHUNK, json.dumps(record, ensure_ascii=False))
    info.add_itxt("Description", picture.caption)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_signature(content: bytes) -> tuple[Picture, str]:
    """Read from a PNG file what its picture is made from, and the digest of its model.

    Raises:
        ValueError: If it is no PNG file of this program.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()  # chunks may come after the pixels
            text = getattr(image, "text", {}).get(CHUNK)
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"it cannot be read as PNG: {error}") from error
    if text is None:
        raise ValueError(
            "it has no record of what it is made from: it is a grid of several pictures, or this "
            "program did not draw it."
        )
    try:
        record = json.loads(text)
        if record["version"] != FORMAT_VERSION:
            raise ValueError(f"its record has version {record['version']!r}")
        return Picture(**record["picture"]), str(record["model"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the record of what it is made from is damaged: {error!r}") from error
