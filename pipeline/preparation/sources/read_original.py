"""Read a file of the originals by its untrusted name, never outside their folder.

Names are checked by their spelling. A link in the folder is the user's own and is followed, because
many tools (DVC, git-annex, hub caches) lay out a dataset with links.
"""

import errno
import os
import re
import stat
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.preparation.decoding.images import MAX_BYTES, RejectedError
from pipeline.storage.folder import Folder, absolute
from pipeline.storage.safe_path import inside


def _as_named(location: str) -> str:
    """Make a path absolute; a link whose file has another ending keeps its own name.

    Hub caches link `train.parquet` to a file named by a hash, and the ending is the format.
    """
    place, path = absolute(location), Path(location).expanduser()
    if "://" in location or Path(place).suffix == path.suffix or not path.is_file():
        return place
    return str(path.parent.resolve() / path.name)


Root = Annotated[str, AfterValidator(_as_named), Field(validate_default=True)]
"""Type of an option that names a folder or bucket."""
DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def open_root(root: str, what: str, option: str = "root") -> Folder:
    """Open the folder of the originals.

    Args:
        what: Expected content, for the error.
        option: Option of the folder, for the error.

    Raises:
        ValueError: If it does not exist.
    """
    folder = _folder(root)
    if not folder.exists():
        raise ValueError(f"{folder} does not exist. Name the folder of {what} with --{option}.")
    return folder


def some_names(folder: Folder) -> str:
    """Return some names in a folder, for the error about a missing one."""
    names = folder.names()
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"


def read_original(root: str, name: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read a file of the originals, or some bytes of it.

    Args:
        root: Folder or bucket address of the originals.
        name: Name below `root`; untrusted data of the listing.
        end: Byte after the last one.

    Raises:
        OSError: If it cannot be read.
        RejectedError: If the name points outside `root`.
    """
    forms = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
    missing: list[FileNotFoundError] = []
    for form in forms:  # a disk may spell é in two ways, and a table in the other one
        try:
            return _read(_folder(root), form, start, end)
        except FileNotFoundError as error:
            missing.append(error)
    raise missing[0]


def _read(folder: Folder, name: str, start: int | None, end: int | None) -> bytes:
    try:
        plain = safe_name(folder, name)
        size = None if end is None else end - (start or 0)
        if folder.local_path and end is None:
            size = os.stat(folder.file(plain)).st_size
        if size is not None and size > MAX_BYTES:  # before it is in memory
            raise RejectedError("IMG_TOO_LARGE", f"{size} bytes, at most {MAX_BYTES} are taken")
        return folder.read(plain, start, end)
    except NotADirectoryError as error:
        raise FileNotFoundError(str(error)) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise RejectedError("PATH_UNSAFE", str(error)) from error
        raise


def below(parent: str, name: str) -> str:
    """Join a folder and an untrusted name.

    Backslashes, as Windows writes them, become slashes. An address, a drive or an absolute path is
    not joined, so that reading refuses it.
    """
    if "://" not in name:
        name = name.replace("\\", "/")
    foreign = name.startswith("/") or "://" in name or DRIVE.match(name)
    return name if foreign or name in ("", ".") or not parent else f"{parent}/{name}"


def safe_name(folder: Folder, name: str) -> str:
    """Check an untrusted name, and return it in its plain form.

    Raises:
        OSError: If there is no such file.
        RejectedError: If it points outside the folder.
    """
    # Lists of files come from `find .` or are written by hand: `./a.jpg` and `a//b.jpg` are valid.
    plain = plain_name(name)
    try:
        inside(folder, plain, by_links=True)
    except ValueError as problem:
        raise RejectedError("PATH_UNSAFE", str(problem).removeprefix("PATH_UNSAFE: ")) from problem
    if folder.local_path:
        mode = os.stat(folder.file(plain)).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe could block without end
            raise RejectedError("PATH_UNSAFE", f"{plain!r} is not a file")
    return plain


def is_there(folder: Folder, name: str) -> bool:
    """Return whether an untrusted name is that of a file or folder inside a folder."""
    try:
        return folder.exists(safe_name(folder, name))
    except (OSError, RejectedError):
        return False


def plain_name(name: str) -> str:
    """Return a name without parts that mean nothing; an address or absolute path as it is."""
    if name.startswith("/") or "://" in name:
        return name
    return "/".join(part for part in name.split("/") if part not in ("", "."))


@lru_cache(maxsize=8)
def _folder(root: str) -> Folder:
    return Folder(root)
