"""Find the files of a name, a folder or a pattern."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache

from pipeline.common.console import print_line
from pipeline.storage.folder import Folder

SPECIAL = re.compile(r"[*?\[{]")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
ADVICE = "Name a file, a folder of such files, or a pattern with --root."
MAX_NAMES = 1_000_000  # of one pattern


def matching_files(
    location: str, endings: tuple[str, ...], others: tuple[str, ...] = ()
) -> tuple[Folder, list[str]]:
    """Find files.

    Args:
        location: A file; a folder, which is searched recursively; or a pattern with `*`, `?`,
            `[…]`, `{000..123}` or `{a,b}`, in which `*` does not match a slash.
        endings: Endings of files in a folder; files of a pattern may have any.
        others: Endings that are taken if a folder has none of the first.

    Returns:
        A folder, and names in it, sorted.

    Raises:
        ValueError: If there is none, or if a file of a pattern with braces is missing.
    """
    folder = base_folder(location)
    rest = location.removeprefix(folder.location).lstrip("/")
    if not is_pattern(location):
        if rest:
            return folder, [rest]
        _check_exists(folder)
        names = [n for n, _ in folder.walk(links=True) if n.lower().endswith(endings + others)]
        found = sorted(n for n in names if n.lower().endswith(endings)) or sorted(names)
        if not found:
            raise ValueError(f"{folder} holds no {' or '.join(endings + others)}. {ADVICE}")
        if left := len(names) - len(found):
            print_line(f"{folder}: {left:,} files ({' or '.join(others)}) are left out")
        return folder, found
    _check_exists(folder)
    patterns = list(_expanded(rest))
    parts = [pattern.split("/") for pattern in patterns]
    # A lookup for exact names, because a pattern may expand to many of them.
    exact = {pattern for pattern in patterns if not SPECIAL.search(pattern)}
    inexact = [part for part in parts if SPECIAL.search("/".join(part))]
    found = sorted(n for n, _ in folder.walk(links=True) if n in exact or _matches(n, inexact))
    if missing := sorted(exact.difference(found)):
        raise ValueError(
            f"{folder}: {len(missing):,} of {len(exact):,} files of {rest!r} do "
            f"not exist, {missing[0]} for example."
        )
    if not found:
        raise ValueError(f"{folder} holds nothing that matches {rest!r}.")
    return folder, found


@lru_cache(maxsize=8)
def base_folder(location: str) -> Folder:
    """Return the folder of the names that `matching_files` returns."""
    if is_pattern(location):
        return Folder(_before_pattern(location))
    folder = Folder(location)
    return Folder(location.rpartition("/")[0]) if folder.is_file() else folder


@lru_cache(maxsize=8)
def is_pattern(location: str) -> bool:
    """Return whether a location is a pattern: what exists is a path, whatever its characters."""
    return SPECIAL.search(location) is not None and not Folder(location).exists()


def _before_pattern(location: str) -> str:
    """Return the longest folder before a pattern that exists, or the one before its first part."""
    first = SPECIAL.search(location)
    place = location.rfind("/", 0, first.start() if first else None)
    following = location.find("/", place + 1)
    while following > 0 and Folder(location[:following]).exists():
        place, following = following, location.find("/", following + 1)
    return location[:place]


def check_pattern(pattern: str | None, names: list[str]) -> None:
    """Raise ValueError unless a pattern of held-out files matches some of them, and not all."""
    count = sum(fnmatchcase(name, pattern) for name in names) if pattern else 1
    if pattern and not 0 < count < len(names):
        raise ValueError(
            f"--validation-files {pattern!r} matches {count:,} of {len(names):,} files, "
            f"{names[0]} for example. It must match some of them, and not all."
        )


def is_hidden(file: str) -> bool:
    """Return whether a file is hidden or left by an operating system."""
    return any(part.startswith(".") or part == "__MACOSX" for part in file.split("/"))


def _check_exists(folder: Folder) -> None:
    if not folder.exists():
        raise ValueError(f"{folder} does not exist. {ADVICE}")


def _matches(name: str, patterns: list[list[str]]) -> bool:
    parts = name.split("/")
    return any(
        len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern)) for pattern in patterns
    )


def _expanded(pattern: str) -> Iterator[str]:
    """Expand braces, as a shell does."""
    found = BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    if found[3] is None:
        first, last = int(found[1]), int(found[2])
        if last - first >= MAX_NAMES:
            raise ValueError(f"{found[0]} names over {MAX_NAMES:,} files.")
        choices = [f"{n:0{len(found[1])}d}" for n in range(first, last + 1)]
    else:
        choices = found[3].split(",")
    for choice in choices:
        yield from _expanded(pattern[: found.start()] + choice + pattern[found.end() :])
