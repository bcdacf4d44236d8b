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
    """Generate images for captions. The same captions and seed give the same files.

    python jobs/generate.py --model outputs/quickstart/model "a large red circle in the centre"
    """

    captions: tyro.conf.Positional[tuple[str, ...]] = ()
    """Captions, one image for each."""
    model: str = "outputs/quickstart/model"
    """Saved model: a folder or bucket address."""
    encoder_path: str | None = None
    """Text encoder, if the model does not contain it. A location that only the model names is not
    opened."""
    file: str | None = None
    """Text file with one caption on each line, in addition to those of the command line."""
    output: str = "outputs/generated"
    """Folder or bucket address for the PNG files and grid.png."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed gives other images for the same captions."""
    show: Literal["each", "variations", "captions", "noises"] = "each"
    """each: one image for each caption. The others give rows of images. variations: each caption
    with several noises, the same for all captions. captions: an interpolation from each caption to
    the next. noises: each caption with an interpolation from one noise to another."""
    count: Annotated[int, Field(ge=2, le=64)] | None = None
    """Images in such a row. Default: 8."""
    same_noise: bool = False
    """Use the same noise for all captions, so that images differ only by their captions."""
    attention: str | None = None
    """Checkpoint of a run, outputs/NAME/checkpoints/step-…: also show the attention of its
    discriminator for each caption."""
    images: tuple[str, ...] = ()
    """With attention: image files, one for each caption, instead of generated images."""
    columns: Annotated[int, Field(ge=1)] = 4
    """Images in a row of the grid, with --show each."""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        rows = self.show != "each"
        if self.count is not None and not rows:
            raise ValueError("count is for rows: choose them with, for example, --show variations.")
        if rows and (self.same_noise or self.attention):
            raise ValueError(f"same_noise and attention need --show each, not {self.show}.")
        if self.images and self.attention is None:
            raise ValueError("images needs --attention, the checkpoint of a run.")
        return self


def generate(config: GenerateConfig) -> list[str]:
    """Write PNG files and a labelled grid of all.

    Returns:
        The files, the images before the grid.

    Raises:
        ValueError: If there is no caption, an empty one, or not one for each image.
        FileNotFoundError: If the model or a file does not exist.
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
        f"{len(images)} image{'s' if len(images) > 1 else ''} in {folder}, side by side in "
        f"{folder}/grid.png" + (f"\nattention in {folder}/attention.png" * bool(config.attention))
    )
    return [f"{folder}/{name}" for name in pictures]


def plan_generation(config: GenerateConfig) -> None:
    """Print number and time of the images, after generating one; raises as `generate`."""
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
        report.line("output", f"{folder}: up to {count:,} images of {len(captions):,} captions")
        report.line("ETA", f"{duration(count * seconds)}: an image took {seconds:.2f} s")
        report.end()


def _checked(config: GenerateConfig) -> tuple[list[str], Folder, TextToImage]:
    """Return captions, output folder and model, after all checks."""
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
    """Generate or read the images of the grid: images [N, 3, H, W] and their labels."""
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
    """Name images by their number and caption; each row has one caption."""
    per_caption = max(1, len(images) // len(captions))
    pictures = {}
    for index, image in enumerate(images):
        caption = captions[min(index // per_caption, len(captions) - 1)]
        slug = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:48]
        pictures[f"{index:03d}-{slug or 'caption'}.png"] = to_pil(image)
    return pictures


def _attention(checkpoint: str, model: TextToImage, images: Tensor, captions: list[str]) -> Tensor:
    """Overlay images with the discriminator's attention to their captions: uint8, [N, 3, H, W]."""
    with local_copy(checkpoint, DISCRIMINATOR_FILES) as folder:
        discriminator = load_discriminator(folder)
    size = model.generator.arguments["image_size"]
    sizes = (discriminator.arguments["image_size"], discriminator.arguments["sentence_dim"])
    if sizes != (size, model.transform.dim):
        raise ValueError(
            f"the discriminator in {checkpoint} is for images of {sizes[0]} px and sentence "
            f"vectors of {sizes[1]} numbers, the model for {size} px and {model.transform.dim}: "
            "use a checkpoint and a model of the same run."
        )
    with torch.inference_mode():
        weights = discriminator.attention_maps(images.float() / 127.5 - 1, model.encode(captions))
    if weights is None:
        raise ValueError(f"the discriminator in {checkpoint} has no attention: there are no maps.")
    return attention_overlay(images, weights)


def _read_image(path: str, size: int) -> Tensor:
    """Read an image file as preparation does: uint8, [3, H, W]."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"the image {path} does not exist.")
    try:
        return from_pil(square(decode(Path(path).read_bytes()), size))
    except RejectedError as error:
        raise ValueError(f"{path} cannot be used: {error.reason}, {error.detail}") from error


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
        raise ValueError(f"caption {text[:60]!r} cannot be used: {error}.") from error
