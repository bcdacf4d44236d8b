"""Open folders and files where others can make some too: this user's own, or an error.

In `/tmp` a stranger may have been there first, with a folder or a link of the name that is used.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS_ENTER = stat.S_IRWXG | stat.S_IRWXO


@contextlib.contextmanager
def own_folder(path: Path, *, closed_to: int = OTHERS_WRITE, remedy: str) -> Iterator[int]:
    """Hold a folder open that is this user's own, and no link.

    Args:
        path: Of the folder.
        closed_to: Bits of its mode that must not be set.
        remedy: What the user can do, for the error.

    Yields:
        A descriptor, for `dir_fd`: it leads to this folder, whatever comes to lie at its path.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is a link or no folder, belongs to somebody else or is open to others.
    """
    descriptor = _open(path, os.O_DIRECTORY, None, closed_to, remedy)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_own_file(path: Path, folder: int, *, remedy: str) -> str:
    """Read a file that is this user's own, that nobody else can write to, and that is no link.

    Args:
        path: Of the file.
        folder: Descriptor of the folder it is in.
        remedy: What the user can do, for the error.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, belongs to somebody else or is open to others.
    """
    descriptor = _open(path, os.O_NONBLOCK, folder, OTHERS_WRITE, remedy)
    with os.fdopen(descriptor, errors="replace") as file:
        return file.read()


def _open(path: Path, flags: int, folder: int | None, closed_to: int, remedy: str) -> int:
    name = path if folder is None else path.name
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refusal(
            path, f"is a link, or cannot be opened ({error.strerror})", remedy
        ) from error
    found = os.fstat(descriptor)
    problem = ""
    if not flags & os.O_DIRECTORY and not stat.S_ISREG(found.st_mode):
        problem = "is no file"
    elif found.st_uid != os.getuid():
        problem = f"belongs to somebody else (user {found.st_uid})"
    elif found.st_mode & closed_to:
        problem = f"is open to others (mode {stat.S_IMODE(found.st_mode):o})"
    if problem:
        os.close(descriptor)
        raise _refusal(path, problem, remedy)
    return descriptor


def _refusal(path: Path, problem: str, remedy: str) -> ValueError:
    return ValueError(
        f"{path} {problem}, so it is not used, and nothing there was touched. {remedy}"
    )
