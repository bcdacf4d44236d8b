"""Open a prepared dataset, check it, and read its images one after another.

Dimensions in this file:
    S transformed sentence size, H W stored height and width.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.data.manifest import SHARD_SCHEMA, read_manifest, read_transform
from pipeline.data.rows import class_key, decode, image_key
from pipeline.data.sample_order import RowGroup
from pipeline.storage.folder import Folder

SPREAD_GROUPS, SPREAD_ROWS = 16, 2048  # that are read to choose images from all over a split
LISTERS = 16  # size requests at once
EXAMPLE_COLUMNS = ["id", "label", "image", "captions", "sentences", "meaning"]
BATCH = 16  # rows decoded at once, so that a value that repeats is counted before it fills memory
SMALL = 64 * 2**20  # bytes that a row group may always have in memory
MAX_GROWTH = 32  # times its size in the file above that. Captions shrink to a fifth, JPEGs do not
MEND = "Copy the dataset again, or repeat the command that prepared it, with --repair."


@dataclass(frozen=True)
class Example:
    """An image with one of its captions.

    Attributes:
        image: uint8, stored size, [3, H, W].
        caption: Its first caption.
        sentence: Transformed vector of that caption, [S].
        meaning: Meaning of the caption, if known.
        class_key: A number for the image's class (or image).
    """

    image: Tensor
    caption: str
    sentence: Tensor
    meaning: dict[str, Any] | None
    class_key: int


class PreparedDataset:
    """A folder that `prepare` wrote.

    Raises:
        ValueError: If it is not a complete prepared dataset.
    """

    def __init__(self, location: str) -> None:
        self.folder = Folder(location)
        self.manifest, self.digest = read_manifest(self.folder)
        self.transform = read_transform(self.folder, self.manifest.transform)

    def verify(self) -> None:
        """Check that the shards have the sizes of the manifest.

        Their content is verified by checksums when it is read.

        Raises:
            ValueError: If one is missing or of another size.
        """
        shards = self.manifest.shards
        with ThreadPoolExecutor(LISTERS) as pool:  # a bucket serves many slow requests at a time
            sizes = pool.map(lambda shard: self.folder.size(shard.file), shards)
            for shard, size in zip(shards, sizes, strict=True):
                if size != shard.bytes:
                    raise ValueError(
                        f"{self.folder}/{shard.file} "
                        + ("is missing" if size is None else f"has {size:,} bytes")
                        + f", and the manifest says {shard.bytes:,} bytes. {MEND}"
                    )

    def verify_content(self, progress: Callable[[int], None]) -> None:
        """Read every shard and compare its sha256 with the manifest.

        Raises:
            ValueError: If one differs.
        """
        for shard in self.manifest.shards:
            if hashlib.sha256(self.folder.read(shard.file)).hexdigest() != shard.sha256:
                raise ValueError(f"{self.folder}/{shard.file} was changed. {MEND}")
            progress(1)

    def encoder_file(self) -> bytes | None:
        """Read the dataset's copy of the text encoder; None if it has none.

        Raises:
            ValueError: If it is not the one the manifest names.
        """
        encoder = self.manifest.encoder
        if encoder.file is None:
            return None
        content = self.folder.read(encoder.file)
        if hashlib.sha256(content).hexdigest() != encoder.sha256:
            raise ValueError(f"{self.folder}/{encoder.file} was changed after preparation.")
        return content

    def units(self, split: str) -> list[RowGroup]:
        """List the row groups of a split."""
        return [
            RowGroup(shard.file, index, rows)
            for shard in self.manifest.splits.get(split, ())
            for index, rows in enumerate(shard.row_groups)
        ]

    def examples(self, split: str, count: int | None = None) -> list[Example]:
        """Read the first images of a split in stored order, or all of them."""
        return list(islice(self.each(split), count))

    def each(self, split: str) -> Iterator[Example]:
        """Read the images of a split one after another, in stored order."""
        for unit in self.units(split):
            for row in self.read(unit, EXAMPLE_COLUMNS).to_pylist():
                yield self._example(row)

    def at(self, split: str, rows: Sequence[int]) -> Iterator[Example]:
        """Read some images of a split by their numbers, which ascend."""
        wanted, start = list(rows), 0
        for unit in self.units(split):
            mine = [row - start for row in wanted if row < start + unit.rows]
            if mine:
                table = self.read(unit, EXAMPLE_COLUMNS).take(mine)
                yield from map(self._example, table.to_pylist())
                wanted = wanted[len(mine) :]
            start += unit.rows

    def spread(self, split: str, count: int, seed: int) -> list[Example]:
        """Choose images from all over a split, of different classes where there are such.

        They follow from seed and dataset, and the first ones are the same whatever their number.
        Few row groups are read: so many that they hold `SPREAD_ROWS`, or one for each image that
        these do not have.

        Args:
            split: That has images.
            count: Images to choose; all are, where there are fewer.
            seed: Of the choice.
        """
        units = [unit for unit in self.units(split) if unit.rows]
        most = min(SPREAD_GROUPS, len(units), max(1, SPREAD_ROWS // max(u.rows for u in units)))
        edges = [number * len(units) // most for number in range(most + 1)]
        rng = np.random.default_rng([seed, len(units)])
        waiting = rng.permutation([rng.integers(*pair) for pair in pairwise(edges)]).tolist()
        others = iter([n for n in range(len(units)) if n not in waiting])
        tables: dict[int, pa.Table] = {}
        left: dict[int, list[tuple[int, int]]] = {}  # rows and their classes
        later: list[int] = []  # row groups of which every class was chosen already
        found: list[Example] = []
        classes: set[int] = set()
        while len(found) < count and (waiting or later):
            if not waiting:
                waiting, later, classes = later, [], set()
            unit = waiting.pop(0)
            if unit not in tables:
                table = tables[unit] = self.read(units[unit], EXAMPLE_COLUMNS)
                order = np.random.default_rng([seed, len(units), unit]).permutation(len(table))
                left[unit] = [(row, _class_of(table, row)) for row in order.tolist()]
            pick = next((each for each in left[unit] if each[1] not in classes), None)
            if pick is None:
                later.append(unit)
                continue
            left[unit].remove(pick)
            classes.add(pick[1])
            found += map(self._example, tables[unit].take([pick[0]]).to_pylist())
            waiting += [unit] if left[unit] else islice(others, 1)
        return found

    def _example(self, row: dict[str, Any]) -> Example:
        raw = torch.tensor(row["sentences"]).view(len(row["captions"]), -1)[:1]
        return Example(
            image=decode(row["image"], self.manifest.cache_size),
            caption=row["captions"][0],
            sentence=self.transform(raw)[0],
            meaning=json.loads(row["meaning"]) if row["meaning"] else None,
            class_key=class_key(row["label"], image_key(row["id"])),
        )

    def read(self, unit: RowGroup, columns: list[str]) -> pa.Table:
        """Read columns of a row group; raises as `read_row_group` does."""
        return read_row_group(self.folder, unit, columns)

    def captions(self, split: str) -> Iterator[str]:
        """Read every caption of a split in stored order, without images."""
        for unit in self.units(split):
            for texts in read_row_group(self.folder, unit, ["captions"])["captions"].to_pylist():
                yield from texts


def _class_of(table: pa.Table, row: int) -> int:
    label, name = (table[column][row].as_py() for column in ("label", "id"))
    return class_key(label, image_key(name))


def read_row_group(folder: Folder, unit: RowGroup, columns: list[str]) -> pa.Table:
    """Read columns of a row group and verify the checksums of its pages.

    Raises:
        OSError: If the shard cannot be read.
        ValueError: If it is missing, damaged, or does not match the data contract.
    """
    try:
        with folder.open(unit.file) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            schema = file.schema_arrow
            for name in columns:
                wanted = SHARD_SCHEMA.field(name)
                if name not in schema.names or schema.field(name).type != wanted.type:
                    found = ", ".join(f"{field.name} {field.type}" for field in schema)
                    raise ValueError(f"it has no column {name!r} of {wanted.type} but {found}")
            table = _bounded(file, unit.row_group, columns, stream.seek(0, 2))
            table.validate(full=True)  # otherwise invalid text causes an error much later
            if len(table) != unit.rows:
                raise ValueError(f"row group {unit.row_group} has {len(table)} rows")
            return table
    except FileNotFoundError as error:
        raise ValueError(f"{folder}/{unit.file} is missing. {MEND}") from error
    except (ValueError, pa.ArrowException, IndexError, OSError) as error:
        # Arrow raises OSError also for a wrong checksum, which is not an error of the storage.
        if isinstance(error, OSError) and not _is_arrows(error):
            raise
        cause = " ".join(str(error).split())
        raise ValueError(
            f"{folder}/{unit.file} is damaged, or not of this dataset: {cause}. {MEND}"
        ) from error


def _bounded(file: pq.ParquetFile, number: int, columns: list[str], file_size: int) -> pa.Table:
    """Read a row group that does not become far larger in memory than it is in its file.

    Raises:
        ValueError: If it would; a few bytes can stand for gigabytes.
    """
    group = file.metadata.row_group(number)
    chunks = [
        chunk
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema.split(".")[0] in columns
    ]
    packed = min(file_size, sum(chunk.total_compressed_size for chunk in chunks))
    limit = SMALL + MAX_GROWTH * packed
    found: list[pa.RecordBatch] = []

    def check(size: int) -> None:
        if size > limit:
            raise ValueError(
                f"row group {number} takes {packed:,} bytes there and {size:,} or more in memory, "
                f"at most {limit:,} are taken"
            )

    check(sum(chunk.total_uncompressed_size for chunk in chunks))
    for batch in file.iter_batches(BATCH, row_groups=[number], columns=columns):
        found.append(batch)
        check(sum(each.nbytes for each in found))
    return pa.Table.from_batches(found)


def _is_arrows(error: OSError) -> bool:
    text = str(error).lower()
    return error.errno is None and any(
        word in text for word in ("crc", "thrift", "parquet", "page")
    )
