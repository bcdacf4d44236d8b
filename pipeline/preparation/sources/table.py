"""Tables that name an image and its captions in each row: CSV, TSV, JSON lines, parquet."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from pipeline.common.console import print_line
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.decoding.isolated_parquet import read_cell
from pipeline.preparation.sources.file_patterns import base_folder, check_pattern, matching_files
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.read_original import Root, below, read_original, safe_name
from pipeline.preparation.sources.source import Record, Source, raise_refusals, refusal, split_of
from pipeline.preparation.sources.table_rows import ENDINGS, TableRow, table_rows
from pipeline.storage.folder import absolute

CELL = re.compile(r"(?P<table>.+\.parquet)#(?P<group>\d+)\.(?P<index>\d+)", re.IGNORECASE)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
CREDENTIALS = re.compile(r"(?<=//)[^/@\s]*@")


class TableSource(Source):
    """A .csv, .tsv, .jsonl or .parquet with an image (name or content) and captions in each row.

    python jobs/prepare.py table --root data/mine/train.csv --image-size 256 --output data/mine-256
    """

    name: ClassVar[str] = "table"

    root: Root
    """A table, a folder of tables, or a pattern such as "data/train-*.parquet". Rows of the same
    image are joined. Web addresses are never fetched: download the images first."""
    images: Annotated[str, AfterValidator(absolute)] | None = None
    """Base folder or bucket of image paths. Default: the folder of their table."""
    image: str = "image"
    """Column of the images: paths, or in parquet the files themselves."""
    caption: str = "caption"
    """Column of the captions: a text, or a list of texts."""
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
    """Delimiter of CSV. Default: a comma, and a tab in .tsv."""

    def records(self) -> Iterator[Record]:
        """List the images in the order of their names, or of their rows if tables contain them."""
        folder, tables = matching_files(self.root, ENDINGS)
        check_pattern(self.validation_files, tables)
        others = [c for c in (self.caption, self.id, self.split, self.label) if c is not None]
        left: Counter[str] = Counter()
        with Catalogue(str(folder)) as catalogue:
            rows = 0
            for table in tables:
                for row in table_rows(folder, table, self.image, others, self.delimiter):
                    catalogue.where = f"{folder}/{table}, row {row.number}"
                    self._enter(catalogue, table, row, left)
                    rows += 1
            if not rows:
                raise ValueError(f"{folder}: {', '.join(tables[:3])} holds no rows.")
            for value, count in left.most_common(8):
                print_line(f"{count:,} rows are of split {value}: left out")
            yield from catalogue.records()

    def read_image(self, record: Record) -> bytes:
        """Read the file of a record, or the cell of its row."""
        raise_refusals(record)
        if ADDRESS.match(record.location):
            raise RejectedError(
                "PATH_UNSAFE",
                f"{record.location!r} is an address, and none is ever fetched: download the images "
                "first, for example with img2dataset, and prepare what it writes",
            )
        cell = CELL.fullmatch(record.location)
        if cell is None:
            return read_original(self._images(), record.location)
        folder = base_folder(self.root)
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

    def _enter(self, catalogue: Catalogue, table: str, row: TableRow, left: Counter[str]) -> None:
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
            key, location = name or image, image
            if self.images is None:
                location = below(table.rpartition("/")[0], image)
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

    def _texts(self, value: Any) -> list[str]:
        texts = value if isinstance(value, list) else [value]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise RejectedError(
                "CAP_FORMAT", f"{self.caption} is {str(value)[:40]!r}, not a text or a list of such"
            )
        if self.separator is not None:
            texts = [part for text in texts if text for part in text.split(self.separator)]
        return [text for text in texts if text and not text.isspace()]


def _word(column: str, value: Any) -> str | None:
    """Return a name or number as a text; None for an empty cell."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str | int):
        return str(value).strip()
    raise RejectedError("CAP_FORMAT", f"{column} is {str(value)[:40]!r}, not a text or a number")
