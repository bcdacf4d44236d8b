"""What img2dataset writes, in its formats files, webdataset and parquet."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.common.console import print_line
from pipeline.preparation.decoding.isolated_parquet import open_table
from pipeline.preparation.sources.caption_files import read_captions
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.left_aside import leave_aside
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root, open_root, some_names
from pipeline.preparation.sources.source import Record, Source, split_of
from pipeline.preparation.sources.table import TableSource
from pipeline.preparation.sources.table_rows import Layout, table_rows
from pipeline.preparation.sources.webdataset import WebDatasetSource
from pipeline.storage.folder import Folder

SHARD = re.compile(r"\d+(_stats\.json|\.\w+)?")  # 00000, 00000.tar, 00000.parquet, …
IMAGES = ("jpg", "png", "webp")  # columns of the images in parquet: --encode_format
CAPTIONS = ("caption", "txt")
MADE = "success"  # status of a row whose image was downloaded and resized


class Img2datasetSource(Source):
    """What img2dataset wrote: 00000/*.jpg, 00000.tar or 00000.parquet, and 00000_stats.json beside.

    python jobs/prepare.py img2dataset --root data/laion --image-size 256 --output data/laion-256
    """

    name: ClassVar[str] = "img2dataset"

    root: Root
    """Folder or bucket that img2dataset wrote to, in the format files, webdataset or parquet. Rows
    that it could not download or resize are counted and left out. A caption is the whole text of
    KEY.txt; if that is empty, the caption in KEY.json."""
    validation: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """Share of images held out, by a hash of their names."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise shards with statistics or metadata beside."""
        shards = [name for name in (*look.files, *look.folders) if SHARD.fullmatch(name)]
        stats = [name for name in shards if name.endswith("_stats.json")]
        if look.is_file or not (
            stats or any(look.has(f"{posixpath.splitext(n)[0]}.parquet") for n in shards)
        ):
            return
        try:
            source = _source(look.root, 0.1)
        except ValueError as error:
            if stats:
                yield str(error)
            return
        form = {FolderSource: "files", WebDatasetSource: "webdataset"}.get(type(source), "parquet")
        if stats or form != "parquet":
            beside = stats[0] if stats else "metadata of the same name"
            yield Fit(f"shards of img2dataset's output_format {form}, with {beside} beside")

    def records(self) -> Iterator[Record]:
        """List the images in the order of their shards and keys."""
        source = _source(self.root, self.validation)
        is_table = isinstance(source, TableSource)
        for record in source.records():
            # A table's split column is the status here.
            split = split_of(record.id, self.validation) if is_table else record.split
            yield replace(record, split=split)
        self._count_failed(source)

    def read_image(self, record: Record) -> bytes:
        """Read the image of a record."""
        return _source(self.root, self.validation).read_image(record)

    def read_captions(self, record: Record) -> Sequence[str | bytes]:
        """Read the captions of a record."""
        source = _source(self.root, self.validation)
        if isinstance(source, FolderSource):
            return read_captions(self.root, record, whole=True)
        return source.read_captions(record)

    def _count_failed(self, source: Source) -> None:
        """Count the rows without an image, which only the metadata beside the images has."""
        folder, failed = Folder(self.root), Counter[str]()
        for name in () if isinstance(source, TableSource) else folder.names():
            try:
                if name.endswith(".parquet") and "status" in _columns(folder, name):
                    rows = table_rows(folder, name, "status", (), Layout())
                    failed.update(str(row.values["status"])[:40] for row in rows)
            except ValueError as error:  # img2dataset was stopped; the images are there
                print_line(f"{error} What img2dataset could not download is not counted there.")
        failed.pop(MADE, None)
        for status, count in failed.items():
            leave_aside("rows", f"of status {status!r}", count)


@lru_cache(maxsize=8)
def _source(root: str, validation: float) -> Source:
    """Return the source that reads the format which lies there."""
    folder = open_root(root, "what img2dataset wrote")
    shards = [name for name in folder.names() if SHARD.fullmatch(name)]
    kinds = {posixpath.splitext(name)[1]: name for name in shards}
    if ".tar" in kinds:
        return WebDatasetSource(root=root, validation=validation, text_lines="one-caption")
    if "" in kinds:
        return FolderSource(root=root, validation=validation)
    columns = _columns(folder, kinds[".parquet"]) if ".parquet" in kinds else ()
    image = next((name for name in IMAGES if name in columns), None)
    if image is None:
        found = (
            ".tfrecord is not read" if ".tfrecord" in kinds else f"it holds {some_names(folder)}"
        )
        raise ValueError(
            f"{folder} has no images of img2dataset (00000/, 00000.tar, or 00000.parquet with a "
            f"column jpg): {found}. Name its --output_folder with --root; its output_format must "
            "be files, webdataset or parquet."
        )
    return TableSource(
        root=root,
        image=image,
        caption=next((name for name in CAPTIONS if name in columns), CAPTIONS[0]),
        split="status" if "status" in columns else None,
        train_values=(MADE,),
        validation_values=(),
    )


def _columns(folder: Folder, table: str) -> Sequence[str]:
    with open_table(folder, table) as opened:
        names: list[str] = opened.schema.names
        return names
