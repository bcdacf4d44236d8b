"""Tables with an image and its captions in each row: CSV, TSV, JSON, parquet, Arrow."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.preparation.sources.file_patterns import check_pattern, matching_files
from pipeline.preparation.sources.image_rows import Columns, Entry, RowSource, leave_rows
from pipeline.preparation.sources.join_on_disk import Catalogue, SameNameError
from pipeline.preparation.sources.left_aside import leave_file, walk
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root
from pipeline.preparation.sources.source import Record, split_of
from pipeline.preparation.sources.table_format import Format
from pipeline.preparation.sources.table_guess import recognise_tables
from pipeline.preparation.sources.table_rows import ENDINGS, OTHER_ENDINGS, Layout
from pipeline.storage.folder import Folder


class TableSource(RowSource):
    """A table (CSV, TSV, JSON, parquet, Arrow) of images, by name or content, and their captions.

    python jobs/prepare.py table --root data/mine/train.csv --image-size 256 --output data/mine-256
    """

    name: ClassVar[str] = "table"
    general: ClassVar[bool] = True
    later: ClassVar[frozenset[str]] = frozenset({"quoting", "format"})

    root: Root
    """A table, a folder of tables, or a pattern such as "data/train-*.parquet". Rows of the same
    image are joined. Web addresses are never fetched: download the images first."""
    image: str = "image"
    """Column of the images: paths, or in parquet the files themselves."""
    caption: str = "caption"
    """Column of the captions: a text, or a list of texts, also one that is written into a text as
    JSON or Python. `sentences.raw` is the field raw of the records in column sentences."""
    validation_files: str | None = None
    """Pattern of the held-out tables, instead of a share: "validation-*.parquet"."""
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
        folder, tables = matching_files(self.root, ENDINGS, OTHER_ENDINGS, count=False)
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
                catalogue.where = str(folder)
                self._leave_unnamed(catalogue, folder, tables)
                yield from catalogue.records()
                return

    def image_column(self, folder: Folder, table: str) -> str:
        """Return the column that the user names."""
        return self.image

    def share_of(self, table: str, key: str, share: float) -> str:
        """Return the split of an image by its table, if tables are held out, or by a share."""
        return split_of(key, share, table, self.validation_files)

    def _leave_unnamed(self, catalogue: Catalogue, folder: Folder, tables: Sequence[str]) -> None:
        """Count the files that are neither tables nor images of a row; not beside a single table.

        With a folder of images elsewhere, which may be far larger, that one is not searched.
        """
        if self.root == f"{folder}/{tables[0]}":
            return
        taken, images = set(tables), f"{self._images()}/"
        base = images.removeprefix(f"{folder}/")
        above = f"{folder}/".removeprefix(images) if f"{folder}/".startswith(images) else None

        def below() -> Iterator[str]:
            for name, _ in walk(folder):
                if name in taken:
                    continue
                if above is not None:
                    yield above + name
                elif name.startswith(base):
                    yield name.removeprefix(base)
                else:
                    leave_file(name)

        catalogue.leave_unnamed(below())

    def _enter_all(
        self, catalogue: Catalogue, folder: Folder, tables: Sequence[str], by_path: bool
    ) -> None:
        """Enter the rows of all tables; `by_path` names an image by its path below the root."""
        left: Counter[str] = Counter()
        layout = Layout(self.format, self.delimiter, self.quoting)
        columns = Columns(self.image, self.caption)
        entries = [Entry(table, columns, left, by_path=by_path) for table in tables]
        if not sum(self.enter(catalogue, folder, entry, layout) for entry in entries):
            raise ValueError(f"{folder}: {', '.join(tables[:3])} holds no rows.")
        leave_rows(left, self.split)
