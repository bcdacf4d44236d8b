"""Folders, local or in a bucket: the one place that knows where bytes are.

A folder is named by a path or by any address fsspec opens (`s3://bucket/run`).
Writing a file is atomic in both worlds: a name either holds all of it or
does not exist. What goes wrong is an OSError that names the place, the cause
and what to do; on S3, faults that pass are waited out first (see `pipeline.storage.s3`).
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.common.failpoints import reach
from pipeline.common.redaction import refuse_password
from pipeline.storage.local_disk import NO_ROOM, link, no_room, walk

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
    """

    def __init__(self, location: str) -> None:
        self.location = absolute(location)
        self.is_s3 = self.location.startswith(("s3://", "s3a://"))
        self.fs: Any
        if self.is_s3:
            from pipeline.storage.s3 import open_s3  # seconds to import, and most folders are local

            self.fs, self.path = open_s3(self.location)
        else:
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
        path = self.file(name) if name else self.path
        if not self.is_s3:
            return bool(self.fs.exists(path))
        try:
            # `exists` of s3fs takes every error on a bucket for "no".
            with self._clear_errors("looking for", name):
                self._asked(lambda: self.fs.info(path))
        except FileNotFoundError:
            return False
        return True

    def names(self) -> list[str]:
        """List what is directly in the folder, sorted; empty if it does not exist."""
        if self.is_s3:
            # `ls` of s3fs lists the whole folder above when it finds nothing.
            found = [entry for entry, _ in self._s3_entries(Delimiter="/")]
        else:
            try:
                with self._clear_errors("listing"):
                    found = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
        return sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in found})

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield every file below: its name in this folder and its size in bytes, in no order.

        Memory stays bounded however many there are. Local folders: links to folders are
        not followed, a link to nowhere has size 0, and a name that is not valid UTF-8
        comes as Python spells it (with surrogates): it opens, but cannot be encoded, and
        `inside` refuses it.
        """
        if self.is_local:
            yield from walk(self.path)
        elif self.is_s3:
            yield from ((name, size) for name, size in self._s3_entries() if name[-1:] != "/")
        else:
            with self._clear_errors("listing"):
                found = self.fs.find(self.path, detail=True)
            for path, entry in found.items():
                yield path.removeprefix(self.path).lstrip("/"), int(entry["size"] or 0)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it is not there."""
        try:
            with self._clear_errors("looking for", name):
                return int(self._asked(lambda: self.fs.size(self.file(name))))
        except FileNotFoundError:
            return None

    def check_writable(self, option: str, limit_s: float = PROBE_LIMIT_S) -> None:
        """Find out before any work whether it could be kept: write, read back, delete.

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

        def check() -> None:
            actions: dict[str, Callable[[], object]] = {
                "writing": lambda: self.write(probe, content),
                "reading back": read_back,
                "deleting": lambda: self.delete(probe),
            }
            try:
                for step, action in actions.items():
                    steps.append(step)
                    action()
            except Exception as error:
                failed.append(error)
                if steps[-1] == "reading back":
                    with contextlib.suppress(OSError):
                        self.delete(probe)

        if self.is_s3:
            self.fs.last_fault = ""
        # In a thread of its own: a dead network mount blocks who touches it for ever.
        thread = threading.Thread(target=check, name="check-writable", daemon=True)
        thread.start()
        thread.join(limit_s)
        if not thread.is_alive() and not failed:
            return
        cause = failed[0] if failed else None
        fault = getattr(self.fs, "last_fault", "")
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
        whole = start is None and end is None
        path = self.file(name)
        with self._clear_errors("reading", name):
            if self.is_local:
                with open(path, "rb") as stream:
                    stream.seek(start or 0)
                    return stream.read() if end is None else stream.read(end - (start or 0))
            # One request for all of it, which also lets S3's checksum be verified.
            options = {"max_concurrency": 1} if self.is_s3 and whole else {}
            try:
                content: bytes = self._asked(
                    lambda: self.fs.cat_file(path, start=start, end=end, **options)
                )
            except OSError as error:
                if self.is_s3:
                    from pipeline.storage.s3 import answer_code

                    if answer_code(error) == "InvalidRange":
                        return b""  # past the end, as on a disk
                raise
            return content

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading here and there; on S3 each read is as patient as `read`.

        Raises:
            FileNotFoundError: If it is not there.
        """
        if not self.is_s3:
            with self._clear_errors("opening", name):
                opened: IO[bytes] = self.fs.open(self.file(name), "rb")
                return opened
        from pipeline.storage.s3 import ByteRanges  # takes seconds: a local run imports no s3fs

        size = self.size(name)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", f"{self}/{name}")
        return io.BufferedReader(ByteRanges(partial(self.read, name), size), 2**16)

    def write(self, name: str, content: bytes) -> str:
        """Write a whole file atomically and return its sha256.

        Raises:
            OSError: If it cannot be kept; what was there before is there still.
        """
        with self._clear_errors("writing", name, len(content)):
            if self.is_local:
                # Rename is the commit. The data must be on the disk before the name is.
                with self._temporary(name, content) as temporary:
                    reach("storage.before_rename", file=self.file(name))
                    os.replace(temporary, self.file(name))
            elif self.is_s3:
                from pipeline.storage.s3 import upload

                upload(self.fs, self.file(name), content)
            else:
                self.fs.pipe_file(self.file(name), content)
        return hashlib.sha256(content).hexdigest()

    def create(self, name: str, content: bytes) -> bool:
        """Write a file only if there is none of that name: of many who try, one can.

        Atomic on local disks and on S3. Elsewhere a file that appears between the look
        and the write is overwritten.

        Returns:
            Whether it was written. False after an answer of S3 that was lost may be
            wrong: who must know reads the file.
        """
        with self._clear_errors("creating", name, len(content)):
            try:
                if self.is_local:
                    with self._temporary(name, content) as temporary:
                        return link(temporary, self.file(name), content)
                self._asked(
                    lambda: self.fs.pipe_file(self.file(name), content, mode="create"),
                )
            except FileExistsError:
                return False
        return True

    def delete(self, name: str) -> None:
        """Delete a file; it is no error if it is not there."""
        with contextlib.suppress(FileNotFoundError), self._clear_errors("deleting", name):
            self._asked(lambda: self.fs.rm_file(self.file(name)))

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
        if not self.exists():
            return
        with self._clear_errors("deleting"):
            self._asked(lambda: self.fs.rm(self.path, recursive=True))
        # s3fs passes over what S3 refuses to delete one by one.
        if self.is_s3 and self.exists():
            raise PermissionError(
                f"deleting {self}: some of it is there still. Allow s3:DeleteObject, or see "
                "whether something writes to it."
            )

    def _asked(self, operation: Callable[[], Any]) -> Any:
        """Run an operation of the file system, as often as S3 breaks off its answer."""
        if not self.is_s3:
            return operation()
        from pipeline.storage.s3 import patiently

        return patiently(operation)

    @contextlib.contextmanager
    def _clear_errors(self, doing: str, name: str = "", size: int = 0) -> Iterator[None]:
        """Turn errors into ones that say where, why and what to do.

        Args:
            doing: What is tried, as a noun.
            name: Of the file.
            size: Bytes to write; with them, "not found" is no missing file.
        """
        address = f"{self.location}/{name}".rstrip("/")
        try:
            yield
        except Exception as error:
            if self.is_s3:
                from pipeline.storage.s3 import answer_code, explained

                missing = isinstance(error, FileNotFoundError) and not size
                if missing and answer_code(error) != "NoSuchBucket":
                    raise FileNotFoundError(errno.ENOENT, "no such file", address) from error
                if isinstance(error, FileExistsError):
                    raise
                raise explained(error, doing, address) from error
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise OSError(
                    error.errno, no_room(error, doing, address, self.path, size)
                ) from error
            raise

    @contextlib.contextmanager
    def _temporary(self, name: str, content: bytes) -> Iterator[str]:
        """Give a local file with the content, safely on the disk, for a moment."""
        target = self.file(name)
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                stream.write(content)
                stream.flush()
                reach("storage.before_fsync", file=target)
                os.fsync(stream.fileno())
            yield temporary
        finally:
            Path(temporary).unlink(missing_ok=True)  # renamed, if all went well

    def _s3_entries(self, **options: Any) -> Iterator[tuple[str, int]]:
        """Yield names in this folder with their sizes; folders end with a slash."""
        from pipeline.storage.s3 import pages

        prefix = len(self.path.partition("/")[2])
        prefix += bool(prefix)
        found = pages(self.fs, self.path, **options)
        while True:
            with self._clear_errors("listing"):
                page = next(found, None)
            if page is None:
                return
            for folder in page.get("CommonPrefixes", ()):
                yield folder["Prefix"][prefix:], 0
            for entry in page.get("Contents", ()):
                if entry["Key"][prefix:]:  # the empty object that some tools make as a folder
                    yield entry["Key"][prefix:], int(entry["Size"])
