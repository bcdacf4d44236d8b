"""Folders, local or in a bucket: the one place that knows where bytes are.

A folder is named by a path or by any address fsspec opens (`s3://bucket/run`).
Writing a file is atomic in both worlds: a name either holds all of it or
does not exist.
"""

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.failpoints import reach


def absolute(location: str, option: str = "path") -> str:
    """Make a local path absolute and leave an address as it is.

    Args:
        location: Path or address.
        option: What the user calls it.

    Raises:
        ValueError: If the path is relative and the process runs in the copy of a
            working folder that a Ray job was submitted with, which is deleted later.
    """
    if "://" in location:
        return location.rstrip("/")
    path = Path(location).expanduser()
    if not path.is_absolute() and "/runtime_resources/working_dir_files/" in f"{Path.cwd()}/":
        raise ValueError(
            f"{option}={location!r} is a relative path, and a submitted job runs in a temporary "
            "copy of its folder: what it writes there is lost. Give an absolute path that every "
            f"node sees, or a bucket, for example s3://my-bucket/{location}."
        )
    return str(path.resolve())


class Folder:
    """A folder on a local disk or in an object store; crosses processes freely.

    Args:
        location: Path or address, as `absolute` gives it.
    """

    def __init__(self, location: str) -> None:
        self.location = absolute(location)
        # Listings change under our feet: other workers write to the same folder.
        self.fs, self.path = fsspec.core.url_to_fs(self.location, use_listings_cache=False)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.location}/{name}")

    def __str__(self) -> str:
        return self.location

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.location,)

    def file(self, name: str) -> str:
        """Return the path of a file as the file system `fs` knows it."""
        return f"{self.path}/{name}"

    def exists(self, name: str = "") -> bool:
        """Tell whether a file (or the folder itself) is there."""
        return bool(self.fs.exists(self.file(name) if name else self.path))

    def names(self) -> list[str]:
        """List what is directly in the folder, sorted; empty if it does not exist."""
        try:
            found = self.fs.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in found)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it is not there."""
        try:
            return int(self.fs.size(self.file(name)))
        except FileNotFoundError:
            return None

    def check_writable(self, option: str) -> None:
        """Find out before any work whether it could be kept.

        Args:
            option: What the user calls the folder.

        Raises:
            OSError: If nothing can be written there.
        """
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        try:
            self.write(probe, b"")
            self.fs.rm(self.file(probe))
        except Exception as error:
            raise OSError(
                f"{option}: nothing can be written to {self} ({error}). Name another folder with "
                f"--{option}, or see to its permissions."
            ) from error

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a whole file, or the bytes from `start` to before `end`.

        Raises:
            FileNotFoundError: If it is not there.
        """
        content: bytes = self.fs.cat_file(self.file(name), start, end)
        return content

    def write(self, name: str, content: bytes) -> str:
        """Write a whole file atomically and return its sha256."""
        target = self.file(name)
        if self.is_local:
            # Rename is the commit. The data must be on the disk before the name is.
            temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            try:
                with open(temporary, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    reach("storage.before_fsync", file=target)
                    os.fsync(stream.fileno())
                reach("storage.before_rename", file=target)
                os.replace(temporary, target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        else:
            self.fs.pipe_file(target, content)  # an object appears whole or not at all
        return hashlib.sha256(content).hexdigest()

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is not JSON.
        """
        try:
            return json.loads(self.read(name))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self}/{name} is not valid JSON: {error}") from error

    def write_json(self, name: str, value: Any) -> str:
        """Write a value as JSON, the same bytes for the same value, and return its sha256."""
        return self.write(name, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")

    def remove(self) -> None:
        """Delete the folder and what is in it."""
        if self.exists():
            self.fs.rm(self.path, recursive=True)


def inside(folder: Folder, name: str) -> None:
    """Refuse a name from foreign data that leads out of a folder.

    Raises:
        ValueError: If it does.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith("/") or ".." in parts or "://" in name:
        raise ValueError(f"PATH_UNSAFE: {name!r} leads out of {folder}")
