"""Captions to pictures with a saved model; needs neither Ray nor a tracker."""

import re
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

import ratgan
from pipeline.captions import clean_caption
from pipeline.progress import say
from pipeline.settings import Settings
from pipeline.storage import Folder
from ratgan.checkpoint import MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER, TextToImage
from ratgan.pictures import grid, png, to_pil


class GenerateConfig(Settings):
    """Draw pictures for captions. The same captions and seed give the same files.

    python jobs/generate.py --model outputs/quickstart/model "a large red circle in the centre"
    """

    captions: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to draw, one picture each."""
    model: str = "outputs/quickstart/model"
    """Saved model: a folder or bucket address."""
    encoder_path: str | None = None
    """Text encoder, if the model does not bring it along and it is not where it was in training."""
    file: str | None = None
    """Text file with one caption a line, in addition to those given."""
    output: str = "outputs/generated"
    """Folder or bucket address for the PNG files and grid.png."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed draws other pictures of the same captions."""
    columns: Annotated[int, Field(ge=1)] = 4
    """Pictures in a row of the grid."""


def generate(config: GenerateConfig) -> list[str]:
    """Write one PNG for each caption and a labelled grid of all.

    Returns:
        The files, the grid last.

    Raises:
        ValueError: If there is no caption, or one that says nothing.
        FileNotFoundError: If the model or the caption file is not there.
    """
    captions = [_clean(text) for text in _texts(config)]
    if not captions:
        raise ValueError('no caption given, for example: jobs/generate.py "a small red bird"')
    folder = Folder(config.output)
    folder.check_writable("output")
    model = load_from(config.model, config.encoder_path)
    images = model.draw(captions, seed=config.seed)
    pictures = {}
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        slug = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:48]
        pictures[f"{index:03d}-{slug or 'caption'}.png"] = to_pil(image)
    scale = max(1, 128 // images.shape[-1])
    pictures["grid.png"] = grid(images, captions, columns=config.columns, scale=scale)
    for name, picture in pictures.items():
        folder.write(name, png(picture))
    say(f"{len(images)} pictures in {folder}, side by side in {folder}/grid.png")
    return [f"{folder}/{name}" for name in pictures]


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


def load_from(location: str, encoder_path: str | None = None) -> TextToImage:
    """Load a saved model from a folder or a bucket."""
    folder = Folder(location)
    if folder.is_local:
        return ratgan.load(folder.path, encoder_path=encoder_path)
    with tempfile.TemporaryDirectory() as copy:
        names = [TEXT_ENCODER] if folder.exists(TEXT_ENCODER) else []
        for name in (MODEL_JSON, MODEL_TENSORS, *names):
            if not folder.exists(name):
                raise FileNotFoundError(f"{folder} holds no {name}: it is not a saved model.")
            (Path(copy) / name).write_bytes(folder.read(name))
        return ratgan.load(copy, encoder_path=encoder_path)
