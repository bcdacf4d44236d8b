"""Files of weights that others made: safetensors, or what `torch.save` wrote; tensors only.

Reading one takes no more memory than the file itself: what would grow is refused.
"""

import hashlib
import io
import re
import zipfile
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
        ValueError: If it holds anything but named tensors, or would grow in memory.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{what} {file} do not exist.")
    content = file.read_bytes()
    try:
        # A length of 8 bytes, then JSON: no other format that is taken here begins so.
        tensors = load_tensors(content) if content[8:9] == b"{" else None
    except Exception as error:  # it passes on whatever a damaged file raises
        raise ValueError(f"{file} is not a file of tensors: {type(error).__name__}.") from error
    if tensors is None:
        tensors = read_state_dict(content, str(file))
    return WeightFile(tensors, hashlib.sha256(content).hexdigest())


def read_state_dict(content: bytes, where: str) -> dict[str, Tensor]:
    """Read a state dict that `torch.save` wrote, as a zip file or in the format before that.

    Args:
        content: Of the file.
        where: Its name, for errors.

    Raises:
        ValueError: If it is damaged, asks for anything but tensors, or would grow in memory.
    """
    if content.startswith(b"PK"):
        _check_archive(content, where)
    try:
        found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on whatever a damaged file raises
        # Of torch's message only the name: the rest advises to switch the protection off.
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it asks for {name[1]}" if name else f"torch cannot read it: {type(error).__name__}"
        )
        raise ValueError(f"{where} is not a file of tensors: {reason}.") from error
    if isinstance(found, dict) and len(found) == 1:  # {"model": {…}}, as some save it
        (inner,) = found.values()
        found = inner if isinstance(inner, dict) else found
    if not isinstance(found, dict) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in found.items()
    ):
        raise ValueError(f"{where} is not a state dict: it holds more than named tensors.")
    _check_size(found, len(content), where)
    return found


def _check_archive(content: bytes, where: str) -> None:
    """Refuse an archive with more in it than it has bytes.

    Raises:
        ValueError: If it is no archive, a record is compressed, or two share their bytes.
    """
    try:
        records = zipfile.ZipFile(io.BytesIO(content)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{where} is not a file of tensors: {error}.") from error
    packed = [r for r in records if r.compress_type != zipfile.ZIP_STORED]
    size = sum(record.file_size for record in records)
    if packed or size > len(content):
        what = f"{packed[0].filename!r} is compressed" if packed else "records overlap"
        raise ValueError(
            f"{where} is refused: {what}, so its {len(content):,} bytes would become {size:,} in "
            "memory. torch.save stores tensors as they are: load the file where you trust it and "
            "save it anew."
        )


def _check_size(tensors: dict[str, Tensor], size: int, where: str) -> None:
    """Refuse tensors that are more than the bytes of their file.

    Raises:
        ValueError: If one is sparse, quantized or repeats its numbers, or all are too large.
    """
    held: dict[int, int] = {}
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested
        if not plain or tensor.device.type != "cpu":
            raise ValueError(f"{where} is refused: {name} is no dense tensor with its numbers.")
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError(
                f"{where} is refused: {name} of shape {list(tensor.shape)} repeats "
                f"{storage.nbytes():,} bytes. Save it with .contiguous()."
            )
    if (total := sum(held.values())) > size:
        raise ValueError(
            f"{where} is refused: its tensors have {total:,} bytes and it has {size:,}."
        )
