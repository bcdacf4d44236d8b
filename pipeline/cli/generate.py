"""Generate images for captions with a saved model; needs neither Ray nor a tracker."""

import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
import tyro
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.checkpoint.load_model import load_from
from pipeline.common.console import DryRunReport, duration, print_line
from pipeline.common.settings import Settings
from pipeline.preparation.decoding.captions import clean_caption
from pipeline.preparation.decoding.images import RejectedError, decode, square
from pipeline.storage.disk_space import leaving_nothing
from pipeline.storage.folder import Folder
from pipeline.storage.local_copy import local_copy
from ratgan.text_to_image import TextToImage
from ratgan.visualize import attention_overlay, from_pil, grid, png, to_pil
from ratgan.weights.saved_model import (
    DISCRIMINATOR_JSON,
    DISCRIMINATOR_TENSORS,
    load_discriminator,
)

DISCRIMINATOR_FILES = (DISCRIMINATOR_JSON, DISCRIMINATOR_TENSORS)


class GenerateConfig(Settings):
    """Draw pictures for captions. The same captions and seed give the same files.

    python jobs/generate.py --model outputs/quickstart/model "a large red circle in the centre"
    """

    captions: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to draw, one picture each."""
    model: str = "outputs/quickstart/model"
    """Saved model: a folder or bucket address."""
    encoder_path: str | None = None
    """Text encoder, if the model does not bring it along: a place that only the model names is not
    opened."""
    file: str | None = None
    """Text file with one caption a line, in addition to those given."""
    output: str = "outputs/generated"
    """Folder or bucket address for the PNG files and grid.png."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed draws other pictures of the same captions."""
    show: Literal["each", "variations", "captions", "noises"] = "each"
    """One picture of each caption; or a row of them: variations of each caption, from the same
    noises for all; the way from each caption to the next; or each caption on the way from one noise
    to another."""
    count: Annotated[int, Field(ge=2, le=64)] | None = None
    """Pictures in such a row. Default: 8."""
    same_noise: bool = False
    """Draw one picture of each caption from one noise: what differs is what the captions say."""
    attention: str | None = None
    """Checkpoint of a run, outputs/NAME/checkpoints/step-…: also draw where its discriminator looks
    for each caption."""
    images: tuple[str, ...] = ()
    """With attention: image files to look at, one for each caption, in place of drawn ones."""
    columns: Annotated[int, Field(ge=1)] = 4
    """Pictures in a row of the grid, where rows have no meaning of their own."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        rows = self.show != "each"
        if self.count is not None and not rows:
            raise ValueError("count is for rows: choose what they show with --show variations.")
        if rows and (self.same_noise or self.attention):
            raise ValueError(f"same_noise and attention need --show each, not {self.show}.")
        if self.images and self.attention is None:
            raise ValueError("images are looked at with --attention, the checkpoint of a run.")
        return self


def generate(config: GenerateConfig) -> list[str]:
    """Write PNG files and a labelled grid of all.

    Returns:
        The files, the grid after those it shows.

    Raises:
        ValueError: If there is no caption, one that says nothing, or not one for each image.
        FileNotFoundError: If the model or a file is not there.
    """
    captions, folder, model = _checked(config)
    images, labels = _draw(config, model, captions)
    columns = config.columns if config.show == "each" else config.count or 8
    scale = max(1, 128 // images.shape[-1])
    pictures = {} if config.images else _named(images, captions)
    pictures["grid.png"] = grid(images, labels, columns=columns, scale=scale)
    if config.attention:
        looked_at = _attention(config.attention, model, images, captions)
        pictures["attention.png"] = grid(looked_at, labels, columns=columns, scale=scale)
    for name, picture in pictures.items():
        folder.write(name, png(picture))
    print_line(
        f"{len(images)} picture{'s' if len(images) > 1 else ''} in {folder}, side by side in "
        f"{folder}/grid.png" + (f"\nattention in {folder}/attention.png" * bool(config.attention))
    )
    return [f"{folder}/{name}" for name in pictures]


def plan_generation(config: GenerateConfig) -> None:
    """Say what would be drawn, and how long it takes, after drawing one picture.

    Raises:
        ValueError: As drawing would.
        OSError: As drawing would.
    """
    with leaving_nothing(Folder(config.output)):
        captions, folder, model = _checked(config)
        report, rows = DryRunReport(), config.show != "each"
        count = len(captions) * (config.count or 8) if rows else len(captions)
        origin = ", ".join(f"{key} {value}" for key, value in sorted(model.origin.items()))
        side = model.generator.arguments["image_size"]
        model.draw(captions[:1])  # the first loads the text encoder
        started = time.monotonic()
        drawn = model.draw(captions[:1])
        seconds = time.monotonic() - started
        if config.attention:
            _attention(config.attention, model, drawn, captions[:1])
        report.line("model", f"{config.model}: {side} × {side} px ({origin})")
        report.line("output", f"{folder}: up to {count:,} pictures of {len(captions):,} captions")
        report.line("ETA", f"{duration(count * seconds)}: a picture took {seconds:.2f} s")
        report.end()


def _checked(config: GenerateConfig) -> tuple[list[str], Folder, TextToImage]:
    """Return captions, output folder and model, if something can be drawn."""
    captions = [_clean(text) for text in _texts(config)]
    if not captions:
        raise ValueError('no caption given, for example: jobs/generate.py "a small red bird"')
    if config.images and len(config.images) != len(captions):
        raise ValueError(
            f"{len(config.images)} images and {len(captions)} captions: each image needs one."
        )
    folder = Folder(config.output)
    folder.check_writable("output")
    model = load_from(config.model, config.encoder_path)
    return captions, folder, model


def _draw(
    config: GenerateConfig, model: TextToImage, captions: list[str]
) -> tuple[Tensor, list[str]]:
    """Draw, or read, what the grid shows: images [N, 3, H, W] and what stands under each."""
    count = config.count or 8
    blank = [""] * (count - 2)
    if config.images:
        size = model.generator.arguments["image_size"]
        return torch.stack([_read_image(path, size) for path in config.images]), captions
    if config.show == "variations":
        rows = model.variations(captions, count, seed=config.seed)
        return rows.flatten(0, 1), [t for c in captions for t in (c, *blank, "")]
    if config.show == "noises":
        rows = model.between_noises(captions, count, seed=config.seed)
        return rows.flatten(0, 1), [t for c in captions for t in (c, *blank, "")]
    if config.show == "captions":
        rows = model.between_captions(captions, count, seed=config.seed)
        labels = [t for start, end in pairwise(captions) for t in (start, *blank, end)]
        return rows.flatten(0, 1), labels
    return model.draw(captions, seed=config.seed, same_noise=config.same_noise), captions


def _named(images: Tensor, captions: list[str]) -> dict[str, Image.Image]:
    """Name pictures by their number and what they show; rows are of one caption each."""
    per_caption = max(1, len(images) // len(captions))
    pictures = {}
    for index, image in enumerate(images):
        caption = captions[min(index // per_caption, len(captions) - 1)]
        slug = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:48]
        pictures[f"{index:03d}-{slug or 'caption'}.png"] = to_pil(image)
    return pictures


def _attention(checkpoint: str, model: TextToImage, images: Tensor, captions: list[str]) -> Tensor:
    """Lay over images where the discriminator looks for their captions: uint8, [N, 3, H, W]."""
    with local_copy(checkpoint, DISCRIMINATOR_FILES) as folder:
        discriminator = load_discriminator(folder)
    size = model.generator.arguments["image_size"]
    sizes = (discriminator.arguments["image_size"], discriminator.arguments["sentence_dim"])
    if sizes != (size, model.transform.dim):
        raise ValueError(
            f"the discriminator in {checkpoint} is for images of {sizes[0]} px and sentence "
            f"vectors of {sizes[1]} numbers, the model for {size} px and {model.transform.dim}: "
            "they are not of one run."
        )
    with torch.inference_mode():
        weights = discriminator.attention_maps(images.float() / 127.5 - 1, model.encode(captions))
    return attention_overlay(images, weights)


def _read_image(path: str, size: int) -> Tensor:
    """Read an image file as preparation does: uint8, [3, H, W]."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"the image {path} does not exist.")
    try:
        return from_pil(square(decode(Path(path).read_bytes()), size))
    except RejectedError as error:
        raise ValueError(f"{path} cannot be looked at: {error.reason}, {error.detail}") from error


def _texts(config: GenerateConfig) -> list[str]:
    texts = list(config.captions)
    if config.file:
        path = Path(config.file)
        if not path.is_file():
            raise FileNotFoundError(f"the caption file {path} does not exist.")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error
        texts += [line for line in lines if line.strip()]
    return texts


def _clean(text: str) -> str:
    try:
        return clean_caption(text)
    except ValueError as error:
        raise ValueError(f"caption {text[:60]!r} cannot be drawn: {error}.") from error
