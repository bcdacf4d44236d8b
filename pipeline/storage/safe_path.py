"""Check names from foreign data: they must stay inside their folder.

A dataset names its images, a run its pictures and a checkpoint its files; whoever wrote it may
name `../../etc/passwd`, or lay a link that leads there. What is refused here never reaches a file
system. The codes of rejected records start with `PATH_UNSAFE`.
"""

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from pipeline.storage.folder import Folder

MAX_PART_BYTES = 255  # of a name on common file systems
MAX_NAME_BYTES = 1024  # of a key on S3
_DRIVE = re.compile(r"[A-Za-z]:")
# Control characters, line separators, marks that turn the direction of text, and the
# surrogates that stand for bytes which are not UTF-8.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def inside(folder: "Folder", name: str, *, by_links: bool = False) -> str:
    """Return a name from foreign data if it is one of a file inside a folder.

    Costs some microseconds, and on a local disk a look at each folder on the way.

    Args:
        folder: Where the file must be; where it is closed, inside what it is closed at.
        name: Relative, its parts separated by slashes.
        by_links: Let links lead out: to the user's own originals, or to files that are only read
            and proved by a hash.

    Raises:
        ValueError: If it is anything else; starts with `PATH_UNSAFE:`.
    """
    if not isinstance(name, str):
        raise ValueError(f"PATH_UNSAFE: {ascii(name)[:60]} is not the name of a file in {folder}.")
    if problem := _problem(name) or _hidden_problem(name):
        raise ValueError(
            f"PATH_UNSAFE: {_shown(name)} {problem}. Name files relative to {folder}, for example "
            "'images/cat.jpg'."
        )
    if not by_links and _leads_out(folder, name):
        raise ValueError(
            f"PATH_UNSAFE: {_shown(name)} leads out of the folder by a link, and such links are "
            f"not followed. Put what it leads to into {folder.root or folder} itself."
        )
    return name


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:60] + "...")


def _problem(name: str) -> str | None:
    """Say what is wrong with the spelling of a name, or None."""
    if not name:
        return "is empty"
    if "\x00" in name:
        return "holds a NUL"
    if _HIDDEN.search(name):
        return "holds characters that are not seen or not UTF-8"
    if "\\" in name:
        return "holds a backslash"
    if "://" in name:
        return "is an address"
    if name.startswith("/"):
        return "is absolute"
    if _DRIVE.match(name):
        return "starts with a drive letter"
    parts = name.split("/")
    if ".." in parts:
        return "holds '..'"
    if "." in parts or "" in parts:
        return "holds a part that is empty or '.'"
    if len(name) * 4 > MAX_PART_BYTES:  # no character has more bytes: most names stop here
        if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
            return f"holds a part of more than {MAX_PART_BYTES} bytes"
        if len(name.encode()) > MAX_NAME_BYTES:
            return f"is longer than {MAX_NAME_BYTES} bytes"
    return None


def _hidden_problem(name: str) -> str | None:
    """Say what is wrong with what percent signs may hide; `50%.jpg` hides nothing."""
    decoded = name
    while "%" in decoded and (once := unquote(decoded)) != decoded:
        decoded = once
    return _problem(decoded) if decoded != name else None


def _leads_out(folder: "Folder", name: str) -> bool:
    """Tell whether a link leads out of a local folder."""
    if not folder.local_path:
        return False
    root = os.path.realpath(folder.root or folder.local_path)
    found = os.path.realpath(f"{folder.local_path}/{name}")
    return not found.startswith(f"{root.rstrip('/')}/")
