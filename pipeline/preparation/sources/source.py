"""The interface of a source of captioned images."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from pipeline.common.settings import Settings
from pipeline.preparation.decoding.images import RejectedError

SPLITS = ("train", "validation")
MARK = "/refused/"  # no file that a listing names starts with a slash


@dataclass(frozen=True)
class Record:
    """One image and what is said of it, before anything is decoded.

    Attributes:
        id: Unique within the dataset; never used as a path.
        split: One of `SPLITS`.
        location: Where the source finds the image; shown in errors. Empty if there are captions
            and no image.
        captions: As found; none if they are in files or missing.
        texts: Files that hold the captions, where the source reads them with the image.
        size: Of the image file in bytes, where listing tells it.
        label: Class name, where classes are known: captions of one class are never
            used as mismatched captions of another image of it.
        meaning: What the captions say, where that is known exactly.
        box: What the image shows: x, y, width and height in pixels of the stored file, before
            its orientation is applied.
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
    """A layout of originals. Its fields are the options a user may set.

    Listing runs in one process and reading in many, so both must work from the fields alone.
    """

    name: ClassVar[str]
    mirrors: ClassVar[bool] = True
    """Whether a mirrored image still fits its captions (not if they say left and right)."""

    @property
    def overlapping(self) -> bool:
        """Whether validation images are training images too, as a published protocol wants it."""
        return False

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """List all records, in the same order each time, without holding them in memory.

        Raises:
            ValueError: If the originals are not laid out as this source expects.
        """

    @abstractmethod
    def read_image(self, record: Record) -> bytes:
        """Read the encoded image of a record, in whichever process decodes it.

        Raises:
            OSError: If it cannot be read.
            RejectedError: If what is there must not be read.
        """

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Return the captions of a record as found, in whichever process decodes its image.

        Raises:
            OSError: If they cannot be read.
            RejectedError: If what is there must not be read.
        """
        return record.captions


def held_out(key: str, share: float) -> bool:
    """Decide by a hash, so that images added later move none from one split to the other.

    Args:
        key: Of the image; all images that share captions have the same.
        share: Of the images, in [0, 1].
    """
    digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_of(key: str, share: float, file: str = "", files: str | None = None) -> str:
    """Name the split of an image.

    Args:
        key: As for `held_out`.
        share: As for `held_out`.
        file: That lists or holds the image.
        files: Pattern of the files that are held out, in place of a share.
    """
    held = held_out(key, share) if files is None else fnmatchcase(file, files)
    return "validation" if held else "train"


def refusal(reason: str, detail: str) -> str:
    """Make the entry that goes among a record's texts.

    Args:
        reason: As in `RejectedError`.
        detail: As in `RejectedError`.
    """
    return f"{MARK}{reason}/{detail}"


def raise_refusals(record: Record) -> None:
    """Raise what was noted for a record.

    Raises:
        RejectedError: If anything was.
    """
    for text in record.texts:
        if text.startswith(MARK):
            reason, _, detail = text.removeprefix(MARK).partition("/")
            raise RejectedError(reason, detail)
