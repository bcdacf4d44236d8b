"""Load a saved model from a folder or a bucket."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ratgan
from pipeline.storage.folder import Folder
from ratgan.text_to_image import TextToImage
from ratgan.weights.saved_model import MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER

MODEL_FILES = (MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER)


def load_from(location: str, encoder_path: str | None = None) -> TextToImage:
    """Load a saved model from a folder or a bucket."""
    with local_copy(location, MODEL_FILES) as folder:
        return ratgan.load(folder, encoder_path=encoder_path)


@contextmanager
def local_copy(location: str, names: tuple[str, ...]) -> Iterator[str]:
    """Give a folder on this machine that holds those of the files that are at a place."""
    folder = Folder(location)
    if folder.local_path:
        yield folder.local_path
        return
    with tempfile.TemporaryDirectory() as copy:
        for name in names:
            if folder.exists(name):
                (Path(copy) / name).write_bytes(folder.read(name))
        yield copy
