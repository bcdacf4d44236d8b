"""Decode JPEGs by the library of torchvision, without its package: importing that takes seconds."""

import contextlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

RGB = 3  # as torchvision.io.ImageReadMode has it


def decode_jpeg(content: bytes) -> Tensor:
    """Decode a JPEG to three channels, uint8, [3, H, W].

    Raises:
        RuntimeError: If it cannot be decoded.
    """
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    image: Tensor = torch.ops.image.decode_jpeg(data, RGB, False)
    return image


def _load() -> None:
    package = importlib.util.find_spec("torchvision")
    folders = package.submodule_search_locations if package else None
    for file in (file for folder in folders or () for file in Path(folder).glob("image*.so")):
        with contextlib.suppress(OSError):
            torch.ops.load_library(str(file))
    if not hasattr(torch.ops.image, "decode_jpeg"):
        import torchvision.io  # noqa: F401 (it finds its library, or says why not)


_load()
