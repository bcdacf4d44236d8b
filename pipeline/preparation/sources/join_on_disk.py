"""Join images and captions on disk: added in any order, read in pairs and sorted.

Millions of captions do not fit into memory, and files list them in any order. A temporary SQLite
file sorts and joins them, and finds names that occur twice.
"""

import json
import sqlite3
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.preparation.decoding.captions import MAX_BYTES
from pipeline.preparation.sources.left_aside import is_hidden, leave_aside, leave_file
from pipeline.preparation.sources.source import Record

MAX_TEXTS = 16 * 2**20  # bytes of the captions of one image, which are held at once
Row = tuple[Any, ...]
SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE images (id TEXT PRIMARY KEY, key TEXT, location TEXT, rest TEXT) WITHOUT ROWID;
CREATE TABLE forms (place TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID;
CREATE TABLE captions (key TEXT, number INTEGER, text BLOB, file TEXT, split TEXT);
CREATE TABLE spares (
    id TEXT PRIMARY KEY, key TEXT, location TEXT, rest TEXT, is_image INTEGER, kind TEXT
) WITHOUT ROWID;
"""
INDEXES = """
CREATE INDEX IF NOT EXISTS images_by_key ON images (key, id);
CREATE INDEX IF NOT EXISTS captions_by_key ON captions (key, number);
"""
# A spare is an image if it looks like one or has captions, and no image has its name.
PROMOTED = """
NOT EXISTS (SELECT 1 FROM images WHERE images.key = spares.key)
AND (is_image OR EXISTS (SELECT 1 FROM captions WHERE captions.key = spares.key))
"""
PROMOTE = f"""
CREATE TEMP TABLE promoted AS SELECT id, key, location, rest FROM spares WHERE {PROMOTED};
DELETE FROM spares WHERE id IN (SELECT id FROM promoted);
INSERT INTO images SELECT * FROM promoted;
"""
PAIR = """
DROP TABLE IF EXISTS alone;
CREATE TEMP TABLE alone AS SELECT DISTINCT key, plain(key) AS plain FROM captions
    WHERE NOT EXISTS (SELECT 1 FROM images WHERE images.key = captions.key);
CREATE INDEX alone_by_plain ON alone (plain, key);
UPDATE images SET key = (SELECT min(key) FROM alone WHERE plain = plain(images.key))
    WHERE NOT EXISTS (SELECT 1 FROM captions WHERE captions.key = images.key)
    AND EXISTS (SELECT 1 FROM alone WHERE plain = plain(images.key));
"""
PASSED_OVER = """
SELECT sum(json) FROM (
    SELECT sum(file LIKE '%.json') AS json, sum(file NOT LIKE '%.json') AS text
    FROM captions WHERE file IS NOT NULL GROUP BY key
) WHERE text
"""


class SameNameError(ValueError):
    """Two images have the same name."""


class Catalogue:
    """Collects images and captions by a key, and pairs them; errors name `where`."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._folder = tempfile.TemporaryDirectory(prefix="ratgan-listing-")
        self._db = sqlite3.connect(Path(self._folder.name) / "catalogue.sqlite")
        self._db.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()
        self._folder.cleanup()

    def image(
        self,
        key: str,
        location: str,
        *,
        split: str,
        name: str | None = None,
        again: bool = False,
        **fields: Any,
    ) -> None:
        """Add an image.

        Args:
            key: Key that the captions of the image have too.
            location: As in `Record`.
            split: As in `Record`.
            name: Id of the record; by default the key. Images of one key share its captions.
            again: Whether it may have been added before, with the same fields.
            fields: `label`, `meaning`, `box`, `size` as in `Record`.

        Raises:
            SameNameError: If the id was added before, with another location.
            ValueError: If it was added before, with other fields.
        """
        name, key, location = _text(name or key), _text(key), _text(location)
        rest = json.dumps({"split": split, **fields})
        try:
            self._db.execute("INSERT INTO images VALUES (?, ?, ?, ?)", (name, key, location, rest))
        except sqlite3.IntegrityError as error:
            before = self._db.execute(
                "SELECT location, rest FROM images WHERE id = ?", (name,)
            ).fetchone()
            if again and before == (location, rest):
                return
            if before[0] == location and before[1] != rest:
                raise ValueError(
                    f"{self.where}: image {name!r} occurs twice, as {_said(before[1])} and as "
                    f"{_said(rest)}. It can be only one of them."
                ) from error
            raise SameNameError(
                f"{self.where}: {name!r} names two images, {before[0]!r} and {location!r}. Names "
                "must be unique: remove one of them, or rename it."
            ) from error

    def first_form(self, name: str) -> str:
        """Return the first name of a file that was asked for and means the same file.

        Rows of one image may say `a.jpg` and `./a.jpg`, or spell é in two ways.
        """
        row = (_place(_text(name)), _text(name))
        self._db.execute("INSERT OR IGNORE INTO forms VALUES (?, ?)", row)
        (first,) = self._db.execute("SELECT name FROM forms WHERE place = ?", row[:1]).fetchone()
        return name if first == row[1] else str(first)

    def holds(self, *keys: str) -> bool:
        """Return whether an image with one of some keys was added."""
        self._db.execute("CREATE INDEX IF NOT EXISTS images_by_key ON images (key, id)")
        query = "SELECT 1 FROM images WHERE key = ?"
        return any(self._db.execute(query, (_text(key),)).fetchone() for key in keys)

    def caption(self, key: str, text: str, *, number: int = 0, split: str = "train") -> None:
        """Add a caption.

        Args:
            key: Key of its image, which may be added before, later, or never.
            text: The unchanged caption.
            number: Sorts the captions of an image; equal numbers keep the order of adding.
            split: Split for the count if its image is missing.
        """
        text = text[: MAX_BYTES + 1]  # it is rejected for its length; a million rows may repeat it
        # As bytes: JSON can have half a surrogate pair, which SQLite does not accept as text.
        row = (_text(key), number, text.encode("utf-8", "surrogatepass"), None, split)
        self._db.execute("INSERT INTO captions VALUES (?, ?, ?, ?, ?)", row)

    def text_file(self, key: str, file: str, *, number: int = 0, split: str = "train") -> None:
        """Add a file with captions of an image; arguments as for `caption`."""
        row = (_text(key), number, None, _text(file), split)
        self._db.execute("INSERT INTO captions VALUES (?, ?, ?, ?, ?)", row)

    def spare(self, key: str, location: str, kind: str, *, is_image: bool, **fields: Any) -> None:
        """Add a file that is an image only if no image has its key: see `settle`.

        Args:
            key: As for `image`.
            location: As in `Record`; `name` among the fields is the id.
            kind: What to count it as if it is left aside.
            is_image: Whether it looks like an image.
            fields: As for `image`.
        """
        name = _text(fields.pop("name"))
        row = (name, _text(key), _text(location), json.dumps(fields), is_image, kind)
        self._db.execute("INSERT INTO spares VALUES (?, ?, ?, ?, ?, ?)", row)

    def settle(self, plain: Callable[[str], str]) -> tuple[dict[str, int], int]:
        """Decide which spares are images, and pair images and captions that are left alone.

        Args:
            plain: Common form of keys that mean the same.

        Returns:
            Count of the other spares by their kind, and of those that became images.
        """
        self._db.executescript(INDEXES + PROMOTE)
        self._pair(plain)
        (promoted,) = self._db.execute("SELECT count(*) FROM promoted").fetchone()
        left = dict(self._db.execute("SELECT kind, count(*) FROM spares GROUP BY kind"))
        return left, promoted

    def _pair(self, plain: Callable[[str], str]) -> None:
        self._db.create_function("plain", 1, plain, deterministic=True)
        self._db.executescript(INDEXES + PAIR)

    def leave_unnamed(self, files: Iterable[str], kind: str | None = None) -> None:
        """Count the files that are the location of no image.

        Args:
            files: Names as in the locations.
            kind: What to count them as. Default: by their endings.
        """
        self._db.create_function("place", 1, _place, deterministic=True)
        self._db.executescript(
            "CREATE TEMP TABLE places (place TEXT PRIMARY KEY) WITHOUT ROWID;"
            "INSERT OR IGNORE INTO places SELECT place(location) FROM images;"
        )
        for file in files:
            row = (_place(_text(file)),)
            if self._db.execute("SELECT 1 FROM places WHERE place = ?", row).fetchone():
                continue
            if kind is None or is_hidden(file):
                leave_file(file)
            else:
                leave_aside("files", kind)

    def records(self) -> Iterator[Record]:
        """List the records in the order of keys, and captions without an image.

        Images and captions whose keys are one name, spelled in composed and in decomposed Unicode,
        belong together.

        Raises:
            ValueError: If one image has more captions than memory should hold.
        """
        self._pair(composed)
        (passed,) = self._db.execute(PASSED_OVER).fetchone()
        leave_aside("caption files", ".json beside a text, read only if that is empty", passed or 0)
        images = self._db.execute("SELECT key, id, location, rest FROM images ORDER BY key, id")
        captions = self._db.execute(
            "SELECT key, text, file, split FROM captions ORDER BY key, number, file, rowid"
        )
        captioned = groupby(captions, key=itemgetter(0))
        key, texts = self._next(captioned)
        for image_key, group in groupby(images, key=itemgetter(0)):
            while key is not None and key < image_key:
                yield _orphan(key, texts)
                key, texts = self._next(captioned)
            shared = texts if key == image_key else []
            for _, name, location, rest in group:
                yield _record(name, location, rest, shared)
            if key == image_key:
                key, texts = self._next(captioned)
        while key is not None:
            yield _orphan(key, texts)
            key, texts = self._next(captioned)

    def _next(self, captioned: Iterator[tuple[str, Iterator[Row]]]) -> tuple[str | None, list[Row]]:
        key, rows = next(captioned, (None, iter(())))
        texts: list[Row] = []
        size = 0
        for row in rows:
            texts.append(row)
            size += sum(len(part) for part in row[1:3] if part is not None)
            if size > MAX_TEXTS:
                raise ValueError(
                    f"{self.where}: image {key!r} has over {MAX_TEXTS:,} bytes of captions. Do all "
                    "these rows speak of one image?"
                )
        return key, texts


def composed(name: str) -> str:
    """Return a name in composed Unicode: a disk may spell é in two ways."""
    return unicodedata.normalize("NFC", name)


def _place(location: str) -> str:
    """Return the common form of a location: tables and lists have `./a.jpg`, too."""
    if location.startswith("/") or "://" in location:
        return location  # not below the root: `/a.jpg` is not `a.jpg`
    return "/".join(part for part in composed(location).split("/") if part not in ("", "."))


def _text(name: str) -> str:
    """Escape invalid Unicode, which names of files and JSON can have."""
    return name.encode("utf-8", "backslashreplace").decode()


def _said(rest: str) -> str:
    fields = json.loads(rest).items()
    return ", ".join(f"{name} {value!r}" for name, value in fields if value is not None)


def _orphan(key: str, captions: list[Row]) -> Record:
    return _record(key, "", json.dumps({"split": captions[0][3]}), captions)


def _record(name: str, location: str, rest: str, captions: list[Row]) -> Record:
    fields = json.loads(rest)
    if fields.get("box") is not None:
        fields["box"] = tuple(fields["box"])
    return Record(
        id=name,
        location=location,
        captions=tuple(
            text.decode("utf-8", "surrogatepass") for _, text, _, _ in captions if text is not None
        ),
        texts=tuple(file for _, _, file, _ in captions if file is not None),
        **fields,
    )
