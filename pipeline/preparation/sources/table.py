"""Tables with an image and its captions in each row: CSV, TSV, JSON, parquet, Arrow."""

import ast
import io
import json
import os
import posixpath
import re
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from math import isnan
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from pipeline.common.console import print_line
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.decoding.isolated_parquet import read_cell
from pipeline.preparation.sources.file_patterns import base_folder, check_pattern, matching_files
from pipeline.preparation.sources.join_on_disk import Catalogue, SameNameError
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root, below, read_original, safe_name
from pipeline.preparation.sources.source import Record, Source, raise_refusals, refusal, split_of
from pipeline.preparation.sources.table_format import Format
from pipeline.preparation.sources.table_guess import recognise_tables
from pipeline.preparation.sources.table_rows import (
    ENDINGS,
    OTHER_ENDINGS,
    Layout,
    TableRow,
    table_rows,
)
from pipeline.storage.folder import Folder, absolute

CELL = re.compile(r"(?P<table>.+)#(?P<group>\d+)\.(?P<index>\d+)")
MAX_LIST = 64 * 2**10  # characters of a text that is parsed as a list
BINARY = (".parquet", ".arrow")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
CREDENTIALS = re.compile(r"(?<=//)[^/@\s]*@")


class TableSource(Source):
    """A table (CSV, TSV, JSON, parquet, Arrow) of images, by name or content, and their captions.

    python jobs/prepare.py table --root data/mine/train.csv --image-size 256 --output data/mine-256
    """

    name: ClassVar[str] = "table"
    general: ClassVar[bool] = True
    later: ClassVar[frozenset[str]] = frozenset({"quoting", "format"})

    root: Root
    """A table, a folder of tables, or a pattern such as "data/train-*.parquet". Rows of the same
    image are joined. Web addresses are never fetched: download the images first."""
    images: Annotated[str, AfterValidator(absolute)] | None = None
    """Base folder or bucket of image paths. Default: the folder of their table."""
    image: str = "image"
    """Column of the images: paths, or in parquet the files themselves."""
    caption: str = "caption"
    """Column of the captions: a text, or a list of texts, also one that is written into a text as
    JSON or Python. `sentences.raw` is the field raw of the records in column sentences."""
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
    validation_files: str | None = None
    """Pattern of the held-out tables, instead of a share: "validation-*.parquet"."""
    label: str | None = None
    """Column of the class. Default: classes are not known."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Delimiter of CSV. Default: a comma, and a tab in .tsv; or the one of `;|` and tab that gives
    the columns you name."""
    quoting: Literal["csv", "none"] | None = None
    """csv: a field may be enclosed in quotation marks. none: they are text. Default: csv, and none
    in .tsv."""
    format: Format | None = None
    """Format of a file whose ending does not say it. Default: by its first bytes and its ending."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise tables by the names of their columns and their first rows."""
        yield from recognise_tables(look)

    def records(self) -> Iterator[Record]:
        """List the images in the order of their names, or of their rows if tables contain them."""
        folder, tables = matching_files(self.root, ENDINGS, OTHER_ENDINGS)
        check_pattern(self.validation_files, tables)
        for by_path in (False, True):
            with Catalogue(str(folder)) as catalogue:
                try:
                    self._enter_all(catalogue, folder, tables, by_path)
                except SameNameError:
                    # `1.jpg` in tables of two folders is two images: their paths tell them apart.
                    if by_path or self.id is not None or self.images is not None:
                        raise
                    continue
                yield from catalogue.records()
                return

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
            return read_original(self._images(), record.location)
        table = safe_name(folder, cell["table"])
        value = read_cell(folder, table, self.image, int(cell["group"]), int(cell["index"]))
        if isinstance(value, str):
            return read_original(self._images(), below(table.rpartition("/")[0], value))
        if value is None:
            raise RejectedError("IMG_MISSING", f"{record.location} is empty")
        return value

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Return the captions of a record."""
        raise_refusals(record)
        return record.captions

    def _images(self) -> str:
        return base_folder(self.root).location if self.images is None else self.images

    def _enter_all(
        self, catalogue: Catalogue, folder: Folder, tables: Sequence[str], by_path: bool
    ) -> None:
        """Enter the rows of all tables; `by_path` names an image by its path below the root."""
        others = [c for c in (self.caption, self.id, self.split, self.label) if c is not None]
        left: Counter[str] = Counter()
        layout = Layout(self.format, self.delimiter, self.quoting)
        rows = 0
        for table in tables:
            for row in table_rows(folder, table, self.image, others, layout):
                catalogue.where = f"{folder}/{table}, row {row.number}"
                self._enter(catalogue, table, row, left, by_path)
                rows += 1
        if not rows:
            raise ValueError(f"{folder}: {', '.join(tables[:3])} holds no rows.")
        for value, count in left.most_common(8):
            print_line(f"{count:,} rows are of {self.split} {value}: left out")

    def _enter(
        self, catalogue: Catalogue, table: str, row: TableRow, left: Counter[str], by_path: bool
    ) -> None:
        """Enter a row into the catalogue."""
        place = f"{table}#{row.number:012d}"
        try:
            if row.problem is not None:
                raise RejectedError("CAP_FORMAT", row.problem)
            image = _word(self.image, row.values.get(self.image))
            texts = self._texts(row.values.get(self.caption))
            name = _word(self.id, row.values.get(self.id)) if self.id else None
            label = _word(self.label, row.values.get(self.label)) if self.label else None
            says = _word(self.split, row.values.get(self.split)) if self.split else None
            if row.group is None and not image and not texts:
                raise RejectedError("CAP_EMPTY", "neither an image nor a caption")
        except RejectedError as problem:
            # The row is listed, so that it is counted, and rejected when it is read.
            split = split_of(place, 0, table, self.validation_files)
            catalogue.image(place, place, split=split)
            detail = f"{table}, row {row.number}: {problem.detail}"
            catalogue.text_file(place, refusal(problem.reason, detail))
            return
        if row.group is not None:
            key, location = place, f"{table}#{row.group}.{row.index}"
        elif image:
            image = CREDENTIALS.sub("", image)  # because listed names are shown
            relative = self._relative(image)
            image = relative or below("", image)
            key, location = name or image, image
            if self.images is None and not relative:
                location = below(table.rpartition("/")[0], image)
            if by_path:
                key = location
        else:
            key, location = place, ""
        split = split_of(name or key, self.validation, table, self.validation_files)
        if self.split is not None:
            known = [("train", self.train_values), ("validation", self.validation_values)]
            found = [s for s, values in known if (says or "").lower() in map(str.lower, values)]
            if not found:
                left[repr(says) if len(left) < 100 else "others"] += 1
                return
            split = found[0]
        if location:
            name = name or key
            catalogue.image(key, location, split=split, name=name, label=label, again=True)
        for text in texts:
            catalogue.caption(key, text, split=split)

    def _relative(self, image: str) -> str | None:
        """Return an absolute path or address relative to the base of the images, if it is below."""
        base = self._images().rstrip("/") + "/"
        if image.startswith("/") and ".." not in image.split("/") and "\0" not in image:
            if not image.startswith(base) and "://" not in base:
                image = posixpath.join(os.path.realpath(posixpath.dirname(image)), _last(image))
        elif "://" not in image:
            return None
        return image.removeprefix(base) if image.startswith(base) else None

    def _texts(self, value: Any) -> list[str]:
        value = _list_in_text(value) if isinstance(value, str) else value
        texts = value if isinstance(value, list) else [value]
        texts = [None if isinstance(text, float) and isnan(text) else text for text in texts]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise RejectedError(
                "CAP_FORMAT", f"{self.caption} is {str(value)[:40]!r}, not a text or a list of such"
            )
        if self.separator is not None:
            texts = [part for text in texts if text for part in text.split(self.separator)]
        return [text for text in texts if text and not text.isspace()]


def _last(image: str) -> str:
    return image.rpartition("/")[2]


def _list_in_text(text: str) -> Any:
    """Return the list that a text spells as JSON, Python or numpy; otherwise the text."""
    if not (text.startswith("[") and text.rstrip().endswith("]") and len(text) <= MAX_LIST):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _python_list(text)
    is_list = isinstance(found, list) and found and all(isinstance(t, str | None) for t in found)
    return found if is_list else text


def _python_list(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the text
            found = ast.literal_eval(text)
            if not isinstance(found, list) or not all(isinstance(t, str | None) for t in found):
                return text
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
    if isinstance(value, float) and isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():  # numbers of a column with gaps
        value = int(value)
    if isinstance(value, str | int):
        return str(value).strip()
    raise RejectedError("CAP_FORMAT", f"{column} is {str(value)[:40]!r}, not a text or a number")
