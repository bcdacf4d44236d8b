"""Generate images for captions with a saved model; needs neither Ray nor a tracker."""

import re
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checkpoint.load_model import load_from
from pipeline.cli.config import GenerateConfig
from pipeline.common.console import DryRunReport, duration, print_line, printable
from pipeline.preparation.decoding.captions import clean_caption
from pipeline.preparation.decoding.images import RejectedError, decode, square
from pipeline.storage.disk_space import leaving_nothing
from pipeline.storage.folder import Folder
from pipeline.storage.local_copy import local_copy
from ratgan.picture import (
    Picture,
    between_captions,
    between_noises,
    each,
    read_signature,
    signed_png,
    variations,
)
from ratgan.text_to_image import TextToImage
from ratgan.visualize import attention_overlay, from_pil, grid, png, to_pil
from ratgan.weights.saved_model import (
    DISCRIMINATOR_JSON,
    DISCRIMINATOR_TENSORS,
    load_discriminator,
)

MAX_PNG = 64 * 2**20  # bytes of a file that is drawn again
DISCRIMINATOR_FILES = (DISCRIMINATOR_JSON, DISCRIMINATOR_TENSORS)


def generate(config: GenerateConfig) -> list[str]:
    """Write PNG files and a labelled grid of all.

    Returns:
        The files, the images before the grid.

    Raises:
        ValueError: If there is no caption, an empty one, or not one for each image.
        FileNotFoundError: If the model or a file does not exist.
    """
    pictures, folder, model = _checked(config)
    count = config.count or 8
    if config.images:
        size = model.generator.arguments["image_size"]
        images = torch.stack([_read_image(path, size) for path in config.images])
    else:
        images = model.draw_pictures(pictures)
        _note_unfamiliar(model, pictures)
    labels, columns = _labels(config, pictures, count)
    scale = max(1, 128 // images.shape[-1])
    files = {} if config.images else _named(model, images, pictures)
    files["grid.png"] = png(grid(images, labels, columns=columns, scale=scale))
    if config.attention:
        captions = [picture.caption for picture in pictures]
        looked_at = _attention(config.attention, model, images, captions)
        files["attention.png"] = png(grid(looked_at, labels, columns=columns, scale=scale))
    for name, content in files.items():
        folder.write(name, content)
    print_line(
        f"{len(images)} image{'s' if len(images) > 1 else ''} in {folder}, side by side in "
        f"{folder}/grid.png" + (f"\nattention in {folder}/attention.png" * bool(config.attention))
    )
    return [f"{folder}/{name}" for name in files]


def plan_generation(config: GenerateConfig) -> None:
    """Print number and time of the images, after generating one; raises as `generate`."""
    with leaving_nothing(Folder(config.output)):
        pictures, folder, model = _checked(config)
        report, captions = DryRunReport(), {text for each in pictures for text in each.captions}
        origin = ", ".join(f"{key} {value}" for key, value in sorted(model.origin.items()))
        side = model.generator.arguments["image_size"]
        model.draw_pictures(pictures[:1])  # the first loads the text encoder
        started = time.monotonic()
        drawn = model.draw_pictures(pictures[:1])
        seconds = time.monotonic() - started
        if config.attention:
            _attention(config.attention, model, drawn, [pictures[0].caption])
        report.line("model", f"{config.model}: {side} × {side} px ({origin})")
        report.line("output", f"{folder}: {len(pictures):,} images of {len(captions):,} captions")
        report.line("ETA", f"{duration(len(pictures) * seconds)}: an image took {seconds:.2f} s")
        report.end()


def _checked(config: GenerateConfig) -> tuple[list[Picture], Folder, TextToImage]:
    """Return what to draw, output folder and model, after all checks."""
    captions = [_clean(text) for text in _texts(config)]
    if not captions and not config.like:
        raise ValueError('no caption given, for example: jobs/generate.py "a small red bird"')
    if config.images and len(config.images) != len(captions):
        raise ValueError(
            f"{len(config.images)} images and {len(captions)} captions: each image needs one."
        )
    folder = Folder(config.output)
    folder.check_writable("output")
    model = load_from(config.model, config.encoder_path, device=config.device)
    pictures = [_like(config.like, model)] if config.like else _pictures(config, captions)
    return pictures, folder, model


def _pictures(config: GenerateConfig, captions: list[str]) -> list[Picture]:
    """Return what to draw for captions."""
    rows = {
        "variations": variations,
        "captions": between_captions,
        "noises": between_noises,
    }
    if config.show == "each":
        pictures = each(captions, seed=config.seed, same_noise=config.same_noise)
    else:
        pictures = rows[config.show](captions, config.count or 8, seed=config.seed)
    return [replace(picture, truncation=config.truncation) for picture in pictures]


def _like(path: str, model: TextToImage) -> Picture:
    """Read what a picture was made from, and check that it was made by this model."""
    try:
        picture, digest = read_signature(_read_png(path))
        if any(_clean(caption) != caption for caption in picture.captions):
            raise ValueError("its caption has characters that no caption has here.")
        if digest != model.digest:
            raise ValueError(
                f"it was drawn by a model of sha256 {printable(digest)}, and this one has "
                f"{model.digest}: give its own model with --model."
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return picture


def _read_png(path: str) -> bytes:
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"the image {path} does not exist.")
    if file.stat().st_size > MAX_PNG:
        raise ValueError(f"it has {file.stat().st_size:,} bytes; {MAX_PNG:,} is the maximum.")
    return file.read_bytes()


def _labels(config: GenerateConfig, pictures: list[Picture], count: int) -> tuple[list[str], int]:
    """Return the label of each image of the grid, and the images in a row of it."""
    if config.show == "each":
        return [picture.caption for picture in pictures], config.columns
    labels = [picture.caption if n % count == 0 else "" for n, picture in enumerate(pictures)]
    for last in range(count - 1, len(pictures), count):
        labels[last] = pictures[last].other_caption or ""
    return labels, count


def _named(model: TextToImage, images: Tensor, pictures: list[Picture]) -> dict[str, bytes]:
    """Make PNG files, named by their number and caption, that say what they are made from."""
    files = {}
    for index, (image, picture) in enumerate(zip(images, pictures, strict=True)):
        slug = re.sub(r"[^a-z0-9]+", "-", picture.caption.lower()).strip("-")[:48]
        files[f"{index:03d}-{slug or 'caption'}.png"] = signed_png(
            to_pil(image), picture, model.digest, model.origin.get("step")
        )
    return files


def _note_unfamiliar(model: TextToImage, pictures: list[Picture]) -> None:
    """Print which captions the model cannot know."""
    for caption in dict.fromkeys(text for picture in pictures for text in picture.captions):
        if model.unfamiliar(model.encode([caption])[0]):
            print_line(
                f"note: {printable(caption, 60)!r} is far from all captions of the training: the "
                "image will hardly fit it."
            )


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
