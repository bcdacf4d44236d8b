"""Fit the sentence transform of a dataset to its training captions, shard by shard."""

from collections.abc import Iterable
from typing import Any

import pyarrow.parquet as pq
import torch

from pipeline.data.manifest import Shard
from pipeline.ray_cluster.parallel_map import on_each
from pipeline.storage.folder import Folder
from ratgan.text.transform import SentenceTransform
from ratgan.vector_sums import VectorSums


def fit_transform(
    folder: Folder, shards: Iterable[Shard], kind: str, raw_dim: int, dim: int
) -> SentenceTransform:
    """Fit the transform.

    Args:
        shards: Shards of the training split, with at least one row; they are summed in this order,
            which decides the last bit.
        kind: Kind of `SentenceTransform`.
        raw_dim: Size of the encoder's vectors.
        dim: Numbers kept of a whitened vector.
    """
    total: VectorSums | None = None
    for row in on_each(SumSentences(folder, raw_dim), [{"file": s.file} for s in shards if s.rows]):
        x, xx = (torch.frombuffer(bytearray(row[k]), dtype=torch.float64) for k in ("x", "xx"))
        sums = VectorSums(row["count"], x, xx.view(raw_dim, raw_dim))
        total = sums if total is None else total + sums
    if total is None:
        raise ValueError("there is no training caption to fit the sentence transform to.")
    return SentenceTransform.fit(kind, total, dim)


class SumSentences:
    """Adds up the sentence vectors of a shard."""

    def __init__(self, folder: Folder, dim: int) -> None:
        self.folder, self.dim = folder, dim

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return count, sum `x` and scatter `xx` (float64 bytes) of one shard."""
        with self.folder.open(item["file"]) as stream:
            column = pq.read_table(stream, columns=["sentences"])["sentences"]
        vectors = torch.from_numpy(column.combine_chunks().values.to_numpy().copy())
        sums = VectorSums.of(vectors.view(-1, self.dim))
        return {
            "count": sums.count,
            "x": sums.total.numpy().tobytes(),
            "xx": sums.scatter.numpy().tobytes(),
        }
