"""Files of weights that others made: safetensors, or what `torch.save` wrote; tensors only.

Reading one takes no more memory than the file itself: what would grow is refused.
"""

import contextlib
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from ratgan.file_kind import HEAD, file_kind, refusal
from ratgan.weights.tensor_sets import (
    SHOWN,
    Tensors,
    describe,
    find_sets,
    listed,
    without_wrappers,
)

MAX_HEADER = 100_000_000  # bytes; safetensors takes no longer one
PARTS = ("*.safetensors", "config.json", "tokenizer*.json", "vocab.json")  # of a saved model
TEXT = 60  # characters of a text that are shown


class WeightFile(NamedTuple):
    """What such a file holds.

    Attributes:
        tensors: By name.
        sha256: Of the file.
    """

    tensors: Tensors
    sha256: str


def read_weights(path: str | Path, what: str) -> WeightFile:
    """Read a file of weights with one set of tensors; no code in it is run.

    Args:
        path: Safetensors, or what `torch.save` wrote, whatever its ending says.
        what: It is to hold, for messages.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it holds no set of named tensors or several, or would grow in memory.
    """
    file = Path(path).expanduser()
    content = _content(file, what)
    return WeightFile(_only(_sets(content, str(file)), str(file)), _sha256(content))


def read_sets(path: str | Path, what: str) -> dict[str, Tensors]:
    """Read all sets of tensors in a file, by the keys that lead to them; raises as `read_weights`.

    Args:
        path: As for `read_weights`.
        what: As for `read_weights`.
    """
    file = Path(path).expanduser()
    return _sets(_content(file, what), str(file))


def read_state_dict(content: bytes, where: str) -> Tensors:
    """Read the one set of tensors in a file; raises as `read_weights`.

    Args:
        content: Of the file.
        where: Its name, for errors.
    """
    return _only(_sets(content, where), where)


@contextlib.contextmanager
def clear_errors(location: str | Path) -> Iterator[None]:
    """Say of a saved model that transformers cannot read what is wrong and what to do.

    Args:
        location: Its folder, or a hub id.

    Raises:
        ValueError: If a file in it is something else by its first bytes, or damaged.
    """
    for file in (each for name in PARTS for each in sorted(Path(location).glob(name))):
        with file.open("rb") as stream:
            if problem := refusal(stream.read(HEAD), str(file), "a part of a saved model"):
                raise ValueError(problem)
    try:
        yield
    except SafetensorError as error:
        raise ValueError(
            f"the weights of {location} are cut short or damaged ({error}). Download them again."
        ) from error


def _content(file: Path, what: str) -> bytes:
    if not file.is_file():
        raise FileNotFoundError(
            f"{what} {file} are a folder. Name the file in it."
            if file.is_dir()
            else f"{what} {file} do not exist."
        )
    return file.read_bytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _only(sets: dict[str, Tensors], where: str) -> Tensors:
    """Return the one set of a file; raises ValueError if there are several."""
    if len(sets) > 1:
        raise ValueError(
            f"{where} holds several sets of tensors: {listed(sets)}. Save the one that is meant in "
            "a file of its own."
        )
    (tensors,) = sets.values()
    return tensors


def _sets(content: bytes, where: str) -> dict[str, Tensors]:
    """Read what a file holds.

    Raises:
        ValueError: If it is damaged, asks for anything but plain values, or would grow in memory.
    """
    # A length of 8 bytes, then JSON: no other format that is taken here begins so.
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= MAX_HEADER:
        try:
            return {"": without_wrappers(load_tensors(content))}
        except Exception as error:  # it passes on whatever a damaged file raises
            raise ValueError(
                f"{where} is a safetensors file that is cut short or damaged "
                f"({type(error).__name__}). Download it again."
            ) from error
    _refuse_others(content, where)
    if content.startswith(b"PK"):
        _check_archive(content, where)
    try:
        found: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch passes on whatever a damaged file raises
        # Of torch's message only the name: the rest advises to switch the protection off.
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (
            f"it asks for {name[1]}, and code is never run here. Where you trust it, save the "
            "network's state_dict() alone"
            if name
            else f"torch cannot read it ({type(error).__name__}). Download it again"
        )
        raise ValueError(f"{where} is not a file of tensors: {reason}.") from error
    sets = find_sets(found)
    if not sets:
        holds = ", ".join(islice(describe(found), SHOWN)) or "nothing"
        raise ValueError(
            f"{where} is not a state dict: no part of it is a dictionary of named tensors alone. "
            f"It holds {holds}."
        )
    every = {f"{key}.{name}".lstrip("."): t for key in sets for name, t in sets[key].items()}
    _check_size(every, len(content), where)
    return sets


def _refuse_others(content: bytes, where: str) -> None:
    """Raise ValueError if a file is known to be something else, with what to do."""
    if not content.startswith(b"PK") and file_kind(content[:HEAD]) != "a pickle":
        if problem := refusal(content[:HEAD], where, "weights"):
            raise ValueError(problem)
        start = content[:TEXT].decode("utf-8", "replace").strip()
        if start.replace("\n", " ").isprintable() and "\ufffd" not in start[:-1]:
            raise ValueError(f"{where} is text, not weights. It begins with {start!r}.")


def _check_archive(content: bytes, where: str) -> None:
    """Refuse an archive that is not torch's, or has more in it than it has bytes.

    Raises:
        ValueError: If it is no archive, a record is compressed, or two share their bytes.
    """
    try:
        records = zipfile.ZipFile(io.BytesIO(content)).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{where} is an archive that is cut short or damaged ({error}). Download it again."
        ) from error
    names = [record.filename for record in records]
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise ValueError(
            f"{where} is a zip archive ({', '.join(names[:3])}{', …' if names[3:] else ''}), not "
            "one that torch.save wrote. Unpack it, and name the file in it."
        )
    if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
        raise ValueError(
            f"{where} is a program (TorchScript), not tensors. Where you trust it, load it and "
            "save its state_dict()."
        )
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
