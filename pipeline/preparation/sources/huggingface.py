"""Datasets of Hugging Face: image folders with metadata, parquet, and what `save_to_disk` wrote."""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from pipeline.common.console import print_line
from pipeline.preparation.decoding.images import IMAGES, OTHERS
from pipeline.preparation.sources.huggingface_columns import find_columns, image_column
from pipeline.preparation.sources.huggingface_files import Found, find_dataset
from pipeline.preparation.sources.image_rows import Entry, RowSource, leave_rows
from pipeline.preparation.sources.join_on_disk import Catalogue
from pipeline.preparation.sources.left_aside import NO_ENDING, is_hidden, leave_aside, walk
from pipeline.preparation.sources.look import Fit, Look
from pipeline.preparation.sources.read_original import Root, open_root, plain_name
from pipeline.preparation.sources.source import Record
from pipeline.preparation.sources.table_guess import columns_of
from pipeline.preparation.sources.table_rows import Layout
from pipeline.storage.folder import Folder

# Names of files, what their start has (parquet must have images), and what they are.
MARKS = (
    (r"dataset_dict\.json", rb'"splits"', "from save_to_disk"),
    (r"([^/]+/)?state\.json", rb'"_data_files"', "from save_to_disk"),
    (r"([^/]+/)?metadata\.(jsonl|csv|parquet)", rb"\bfile_name\b", "an image folder"),
    (r"README\.md", rb"\A---\s*\n(.*\n)*?(configs|dataset_info):", "a dataset card"),
    (r"([^/]+/)?(train|validation|test)(-\d{5}-of-\d{5}|/\d{4})\.parquet", b"", "a shard"),
)
KINDS = {".py": ".py (scripts are never run)"}


class HuggingFaceSource(RowSource):
    """A dataset of Hugging Face on disk: a repository, an image folder, or from save_to_disk.

    python jobs/prepare.py huggingface --root data/birds --image-size 256 --output data/birds-256
    """

    name: ClassVar[str] = "huggingface"

    root: Root
    """Folder or bucket: a clone or snapshot of a repository with parquet, images with
    metadata.jsonl, .csv or .parquet, or what save_to_disk wrote. No script in it is run."""
    config: str | None = None
    """Config (subset), if there are several."""
    image: str | None = None
    """Column of the images. Default: the one of type Image, or file_name in a metadata file."""
    caption: str | None = None
    """Column of the captions: a text or a list of texts; `sentences.raw` is the field raw of the
    records in column sentences. Default: the first of text, caption, captions, texts, sentences,
    sentences.raw, sentence, description, descriptions, prompt."""
    split: str | None = None
    """Column of the split. Default: the splits of the dataset; if it has one only, a share is held
    out."""
    train_values: tuple[str, ...] = ("train", "training")
    """Splits for training; case does not matter."""
    validation_values: tuple[str, ...] = ("validation", "valid", "val", "dev", "test", "testing")
    """Splits that are held out. Others are left out."""
    label: str | None = None
    """Column of the class; the number of a ClassLabel becomes its name. Default: classes are not
    known."""

    @classmethod
    def recognise(cls, look: Look) -> Iterator[Fit | str]:
        """Recognise what `datasets` and the hub of Hugging Face write."""
        if look.is_file:
            return
        for pattern, key, what in MARKS:
            found = next((name for name in look.files if re.fullmatch(pattern, name)), None)
            if found and (
                _has_images(look, found)
                if found.endswith(".parquet")
                else re.search(key, look.head(found))
            ):
                yield Fit(f"{found}, {what} of Hugging Face")
                return
        if look.has("snapshots", "blobs"):
            yield Fit("snapshots and blobs, as the cache of Hugging Face's hub has them")

    def records(self) -> Iterator[Record]:
        """List the images in the order of the rows, or of their names if they are files."""
        folder = open_root(self.root, "the dataset")
        if folder.is_file():
            raise ValueError(f"{folder} is a file. Name its folder, or use jobs/prepare.py table.")
        found = find_dataset(folder, self.config)
        named = len(found.splits) > 1 and self.split is None
        tables = self._tables(folder, found) if named else found.tables
        chosen: set[tuple[str, str]] = set()
        left: Counter[str] = Counter()
        rows = 0
        with Catalogue(str(folder)) as catalogue:
            for number, (table, split) in enumerate(tables):
                given = (self.image, self.caption, self.label)
                columns = find_columns(folder, table, found.pictures, *given)
                chosen.add((columns.image, columns.caption))
                if len(chosen) > 1:
                    raise ValueError(
                        f"{folder}/{table} has other columns than the tables before: images in "
                        f"{columns.image!r}, captions in {columns.caption!r}. Name the columns "
                        "with --image and --caption."
                    )
                by_file = partial(_split_of, found, split) if named else None
                order = f"{number:06d}/"
                entry = Entry(table, columns, left, by_file, order, by_path=True)
                rows += self.enter(catalogue, folder, entry, Layout())
            if not rows:
                names = [table for table, _ in tables[:3]]
                raise ValueError(f"{folder} has no rows in {', '.join(names) or 'any table'}.")
            for image, caption in chosen:
                print_line(f"images are in column {image!r}, captions in {caption!r}")
            leave_rows(left)
            self._add_rest(folder, found, catalogue, named)
            yield from catalogue.records()

    def image_column(self, folder: Folder, table: str) -> str:
        """Return the column that the user names, or that of the images."""
        return self.image or image_column(folder.location, table)

    def place(self, table: str, image: str) -> tuple[str, str]:
        """Return the path of an image as a file of the folder is listed."""
        image, location = super().place(table, image)
        return image, plain_name(location) or location

    def _tables(self, folder: Folder, found: Found) -> list[tuple[str, str | None]]:
        """Print what the splits are for, and return the tables of those that are used.

        Raises:
            ValueError: If none is for training.
        """
        use = {split: self.known_split(split) for split in found.splits}
        if "train" not in use.values():
            raise ValueError(
                f"{folder} has the splits {', '.join(map(repr, use))}, and none is for training. "
                "Name those that are with --train-values."
            )
        kinds = {"train": "for training", "validation": "held out", None: "left out"}
        for kind, what in kinds.items():
            if splits := [split for split, each in use.items() if each == kind]:
                print_line(f"splits {what}: {', '.join(splits)}")
        return [(table, s) for table, s in found.tables if s is None or use[s] is not None]

    def _add_rest(self, folder: Folder, found: Found, catalogue: Catalogue, named: bool) -> None:
        """Add the images that no row names, and count all other files that are not used."""
        used = {table for table, _ in found.tables} | found.read
        for file, size in walk(folder):
            local, ending = file.removeprefix(found.base), posixpath.splitext(file)[1].lower()
            if file in used:
                continue
            if is_hidden(local):
                leave_aside("files", "hidden")
                continue
            if found.base.startswith("snapshots/") and not file.startswith("snapshots/"):
                # What links of the snapshot lead to.
                leave_aside("files", f"in {file.partition('/')[0]}/")
                continue
            kind = KINDS.get(ending, ending or NO_ENDING)
            if ending == ".arrow" and posixpath.basename(file).startswith("cache-"):
                kind = "cache-*.arrow"
            if found.pictures and self.images is None and file.startswith(found.base):
                if catalogue.holds(file, *(unicodedata.normalize(f, file) for f in ("NFC", "NFD"))):
                    continue
                split = self._split_alone(found, file, named)
                if ending in IMAGES + OTHERS and split is not None:
                    catalogue.image(file, file, split=split, size=size)
                    continue
            elif ending in IMAGES + OTHERS:
                kind += " (unless cells name them)"
            leave_aside("files", kind)

    def _split_alone(self, found: Found, file: str, named: bool) -> str | None:
        """Return the split of an image that no row names; None if it is left out."""
        if named:
            return self.known_split(found.split_of(file))
        return None if self.split else self.share_of("", file, self.validation)


def _split_of(found: Found, split: str | None, place: str) -> str | None:
    return found.split_of(place) if split is None else split


def _has_images(look: Look, table: str) -> bool:
    try:
        columns = columns_of(look, table)
    except ValueError:
        return False
    return "file_name" in columns or None in columns.values()
