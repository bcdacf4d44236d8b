"""Look at what lies in a folder, within bounds: names only, and the start of a file."""

import contextlib
import posixpath
import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from typing import Any

from pipeline.preparation.decoding.images import IMAGES
from pipeline.preparation.sources.read_original import is_there
from pipeline.storage.folder import Folder

MAX_FOLDERS = 100  # that are listed
MAX_ENTRIES = 100_000  # of all of them
MAX_OF_FOLDER = 20_000  # entries
KEPT = 100  # files of a folder with the same ending
MAX_BRANCHES = 20  # folders of a folder that are listed
MAX_DEPTH = 5
RARE = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # between very many images
HEAD = 64 * 2**10  # bytes of a file
HELD_OUT = re.compile(r"(?:^|[/_.-])(?:validation|valid|val|dev|test)(?=[/_.-])")


@dataclass(frozen=True)
class Fit:
    """How something is prepared.

    Attributes:
        reason: What was seen.
        options: Options of the source; `root` by default as it was looked at.
    """

    reason: str
    options: dict[str, Any] = field(default_factory=dict)

    def at(self, root: str) -> "Fit":
        """Return it with a root, unless it names one."""
        return replace(self, options={"root": root, **self.options})


@dataclass(frozen=True)
class Look:
    """What lies at a place, as far as was looked.

    Attributes:
        root: The place.
        folder: Base of all names: the place, or the folder of the file that it is.
        files: Names of files.
        folders: Names of folders.
        whole: Whether these are all.
        is_file: Whether the place is a file, not a folder.
    """

    root: str
    folder: Folder
    files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    whole: bool = True
    is_file: bool = False

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((*self.files, *self.folders))

    def has(self, *names: str) -> bool:
        """Return whether all of some files or folders are there, also where nobody looked."""
        return all(
            name in self._known or (not self.whole and is_there(self.folder, name))
            for name in names
        )

    def first(self, names: Sequence[str]) -> str | None:
        """Return the first of some names that is there."""
        return next((name for name in names if self.has(name)), None)

    def inside(self, folder: str) -> list[str]:
        """Return the files that were seen below a folder, relative to it."""
        start = f"{folder}/"
        return [name.removeprefix(start) for name in self.files if name.startswith(start)]

    def images(self, folder: str) -> bool:
        """Return whether an image was seen below a folder."""
        return any(name.lower().endswith(IMAGES) for name in self.inside(folder))

    def below(self, folder: str) -> "Look":
        """Return what lies in one of the folders."""
        folders = (f for f in self.folders if f.startswith(f"{folder}/"))
        return Look(
            root=f"{self.root}/{folder}",
            folder=self.folder / folder,
            files=tuple(self.inside(folder)),
            folders=tuple(f.removeprefix(f"{folder}/") for f in folders),
            whole=self.whole,
        )

    def place(self, name: str) -> str:
        """Return the location of a file or folder, for an option."""
        return self.root if self.is_file else f"{self.root}/{name}".rstrip("/")

    def head(self, name: str) -> bytes:
        """Read the start of a file."""
        return self.folder.read(name, 0, HEAD)

    def kinds(self) -> str:
        """Return what lies there by kind, for a message."""
        count = Counter(posixpath.splitext(n)[1].lower() or "without an ending" for n in self.files)
        kinds = [f"{number:,} {kind}" for kind, number in count.most_common(8)]
        more = "" if self.whole else ", and more"
        return (", ".join(kinds) or "no files") + f" in {len(self.folders) + 1:,} folders{more}"


def look_at(root: str, folder: Folder) -> Look:
    """Look at a folder or a file.

    Args:
        root: The place.
        folder: The same, opened.
    """
    if folder.is_file():
        parent, _, name = root.rpartition("/")
        return Look(root, Folder(parent), (name,), is_file=True)
    files: list[str] = []
    folders: list[str] = []
    queue, listed, left, whole = deque([""]), 0, MAX_ENTRIES, True
    while queue:
        tree = queue.popleft()
        if tree.count("/") == MAX_DEPTH or listed == MAX_FOLDERS or not left:
            whole = False
            break
        most = min(left, MAX_OF_FOLDER)
        entries: list[tuple[str, bool]] = []
        with contextlib.suppress(*([PermissionError] if tree else [])):
            entries = (folder / tree if tree else folder).entries(most)
        listed, left = listed + 1, left - len(entries)
        start = f"{tree}/" if tree else ""
        if len(entries) == most:
            whole = False
            there = (name for name in RARE if folder.exists(start + name))
            entries = [*dict.fromkeys([*entries, *((name, False) for name in there)])]
        kinds: Counter[str] = Counter()
        inner = []
        for name, is_folder in sorted(entries):
            kind = posixpath.splitext(name)[1].lower()
            if name.startswith((".", "__MACOSX")):
                continue
            if is_folder:
                inner.append(start + name)
            elif kinds[kind] < KEPT:
                files.append(start + name)
                kinds[kind] += 1
            else:
                whole = False
        folders += inner
        queue += inner[:MAX_BRANCHES]
        whole = whole and len(inner) <= MAX_BRANCHES
    return Look(root, folder, tuple(files), tuple(folders), whole)


def held_out_files(names: Sequence[str]) -> dict[str, str]:
    """Return the option for the held-out ones of some files, if their names say which they are."""
    held = {name: name[: found.end()] for name in names if (found := HELD_OUT.search(name))}
    start = posixpath.commonprefix([*held.values()])
    others = [name for name in names if name not in held]
    if not start or not others or any(map(str.startswith, others, repeat(start))):
        return {}
    return {} if re.search(r"[*?\[]", start) else {"validation_files": f"{start}*"}
