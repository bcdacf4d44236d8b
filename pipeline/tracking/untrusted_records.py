"""Check what records of a run name before it is read or sent: a stranger may have written them."""

import hashlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from PIL import Image

from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

MAX_PIXELS = 100e6  # of a picture; a grid of 64 images of 1,024 px has 75e6


class RefusedError(ValueError):
    """MLflow will never take something."""


def read_file(folder: Folder, name: str, sha256: str | None = None) -> bytes:
    """Read a file of the run, which must be the one that was told of.

    Args:
        folder: Of the run.
        name: From a record, which a stranger may have written.
        sha256: That it must have; None for a picture.

    Raises:
        RefusedError: If it is not.
        ValueError: If it is not in the folder.
    """
    try:
        if not folder.size(inside(folder, name)):
            # A named pipe has no size, and reading it would wait for ever.
            raise FileNotFoundError
        content = folder.read(inside(folder, name))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise RefusedError(f"{folder}/{name} is not there any more") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise RefusedError(
            f"{folder}/{name} was replaced since; what replaced it is sent in its turn"
        )
    return content


def plain_name(folder: Folder, name: str) -> str:
    """Return a name from a record if it is one of a file, and no path: so it names one in MLflow.

    Raises:
        ValueError: If it is not.
    """
    if "/" in inside(folder, name):
        raise ValueError(f"{name!a} is a path, and a record names files here without one")
    return name


def checked_sha256(value: Any) -> str:
    """Return a hash from a record.

    Raises:
        RefusedError: If it is none: a file is not sent that nothing proves.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise RefusedError(
            f"sha256={ascii(value)[:80]} is no hash, and without one no file is sent"
        )
    return value


def number(value: Any) -> float | None:
    """Return a finite number from a record or report; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def part(record: Any, name: str) -> dict[str, Any]:
    """Return an object in a record or report; empty if there is none."""
    found = record.get(name) if isinstance(record, dict) else None
    return found if isinstance(found, dict) else {}


def open_png(
    path: Path | BinaryIO, count: Callable[[int], None] = lambda pixels: None
) -> Image.Image:
    """Open a PNG, as all pictures of runs are: no other decoder sees what a stranger made.

    Args:
        path: Of it, or its bytes as a stream.
        count: Takes its number of pixels, before they are decoded.

    Raises:
        RefusedError: If it is none.
    """
    try:
        picture = Image.open(path, formats=["PNG"])
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width:,} × {picture.height:,} pixels are too many")
        count(picture.width * picture.height)
        picture.load()
        return picture
    except Exception as error:  # of many kinds
        raise RefusedError(f"the picture is no PNG that can be shown: {error}") from error


def lies_in(place: str, folder: str) -> bool:
    """Tell whether a place for files is in a folder of this machine.

    Only the form that this project writes counts. MLflow takes `/a:/../b` for a path, and sends the
    user's password to `http://…`.

    Args:
        place: Address with file://, as a store names it.
        folder: The same, of which nothing but its last part may be a link.
    """
    if not place.startswith("file:///"):
        return False
    path, root = (unquote(urlsplit(each).path) for each in (place, folder))
    return f"{os.path.realpath(path)}/".startswith(f"{root}/")
