"""Check names from foreign data: they must stay inside their folder.

A dataset names its images; whoever wrote it may name `../../etc/passwd`. What is
refused here never reaches a file system. The codes of rejected records start with
`PATH_UNSAFE`.
"""

import os
import re
from urllib.parse import unquote

from pipeline.storage.folder import Folder

MAX_PART_BYTES = 255  # of a name on common file systems
MAX_NAME_BYTES = 1024  # of a key on S3
_DRIVE = re.compile(r"[A-Za-z]:")
# Control characters, line separators, marks that turn the direction of text, and the
# surrogates that stand for bytes which are not UTF-8.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def inside(folder: Folder, name: str, *, links: bool = False) -> str:
    """Return a name from foreign data if it is one of a file inside a folder.

    Costs some microseconds, and on a local disk a look at each folder on the way.

    Args:
        folder: Where the file must be.
        name: Relative, its parts separated by slashes.
        links: Whether links on the way may lead out, because they are the user's own.

    Raises:
        ValueError: If it is anything else; starts with `PATH_UNSAFE:`.
    """
    problem = _problem(name) or _hidden_problem(name)
    if problem := problem or (None if links else _way_out(folder, name)):
        shown = ascii(name if len(name) <= 60 else name[:60] + "...")
        raise ValueError(
            f"PATH_UNSAFE: {shown} {problem}. Name files relative to {folder}, for example "
            "'images/cat.jpg'."
        )
    return name


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


def _way_out(folder: Folder, name: str) -> str | None:
    """Say so if a link leads out of a local folder."""
    if not folder.local_path:
        return None
    root = os.path.realpath(folder.local_path)
    found = os.path.realpath(f"{root}/{name}")
    return None if found.startswith(f"{root.rstrip('/')}/") else "leads out of the folder by a link"
