"""Folders on a local disk, or one that is mounted: atomic by renames and hard links."""

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from fsspec.implementations.local import LocalFileSystem

from pipeline.common.console import print_line
from pipeline.common.failpoints import reach
from pipeline.storage.backend import Backend

# A full disk, a quota that is used up, a limit on the size of one file.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# As `Folder` names a file before it is whole, and a probe.
_ABANDONED = re.compile(r".*\.[0-9a-f]{8}\.tmp|(.*/)?\.probe-[0-9a-f]{8}")


class LocalDisk(Backend):
    """Files of this machine."""

    on_this_machine = True
    atomic_rename = True

    def path_of(self, location: str) -> str:
        """Return the path; an address is one like file:///data."""
        return str(LocalFileSystem._strip_protocol(location))

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        return os.path.exists(path)

    def is_file(self, path: str) -> bool:
        """Tell whether a file is there, and no folder."""
        return os.path.isfile(path)

    def names(self, path: str) -> list[str]:
        """List what is directly in a folder; a file holds itself."""
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            if os.path.isfile(path):
                return [os.path.basename(path)]
            raise

    def entries(self, path: str, most: int) -> list[tuple[str, bool]]:
        """List some files and folders directly in a folder; a link is what it leads to."""
        with os.scandir(path) as found:
            listed = [entry for entry in islice(found, most) if entry.is_dir() or entry.is_file()]
        return [(entry.name, entry.is_dir()) for entry in listed]

    def walk(self, path: str) -> Iterator[tuple[str, int]]:
        """Yield every file below.

        Links to folders are not followed, a link to nowhere has size 0, and a name that is not
        valid UTF-8 comes as Python spells it (with surrogates): it opens, but cannot be encoded,
        and `safe_path` refuses it.
        """
        return walk(path)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes; 0 for a link to nowhere."""
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            os.lstat(path)
            return 0

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Read the bytes from `start` up to `end`."""
        with open(path, "rb") as stream:
            stream.seek(start or 0)
            return stream.read() if end is None else stream.read(end - (start or 0))

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading."""
        return open(path, "rb")

    def write(self, path: str, content: bytes) -> None:
        """Write a file. The rename is the commit; the data is on the disk before the name is."""
        with _temporary(path, content) as temporary:
            reach("storage.before_rename", file=path)
            os.replace(temporary, path)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file if there is none of that name; of many who try, one can."""
        try:
            with _temporary(path, content) as temporary:
                return link(temporary, path, content)
        except FileExistsError:
            return False

    def delete(self, path: str) -> None:
        """Delete a file."""
        os.remove(path)

    def remove(self, path: str) -> None:
        """Delete a folder and all in it, or a file."""
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.remove(path)

    def rename(self, path: str, to: str) -> None:
        """Rename a folder."""
        os.rename(path, to)

    def explained(
        self, error: Exception, doing: str, address: str, path: str, size: int
    ) -> Exception:
        """Say of a full disk what was needed and what is free."""
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return OSError(error.errno, no_room(error, doing, address, path, size))
        return error

    def free_bytes(self, path: str) -> int:
        """Return the bytes that can still be written below a path."""
        return free_bytes(path)

    def remove_abandoned(self, path: str) -> None:
        """Delete what writers that were killed left below a folder."""
        remove_abandoned(path)


@contextlib.contextmanager
def _temporary(target: str, content: bytes) -> Iterator[str]:
    """Give a file with the content, safely on the disk, for a moment."""
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


def walk(
    folder: str, *, links: bool = False, passed: Callable[[str], None] | None = None
) -> Iterator[tuple[str, int]]:
    """Yield every file below a folder, its relative name and size in bytes, in no order.

    Args:
        links: Follow links to folders, except those that lead back to a folder around them.
        passed: Is told what each entry is that is neither a file nor a folder to look into.

    Raises:
        PermissionError: If it is not permitted to look at an entry.
    """
    said = passed or (lambda what: None)
    open_folders: list[tuple[str, Iterator[os.DirEntry[str]]]] = []
    try:
        open_folders.append(("", os.scandir(folder)))
    except FileNotFoundError:
        return
    while open_folders:
        below, entries = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
            continue
        name = below + entry.name
        with contextlib.suppress(FileNotFoundError):  # deleted while we look
            linked = links and entry.is_symlink() and os.path.isdir(entry.path)
            if linked or entry.is_dir(follow_symlinks=False):
                if linked and _leads_back(folder, below, entry.path):
                    print_line(f"{entry.path} leads back to a folder around it: not followed")
                    said("links that lead back")
                    continue
                open_folders.append((f"{name}/", os.scandir(entry.path)))
            elif (size := _file_size(entry)) is not None:
                yield name, size
            else:
                said("neither files nor folders")


def remove_abandoned(folder: str) -> None:
    """Delete what writers that were killed left below a folder: files under temporary names.

    Only for the one who owns the folder: a file that somebody still writes looks the same.
    """
    for name, _ in walk(folder):
        if _ABANDONED.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")


def _leads_back(folder: str, below: str, link: str) -> bool:
    """Return whether a link leads to the folder it is in, or to one above that."""
    if os.path.realpath(folder).startswith(f"{os.path.realpath(link).rstrip('/')}/"):
        return True
    parts = below.split("/")[:-1]
    around = ["/".join([folder, *parts[:depth]]) for depth in range(len(parts) + 1)]
    return any(os.path.samefile(link, each) for each in around)


def _file_size(entry: os.DirEntry[str]) -> int | None:
    """Return the size of what an entry leads to in bytes; None if that is not a file."""
    try:
        found = entry.stat()
    except OSError:
        if entry.is_symlink():
            return 0  # leads nowhere, or in a circle
        raise
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def link(temporary: str, target: str, content: bytes) -> bool:
    """Give a finished file its name, unless the name is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # NFS may do it and lose the answer; then the file has its two names.
        return os.stat(temporary).st_nlink == 2
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}:
            raise
        # A disk without links: exclusive all the same, but seen while it is written.
        with open(target, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    return True


def free_bytes(path: str) -> int:
    """Return the bytes that can still be written at a path, which need not exist yet."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def no_room(error: OSError, doing: str, address: str, path: str, size: int) -> str:
    """Say how many bytes are needed and how many there are.

    Args:
        error: One of `NO_ROOM`.
        doing: What was tried, as a noun.
        address: Of the file, as it is shown.
        path: On the disk.
        size: Bytes that were to be written.
    """
    room = f"{free_bytes(path):,} bytes are free"
    if error.errno == errno.EDQUOT:
        room += " on the disk, but not in your quota"
    if error.errno == errno.EFBIG:
        room += " on the disk, but a file may not grow so large (ulimit -f)"
    return (
        f"{error.strerror}: {doing} {address} needs {size:,} bytes, and {room}. "
        "Make room there, or name a folder on another disk."
    )
