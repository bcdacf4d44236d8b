"""What a kind of storage must offer: the interface behind `Folder`, one backend per file.

`local_disk.py`, `s3.py` and `fsspec_files.py` are the backends there are. Another one is a class
and a call of `register`, in each process that opens its addresses.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import IO

OPENERS: "dict[str, Callable[[], Backend]]" = {}


class Backend(ABC):
    """Files by path. A name holds all of a file or does not exist, whoever is killed when.

    Paths are what `path_of` returns, with more parts after a slash. What is not there is a
    FileNotFoundError; `Folder` passes every error through `explained`.

    Attributes:
        on_this_machine: Whether a path opens with `open`, so that links can be followed.
        atomic_rename: Whether a folder changes its name at once, with all that is in it.
    """

    on_this_machine: bool = False
    atomic_rename: bool = False

    @abstractmethod
    def path_of(self, location: str) -> str:
        """Return the path of an address, without a slash at its end."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""

    @abstractmethod
    def is_file(self, path: str) -> bool:
        """Tell whether a file is there, and no folder."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """List what is directly in a folder, in any order; empty if it does not exist."""

    def entries(self, path: str, most: int) -> list[tuple[str, bool]]:
        """List at most some names directly in a folder, each with whether it is a folder."""
        names = self.names(path)[:most]
        return [(name, not self.is_file(f"{path}/{name}")) for name in names]

    @abstractmethod
    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield every file below: its name in the folder and its size in bytes, in any order."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""

    @abstractmethod
    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read the bytes from `start` up to `end`, which may lie past the end of the file."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading at any place."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a whole file; one of that name is replaced in the same moment."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> bool:
        """Write a file if there is none of that name; return whether it was written."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Delete a folder that is there, and all in it."""

    @abstractmethod
    def rename(self, path: str, to: str) -> None:
        """Rename a folder."""

    def explained(
        self, error: Exception, doing: str, address: str, path: str, size: int
    ) -> Exception:
        """Return an error that says where, why and what to do, or the same one.

        Args:
            error: That an operation raised.
            doing: What was tried, as a noun: "writing".
            address: What it was tried on, as it is shown.
            path: Of the folder.
            size: Bytes that were to be written; 0 if none.
        """
        return error

    def free_bytes(self, path: str) -> int | None:
        """Return the bytes that can still be written below a path; None if nobody knows."""
        return None

    def remove_abandoned(self, path: str) -> None:
        """Delete what writers that were killed left below a folder; only for its owner."""
        return

    def last_fault(self, *, forget: bool = False) -> str:
        """Return the last fault that was waited out, for an error after a long wait.

        Args:
            forget: Do not return it again.
        """
        return ""


def register(scheme: str, opener: Callable[[], Backend]) -> None:
    """Let addresses that begin with `scheme://` be opened by a backend.

    Args:
        scheme: Without the colon and slashes; what it meant before is replaced.
        opener: Returns the backend; called for each folder that is opened.
    """
    OPENERS[scheme] = opener
