"""Cut a grid of samples into the picture of each caption, by the layout in the file beside it.

Both may be of a stranger, and a grid of an earlier version has no layout.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from PIL import Image

from pipeline.common.redaction import redacted
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside
from pipeline.tracking.untrusted_records import RefusedError, read_file

MAX_LAYOUT = 4 * 2**20  # bytes
MAX_CELLS = 64  # as many samples as a run can have
MAX_NAME = 60  # characters of a caption


def layout_file(picture: str) -> str:
    """Return the name of the file that has the layout of a grid."""
    return f"{picture.removesuffix('.png')}.json"


def read_layout(run: Folder, picture: str) -> Any:
    """Read the layout of a grid in a run's folder; None if there is none that can be read."""
    name = layout_file(picture)
    try:
        if (run.size(inside(run, name)) or 0) > MAX_LAYOUT:
            raise RefusedError(f"{run}/{name} has over {MAX_LAYOUT:,} bytes")
        return json.loads(read_file(run, name))
    except (ValueError, RecursionError):  # the second of brackets by the thousand
        return None


def captions_in(layout: Any) -> list[str]:
    """Return the captions of a layout; empty if it is none."""
    return _list(layout, "captions", str)


def cut(grid: Image.Image, layout: Any, most: int = MAX_CELLS) -> list[tuple[str, Image.Image]]:
    """Cut the first captions and their pictures out of a grid; none if the layout is of another."""
    captions, boxes = captions_in(layout), _list(layout, "boxes", list)
    if len(captions) != len(boxes):
        return []
    room = grid.width * grid.height
    for box in boxes:
        if len(box) != 4 or any(type(side) is not int for side in box):
            return []
        left, top, right, bottom = box
        if not (0 <= left < right <= grid.width and 0 <= top < bottom <= grid.height):
            return []
        room -= (right - left) * (bottom - top)
        if room < 0:  # they lie over each other, and each would take the memory of a grid
            return []
    cells = list(zip(captions, boxes, strict=True))[:most]
    return [(caption, grid.crop(box)) for caption, box in cells]


def names_of(captions: Sequence[str]) -> list[str]:
    """Name captions by letters, digits, spaces and "_-.", which are all that MLflow takes.

    A caption has the same name in every run, and no two have one name: what is not the whole
    caption, or is the second of the same words, ends in a hash.
    """
    names = []
    for number, caption in enumerate(captions):
        plain = unicodedata.normalize("NFKD", redacted(caption[:1000]))
        plain = plain.encode("ascii", "ignore").decode()
        name = " ".join(re.sub(r"[^\w\-.]+", " ", plain).split())[:MAX_NAME].strip()
        nth = captions[:number].count(caption)
        if name != caption or not name or nth or re.search(r"[0-9a-f]{8}$", name):
            digest = hashlib.sha256(f"{nth} {caption}".encode(errors="backslashreplace"))
            name = f"{name} {digest.hexdigest()[:8]}".strip()
        names.append(name)
    return names


def _list(record: Any, name: str, kind: type) -> list[Any]:
    """Return a list from a record; empty if it is none of only that type."""
    value = record.get(name) if isinstance(record, dict) else None
    all_are = isinstance(value, list) and all(type(each) is kind for each in value)
    return value if all_are and value else []
