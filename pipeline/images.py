"""Originals to pixels, behind guards: the only place where foreign images are decoded.

Pillow only: other decoders in reach end the process on some damaged files.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")  # an allow-list keeps rarely tested decoders out of reach
MAX_BYTES = 30 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 16  # pixels


class RejectedError(Exception):
    """An original that cannot be used.

    Args:
        reason: Short code that rejects are counted by.
        detail: What was found, for the one who looks into it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(content: bytes) -> Image.Image:
    """Decode an original.

    The orientation in its metadata is applied, 16 bits become 8 by scaling, and
    transparent parts lie on white.

    Args:
        content: The encoded image.

    Returns:
        An RGB image.

    Raises:
        RejectedError: If it is not an image that can be used, with the reason.
    """
    if not content:
        raise RejectedError("IMG_EMPTY", "the file has 0 bytes")
    if len(content) > MAX_BYTES:
        raise RejectedError("IMG_TOO_LARGE", f"{len(content)} bytes, at most {MAX_BYTES} are taken")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check(image)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except RejectedError:
        raise
    except UnidentifiedImageError as error:
        start = content[:16].hex()
        raise RejectedError(
            "IMG_UNIDENTIFIED", f"not one of {', '.join(FORMATS)}; it starts with {start}"
        ) from error
    except Image.DecompressionBombError as error:
        raise RejectedError("IMG_TOO_LARGE", str(error)) from error
    except Exception as error:  # damaged files raise almost anything
        raise RejectedError("IMG_CORRUPT", f"{type(error).__name__}: {error}") from error


def _check(image: Image.Image) -> None:
    """Look at the header before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RejectedError(
            "IMG_TOO_LARGE", f"{width} × {height} px, at most {MAX_PIXELS} pixels are taken"
        )
    if min(width, height) < MIN_SIDE:
        raise RejectedError(
            "IMG_TOO_SMALL", f"{width} × {height} px, {MIN_SIDE} px a side are needed"
        )
    # MPO is a photo with a preview or a second view behind it, as many cameras write.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise RejectedError("IMG_ANIMATED", f"{getattr(image, 'n_frames', 0)} frames")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow itself would clip, not scale
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """Cut the centred square out of an image and resize it.

    Args:
        image: RGB.
        size: Height and width of the result in pixels.
    """
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode an RGB image as JPEG with full colour resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
