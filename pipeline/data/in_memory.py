"""Hold a decoded split in memory, so that nothing is read or decoded twice.

Dimensions in this file:
    N images of the split, H W stored height and width.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.common.machine import available
from pipeline.data.dataset import PreparedDataset
from pipeline.data.rows import Rows, decode
from pipeline.data.sample_order import RowGroup

SHARE = 0.25  # of free memory: `auto` uses no more


def fits(dataset: PreparedDataset, split: str, holders: int) -> bool:
    """Return whether `holders` workers on this machine can each hold a split in `SHARE`."""
    return holders * size(dataset, split) <= SHARE * available()


def refuse_if_too_large(dataset: PreparedDataset, split: str, holders: int) -> None:
    """Raise ValueError if there is not enough memory for a split in each of `holders` workers."""
    need, free = holders * size(dataset, split), available()
    if need > free:
        raise ValueError(
            f"data.reader=resident would hold {dataset.folder} in {need / 2**30:.1f} GiB "
            f"({holders} worker{'s' if holders > 1 else ''} on this machine), and "
            f"{free / 2**30:.1f} GiB are free. Use --data.reader threads."
        )


def size(dataset: PreparedDataset, split: str) -> int:
    """Return the size of a split in memory in bytes: pixels and sentence vectors."""
    manifest = dataset.manifest
    captions = sum(shard.captions for shard in manifest.splits.get(split, ()))
    return 3 * manifest.cache_size**2 * manifest.rows(split) + 4 * manifest.encoder.dim * captions


def load(
    dataset: PreparedDataset, units: Sequence[RowGroup], columns: list[str], threads: int
) -> tuple[Rows, NDArray[np.int64]]:
    """Read and decode row groups.

    Returns:
        All rows, and the index of the first row of each unit.
    """
    starts = np.cumsum([0, *(unit.rows for unit in units)])
    side = dataset.manifest.cache_size
    images = np.empty((starts[-1], 3, side, side), dtype=np.uint8)  # [N, 3, H, W]

    def fill(number: int) -> Rows:
        rows = Rows.of(dataset.read(units[number], columns), dataset.manifest.encoder.dim, side)
        mine = images[starts[number] : starts[number + 1]]
        for place, content in zip(mine, rows.images, strict=True):
            place[:] = decode(content.as_py(), side).numpy()
        return replace(rows, images=mine)  # frees the JPEGs

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(fill, range(len(units))))
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    whole = Rows(
        images=images,
        image_keys=np.concatenate([part.image_keys for part in parts]),
        class_keys=np.concatenate([part.class_keys for part in parts]),
        sentences=np.concatenate([part.sentences for part in parts]),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        side=side,
        captions=pa.concat_arrays([part.captions for part in parts])
        if "captions" in columns
        else None,
    )
    return whole, starts[:-1]
