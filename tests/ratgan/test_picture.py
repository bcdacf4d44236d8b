"""What a picture is made from, and its record in the file, which anybody may have written."""

import io
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ratgan.picture import (
    CHUNK,
    Picture,
    between_captions,
    between_noises,
    read_signature,
    signed_png,
    variations,
)

PLAIN = Image.new("RGB", (4, 4), "red")


@pytest.mark.parametrize(
    "picture",
    [
        Picture("a bird"),
        Picture("ein Vögel 一只", 2**63 - 1, 3, 0.5),
        *between_captions(["a", "b"], 3, seed=2),
        *between_noises(["a"], 3, seed=2),
        *variations(["a"], 2, seed=2),
    ],
    ids=str,
)
def test_a_file_gives_its_picture_back(picture):
    assert read_signature(signed_png(PLAIN, picture, "abc", 7)) == (picture, "abc")


def test_the_pixels_are_those_of_the_image():
    content = signed_png(PLAIN, Picture("a bird"), "abc", None)

    assert Image.open(io.BytesIO(content)).tobytes() == PLAIN.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption": " "}, "a caption is empty"),
        ({"caption": "a" * 70_000}, "65,536 is the maximum"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.0}, "seed=1.0"),
        ({"row": True}, "row=True"),
        ({"noise_share": 1.5}, "noise_share=1.5"),
        ({"truncation": float("nan")}, "truncation=nan"),
        ({"truncation": "1"}, "truncation='1'"),
        ({"other_caption": 7}, "a caption is empty"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Picture(**({"caption": "a bird"} | options))


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "[" * 100_000,
        json.dumps({"version": 2, "picture": {"caption": "a"}, "model": "x"}),
        json.dumps({"version": 1, "picture": {"caption": "a", "path": "/"}, "model": "x"}),
        json.dumps({"version": 1, "picture": {"caption": "a", "seed": "1"}, "model": "x"}),
    ],
    ids=["text", "list", "deep", "version", "unknown", "type"],
)
def test_a_record_of_somebody_else_is_read_as_data(text):
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt(CHUNK, text)
    PLAIN.save(buffer, "PNG", pnginfo=info)

    with pytest.raises(ValueError, match="is damaged"):
        read_signature(buffer.getvalue())


def test_a_bomb_in_a_chunk_is_refused():
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt(CHUNK, " " * 2**25, zip=True)
    PLAIN.save(buffer, "PNG", pnginfo=info)

    with pytest.raises(ValueError, match="cannot be read as PNG"):
        read_signature(buffer.getvalue())
