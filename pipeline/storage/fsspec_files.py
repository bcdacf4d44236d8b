"""Folders at any other address that fsspec opens: memory://, gs://, abfs://, hdfs://, ..."""

import contextlib
import errno
from collections.abc import Iterator
from glob import has_magic
from typing import IO, Any

import fsspec

from pipeline.storage.backend import Backend


class FsspecFiles(Backend):
    """Files of an fsspec file system.

    `create` is atomic where the file system's `pipe_file(mode="create")` is. Elsewhere a file that
    appears between the look and the write is overwritten.

    Args:
        location: Address of a folder; its scheme and host decide the file system.
    """

    def __init__(self, location: str) -> None:
        # Listings change under our feet: other workers write to the same folder.
        self.fs: Any = fsspec.core.url_to_fs(location, use_listings_cache=False)[0]

    def path_of(self, location: str) -> str:
        """Return the path of an address."""
        return str(self.fs._strip_protocol(location))

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        return bool(self.fs.exists(path))

    def is_file(self, path: str) -> bool:
        """Tell whether a file is there, and no folder."""
        return bool(self.fs.isfile(path))

    def names(self, path: str) -> list[str]:
        """List what is directly in a folder."""
        try:
            found = self.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in found]

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield every file below."""
        for file, entry in self.fs.find(path, detail=True).items():
            yield file.removeprefix(path).lstrip("/"), int(entry["size"] or 0)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        return int(self.fs.size(path))

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read the bytes from `start` up to `end`."""
        return bytes(self.fs.cat_file(path, start=start, end=end))

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        opened: IO[bytes] = self.fs.open(path, "rb")
        return opened

    def write(self, path: str, content: bytes) -> None:
        """Write a whole file."""
        self.fs.pipe_file(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file if there is none of that name."""
        try:
            self.fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Delete a file."""
        self.fs.rm_file(path)

    def remove(self, path: str) -> None:
        """Delete a folder and all in it."""
        if not has_magic(path):
            self.fs.rm(path, recursive=True)
            return
        # `rm` takes the name for a pattern, and deletes what matches.
        for name, _ in list(self.walk(path)):
            self.fs.rm_file(f"{path}/{name}")
        for folder in sorted([path, *self.fs.find(path, withdirs=True)], reverse=True):
            with contextlib.suppress(FileNotFoundError):  # where folders are but names of files
                self.fs.rmdir(folder)

    def rename(self, path: str, to: str) -> None:
        """Move each file of a folder by itself."""
        if not has_magic(path + to):
            self.fs.mv(path, to, recursive=True)
            return
        for name, _ in list(self.walk(path)):
            target = f"{to}/{name}"
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.fs.cp_file(f"{path}/{name}", target)
        self.remove(path)

    def explained(
        self, error: Exception, doing: str, address: str, path: str, size: int
    ) -> Exception:
        """Name the address where something is missing."""
        if isinstance(error, FileNotFoundError) and not size:
            return FileNotFoundError(errno.ENOENT, "no such file", address)
        return error
