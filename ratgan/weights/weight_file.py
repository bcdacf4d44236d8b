"""Files of weights that others made: safetensors, or what `torch.save` wrote; tensors only."""

import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor


class WeightFile(NamedTuple):
    """What such a file holds.

    Attributes:
        tensors: By name.
        sha256: Of the file.
    """

    tensors: dict[str, Tensor]
    sha256: str


def read_weights(path: str | Path, what: str) -> WeightFile:
    """Read a file of weights; no code in it is run.

    Args:
        path: Safetensors, or a state dict that `torch.save` wrote.
        what: It is to hold, for messages.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it holds anything but named tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{what} {file} do not exist.")
    content = file.read_bytes()
    try:
        # A length of 8 bytes, then JSON: no other format that is taken here begins so.
        found: Any = (
            load_tensors(content)
            if content[8:9] == b"{"
            else torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        )
    except Exception as error:  # both readers pass on whatever a damaged file raises
        raise ValueError(f"{file} is not a file of tensors: {type(error).__name__}.") from error
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{file} is not a state dict: it holds more than named tensors.")
    return WeightFile(
        {str(name): tensor for name, tensor in found.items()},
        hashlib.sha256(content).hexdigest(),
    )
