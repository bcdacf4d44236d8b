"""What a source of captioned images offers: the interface of every file in this folder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
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
        location: Where the source finds the image; shown in errors.
        captions: As found, one or more.
        label: Class name, where classes are known: captions of one class are never
            used as mismatched captions of another image of it.
        meaning: What the captions say, where that is known exactly.
    """

    id: str
    split: str
    location: str
    captions: tuple[str, ...]
    label: str | None = None
    meaning: dict[str, Any] | None = None


class Source(Settings, ABC):
    """A layout of originals. Its fields are the options a user may set."""

    name: ClassVar[str]
    mirrors: ClassVar[bool] = True
    """Whether a mirrored image still fits its captions (not if they say left and right)."""

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """List all records, in the same order each time.

        Raises:
            ValueError: If the originals are not laid out as this source expects.
        """

    @abstractmethod
    def read_image(self, record: Record) -> bytes:
        """Read the encoded image of a record, in whichever process decodes it.

        Raises:
            OSError: If it cannot be read.
        """
