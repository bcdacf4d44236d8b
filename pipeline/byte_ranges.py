"""A file that is read here and there, by ranges of its bytes."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class ByteRanges(io.RawIOBase):
    """Makes a seekable file of a way to read ranges.

    Args:
        read: Returns the bytes from the first number up to the second.
        size: Of the file in bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self.size, self.position = read, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; returns it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer as far as the file goes; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        end = min(self.position + len(view), self.size)
        if end <= self.position:
            return 0
        content = self._read(self.position, end)
        view[: len(content)] = content
        self.position += len(content)
        return len(content)
