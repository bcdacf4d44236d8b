"""Stream the items of a list in a large JSON file, without holding them in memory."""

import re
from collections.abc import Iterator
from typing import Any

import ijson

from pipeline.preparation.sources.shallow_json import ShallowJson
from pipeline.preparation.sources.table_format import without_mark
from pipeline.storage.folder import Folder

HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
BEFORE, AFTER = 6, 12  # bytes around an escape that may have its other half


def json_items(folder: Folder, file: str, name: str) -> Iterator[Any]:
    """Yield the items of a list in a JSON object.

    Args:
        file: Name of the file.
        name: Key of the list.

    Raises:
        ijson.JSONError: If it is not valid JSON, at the place where it is not.
    """
    # The fast parser silently replaces half a surrogate pair by a question mark.
    parser = ijson.get_backend("python") if _has_half_pairs(folder, file) else ijson
    with without_mark(folder.open(file)) as stream:
        yield from parser.items(ShallowJson(stream), f"{name}.item", use_float=True)


def _has_half_pairs(folder: Folder, file: str) -> bool:
    """Return whether a JSON file escapes half a surrogate pair, which is no character."""
    window = b" " * BEFORE
    with folder.open(file) as stream:
        while chunk := stream.read(2**22):
            window = window[-BEFORE - AFTER :] + chunk
            if _half_pair(window):
                return True
    return _half_pair(window + b" " * AFTER)


def _half_pair(window: bytes) -> bool:
    """Search a window except its ends, where the other half may be missing."""
    found = HALF_PAIR.finditer(window, BEFORE)
    return any(match.start() < len(window) - AFTER for match in found)
