"""The S3 backend: objects under names with slashes, written in parts where they are large."""

import contextlib
import errno
import io
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from pipeline.storage.backend import Backend
from pipeline.storage.s3_retries import (
    PatientS3,
    answer_code,
    answer_status,
    explained,
    open_s3,
    patiently,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Content of twice this size goes up in parts: a fault costs one part, not all of it.
PART_BYTES = 16 * 2**20
MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html


class StillThereError(PermissionError):
    """S3 says that it deleted, and has not."""


class S3(Backend):
    """Objects in S3, or in a store that speaks its language; a folder is a prefix of names."""

    def __init__(self) -> None:
        self.fs = open_s3()

    def path_of(self, location: str) -> str:
        """Return bucket and key."""
        return str(self.fs._strip_protocol(location))

    def exists(self, path: str) -> bool:
        """Tell whether an object or a prefix is there."""
        # `exists` of s3fs takes every error on a bucket for "no".
        found = patiently(lambda: self.fs.info(path))
        return found["type"] != "directory" or "/" not in path or self._holds(path)

    def is_file(self, path: str) -> bool:
        """Tell whether an object is there."""
        return patiently(lambda: bool(self.fs.isfile(path)))

    def names(self, path: str) -> list[str]:
        """List what is directly below a prefix."""
        # `ls` of s3fs lists the whole folder above when it finds nothing.
        found = (entry for entry, _ in self._entries(path, Delimiter="/"))
        return [name.rstrip("/") for name in found if name[-1:] != "/" or self._holds(path, name)]

    def entries(self, path: str, most: int) -> list[tuple[str, bool]]:
        """List at most some names directly below a prefix, from as few pages as they are in."""
        found = islice(self._entries(path, Delimiter="/"), most)
        return [(name.rstrip("/"), name.endswith("/")) for name, _ in found]

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield every object below a prefix, a page at a time."""
        return ((name, size) for name, size in self._entries(path) if name[-1:] != "/")

    def _holds(self, path: str, name: str = "") -> bool:
        """Tell whether any object is below a prefix: SeaweedFS lists emptied ones for minutes."""
        below = f"{path}/{name}".rstrip("/")
        return bool(next(pages(self.fs, below, MaxKeys=1)).get("Contents"))

    def _entries(self, path: str, **options: Any) -> Iterator[tuple[str, int]]:
        """Yield names below a prefix with their sizes; prefixes end with a slash."""
        prefix = len(path.partition("/")[2])
        prefix += bool(prefix)
        for page in pages(self.fs, path, **options):
            for folder in page.get("CommonPrefixes", ()):
                yield folder["Prefix"][prefix:], 0
            for entry in page.get("Contents", ()):
                if entry["Key"][prefix:]:  # the empty object that some tools make as a folder
                    yield entry["Key"][prefix:], int(entry["Size"])

    def size(self, path: str) -> int:
        """Return the size of an object in bytes."""
        return patiently(lambda: int(self.fs.size(path)))

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read the bytes from `start` up to `end`."""
        # One request for all of it, which also lets S3's checksum be verified.
        options = {"max_concurrency": 1} if start is None and end is None else {}
        try:
            return patiently(lambda: bytes(self.fs.cat_file(path, start=start, end=end, **options)))
        except OSError as error:
            if answer_status(error) == 416:
                return b""  # past the end, as on a disk
            raise

    def open(self, path: str) -> IO[bytes]:
        """Open an object; each read is as patient as `read`."""

        def read(start: int, end: int) -> bytes:
            try:
                return self.read(path, start, end)
            except Exception as error:
                raise self.explained(error, "reading", f"s3://{path}", path, 0) from error

        return io.BufferedReader(ByteRanges(read, self.size(path)), 2**16)

    def write(self, path: str, content: bytes) -> None:
        """Write an object."""
        upload(self.fs, path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write an object if there is none of that name (`If-None-Match`)."""
        try:
            patiently(lambda: self.fs.pipe_file(path, content, mode="create"))
        except OSError as error:
            # s3fs takes Amazon's words alone for a FileExistsError.
            if isinstance(error, FileExistsError) or answer_status(error) == 412:
                return False
            raise
        return True

    def delete(self, path: str) -> None:
        """Delete an object."""
        patiently(lambda: self.fs.rm_file(path))

    def remove(self, path: str) -> None:
        """Delete all objects below a prefix, and one of its name."""
        # `rm` of s3fs takes a name with `[`, `*` or `?` for a pattern, and deletes what matches.
        bucket, _, key = path.partition("/")
        for page in pages(self.fs, path):
            found = [{"Key": each["Key"]} for each in page.get("Contents", ())]
            if found:
                objects = {"Objects": found, "Quiet": True}
                patiently(
                    lambda objects=objects: self.fs.call_s3(  # type: ignore[misc]
                        "delete_objects", Bucket=bucket, Delete=objects
                    )
                )
        if key and self.is_file(path):
            self.delete(path)
        # S3 answers that all is well, and lists what it refuses to delete.
        with contextlib.suppress(FileNotFoundError):
            if key and self.exists(path):
                raise StillThereError(
                    f"deleting s3://{path}: some of it is there still. Allow s3:DeleteObject, or "
                    "see whether something writes to it."
                )

    def rename(self, path: str, to: str) -> None:
        """Move each object below a prefix by itself."""
        # `mv` of s3fs takes folders in a folder for objects.
        for name, _ in list(self.walk(path)):
            patiently(lambda file=name: self.fs.cp_file(f"{path}/{file}", f"{to}/{file}"))  # type: ignore[misc]
            self.delete(f"{path}/{name}")

    def explained(
        self, error: Exception, doing: str, address: str, path: str, size: int
    ) -> Exception:
        """Say what S3 answered, and what to do."""
        missing = isinstance(error, FileNotFoundError) and not size
        if missing and answer_code(error) != "NoSuchBucket":
            return FileNotFoundError(errno.ENOENT, "no such file", address)
        if isinstance(error, FileExistsError | StillThereError):
            return error
        return explained(error, doing, address)

    def last_fault(self, *, forget: bool = False) -> str:
        """Return what S3 answered last that was worth another attempt."""
        found = self.fs.last_fault
        if forget:
            self.fs.last_fault = ""
        return found


def upload(filesystem: PatientS3, path: str, content: bytes) -> None:
    """Write an object: all of it appears or nothing, and no part of it is left behind."""
    part = max(PART_BYTES, -(-len(content) // MAX_PARTS))
    in_parts = len(content) >= 2 * part  # as s3fs decides it
    if in_parts:
        _abort_uploads(filesystem, path)  # of earlier writers that were killed
    try:
        patiently(lambda: filesystem.pipe_file(path, content, chunksize=part))
    finally:
        # Ctrl-C leaves s3fs at work in its own thread: without its upload it gives up. And where
        # the answer to its beginning was lost, an upload was begun twice and one is over.
        if in_parts:
            _abort_uploads(filesystem, path)


def pages(filesystem: PatientS3, path: str, **options: Any) -> Iterator[dict[str, Any]]:
    """Yield what is below a path, a page of up to 1,000 objects at a time.

    Args:
        filesystem: Where to look.
        path: Bucket and prefix without the last slash.
        options: More of what `list_objects_v2` takes.
    """
    bucket, _, key = path.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **options}
    while True:
        page = patiently(lambda: filesystem.call_s3("list_objects_v2", **request))
        yield page
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _abort_uploads(filesystem: PatientS3, path: str) -> None:
    """Abort the pending uploads of an object, where that is allowed."""
    bucket, _, key = path.partition("/")
    # Not worth an error: what was to be written is written, or its own error is raised.
    with contextlib.suppress(Exception):
        found = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
        for each in found.get("Uploads", []):
            if each["Key"] == key:
                filesystem.call_s3(
                    "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=each["UploadId"]
                )


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
