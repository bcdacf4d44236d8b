"""Find and load the text encoder of a preparation in any process."""

import hashlib
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.storage.folder import Folder, absolute
from ratgan.text.damsm import Damsm
from ratgan.text.encoder import TextEncoder
from ratgan.text.loading import load_encoder
from ratgan.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class EncoderRef:
    """Name and place of a text encoder; can be pickled.

    Attributes:
        name: Name for `load_encoder`.
        location: `damsm`: path or bucket address of its file. `clip`: a local folder or hub id.
        sha256: Hash of its file, if it is one file: another file of that name is another encoder.
    """

    name: str
    location: str | None = None
    sha256: str | None = None

    def loaded(self) -> TextEncoder:
        """Load the text encoder once in each process; Ray gives a process many shards."""
        return _load(self)

    def vocabulary(self) -> Vocabulary | None:
        """Return the vocabulary of the encoder; None if it accepts every text."""
        encoder = self.loaded()
        return encoder.vocabulary if isinstance(encoder, Damsm) else None


@lru_cache(maxsize=1)
def _load(place: EncoderRef) -> TextEncoder:
    if place.sha256 is None or place.location is None:
        return load_encoder(place.name, place.location)
    content = _read(place.location)
    if hashlib.sha256(content).hexdigest() != place.sha256:
        raise ValueError(f"the text encoder file {place.location} was changed during preparation.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(place.location or "").name
        path.write_bytes(content)
        return load_encoder(place.name, path)


def find_encoder(name: str, location: str | None) -> tuple[EncoderRef, bytes | None]:
    """Find a text encoder, and read it if it is one file.

    Args:
        name: Name for `load_encoder`.
        location: The user's `encoder_path`.

    Raises:
        FileNotFoundError: If its file does not exist.
    """
    if name == "damsm" and location is not None:
        content = _read(location)
        return EncoderRef(name, location, hashlib.sha256(content).hexdigest()), content
    if location is not None and Path(location).expanduser().is_dir():
        location = absolute(location, "encoder_path")  # other processes need it too
    return EncoderRef(name, location), None


def _read(location: str) -> bytes:
    place, _, file = absolute(location, "encoder_path").rpartition("/")
    if not Folder(place).exists(file):
        raise FileNotFoundError(f"the text encoder file {location} does not exist.")
    return Folder(place).read(file)
