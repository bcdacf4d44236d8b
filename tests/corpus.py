"""Bad input, made from a seed: images and captions as the world has them, and what becomes of them.

Nothing here is stored: `images()` and `captions()` make the same items each time, for every test
that wants to see its code survive them.
"""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, features

from tests.conftest import encoded, photo

UPRIGHT_TO_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Refused:
    """What must come of an item that cannot be used: a reject with this reason."""

    reason: str


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(samples: np.ndarray, colour: int, extra: bytes = b"", bits: int | None = None) -> bytes:
    """A PNG by hand, for what Pillow does not write.

    Args:
        samples: Rows of samples as they are stored, [H, ...].
        colour: The format's colour type: 0 grey, 2 RGB.
        extra: Chunks before the pixels.
        bits: Of a sample, if less than a byte; rows are packed then.
    """
    height, width = samples.shape[0], samples.shape[1] * 8 // bits if bits else samples.shape[1]
    bits = bits or samples.itemsize * 8
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
    return png_of(width, height, bits, colour, extra + chunk(b"IDAT", zlib.compress(rows, 1)))


def png_of(width: int, height: int, bits: int, colour: int, chunks: bytes) -> bytes:
    """A PNG whose header may promise anything."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IEND", b"")


def after_header(content: bytes, extra: bytes) -> bytes:
    """Put chunks right after the header of a PNG."""
    return content[:33] + extra + content[33:]


def flipped(content: bytes, position: int, mask: int = 0xFF) -> bytes:
    changed = bytearray(content)
    changed[position] ^= mask
    return bytes(changed)


def turned(picture: Image.Image, orientation: int) -> bytes:
    """The picture, stored some way round, with the orientation that sets it upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture.transpose(UPRIGHT_TO_STORED[orientation]), exif=exif, quality=95)


def promising_metadata() -> bytes:
    """EXIF with 65535 entries of 4 billion values each, none of which are there."""
    entry = struct.pack("<HHII", 0x0112, 3, 0xFFFFFFFF, 0x7FFFFFFF)
    return b"II*\0" + struct.pack("<IH", 8, 0xFFFF) + 100 * entry


@cache
def zeros() -> bytes:
    """80 MiB in few bytes."""
    return zlib.compress(bytes(80 * 2**20), 9)


def images(seed: int = 0) -> dict[str, tuple[bytes, Refused | Image.Image]]:
    """Originals by name, each with the reason to refuse it or the picture it must become."""
    rng = np.random.default_rng(seed)
    picture = photo(96, 64, seed)
    jpeg = encoded(picture, quality=95)
    grainy = Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    grainy_png = encoded(grainy, "PNG")
    ramp = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)
    ramps = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1)
    half = Image.new("L", picture.size, 255)
    half.paste(0, (48, 0, 96, 64))
    on_white = picture.copy()
    on_white.paste("white", (48, 0, 96, 64))
    see_through = picture.copy()
    see_through.putalpha(half)
    hidden = picture.copy()
    hidden.putalpha(0)
    palette = picture.quantize(255)
    cut_out = Image.fromarray(np.where(np.asarray(half) == 255, np.asarray(palette), 255), "P")
    cut_out.putpalette(palette.getpalette() + [0, 0, 0] * (256 - len(palette.getpalette()) // 3))
    frames = [photo(96, 64, seed + n) for n in range(10)]
    moving = {"save_all": True, "append_images": frames[1:]}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        # Without a time, or it would be another archive each time.
        file.writestr(zipfile.ZipInfo("autorun.sh"), "echo surprise")
    grey16 = Image.fromarray((ramp / 257).round().astype(np.uint8))
    rgb16 = Image.fromarray((ramps / 257).round().astype(np.uint8))
    keyed = ramps.copy()
    keyed[:, 48:] = (5200, 4100, 300)
    keyed_on_white = rgb16.copy()
    keyed_on_white.paste("white", (48, 0, 96, 64))
    huffman_counts = jpeg.index(b"\xff\xc4") + 5
    short = chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    bomb = chunk(b"zTXt", b"Comment\0\0" + zeros())
    profile_bomb = chunk(b"iCCP", b"sRGB\0\0" + zeros())
    garbage = rng.bytes(400)

    found: dict[str, tuple[bytes, Refused | Image.Image]] = {
        "ok": (jpeg, picture),
        "JPEG cut at a half": (jpeg[: len(jpeg) // 2], Refused("IMG_TRUNCATED")),
        "JPEG without its last 10 bytes": (jpeg[:-10], Refused("IMG_TRUNCATED")),
        "progressive JPEG cut": (
            encoded(grainy, progressive=True)[:-2000],
            Refused("IMG_TRUNCATED"),
        ),
        "PNG cut": (grainy_png[: len(grainy_png) // 2], Refused("IMG_TRUNCATED")),
        "PNG without its end": (grainy_png[:-12], Refused("IMG_TRUNCATED")),
        "WebP cut": (encoded(grainy, "WEBP")[:-500], Refused("IMG_TRUNCATED")),
        "nothing": (b"", Refused("IMG_EMPTY")),
        "error page": (b"<!DOCTYPE html><html>404 Not Found</html>", Refused("IMG_UNIDENTIFIED")),
        "error of a bucket": (
            b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
            Refused("IMG_UNIDENTIFIED"),
        ),
        "20 bytes of a header": (jpeg[:20], Refused("IMG_UNIDENTIFIED")),
        "noise": (rng.bytes(5000), Refused("IMG_UNIDENTIFIED")),
        "JPEG with a broken table": (flipped(jpeg, huffman_counts), Refused("IMG_CORRUPT")),
        "CMYK": (encoded(picture.convert("CMYK"), quality=95), picture),
        "grey": (encoded(picture.convert("L"), quality=95), picture.convert("L").convert("RGB")),
        "transparent half": (encoded(see_through, "PNG"), on_white),
        "transparent half, WebP": (encoded(see_through, "WEBP", lossless=True), on_white),
        "transparent all over": (encoded(hidden, "PNG"), Refused("IMG_BLANK")),
        "16-bit grey": (png(ramp, 0), grey16.convert("RGB")),
        "16-bit RGB": (png(ramps, 2), rgb16),
        "16-bit RGB with a transparent colour": (
            png(keyed, 2, chunk(b"tRNS", struct.pack(">3H", 5200, 4100, 300))),
            keyed_on_white,
        ),
        "palette with a transparent entry": (encoded(cut_out, "PNG", transparency=255), on_white),
        "animated GIF": (encoded(frames[0], "GIF", **moving), Refused("IMG_FORMAT")),
        "animated WebP": (encoded(frames[0], "WEBP", **moving), Refused("IMG_ANIMATED")),
        "animated PNG": (encoded(frames[0], "PNG", **moving), Refused("IMG_ANIMATED")),
        "bomb of 144 megapixels": (
            png(np.zeros((12_000, 1500), np.uint8), 0, bits=1),
            Refused("IMG_TOO_LARGE"),
        ),
        "bomb of 400 megapixels": (
            png(np.zeros((20_000, 2500), np.uint8), 0, bits=1),
            Refused("IMG_TOO_LARGE"),
        ),
        "bomb of 3.6 gigapixels": (
            png_of(60_000, 60_000, 8, 2, short),
            Refused("IMG_TOO_LARGE"),
        ),
        "too many bytes": (jpeg + bytes(31 * 2**20), Refused("IMG_TOO_LARGE")),
        "one pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), Refused("IMG_TOO_SMALL")),
        "10000 × 1": (encoded(Image.new("RGB", (10_000, 1)), "PNG"), Refused("IMG_TOO_SMALL")),
        "65500 × 1": (encoded(Image.new("RGB", (65_500, 1))), Refused("IMG_TOO_SMALL")),
        "strip": (encoded(photo(1000, 100, seed)), Refused("IMG_ASPECT")),
        "PNG with the name of a JPEG": (encoded(picture, "PNG"), picture),
        "SVG": (
            b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
            Refused("IMG_FORMAT"),
        ),
        "BMP": (encoded(picture, "BMP"), Refused("IMG_FORMAT")),
        "16-bit TIFF": (encoded(Image.fromarray(ramp), "TIFF"), Refused("IMG_FORMAT")),
        "EPS": (encoded(picture, "EPS"), Refused("IMG_FORMAT")),
        "AVIF": (_avif(picture), Refused("IMG_FORMAT")),
        "wrong checksum of the header": (
            flipped(encoded(picture, "PNG"), 30),
            Refused("IMG_UNIDENTIFIED"),
        ),
        "zip behind the picture": (jpeg + archive.getvalue(), picture),
        "text of 80 MB in 80 kB": (
            after_header(encoded(picture, "PNG"), bomb),
            Refused("IMG_CORRUPT"),
        ),
        "colour profile of 80 MB in 80 kB": (
            after_header(encoded(picture, "PNG"), profile_bomb),
            Refused("IMG_CORRUPT"),
        ),
        "colour profile of garbage": (encoded(picture, quality=95, icc_profile=garbage), picture),
        "metadata of garbage": (
            encoded(picture, quality=95, dpi=(72, 72), exif=b"Exif\0\0" + garbage),
            picture,
        ),
        "metadata that promises 4 GB": (
            encoded(picture, quality=95, exif=b"Exif\0\0" + promising_metadata()),
            picture,
        ),
        "black": (encoded(Image.new("RGB", (96, 64))), Refused("IMG_BLANK")),
        # These two end the process of torchvision.io.decode_image (0.29) with SIGSEGV.
        "PNG with a flipped byte": (
            flipped(grainy_png, len(grainy_png) // 2),
            Refused("IMG_CORRUPT"),
        ),
        "PNG with too few pixels": (png_of(64, 64, 8, 2, short), Refused("IMG_CORRUPT")),
        "the same bytes under another name": (jpeg, picture),
    }
    for orientation in UPRIGHT_TO_STORED:
        found[f"orientation {orientation}"] = (turned(picture, orientation), picture)
    return found


def _avif(picture: Image.Image) -> bytes:
    if features.check("avif"):
        return encoded(picture, "AVIF")
    return b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1A"  # how each begins


def captions() -> dict[str, tuple[bytes | str, Refused | str]]:
    """Captions by name, each with the reason to refuse it or the text it must become."""
    pile = "".join(chr(0x300 + n % 0x30) for n in range(1000))
    kept = {
        "Arabic": "طائر أحمر على غصن",
        "Chinese": "一只红色的小鸟",
        "Devanagari": "शाखा पर एक लाल पक्षी",
        "Vietnamese": "một con chim màu đỏ",
        "emoji family": "👨\u200d👩\u200d👧 in the park",
        "formula": '=HYPERLINK("http://a.example","click")',
        "markup": "<script>alert(1)</script>",
        "template": "{{7*7}} ${7*7}",
        "format": "%s%n%x",
        "SQL": "'; DROP TABLE captions;--",
        "key": "AKIAIOSFODNN7EXAMPLE",
        "10 kB": ("a red bird on a branch " * 450).strip(),
    }
    changed = {
        "NUL": ("a\x00b", "ab"),
        "escape code": ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        "text direction": ("left \u202eright\u202c", "left right"),
        "zero width": ("b\u200bi\u200br\u2060d\ufeff", "bird"),
        "lines": (" a red\r\n bird\u2028on a\tbranch ", "a red bird on a branch"),
        "pile of marks": ("z" + pile + "algo", "z\u0300\u0301\u0302\u0303\u0304\u0305algo"),
        "UTF-8 mark, bytes": ("a café".encode("utf-8-sig"), "a café"),
        "UTF-8 mark, text": ("\ufeffa bird", "a bird"),
        "letters taken apart": ("cafe\u0301", "café"),
    }
    refused = {
        "empty": ("", "CAP_EMPTY"),
        "blanks": ("   ", "CAP_EMPTY"),
        "line break": ("\n", "CAP_EMPTY"),
        "full stop": (".", "CAP_EMPTY"),
        "zero width only": ("\u200b\u200d\ufeff", "CAP_EMPTY"),
        "Klingon": ("\uf8d0\uf8d1\uf8d2", "CAP_EMPTY"),
        "10 MB": ("a" * 10_000_000, "CAP_TOO_LONG"),
        "flood of words": ("a " * 100_000, "CAP_TOO_LONG"),
        "lone surrogate": ("a \ud800 bird", "CAP_ENCODING"),
        "no UTF-8": (b"\xff\xfe\x41", "CAP_ENCODING"),
        "Latin-1": ("a café".encode("latin-1"), "CAP_ENCODING"),
        "UTF-16": ("a café".encode("utf-16"), "CAP_ENCODING"),
    }
    return (
        {name: (text, text) for name, text in kept.items()}
        | changed
        | {name: (text, Refused(reason)) for name, (text, reason) in refused.items()}
    )
