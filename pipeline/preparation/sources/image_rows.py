"""Rows with an image and its captions: how they become records, whatever file holds them."""

import ast
import io
import json
import os
import posixpath
import re
import tokenize
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.decoding.isolated_parquet import read_cell
from pipeline.preparation.sources.file_patterns import base_folder
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.left_aside import leave_aside
from pipeline.preparation.sources.read_original import Root, below, read_original, safe_name
from pipeline.preparation.sources.source import Record, Source, raise_refusals, refusal, split_of
from pipeline.preparation.sources.table_rows import NOTHING, Layout, TableRow, field_of, table_rows
from pipeline.storage.folder import Folder, absolute

CELL = re.compile(r"(?P<table>.+)#(?P<group>\d+)\.(?P<index>\d+)")
MAX_LIST = 64 * 2**10  # characters of a text that is parsed as a list
RECORDS = re.compile(r"[\[(]?\s*\{\s*(['\"]).*?\1\s*:")
BINARY = (".parquet", ".arrow")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
CREDENTIALS = re.compile(r"(?<=//)[^/@\s]*@")


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are.

    Attributes:
        image: Column of the images.
        caption: Column of the captions.
        labels: Names that the numbers in the column of the class stand for, if they do.
    """

    image: str
    caption: str
    labels: tuple[str, ...] | None = None


@dataclass
class Entry:
    """How the rows of one table are entered.

    Attributes:
        table: Its name below the root.
        columns: What its columns are.
        left: Counts the rows that are left out, by their split.
        split: Names the split by the place of an image. None: a share is held out.
        order: Sorts images in tables before the name of their table.
        by_path: Whether a path below the root names an image, instead of the one in the table.
    """

    table: str
    columns: Columns
    left: Counter[str]
    split: Callable[[str], str | None] | None = None
    order: str = ""
    by_path: bool = False


class RowSource(Source):
    """A layout with an image and its captions in each row; a subclass names tables and columns."""

    root: Root
    images: Annotated[str, AfterValidator(absolute)] | None = None
    """Base folder or bucket of image paths. Default: the folder of their table."""
    image: str | None = None
    caption: str | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    """Separator of several captions in one text, if any."""
    id: str | None = None
    """Column of the image's id. Default: its path, or its row."""
    split: str | None = None
    """Column of the split. Default: a share is held out."""
    train_values: tuple[str, ...] = ("train", "training")
    """Values of the split column for training images; case does not matter."""
    validation_values: tuple[str, ...] = ("validation", "valid", "val", "dev", "test", "testing")
    """Values for held-out images. Rows with another value are skipped."""
    validation: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of images held out, by a hash of their names, without a split column."""
    label: str | None = None
    """Column of the class. Default: classes are not known."""

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record, or the cell of its row."""
        raise_refusals(record)
        if ADDRESS.match(record.location):
            raise RejectedError(
                "PATH_UNSAFE",
                f"{record.location!r} is an address, and none is ever fetched: download the images "
                "first, for example with img2dataset, and prepare what it writes",
            )
        cell, folder = CELL.fullmatch(record.location), base_folder(self.root)
        # A table may have any ending, and an image may be called `a#1.2`.
        if cell is None or not (cell["table"].lower().endswith(BINARY) or folder.exists(cell[1])):
            return self._read(record.location)
        table = safe_name(folder, cell["table"])
        column = self.image_column(folder, table)
        value = read_cell(folder, table, column, int(cell["group"]), int(cell["index"]))
        if isinstance(value, str):
            return self._read(self.place(table, value)[1])
        if value is None:
            raise RejectedError("IMG_MISSING", f"{record.location} is empty")
        return value

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Return the captions of a record."""
        raise_refusals(record)
        return record.captions

    @abstractmethod
    def image_column(self, folder: Folder, table: str) -> str:
        """Return the column of a table that holds its images."""

    def share_of(self, table: str, key: str, share: float) -> str:
        """Return the split of an image of which a share is held out."""
        return split_of(key, share)

    def known_split(self, value: str | None) -> str | None:
        """Return the split that a value names, or None if it is neither."""
        known = [("train", self.train_values), ("validation", self.validation_values)]
        named = (value or "").lower()
        return next((split for split, values in known if named in map(str.lower, values)), None)

    def enter(self, catalogue: Catalogue, folder: Folder, entry: Entry, layout: Layout) -> int:
        """Enter the rows of a table into the catalogue, and return their number.

        Raises:
            ValueError: If the table cannot be read.
        """
        named = (entry.columns.caption, self.id, self.split, self.label)
        others = [column for column in named if column is not None]
        rows = 0
        for row in table_rows(folder, entry.table, entry.columns.image, others, layout):
            catalogue.where = f"{folder}/{entry.table}, row {row.number}"
            self._enter(catalogue, entry, row)
            rows += 1
        return rows

    def _read(self, location: str) -> bytes:
        if location.startswith("/"):
            raise RejectedError(
                "PATH_UNSAFE",
                f"{location[:200]!r} is not below {self._images()}. If it is your own, name the "
                "folder of the images with --images",
            )
        return read_original(self._images(), location)

    def _images(self) -> str:
        return base_folder(self.root).location if self.images is None else self.images

    def _enter(self, catalogue: Catalogue, entry: Entry, row: TableRow) -> None:
        """Enter a row into the catalogue."""
        table, columns = entry.table, entry.columns
        place = f"{table}#{row.number:012d}"
        try:
            if row.problem is not None:
                raise RejectedError("CAP_FORMAT", row.problem)
            image = _word(columns.image, _cell(row.values, columns.image))
            texts = self._texts(columns.caption, _cell(row.values, columns.caption))
            name = _word(self.id, _cell(row.values, self.id)) if self.id else None
            label = (
                self._label(_cell(row.values, self.label), columns.labels) if self.label else None
            )
            says = _word(self.split, _cell(row.values, self.split)) if self.split else None
            if row.group is None and not image and not texts:
                raise RejectedError("CAP_EMPTY", "neither an image nor a caption")
        except RejectedError as problem:
            # The row is listed, so that it is counted, and rejected when it is read.
            split = entry.split and self.known_split(entry.split(place))
            split = split or self.share_of(table, place, 0)
            catalogue.image(place, place, split=split)
            detail = f"{table}, row {row.number}: {problem.detail}"
            catalogue.text_file(place, refusal(problem.reason, detail))
            return
        if row.group is not None:
            key, location = entry.order + place, f"{table}#{row.group}.{row.index}"
            name = name or place
        elif image:
            if ADDRESS.match(image):
                image = CREDENTIALS.sub("", image)  # listed names are shown
            image, location = self.place(table, image)
            location = catalogue.first_form(location)
            if not entry.by_path:
                image = catalogue.first_form(image)
            key = location if entry.by_path else name or image
        else:
            key, location = place, ""
        if self.split is None and entry.split is None:
            split = self.share_of(table, name or key, self.validation)
        else:
            if self.split is None and entry.split is not None:
                says = entry.split(location or key)
            if (known := self.known_split(says)) is None:
                entry.left[repr(says) if len(entry.left) < 100 else "others"] += 1
                return
            split = known
        if location:
            name = name or key
            catalogue.image(key, location, split=split, name=name, label=label, again=True)
        for text in texts:
            catalogue.caption(key, text, split=split)

    def place(self, table: str, image: str) -> tuple[str, str]:
        """Return the path of an image as its table has it, and below the base of the images."""
        relative = self._relative(image)
        image = relative or below("", image)
        if self.images is None and not relative:
            return image, below(table.rpartition("/")[0], image)
        return image, image

    def _relative(self, image: str) -> str | None:
        """Return an absolute path or address relative to the base of the images, if it is below."""
        base = self._images().rstrip("/") + "/"
        if image.startswith("/") and ".." not in image.split("/") and "\0" not in image:
            if not image.startswith(base) and "://" not in base:
                image = posixpath.join(os.path.realpath(posixpath.dirname(image)), _last(image))
        elif "://" not in image:
            return None
        return image.removeprefix(base) if image.startswith(base) else None

    def _label(self, value: Any, labels: Sequence[str] | None) -> str | None:
        if labels is None or value is None:
            return _word(str(self.label), value)
        if value == -1:  # as `datasets` writes an unknown class
            return None
        if not isinstance(value, int) or not 0 <= value < len(labels):
            raise RejectedError(
                "CAP_FORMAT",
                f"{self.label} is {str(value)[:40]}, and there are {len(labels)} classes",
            )
        return labels[value]

    def _texts(self, column: str, value: Any) -> list[str]:
        value = _list_in_text(value) if isinstance(value, str) else value
        texts = value if isinstance(value, list) else [value]
        texts = [None if _is_nan(text) else text for text in texts]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise RejectedError(
                "CAP_FORMAT", f"{column} is {str(value)[:40]!r}, not a text or a list of such"
            )
        if self.separator is not None:
            texts = [part for text in texts if text for part in text.split(self.separator)]
        return [text for text in texts if text and not text.isspace()]


def leave_rows(left: Counter[str], column: str | None = None) -> None:
    """Count the rows that are left aside, by the value of the column of the split."""
    for value, count in left.items():
        leave_aside("rows", f"of {column or 'split'} {value}", count)


def _last(image: str) -> str:
    return image.rpartition("/")[2]


def _cell(values: dict[str, Any], column: str) -> Any:
    """Return a value; of a dotted column, the fields of the records that a text spells."""
    if values.get(column) is not None or "." not in column:
        return values.get(column)
    top, *path = column.split(".")
    value = values.get(top)
    return field_of(_list_in_text(value) if isinstance(value, str) else value, path)


def _list_in_text(text: str) -> Any:
    """Return the list or record that a text spells as JSON, Python or numpy; otherwise the text."""
    if text[:1] + text.rstrip()[-1:] not in ("[]", "()", "{}") or len(text) > MAX_LIST:
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _python_list(text)
    if isinstance(found, list | tuple) and found:
        if all(isinstance(t, str | dict | None) or _is_nan(t) for t in found):
            return list(found)
    elif isinstance(found, dict):
        return found
    elif RECORDS.match(text):
        raise RejectedError("CAP_FORMAT", f"{text[:40]!r} are records that cannot be read")
    return text


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and isnan(value)


class _Nothing(ast.NodeTransformer):
    """Reads the nan of pandas, which is no literal, as None."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(None) if node.id in NOTHING else node


def _python_list(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the text
            found = ast.literal_eval(_Nothing().visit(ast.parse(text, mode="eval")))
            if not isinstance(found, list) or not all(isinstance(t, str | None) for t in found):
                return found
            # numpy writes no commas, and Python joins texts without one.
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            words = [t.string for t in tokens if t.type == tokenize.STRING]
            return found if len(words) <= len(found) else [ast.literal_eval(w) for w in words]
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return text


def _word(column: str, value: Any) -> str | None:
    """Return a name or number as a text; None for an empty cell."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if _is_nan(value):
        return None
    if isinstance(value, float) and value.is_integer():  # numbers of a column with gaps
        value = int(value)
    if isinstance(value, str | int):
        return str(value).strip()
    raise RejectedError("CAP_FORMAT", f"{column} is {str(value)[:40]!r}, not a text or a number")
