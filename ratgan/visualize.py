"""Image grids with captions, and overlays of the discriminator's attention.

Dimensions in this file:
    N images, H W height and width in pixels.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

PADDING = 6  # pixels
FONT_SIZE = 12  # pixels
LINE_HEIGHT = 15  # pixels
CAPTION_LINES = 4
MAX_SHOWN = 400  # characters of a caption
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; the last two are outside
HEAT = (255, 72, 0)  # colour of the highest attention


def png(picture: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def to_pil(image: Tensor) -> Image.Image:
    """Turn a uint8 image [3, H, W] into a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def grid(
    images: Tensor, captions: Sequence[str] | None = None, columns: int = 4, scale: int = 1
) -> Image.Image:
    """Arrange images in rows, each with its caption below it.

    Args:
        images: uint8, [N, 3, H, W].
        captions: N texts; None for a grid without captions.
        columns: Images in a row.
        scale: Factor of enlargement in width and height.

    Returns:
        One RGB picture.
    """
    return grid_with_boxes(images, captions, columns, scale)[0]


def grid_with_boxes(
    images: Tensor, captions: Sequence[str] | None = None, columns: int = 4, scale: int = 1
) -> tuple[Image.Image, list[Box]]:
    """Arrange images as `grid` does, and return also where each image is, without its caption."""
    font = ImageFont.load_default(FONT_SIZE)
    columns = min(columns, len(images))
    height, width = (side * scale for side in images.shape[-2:])
    cell = max(width, 110) if captions else width
    texts = [_wrap(text, font, cell) for text in captions or ()]
    room = LINE_HEIGHT * max(map(len, texts), default=0)
    rows = -(-len(images) // columns)
    picture = Image.new(
        "RGB",
        (
            PADDING + columns * (cell + PADDING),
            PADDING + rows * (height + room + PADDING + (4 if room else 0)),
        ),
        "white",
    )
    draw = ImageDraw.Draw(picture)
    boxes = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left = PADDING + column * (cell + PADDING)
        top = PADDING + row * (height + room + PADDING + (4 if room else 0))
        shown = to_pil(image).resize((width, height), Image.Resampling.NEAREST)
        corner = (left + (cell - width) // 2, top)
        picture.paste(shown, corner)
        boxes.append((*corner, corner[0] + width, top + height))
        for line, text in enumerate(texts[index] if texts else ()):
            place = (left + cell / 2, top + height + 4 + line * LINE_HEIGHT)
            draw.text(place, text, fill="black", font=font, anchor="ma")
    return picture, boxes


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a caption into at most `CAPTION_LINES` lines that fit."""
    lines = [""]
    # The rest of a long text is not measured, because that would take long.
    for word in text[: MAX_SHOWN + 1].split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < CAPTION_LINES:
            lines.append(word)
        else:
            lines[-1] += " …"
            break
    while font.getlength(max(lines, key=font.getlength)) > width:  # a word longer than a line
        lines = [line if font.getlength(line) <= width else line[:-2] + "…" for line in lines]
    return lines


def attention_overlay(images: Tensor, weights: Tensor) -> Tensor:
    """Overlay images with the discriminator's attention.

    The highest weight of each image has full colour and the lowest is grey, so
    that the pattern is visible even if the weights are nearly flat.

    Args:
        images: uint8, [N, 3, H, W].
        weights: Attention weights on a coarser raster, [N, 1, h, w].

    Returns:
        uint8, [N, 3, H, W].
    """
    low, high = weights.amin((2, 3), keepdim=True), weights.amax((2, 3), keepdim=True)
    heat = functional.interpolate(
        (weights - low) / (high - low).clamp_min(1e-12),
        size=images.shape[-2:],
        mode="bilinear",
        align_corners=False,
    )
    grey = images.float().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    colour = torch.tensor(HEAT, dtype=torch.float32)[None, :, None, None]
    return (grey * (1 - 0.6 * heat) + colour * 0.6 * heat).round().to(torch.uint8)


def from_pil(image: Image.Image) -> Tensor:
    """Turn an RGB Pillow image into uint8, [3, H, W]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
