"""Folders, local or in a bucket: reading, atomic writing, listing.

A folder is named by a path or by any address fsspec opens (`s3://bucket/run`). Writing a file is
atomic everywhere: a name either holds all of it or does not exist. What goes wrong is an OSError
that names the place, the cause and what to do; on S3, faults that pass are waited out first (see
`pipeline.storage.s3_retries`). Each kind of storage is a `Backend` in a file of its own.
"""

import contextlib
import hashlib
import json
import logging
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from pipeline.common.redaction import refuse_password
from pipeline.storage.backend import OPENERS, Backend, register
from pipeline.storage.fsspec_files import FsspecFiles
from pipeline.storage.local_disk import LocalDisk, walk
from pipeline.storage.safe_path import inside

logger = logging.getLogger(__name__)

PROBE_LIMIT_S = 10.0


def absolute(location: str, option: str = "path") -> str:
    """Make a local path absolute and leave an address as it is.

    Args:
        location: Path or address.
        option: What the user calls it.

    Raises:
        ValueError: If the path is relative and the process runs in the copy of a
            working folder that a Ray job was submitted with, which is deleted later;
            or if an address holds a password, which records and errors would repeat.
    """
    if "://" in location:
        refuse_password(location, option)
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
        root: Path that it is closed at: see `closed`.
    """

    def __init__(self, location: str, root: str | None = None) -> None:
        self.location, self.root = absolute(location), root
        scheme = self.location.partition("://")[0] if "://" in self.location else "file"
        opener = OPENERS.get(scheme)
        self.backend: Backend = opener() if opener else FsspecFiles(self.location)
        self.path = self.backend.path_of(self.location)

    def __truediv__(self, name: str) -> "Folder":
        if self.root is not None:
            inside(self, name)
        return Folder(f"{self.location}/{name}", self.root)

    def __str__(self) -> str:
        return self.location

    def __reduce__(self) -> tuple[type["Folder"], tuple[str, str | None]]:
        return Folder, (self.location, self.root)

    def closed(self) -> "Folder":
        """Return it such that nothing below leads out: for a folder that a stranger may have made.

        A name that does, by its parts or by a link, is a ValueError wherever it is used.
        """
        return Folder(self.location, self.path)

    @property
    def local_path(self) -> str | None:
        """Path on this machine; None in a bucket."""
        return self.path if self.backend.on_this_machine else None

    @property
    def uri(self) -> str:
        """Its place as Arrow and Ray read it: a path of this machine, or an address.

        That of a bucket has escapes: in it they take a `%`, `#` or `?` for more than a character.
        """
        scheme, _, rest = self.location.partition("://")
        if scheme in ("s3", "s3a", "gs"):
            return f"{scheme.rstrip('a')}://{quote(rest)}"
        return self.local_path or self.location

    def file(self, name: str) -> str:
        """Return the path of a file as the backend knows it.

        Raises:
            ValueError: If the folder is closed and the name leads out of it.
        """
        return f"{self.path}/{name if self.root is None else inside(self, name)}"

    def exists(self, name: str = "") -> bool:
        """Tell whether a file (or the folder itself) is there."""
        try:
            with self._clear_errors("looking for", name):
                return self.backend.exists(self.file(name) if name else self.path)
        except FileNotFoundError:
            return False

    def is_file(self) -> bool:
        """Tell whether a file is at this place, and no folder."""
        with self._clear_errors("looking for"):
            return self.backend.is_file(self.path)

    def names(self) -> list[str]:
        """List what is directly in the folder, sorted; empty if it does not exist."""
        with self._clear_errors("listing"):
            return sorted(set(self.backend.names(self.path)))

    def entries(self, most: int) -> list[tuple[str, bool]]:
        """List at most some names directly in the folder, each with whether it is a folder."""
        with self._clear_errors("listing"):
            return self.backend.entries(self.path, most)

    def walk(
        self, *, links: bool = False, passed: Callable[[str], None] | None = None
    ) -> Iterator[tuple[str, int]]:
        """Yield every file below: its name in this folder and its size in bytes, in no order.

        Memory stays bounded however many there are.

        Args:
            links: Follow links to folders too, if the folder is on a local disk.
            passed: Is told what each entry is that is neither a file nor a folder to look into.
        """
        with self._clear_errors("listing"):
            if links and self.local_path:
                yield from walk(self.local_path, links=True, passed=passed)
            else:
                yield from self.backend.walk(self.path)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it is not there."""
        try:
            with self._clear_errors("looking for", name):
                return self.backend.size(self.file(name))
        except FileNotFoundError:
            return None

    def check_writable(self, option: str, limit_s: float = PROBE_LIMIT_S) -> None:
        """Find out before any work whether it could be kept: write, create, read back, delete.

        Args:
            option: What the user calls the folder.
            limit_s: Time after which a place that does not answer is given up, in seconds.

        Raises:
            OSError: If one of the three fails; it says which, and why.
        """
        probe, content = f".probe-{uuid.uuid4().hex[:8]}", secrets.token_bytes(64)
        steps = ["writing"]  # the last one begun; this thread may ask before the other has begun
        failed: list[Exception] = []

        def read_back() -> None:
            if self.read(probe) != content:
                raise OSError("other bytes came back than were written")

        def create_again() -> None:
            if self.create(probe, content):
                logger.warning(
                    "%s overwrites a file that should be created only once (an S3 server that "
                    "ignores If-None-Match does): two that start there in the same moment may "
                    "both think that it is theirs. Start one at a time, or name another folder.",
                    self,
                )

        def check() -> None:
            actions: dict[str, Callable[[], object]] = {
                "writing": lambda: self.write(probe, content),
                "creating": create_again,
                "reading back": read_back,
                "deleting": lambda: self.delete(probe),
            }
            try:
                for step, action in actions.items():
                    steps.append(step)
                    action()
            except Exception as error:
                failed.append(error)
                if steps[-1] not in ("writing", "deleting"):
                    with contextlib.suppress(OSError):
                        self.delete(probe)

        self.backend.last_fault(forget=True)
        # In a thread of its own: a dead network mount blocks who touches it for ever.
        thread = threading.Thread(target=check, name="check-writable", daemon=True)
        thread.start()
        thread.join(limit_s)
        if not thread.is_alive() and not failed:
            return
        cause = failed[0] if failed else None
        fault = self.backend.last_fault()
        why = cause or f"no end of it within {limit_s:.0f} s" + f" ({fault})" * bool(fault)
        raise OSError(
            f"{option}: nothing can be kept in {self}: {steps[-1]} a probe failed "
            f"({why}). Name another folder with --{option}, or see to what it says."
        ) from cause

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or the bytes from `start` up to `end` of it.

        Args:
            name: In this folder.
            start: First byte, from 0; the start of the file if None.
            end: First byte after, which may lie past the end; the end if None.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If the range is negative.
        """
        if (start or 0) < 0 or (end is not None and end < (start or 0)):
            raise ValueError(
                f"bytes {start} to {end} of {name} are no range: 0 <= start <= end, as in 0 to 100."
            )
        if end is not None and end == (start or 0):
            return b""  # HTTP has no empty range
        with self._clear_errors("reading", name):
            return self.backend.read(self.file(name), start, end)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading here and there; on S3 each read is as patient as `read`.

        Raises:
            FileNotFoundError: If it is not there.
        """
        with self._clear_errors("opening", name):
            return self.backend.open(self.file(name))

    def write(self, name: str, content: bytes) -> str:
        """Write a whole file atomically and return its sha256.

        Raises:
            OSError: If it cannot be kept; what was there before is there still.
        """
        with self._clear_errors("writing", name, len(content)):
            self.backend.write(self.file(name), content)
        return hashlib.sha256(content).hexdigest()

    def create(self, name: str, content: bytes) -> bool:
        """Write a file only if there is none of that name: of many who try, one can.

        Atomic on local disks and on S3; elsewhere see `FsspecFiles`.

        Returns:
            Whether it was written. False after an answer of S3 that was lost may be
            wrong: who must know reads the file.
        """
        with self._clear_errors("creating", name, len(content)):
            return self.backend.create(self.file(name), content)

    def delete(self, name: str) -> None:
        """Delete a file; it is no error if it is not there."""
        with contextlib.suppress(FileNotFoundError), self._clear_errors("deleting", name):
            self.backend.delete(self.file(name))

    def rename(self, to: "Folder") -> None:
        """Rename the folder to another place in the same storage."""
        with self._clear_errors("renaming"):
            self.backend.rename(self.path, to.path)

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
            with self._clear_errors("deleting"):
                self.backend.remove(self.path)

    def remove_abandoned(self) -> None:
        """Delete what writers that were killed left behind; only for the owner of the folder."""
        self.backend.remove_abandoned(self.path)

    @contextlib.contextmanager
    def _clear_errors(self, doing: str, name: str = "", size: int = 0) -> Iterator[None]:
        """Turn errors into ones that say where, why and what to do.

        Args:
            doing: What is tried, as a noun.
            name: Of the file.
            size: Bytes to write; with them, "not found" is no missing file.
        """
        try:
            yield
        except Exception as error:
            address = f"{self.location}/{name}".rstrip("/")
            clear = self.backend.explained(error, doing, address, self.path, size)
            if clear is error:
                raise
            raise clear from error


def _open_s3() -> Backend:
    from pipeline.storage.s3 import S3  # takes seconds to import, and most folders are local

    return S3()


register("file", LocalDisk)
register("local", LocalDisk)
register("s3", _open_s3)
register("s3a", _open_s3)
