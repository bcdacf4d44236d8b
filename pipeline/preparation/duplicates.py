"""Find duplicate images in the whole dataset, once all shards are written.

An image in both training and validation makes every score wrong; an image that occurs twice in one
split counts double. The copy in validation is kept, so that a published validation set is complete.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.preparation.listing import Part, read_part
from pipeline.preparation.shards import (
    DUPLICATE,
    Recipe,
    Row,
    commit,
    finished,
    read_rejects,
    write_shard,
)
from pipeline.storage.folder import Folder


@dataclass(frozen=True)
class Repeats:
    """Rows of a shard with the same image as an earlier row.

    Attributes:
        rows: Row numbers in the shard.
        firsts: Ids of the earlier rows.
    """

    part: Part
    rows: list[int]
    firsts: list[str]

    def as_item(self) -> Row:
        """Return plain values, which can be sent to other processes."""
        return asdict(self)


def find_repeats(folder: Folder, parts: Sequence[Part], *, across: bool) -> list[Repeats]:
    """Find images that occur more than once; holds the digests, about 50 bytes an image.

    Args:
        parts: All parts; their shards are written.
        across: Whether an image in both training and validation counts.
    """
    splits = sorted({part.split for part in parts}, reverse=True)  # validation, train
    found: list[Repeats] = []
    for group in [splits] if across else [[split] for split in splits]:
        ordered = [part for split in group for part in parts if part.split == split]
        columns = [_column(folder, part, "digest") for part in ordered]
        starts = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
        codes = pa.concat_arrays(columns).dictionary_encode().indices.to_numpy()
        del columns
        _, first = np.unique(codes, return_index=True)
        first_of = first[codes]

        @lru_cache(maxsize=8)
        def ids(number: int, ordered: list[Part] = ordered) -> pa.Array:
            return _column(folder, ordered[number], "id")

        for part, start, end in zip(ordered, starts[:-1], starts[1:], strict=True):
            rows = np.flatnonzero(first_of[start:end] != np.arange(start, end))
            if len(rows):
                repeated = first_of[start:end][rows]
                numbers = np.searchsorted(starts, repeated, side="right") - 1
                places = zip(numbers.tolist(), (repeated - starts[numbers]).tolist(), strict=True)
                firsts = [ids(number)[row].as_py() for number, row in places]
                found.append(Repeats(part, rows.tolist(), firsts))
    return found


def _column(folder: Folder, part: Part, name: str) -> pa.Array:
    with folder.open(part.shard) as stream:
        return pq.read_table(stream, columns=[name])[name].combine_chunks()


class DropRepeats:
    """Moves repeated images of a shard to its rejects."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, item: Row) -> Row:
        """Write a shard again without its repeats; `item` comes from `Repeats.as_item`."""
        part = Part(**item["part"])
        folder = self.recipe.folder
        before = finished(folder, part, self.recipe.digest, self.recipe.fingerprint)
        if before is None:
            raise OSError(f"{folder}/{part.shard} was changed during preparation. Restart it.")
        with folder.open(part.shard) as stream:
            table = pq.read_table(stream)
        ids = table["id"].to_pylist()
        rejects = read_rejects(folder, part)
        names = {ids[row]: first for row, first in zip(item["rows"], item["firsts"], strict=True)}
        # Their captions go too. Captions without an image may have the same id, and stay.
        rejects = [row for row in rejects if row["kind"] == "image" or row["id"] not in names]
        listed = read_part(folder, part)
        locations = {record.id: record.location for record in listed if record.location}
        rejects += [
            {
                "kind": "image",
                "source": self.recipe.source.name,
                "id": name,
                "split": part.split,
                "location": locations[name],
                "reason": DUPLICATE,
                "detail": f"the same picture as {first}",
                "sha256": None,
            }
            for name, first in names.items()
        ]
        keep = pa.array([name not in names for name in ids])
        shard = write_shard(
            folder,
            part,
            table.filter(keep),
            rejects,
            row_group_rows=self.recipe.row_group_rows,
            seen=before.seen,
        )
        commit(folder, part, self.recipe.digest, self.recipe.fingerprint, shard)
        return {"shard": shard.model_dump_json()}
