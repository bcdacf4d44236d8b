"""What only a local disk has: links, folders to walk through, room that runs out."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator

# A full disk, a quota that is used up, a limit on the size of one file.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# As `Folder` names a file before it is whole, and a probe.
_ABANDONED = re.compile(r".*\.[0-9a-f]{8}\.tmp|(.*/)?\.probe-[0-9a-f]{8}")


def walk(folder: str) -> Iterator[tuple[str, int]]:
    """Yield every file below a folder, its relative name and size in bytes, in no order."""
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
            if entry.is_dir(follow_symlinks=False):
                open_folders.append((f"{name}/", os.scandir(entry.path)))
            elif (size := _file_size(entry)) is not None:
                yield name, size


def remove_abandoned(folder: str) -> None:
    """Delete what writers that were killed left below a folder: files under temporary names.

    Only for the one who owns the folder: a file that somebody still writes looks the same.
    """
    for name, _ in walk(folder):
        if _ABANDONED.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{folder}/{name}")


def _file_size(entry: os.DirEntry[str]) -> int | None:
    """Return the size of what an entry leads to in bytes; None if that is not a file."""
    try:
        found = entry.stat()
    except OSError:
        return 0 if entry.is_symlink() else None  # leads nowhere, or in a circle
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
