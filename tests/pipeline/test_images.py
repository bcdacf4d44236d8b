"""The guarded decoder: what it mends, and what it refuses and why."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.images import RejectedError, decode, encode_jpeg, square
from tests.conftest import encoded, photo


def png_with_header(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with next to nothing behind it."""
    content = bytearray(encoded(Image.new("L", (16, 16)), "PNG"))
    content[16:24] = width.to_bytes(4) + height.to_bytes(4)
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4)
    return bytes(content)


def animated() -> bytes:
    frames = [photo(seed=n) for n in range(3)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


JPEG = encoded(photo())
REFUSED = {
    "empty file": (b"", "IMG_EMPTY"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], "IMG_CORRUPT"),
    "cut PNG": (encoded(photo(), "PNG")[:-200], "IMG_CORRUPT"),
    "error page": (b"<html><body>404 Not Found</body></html>", "IMG_UNIDENTIFIED"),
    "header only": (JPEG[:20], "IMG_UNIDENTIFIED"),
    "format outside the list": (encoded(photo(), "BMP"), "IMG_UNIDENTIFIED"),
    "bomb of 100 megapixels": (png_with_header(10_000, 10_000), "IMG_TOO_LARGE"),
    "bomb of 3.6 gigapixels": (png_with_header(60_000, 60_000), "IMG_TOO_LARGE"),
    "too many bytes": (JPEG + b"\0" * 31 * 2**20, "IMG_TOO_LARGE"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "IMG_TOO_SMALL"),
    "a line": (encoded(Image.new("RGB", (2000, 1))), "IMG_TOO_SMALL"),
    "animation": (animated(), "IMG_ANIMATED"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_reason(case):
    content, reason = REFUSED[case]

    with pytest.raises(RejectedError) as refusal:
        decode(content)

    assert refusal.value.reason == reason
    assert refusal.value.detail


@pytest.mark.parametrize("position", range(60, 300, 15))
def test_a_flipped_byte_in_a_png_never_ends_the_process(position):
    content = bytearray(encoded(photo(), "PNG"))
    content[position] ^= 0xFF

    outcome = "decoded"
    try:
        decode(bytes(content))
    except RejectedError as refusal:
        outcome = refusal.reason

    assert outcome in ("decoded", "IMG_CORRUPT", "IMG_UNIDENTIFIED")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_the_metadata_is_applied(orientation):
    upright = photo(64, 48)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation

    shown = decode(encoded(stored, "PNG", exif=exif))

    assert shown.size == upright.size
    assert np.array_equal(np.asarray(shown), np.asarray(upright))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)

    shown = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG")))

    assert shown.shape == (64, 64, 3)
    assert np.abs(shown[:, :, 0] - ramp / 257).max() <= 0.51


def test_transparent_parts_lie_on_white():
    image = Image.new("RGBA", (20, 20), (200, 0, 0, 0))
    image.paste((0, 0, 200, 255), (0, 0, 10, 20))

    for content in (encoded(image, "PNG"), encoded(image.quantize(), "PNG")):
        shown = np.asarray(decode(content)).astype(int)
        assert np.abs(shown[5, 2] - (0, 0, 200)).max() < 12
        assert (shown[5, 15] == 255).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    file_format = "JPEG" if mode in ("L", "CMYK") else "PNG"

    assert decode(encoded(photo().convert(mode), file_format)).mode == "RGB"


def test_a_png_named_as_anything_is_decoded_by_its_content():
    assert decode(encoded(photo(), "PNG")).size == (60, 40)


def test_square_cuts_the_centre():
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))

    cut = np.asarray(square(image, 30))

    assert cut.shape == (30, 30, 3)
    assert (cut == (0, 0, 255)).all()


def test_stored_jpeg_is_close_to_the_pixels():
    image = photo(64, 64)

    stored = Image.open(io.BytesIO(encode_jpeg(image, 95)))

    difference = np.abs(np.asarray(stored).astype(int) - np.asarray(image))
    assert difference.mean() < 2
