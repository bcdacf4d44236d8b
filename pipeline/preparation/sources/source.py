"""The interface of a source of captioned images."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from pipeline.common.settings import Settings
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.look import Fit, Look

SPLITS = ("train", "validation")
MARK = "/refused/"  # no file that a listing names starts with a slash


@dataclass(frozen=True)
class Record:
    """One image with its captions, before anything is decoded.

    Attributes:
        id: Unique within the dataset; never used as a path.
        split: One of `SPLITS`.
        location: Place of the image for the source; shown in errors. Empty for captions without an
            image.
        captions: Unchanged captions; none if they are in files or missing.
        texts: Files with the captions, if the source reads them with the image.
        size: Size of the image file in bytes, if the listing has it.
        label: Class name, if classes are known: captions of one class are never used as mismatched
            captions of another image of this class.
        meaning: Meaning of the captions, if it is known exactly.
        box: Box of the object: x, y, width and height in pixels of the stored file, before its
            orientation is applied.
    """

    id: str
    split: str
    location: str
    captions: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    size: int | None = None
    label: str | None = None
    meaning: dict[str, Any] | None = None
    box: tuple[float, float, float, float] | None = None


class Source(Settings, ABC):
    """A layout of originals. Its fields are the options of the user.

    Listing runs in one process and reading in many, so both may use only the fields.
    """

    name: ClassVar[str]
    mirrors: ClassVar[bool] = True
    """Whether a mirrored image still fits its captions (not if they say left and right)."""

    general: ClassVar[bool] = False
    """Whether it reads any images with captions; a source of one layout knows more of them."""

    later: ClassVar[frozenset[str]] = frozenset()
    """Options that are newer than some prepared datasets: not recorded while they are None."""

    @property
    def overlapping(self) -> bool:
        """Whether validation images are training images too, as in a published protocol."""
        return False

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Yield how what lies there is prepared by this source, for `jobs/prepare.py auto`.

        A text instead of a `Fit` says what is missing where something of the layout is there.
        Nothing is decoded, and no name from a file is followed out of the folder.
        """
        yield from ()

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """List all records, in the same order each time, without holding them in memory.

        Raises:
            ValueError: If the originals do not have the layout of this source.
        """

    @abstractmethod
    def read_image(self, record: Record) -> bytes:
        """Read the encoded image of a record, in any process.

        Raises:
            OSError: If it cannot be read.
            RejectedError: If it must not be read.
        """

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Return the unchanged captions of a record, in any process.

        Raises:
            OSError: If they cannot be read.
            RejectedError: If they must not be read.
        """
        return record.captions


def held_out(key: str, share: float) -> bool:
    """Decide by a hash, so that images added later do not change the split of others.

    Args:
        key: Key of the image; all images that share captions have the same.
        share: Share of held-out images, in [0, 1].
    """
    digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_of(key: str, share: float, file: str = "", files: str | None = None) -> str:
    """Return the split of an image.

    Args:
        key: As for `held_out`.
        share: As for `held_out`.
        file: File that lists or contains the image.
        files: Pattern of the held-out files, instead of a share.
    """
    held = held_out(key, share) if files is None else fnmatchcase(file, files)
    return "validation" if held else "train"


def refusal(reason: str, detail: str) -> str:
    """Return an entry for a record's texts that makes `raise_refusals` reject the record."""
    return f"{MARK}{reason}/{detail}"


def raise_refusals(record: Record) -> None:
    """Raise RejectedError if the listing refused a record."""
    for text in record.texts:
        if text.startswith(MARK):
            reason, _, detail = text.removeprefix(MARK).partition("/")
            raise RejectedError(reason, detail)
