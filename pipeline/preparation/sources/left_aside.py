"""What a listing leaves aside on purpose, counted by kind: nothing is passed over in silence.

The counts belong to the listing that runs, not to a source: helpers count what they pass over, and
a source that reads through another one has its counts too.
"""

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from pipeline.common.console import printable
from pipeline.storage.folder import Folder

MAX_KINDS = 50  # of one unit: there may be a million endings
MAX_NAME = 80  # characters
OTHERS = "others"
NO_ENDING = "without an ending"
Counts = dict[str, dict[str, int]]


@dataclass
class LeftAside:
    """Counts of a listing: unit (files, rows, members, …) → kind → count.

    Attributes:
        enough: Whether no more records are taken, because of a limit.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    enough: bool = False

    def as_plain(self) -> Counts:
        """Return the counts, sorted by their names."""
        return {unit: dict(sorted(kinds.items())) for unit, kinds in sorted(self.counts.items())}


_running: ContextVar[LeftAside | None] = ContextVar("left_aside", default=None)


@contextmanager
def counting() -> Iterator[LeftAside]:
    """Count what the sources leave aside that are listed within."""
    found = LeftAside()
    token = _running.set(found)
    try:
        yield found
    finally:
        _running.reset(token)


def leave_aside(unit: str, kind: str, count: int = 1) -> None:
    """Count something of the originals that is neither a record nor a part of one.

    Args:
        unit: What is counted, in the plural: files, rows, members, captions.
        kind: Which of them, or why: `.md`, `of split 'extra'`. Few different ones.
        count: How many.
    """
    running = _running.get()
    if running is None or not count:
        return
    kinds, kind = running.counts.setdefault(unit, Counter()), printable(kind, MAX_NAME)
    kinds[kind if kind in kinds or len(kinds) < MAX_KINDS else OTHERS] += count


def leave_file(name: str) -> None:
    """Count a file by its ending, or as hidden."""
    kind = posixpath.splitext(name)[1].lower() or NO_ENDING
    leave_aside("files", "hidden" if is_hidden(name) else kind)


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden or left by an operating system."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def walk(folder: Folder) -> Iterator[tuple[str, int]]:
    """Yield every file of the originals: name and bytes. What is no file is counted."""
    return folder.walk(links=True, passed=lambda what: leave_aside("files and folders", what))


def leave_beside(folder: Folder, used: Iterable[str]) -> None:
    """Count what lies beside the files and folders that are used, without looking into folders.

    Args:
        folder: Folder of the originals.
        used: Names in it; what is below them is counted elsewhere.
    """
    paths = {name.strip("/") for name in used if name.strip("/")}
    for place in sorted({parent for path in paths for parent in _parents(path)}):
        for name in (folder / place if place else folder).names():
            path = f"{place}/{name}".lstrip("/")
            if not any(path == each or each.startswith(f"{path}/") for each in paths):
                leave_aside("files and folders", "beside what is read")


def is_enough() -> bool:
    """Return whether no more records are taken: a source may open no further file then."""
    running = _running.get()
    return running is not None and running.enough


def describe(counts: Counts | None) -> str:
    """Return the counts in one line; None are those of an older version."""
    if counts is None:
        return "not counted"
    parts = []
    for unit, kinds in counts.items():
        each = ", ".join(f"{kind} {count:,}" for kind, count in Counter(kinds).most_common(8))
        more = ", …" if len(kinds) > 8 else ""
        parts.append(f"{sum(kinds.values()):,} {unit} ({each}{more})")
    return ", ".join(parts) or "nothing"


def _parents(path: str) -> Iterator[str]:
    while path:
        path = posixpath.dirname(path)
        yield path
