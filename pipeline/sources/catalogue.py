"""Images and captions joined on disk: what is listed in any order comes out in one, in pairs.

Millions of captions do not fit into memory, and files list them in an order of their own. A
temporary SQLite file sorts and joins them, and finds names that occur twice.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.sources.source import Record

SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE images (key TEXT PRIMARY KEY, location TEXT, rest TEXT) WITHOUT ROWID;
CREATE TABLE captions (key TEXT, number INTEGER, text BLOB, file TEXT, split TEXT);
"""


class Catalogue:
    """Collects images and captions by a key, and pairs them.

    Args:
        where: What is being listed, for errors.
    """

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

    def image(self, key: str, location: str, *, split: str, **fields: Any) -> None:
        """Add an image.

        Args:
            key: Becomes the record's id.
            location: As in `Record`.
            split: As in `Record`.
            fields: `label`, `meaning`, `box`, `size` as in `Record`.

        Raises:
            ValueError: If the key was added before.
        """
        try:
            self._db.execute(
                "INSERT INTO images VALUES (?, ?, ?)",
                (key, location, json.dumps({"split": split, **fields})),
            )
        except sqlite3.IntegrityError as error:
            (before,) = self._db.execute(
                "SELECT location FROM images WHERE key = ?", (key,)
            ).fetchone()
            raise ValueError(
                f"{self.where}: {key!r} names two images, {before!r} and {location!r}. Names must "
                "be unique: take one of them out, or rename it."
            ) from error

    def caption(self, key: str, text: str, *, number: int = 0, split: str = "train") -> None:
        """Add a caption.

        Args:
            key: Of its image, whether that was added already, will be, or is missing.
            text: As found.
            number: Captions of an image are ordered by it; equal ones stay as they were added.
            split: Where it counts if its image is missing.
        """
        # As bytes: half a surrogate pair, which JSON can hold, is no text for SQLite.
        row = (key, number, text.encode("utf-8", "surrogatepass"), None, split)
        self._db.execute("INSERT INTO captions VALUES (?, ?, ?, ?, ?)", row)

    def text_file(self, key: str, file: str, *, number: int = 0, split: str = "train") -> None:
        """Add a file that holds captions of an image; arguments as for `caption`."""
        row = (key, number, None, file, split)
        self._db.execute("INSERT INTO captions VALUES (?, ?, ?, ?, ?)", row)

    def records(self) -> Iterator[Record]:
        """List what was added in the order of keys; captions without an image come too."""
        self._db.execute("CREATE INDEX by_key ON captions (key, number)")
        images = self._db.execute("SELECT key, location, rest FROM images ORDER BY key")
        image = images.fetchone()
        captions = self._db.execute(
            "SELECT key, text, file, split FROM captions ORDER BY key, number, rowid"
        )
        for key, group in groupby(captions, key=lambda row: row[0]):
            while image is not None and image[0] < key:
                yield _record(image, [])
                image = images.fetchone()
            if image is not None and image[0] == key:
                yield _record(image, list(group))
                image = images.fetchone()
            else:
                rows = list(group)
                yield _record((key, "", json.dumps({"split": rows[0][3]})), rows)
        while image is not None:
            yield _record(image, [])
            image = images.fetchone()


def _record(image: tuple[str, str, str], captions: list[tuple[Any, ...]]) -> Record:
    key, location, rest = image
    fields = json.loads(rest)
    if fields.get("box") is not None:
        fields["box"] = tuple(fields["box"])
    return Record(
        id=key,
        location=location,
        captions=tuple(
            text.decode("utf-8", "surrogatepass") for _, text, _, _ in captions if text is not None
        ),
        texts=tuple(file for _, _, file, _ in captions if file is not None),
        **fields,
    )
