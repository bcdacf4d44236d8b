"""Synthetic captioned images: coloured shapes on a textured background, from a seed.

Each caption's meaning is known, so the agreement of an image with its caption
can be measured exactly. The quickstart and the tests train on these images.
"""

import io
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field

from pipeline.preparation.sources.source import Record, Source

COLOURS = {
    "red": (214, 39, 40),
    "green": (36, 160, 60),
    "blue": (40, 90, 220),
    "yellow": (250, 215, 40),
    "purple": (150, 60, 190),
    "white": (250, 250, 250),
}
Colour = Literal["red", "green", "blue", "yellow", "purple", "white"]
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
PLACES = {  # phrases, and the centre as a share of width and height
    "top left": (("at the top left", "in the upper left corner"), (0.27, 0.27)),
    "top right": (("at the top right", "in the upper right corner"), (0.73, 0.27)),
    "bottom left": (("at the bottom left", "in the lower left corner"), (0.27, 0.73)),
    "bottom right": (("at the bottom right", "in the lower right corner"), (0.73, 0.73)),
    "centre": (("in the centre", "in the middle"), (0.5, 0.5)),
}
RELATIONS = {  # phrases, and the centres of the first and the second shape
    "left of": (("left of", "to the left of"), ((0.27, 0.5), (0.73, 0.5))),
    "right of": (("right of", "to the right of"), ((0.73, 0.5), (0.27, 0.5))),
    "above": (("above", "over"), ((0.5, 0.27), (0.5, 0.73))),
    "below": (("below", "under"), ((0.5, 0.73), (0.5, 0.27))),
}
RADII = {"small": 0.11, "large": 0.21}  # of the image's side
JITTER = 0.04  # of the image's side
SUPERSAMPLING = 4

Meaning = dict[str, Any]


class ShapesSource(Source):
    """Coloured shapes drawn from a seed; needs no data.

    python jobs/prepare.py shapes --count 2000 --size 64 --image-size 64 --output data/shapes
    """

    name: ClassVar[str] = "shapes"
    mirrors: ClassVar[bool] = False
    later: ClassVar[frozenset[str]] = frozenset({"colours"})

    count: Annotated[int, Field(ge=2)] = 2000
    """Images to draw."""
    size: Annotated[int, Field(ge=16, le=1024)] = 64
    """Height and width of the drawn images in pixels."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed gives other images."""
    captions_per_image: Annotated[int, Field(ge=1, le=8)] = 2
    """Captions with the same meaning for each image."""
    pairs: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of images with two shapes and a relation between them."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of images held out."""
    colours: Annotated[tuple[Colour, ...], Field(min_length=1)] | None = None
    """Colours of the shapes. Default: all."""

    def records(self) -> Iterator[Record]:
        """List the drawn images; the last ones are held out."""
        first_held_out = self.count - round(self.count * self.validation)
        for index in range(self.count):
            rng = np.random.default_rng([self.seed, index, 0])
            meaning = draw_meaning(rng, pairs=self.pairs, colours=self.colours or tuple(COLOURS))
            yield Record(
                id=f"shapes-{self.seed}-{index:08d}",
                split="train" if index < first_held_out else "validation",
                location=str(index),
                captions=tuple(describe(meaning, rng) for _ in range(self.captions_per_image)),
                label=json.dumps(meaning, sort_keys=True),
                meaning=meaning,
            )

    def read_image(self, record: Record) -> bytes:
        """Draw the image of a record as PNG."""
        if record.meaning is None:
            raise OSError(f"{record.id} has no meaning to draw from.")
        rng = np.random.default_rng([self.seed, int(record.location), 1])
        buffer = io.BytesIO()
        render(record.meaning, self.size, rng).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def draw_meaning(
    rng: np.random.Generator, *, pairs: float, colours: Sequence[str] = tuple(COLOURS)
) -> Meaning:
    """Draw a meaning: one shape at a place, or with probability `pairs` two and their relation."""

    def shape() -> dict[str, str]:
        return {
            "colour": str(rng.choice(colours)),
            "shape": str(rng.choice(SHAPES)),
            "size": str(rng.choice(list(SIZES))),
        }

    if rng.random() < pairs:
        return {"objects": [shape(), shape()], "relation": str(rng.choice(list(RELATIONS)))}
    return {"objects": [{**shape(), "place": str(rng.choice(list(PLACES)))}]}


def describe(meaning: Meaning, rng: np.random.Generator) -> str:
    """Return one of the captions for a meaning."""

    def noun(thing: dict[str, str]) -> str:
        return f"a {rng.choice(SIZES[thing['size']])} {thing['colour']} {thing['shape']}"

    first, *others = meaning["objects"]
    if others:
        relation = rng.choice(RELATIONS[meaning["relation"]][0])
        return f"{noun(first)} {relation} {noun(others[0])}"
    return f"{noun(first)} {rng.choice(PLACES[first['place']][0])}"


def render(meaning: Meaning, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw the image of a meaning.

    Args:
        meaning: Result of `draw_meaning`.
        size: Height and width in pixels.
        rng: Draws background, exact positions, sizes and colours.

    Returns:
        An RGB image.
    """
    image = Image.fromarray(_ground(size, rng))
    things = meaning["objects"]
    centres = (
        RELATIONS[meaning["relation"]][1]
        if "relation" in meaning
        else [PLACES[things[0]["place"]][1]]
    )
    for thing, centre in zip(things, centres, strict=True):
        x, y = np.asarray(centre) + rng.uniform(-JITTER, JITTER, 2)
        radius = RADII[thing["size"]] * rng.uniform(0.92, 1.08)
        mask = Image.new("L", (size * SUPERSAMPLING,) * 2)
        _outline(
            ImageDraw.Draw(mask), thing["shape"], *(size * SUPERSAMPLING * np.array([x, y, radius]))
        )
        shade = np.clip(np.array(COLOURS[thing["colour"]]) + rng.uniform(-14, 14, 3), 0, 255)
        paint = Image.new("RGB", (size, size), tuple(int(c) for c in shade))
        image.paste(paint, mask=mask.resize((size, size), Image.Resampling.BOX))
    return image


def _ground(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a muted background with broad stains and fine grain, [size, size, 3]."""
    tone = rng.uniform(70, 140) + rng.uniform(-8, 8, 3)
    stains = Image.fromarray(rng.uniform(-22, 22, (5, 5)).astype(np.float32)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 5, (size, size, 1))
    return np.clip(tone + np.asarray(stains)[:, :, None] + grain, 0, 255).astype(np.uint8)


def _outline(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float) -> None:
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif shape == "square":
        side = 0.87 * r  # about the circle's area
        draw.rectangle((x - side, y - side, x + side, y + side), fill=255)
    elif shape == "triangle":
        draw.polygon(
            [(x, y - 1.15 * r), (x - 1.15 * r, y + 0.9 * r), (x + 1.15 * r, y + 0.9 * r)], fill=255
        )
    else:
        arm = 0.36 * r
        draw.rectangle((x - arm, y - 1.1 * r, x + arm, y + 1.1 * r), fill=255)
        draw.rectangle((x - 1.1 * r, y - arm, x + 1.1 * r, y + arm), fill=255)
