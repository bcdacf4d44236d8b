"""What a source of captioned images offers: the interface of every file in this folder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.settings import Settings

SPLITS = ("train", "validation")


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
