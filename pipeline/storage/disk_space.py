"""Check free disk space before a write, and explain a full disk."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.folder import Folder


class DiskFullError(OSError):
    """There is no room for a file."""


def free_bytes(folder: Folder) -> int | None:
    """Return the bytes that can still be written to a folder; None in a bucket."""
    return folder.backend.free_bytes(folder.path)


OF_A_RUN = "use a smaller --keep-checkpoints, or move the run and name its new place by --output"


def check_room(folder: Folder, size: int, what: str, advice: str = OF_A_RUN) -> None:
    """Find out before writing whether it fits.

    Args:
        folder: To write to.
        size: Of all there is to write, in bytes.
        what: It is, for the message.
        advice: What to do instead of freeing some.

    Raises:
        DiskFullError: If it does not.
    """
    free = free_bytes(folder)
    if free is not None and free < size:
        raise disk_full(folder, size, what, errno.ENOSPC, advice)


def disk_full(
    folder: Folder, size: int, what: str, number: int, advice: str = OF_A_RUN
) -> DiskFullError:
    """Say what is needed, what there is, and where.

    Args:
        folder: That was written to.
        size: Of all there is to write, in bytes.
        what: It is.
        number: Of `NO_ROOM`: which kind of room there is none of.
        advice: As for `check_room`.
    """
    if number == errno.EFBIG:
        have = (
            f"no file may be larger than {readable(resource.getrlimit(resource.RLIMIT_FSIZE)[0])}"
        )
        remedy = "Raise that limit (ulimit -f)"
    else:
        free = free_bytes(folder)
        have = "how much is left is not known" if free is None else f"have {readable(free)}"
        remedy = "Free some"
    error = DiskFullError(
        f"no room for {what}: need {readable(size)}, {have} at {folder} "
        f"({os.strerror(number)}). {remedy}, or {advice}."
    )
    error.errno = number
    return error


def readable(size: int) -> str:
    """Format bytes with three digits: 1.21 GiB."""
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.3g} {unit}"


@contextmanager
def leaving_nothing(folder: Folder) -> Iterator[None]:
    """Remove the folders that a probe of a place has made on the way."""
    made: list[Path] = []
    if folder.local_path:
        path = Path(folder.local_path)
        made = [each for each in (path, *path.parents) if not each.exists()]
    try:
        yield
    finally:
        for each in made:  # the innermost first
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()
