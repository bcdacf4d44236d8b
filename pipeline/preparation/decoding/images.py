"""Decode foreign images to pixels, with limits; the only place that does.

Pillow only: other decoders in reach end the process on some damaged files.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from PIL import (
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from pipeline.common.console import printable

FORMATS = ("JPEG", "PNG", "WEBP")  # an allow-list keeps rarely tested decoders out of reach
# Named here so that they are loaded: for a format it has not loaded, Pillow loads all its decoders.
DECODERS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
MAX_BYTES = 30 * 2**20
MAX_PIXELS = 50_000_000
MIN_SIDE = 16  # pixels
# The square that is cut out shows less than 1/8 of a longer strip, and its captions speak of all
# of it. Photos stay far below: the longest of 108 of COCO is 2.8 : 1, of 198 crops of CUB 1.8 : 1.
MAX_ASPECT = 8  # longer side : shorter side
REASONS = frozenset(
    {
        "BOX_INVALID",
        "IMG_ANIMATED",
        "IMG_ASPECT",
        "IMG_BLANK",
        "IMG_CORRUPT",
        "IMG_EMPTY",
        "IMG_FORMAT",
        "IMG_TOO_LARGE",
        "IMG_TOO_SMALL",
        "IMG_TRUNCATED",
        "IMG_UNIDENTIFIED",
    }
)

Box = tuple[float, float, float, float]
Region = tuple[int, int, int, int]  # left, top, right, bottom in pixels

# How a picture is stored, by the number in its metadata, to what sets it upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112  # its number in EXIF

STARTS = {
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF-": "PDF",
    b"8BPS": "PSD",
    b"\0\0\1\0": "ICO",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"P5\n": "PGM",
    b"P6\n": "PPM",
}
TAKEN_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
SVG_STARTS = (b"<svg", b"<?xml", b"<!--", b"<!doctype svg")
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
# Decoding refuses these. They are listed so that they are counted, not left out without a word.
OTHERS = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".svg", ".jfif", ".jp2", ".jxl")


class RejectedError(Exception):
    """An original that cannot be used.

    Args:
        reason: Short code that rejects are counted by.
        detail: What was found, for the one who looks into it; made printable here.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = printable(detail)
        super().__init__(self.reason, self.detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class SquareJpeg(NamedTuple):
    """An original as a dataset keeps it.

    Attributes:
        jpeg: The encoded square.
        original_width: Of the whole picture, upright, in pixels.
        original_height: The same.
    """

    jpeg: bytes
    original_width: int
    original_height: int


def to_square_jpeg(content: bytes, size: int, quality: int, box: Box | None = None) -> SquareJpeg:
    """Go the whole way from an original to what a dataset keeps of it.

    Args:
        content: The encoded image.
        size: Height and width of the result in pixels.
        quality: Of the JPEG, 1 to 100.
        box: As in `decode`.

    Raises:
        RejectedError: If it is not an image that can be used, with the reason.
    """
    with _rejecting(content):
        image = _open(content)
        width, height = image.size
        region = _region(image.size, box)
        # Twice the size is left to the filter below, which is better than the JPEG's own.
        divisor = _reduce(image, region, 2 * size)
        left, top, right, bottom = (edge / divisor for edge in region)
        x, y = math.floor(left), math.floor(top)
        pixels = _rgb(image, (x, y, math.ceil(right), math.ceil(bottom)))
        orientation = _orientation(image)
    small = _square(pixels, (left - x, top - y, right - x, bottom - y), size)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return SquareJpeg(encode_jpeg(_upright(small, orientation), quality), width, height)


def decode(content: bytes, box: Box | None = None) -> Image.Image:
    """Decode an original.

    The orientation in its metadata is applied, 16 bits become 8 by scaling, and
    transparent parts lie on white.

    Args:
        content: The encoded image.
        box: Left, top, width and height, in pixels of the stored picture (before its orientation
            is applied), of what the captions speak of: only a square around it is kept, as in
            https://github.com/tobran/DF-GAN for CUB-200-2011.

    Returns:
        An RGB image.

    Raises:
        RejectedError: If it is not an image that can be used, with the reason.
        RuntimeError: If Pillow is set to fill up cut files.
    """
    with _rejecting(content):
        image = _open(content)
        picture = _rgb(image, _region(image.size, box))
        return _upright(picture, _orientation(image))


def check_bytes(content: bytes) -> None:
    """Refuse what need not be opened.

    Raises:
        RejectedError: If there are no bytes, or too many.
    """
    if not content:
        raise RejectedError("IMG_EMPTY", "the file has 0 bytes")
    if len(content) > MAX_BYTES:
        raise RejectedError("IMG_TOO_LARGE", f"{len(content)} bytes, at most {MAX_BYTES} are taken")


@contextmanager
def _rejecting(content: bytes) -> Iterator[None]:
    """Turn whatever a decoder raises into a reject."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True: cut files would be filled up with grey "
            "and count as images. Something in this process has set it; it must be False."
        )
    try:
        check_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file; it is used or rejected, and counted
            yield
    except RejectedError:
        raise
    except UnidentifiedImageError as error:
        if other := _other_format(content):
            raise RejectedError(
                "IMG_FORMAT", f"{other}; {', '.join(FORMATS)} are taken: convert it to one of them"
            ) from error
        raise RejectedError(
            "IMG_UNIDENTIFIED",
            f"not one of {', '.join(FORMATS)}; it starts with {content[:16].hex()}",
        ) from error
    except Image.DecompressionBombError as error:
        raise RejectedError("IMG_TOO_LARGE", str(error)) from error
    except MemoryError as error:
        raise RejectedError("IMG_TOO_LARGE", "it takes more memory than there is") from error
    except Exception as error:  # damaged files raise almost anything
        reason = "IMG_TRUNCATED" if _is_cut(content) else "IMG_CORRUPT"
        raise RejectedError(reason, f"{type(error).__name__}: {error}") from error


def format_of(head: bytes) -> str | None:
    """Name the format of an image by its first bytes, at least 64; None if it looks like none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    taken = (name for start, name in TAKEN_STARTS.items() if head.startswith(start))
    return next(taken, None) or _other_format(head)


def _other_format(content: bytes) -> str | None:
    """Name a format outside the list by its first bytes; nothing opens it."""
    for start, name in STARTS.items():
        if content.startswith(start):
            return name
    if content.startswith(b"BM") and content[6:10] == bytes(4):
        return "BMP"
    if content[4:8] == b"ftyp":
        return f"a file of the {content[8:12].decode('latin-1')} family (AVIF, HEIC, film)"
    text = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "SVG" if text.startswith(SVG_STARTS) and b"<svg" in text else None


def _is_cut(content: bytes) -> bool:
    """Tell whether a file that cannot be decoded ends before its format's end mark."""
    if content.startswith(b"\xff\xd8"):
        # Segment by segment to the first scan: a thumbnail on the way has an end mark of its own.
        place = 2
        while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
            place += 2 + int.from_bytes(content[place + 2 : place + 4])
        return content.find(b"\xff\xd9", place) < 0
    if content.startswith(b"\x89PNG"):
        return b"IEND\xae\x42\x60\x82" not in content
    return int.from_bytes(content[4:8], "little") + 8 > len(content)  # WebP says how long it is


def _open(content: bytes) -> Image.Image:
    """Read the header, and look at it before any pixel is decoded."""
    image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RejectedError(
            "IMG_TOO_LARGE", f"{width} × {height} px, at most {MAX_PIXELS} pixels are taken"
        )
    # MPO is a photo with a preview or a second view behind it, as many cameras write.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise RejectedError("IMG_ANIMATED", f"{getattr(image, 'n_frames', 0)} frames")
    if image.format == "PNG":
        # Its checksums, which loading leaves out: some flipped bits decode to other pixels.
        Image.open(io.BytesIO(content), formats=FORMATS).verify()
    key = image.info.get("transparency")
    if image.format == "PNG" and content[24] == 16 and isinstance(key, tuple):
        # Pillow keeps the high byte of each sample, but all 16 bits of the transparent colour.
        image.info["transparency"] = tuple(sample >> 8 for sample in key)
    return image


def _region(size: tuple[int, int], box: Box | None) -> Region:
    """Find what to keep of a picture, and see that it is enough."""
    width, height = size
    region = (0, 0, width, height) if box is None else _around(box, width, height)
    kept_width, kept_height = region[2] - region[0], region[3] - region[1]
    of = "" if box is None else " around its box"
    if min(kept_width, kept_height) < MIN_SIDE:
        raise RejectedError(
            "IMG_TOO_SMALL", f"{kept_width} × {kept_height} px{of}, {MIN_SIDE} px a side are needed"
        )
    if max(kept_width, kept_height) > MAX_ASPECT * min(kept_width, kept_height):
        raise RejectedError(
            "IMG_ASPECT", f"{kept_width} × {kept_height} px{of}, at most {MAX_ASPECT} : 1 is taken"
        )
    return region


def _around(box: Box, width: int, height: int) -> Region:
    """Square around a box, clipped to the picture; 1.5 times the box's longer side.

    The rounding is that of the published crop, pixel for pixel.
    """
    left, top, box_width, box_height = box
    if all(abs(edge) < 1e9 for edge in box) and box_width > 0 and box_height > 0:  # no NaN is
        x, y = int((2 * left + box_width) / 2), int((2 * top + box_height) / 2)
        half = int(max(box_width, box_height) * 0.75)
        # A box may reach beyond its picture: one of CUB-200-2011 does, by a pixel.
        if 0 <= x < width and 0 <= y < height:
            return (max(0, x - half), max(0, y - half), min(width, x + half), min(height, y + half))
    raise RejectedError(
        "BOX_INVALID",
        f"left {left:g}, top {top:g}, width {box_width:g}, height {box_height:g}: "
        f"its centre must lie within the picture of {width} × {height} px",
    )


def _reduce(image: Image.Image, region: Region, side: int) -> float:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size, while the region keeps a side.

    This leaves out most of the work, and most of the memory, that a large photo takes.

    Args:
        image: Not decoded yet.
        region: In pixels of the original.
        side: What the region's shorter side must still have, in pixels.

    Returns:
        Pixels of the original to one of what will be decoded. The last row and column may be of
        less: 449 pixels become 57, of which they fill 56.125.
    """
    left, top, right, bottom = region
    shorter = min(right - left, bottom - top)
    divisor = next((d for d in (8, 4, 2) if shorter >= d * side), 1)
    if divisor == 1:
        return 1
    drafted = image.draft(None, (image.width // divisor, image.height // divisor))
    return divisor if drafted else 1  # None: a format that is always decoded whole


def _rgb(image: Image.Image, region: Region) -> Image.Image:
    """Decode what a header promised, as 8-bit RGB without transparency."""
    image.load()
    picture = _to_rgb(image if region == (0, 0, *image.size) else image.crop(region))
    if colours := picture.getcolors(1):  # None if there are more
        raise RejectedError(
            "IMG_BLANK", f"all over of one colour, {colours[0][1]}; transparent parts lie on white"
        )
    return picture


def _orientation(image: Image.Image) -> int:
    """Read how a decoded picture was stored, 1 to 8; 1 is upright."""
    try:
        orientation = image.getexif().get(ORIENTATION)
        return orientation if orientation in UPRIGHT else 1
    except Exception:  # metadata of garbage says nothing: shown upright, as everywhere
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(UPRIGHT[orientation])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # it would copy
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, which Pillow itself would clip."""
    key = image.info.get("transparency")
    samples = image.convert("I")  # the one mode that takes a table of 65536
    grey = samples.point([round(v / 257) for v in range(65536)], "L")
    if key is not None:
        grey.putalpha(samples.point([0 if v == key else 255 for v in range(65536)], "L"))
    return grey


def square(image: Image.Image, size: int) -> Image.Image:
    """Cut the centred square out of an image and resize it.

    Args:
        image: RGB.
        size: Height and width of the result in pixels.
    """
    return _square(image, (0, 0, image.width, image.height), size)


def _square(image: Image.Image, region: Box, size: int) -> Image.Image:
    """Resize the centred square of a region, whose edges may lie between pixels."""
    left, top, right, bottom = region
    half = min(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    edges = (x - half, y - half, x + half, y + half)
    return image.resize((size, size), Image.Resampling.LANCZOS, edges)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode an RGB image as JPEG with full colour resolution."""
    buffer = io.BytesIO()
    # Pillow would hand the comment of the original on, the one thing but pixels.
    image.save(buffer, "JPEG", quality=quality, subsampling=0, comment=b"")
    return buffer.getvalue()
