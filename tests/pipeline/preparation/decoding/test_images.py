"""The guarded decoder: what it mends, what it refuses and why, and what it cuts out.

What must come of each kind of bad file is in `tests/corpus.py`.
"""

import io
import pickle

import numpy as np
import pytest
from PIL import Image, ImageFile

from pipeline.preparation.decoding.images import (
    RejectedError,
    decode,
    encode_jpeg,
    square,
    to_square_jpeg,
)
from tests.conftest import encoded, photo


def opened(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)


def test_a_reject_crosses_processes_and_can_be_printed():
    problem = RejectedError("IMG_CORRUPT", "chunk \x1b[31m\u202e" + 1000 * "x")

    copy = pickle.loads(pickle.dumps(problem))

    assert (copy.reason, copy.detail, str(copy)) == (problem.reason, problem.detail, str(problem))
    assert str(copy).startswith(r"IMG_CORRUPT: chunk \x1b[31m\u202exxx")
    assert len(copy.detail) < 400


def test_a_file_of_no_known_format_is_named_by_its_first_bytes():
    with pytest.raises(RejectedError, match=f"IMG_UNIDENTIFIED: .*{b'<html>404 Not F'.hex()}"):
        decode(b"<html>404 Not Found</html>")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"GIF89a", "GIF"),
        (b"BM\x36\0\0\0\0\0\0\0", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x1cftypheic", "HEIC"),
        (b"  <svg>", "SVG"),
        (b"\xef\xbb\xbf<!-- drawn by hand -->\n<SVG>", "SVG"),
    ],
)
def test_a_format_outside_the_list_is_told_by_its_first_bytes(content, name):
    with pytest.raises(RejectedError, match=f"IMG_FORMAT: .*{name}.*convert it to one of them"):
        decode(content + bytes(100))


def test_pillow_must_not_fill_up_cut_files(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    with pytest.raises(RuntimeError, match=r"LOAD_TRUNCATED_IMAGES is True.*it must be False"):
        decode(encoded(photo()))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.7, 0.9, 0.99])
def test_a_cut_file_is_told_from_a_damaged_one(file_format, part):
    content = encoded(photo(300, 200), file_format)

    with pytest.raises(RejectedError, match="IMG_TRUNCATED"):
        decode(content[: int(part * len(content))])


def test_a_cut_photo_with_a_whole_thumbnail_in_it_is_a_cut_one():
    thumbnail = encoded(photo(16, 16))
    content = encoded(photo(300, 200), exif=b"Exif\0\0" + thumbnail)
    header_end = content.index(thumbnail) + len(thumbnail) + 20

    for end in (header_end, len(content) - 500):
        with pytest.raises(RejectedError, match="IMG_TRUNCATED"):
            decode(content[:end])


def test_a_long_strip_is_refused_and_a_panorama_is_not():
    assert decode(encoded(photo(800, 100))).size == (800, 100)

    with pytest.raises(RejectedError, match=r"IMG_ASPECT: 100 × 801 px, at most 8 : 1 is taken"):
        decode(encoded(photo(100, 801)))


def test_one_pixel_of_another_colour_is_enough():
    image = Image.new("RGB", (40, 40), "white")
    with pytest.raises(
        RejectedError, match=r"IMG_BLANK: all over of one colour, \(255, 255, 255\)"
    ):
        decode(encoded(image, "PNG"))

    image.putpixel((3, 4), (254, 255, 255))

    assert decode(encoded(image, "PNG")).getpixel((3, 4)) == (254, 255, 255)


@pytest.mark.parametrize("position", range(60, 300, 15))
def test_a_flipped_byte_in_a_png_is_always_noticed(position):
    content = bytearray(encoded(photo(), "PNG"))
    content[position] ^= 0xFF

    with pytest.raises(RejectedError) as refusal:
        decode(bytes(content))

    assert refusal.value.reason in ("IMG_CORRUPT", "IMG_UNIDENTIFIED")


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


def published_crop(image: Image.Image, box) -> Image.Image:
    """The crop of the published loaders for CUB-200-2011, as they write it."""
    width, height = image.size
    r = int(np.maximum(box[2], box[3]) * 0.75)
    center_x = int((2 * box[0] + box[2]) / 2)
    center_y = int((2 * box[1] + box[3]) / 2)
    y1 = np.maximum(0, center_y - r)
    y2 = np.minimum(height, center_y + r)
    x1 = np.maximum(0, center_x - r)
    x2 = np.minimum(width, center_x + r)
    return image.crop([x1, y1, x2, y2])


@pytest.mark.parametrize(
    "box",
    [
        (60.0, 27.0, 325.0, 304.0),
        (200, 100, 51, 33),
        (0, 0, 501, 375),  # a pixel wider than its picture, as one is in CUB-200-2011
        (430, 300, 70, 75),
        (-10, -10, 60, 60),
    ],
)
def test_a_box_is_cut_out_as_in_the_published_loaders(box):
    image = photo(500, 375)

    cut = decode(encoded(image, "PNG"), box)

    assert np.array_equal(np.asarray(cut), np.asarray(published_crop(image, box)))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((600, 10, 50, 50), "BOX_INVALID"),
        ((480, 10, 100, 50), "BOX_INVALID"),
        ((-90, 10, 100, 50), "BOX_INVALID"),
        ((10, 10, 0, 50), "BOX_INVALID"),
        ((10, 10, -5, 50), "BOX_INVALID"),
        ((float("nan"), 10, 50, 50), "BOX_INVALID"),
        ((10, 10, float("inf"), 50), "BOX_INVALID"),
        ((1e308, 1e308, 1e308, 1e308), "BOX_INVALID"),
        ((100, 100, 8, 8), "IMG_TOO_SMALL"),
    ],
)
def test_a_box_that_shows_nothing_is_refused(box, reason):
    with pytest.raises(RejectedError, match=f"{reason}: .*px"):
        decode(encoded(photo(500, 375), "PNG"), box)


def test_a_box_turns_with_its_picture():
    stored = photo(120, 80)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to the right
    box = (70, 30, 30, 20)

    cut = decode(encoded(stored, "PNG", exif=exif), box)

    wanted = published_crop(stored, box).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(cut), np.asarray(wanted))
    whole = to_square_jpeg(encoded(stored, "PNG", exif=exif), 16, 95, box)
    assert (whole.original_width, whole.original_height) == (80, 120)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("box", [None, (300.0, 200.0, 311.0, 255.0)])
@pytest.mark.parametrize("size", [20, 40, 80, 160, 400])
def test_a_large_jpeg_is_decoded_small_to_nearly_the_same_pixels(orientation, box, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo(1001, 755), quality=95, exif=exif)  # no multiple of 8, 4 or 2

    small = to_square_jpeg(content, size, 95, box)

    full = opened(encode_jpeg(square(decode(content, box), size), 95))
    assert np.abs(opened(small.jpeg) - full).mean() < 1.3
    assert small[1:] == ((1001, 755) if orientation == 1 else (755, 1001))


def test_a_large_jpeg_is_decoded_small_only_while_twice_the_size_is_left(monkeypatch):
    content = encoded(photo(1000, 800))
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda i: decoded.append(i.size) or load(i))

    for size in (50, 51, 100, 101, 200, 201):
        to_square_jpeg(content, size, 95)

    sizes = list(dict.fromkeys(decoded))
    assert sizes == [(125, 100), (250, 200), (500, 400), (1000, 800)]


def test_nothing_but_pixels_is_handed_on():
    content = encoded(photo(), comment=b"call me", icc_profile=bytes(200), dpi=(300, 300))

    stored = to_square_jpeg(content, 32, 90)

    assert set(Image.open(io.BytesIO(stored.jpeg)).info) <= {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
    }
    assert b"call me" not in stored.jpeg


def test_stored_jpeg_is_close_to_the_pixels():
    image = photo(64, 64)

    stored = Image.open(io.BytesIO(encode_jpeg(image, 95)))

    difference = np.abs(np.asarray(stored).astype(int) - np.asarray(image))
    assert difference.mean() < 2
