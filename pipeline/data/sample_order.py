"""The order in which training sees the images: a function of seed and epoch alone.

Training reads one endless stream of positions: position p is image p mod R of
epoch p div R (R images), and step k takes positions k·B … (k+1)·B − 1 (B images
over all workers). Worker r of N takes the r-th of N equal runs of each batch.
So neither the number of workers nor a restart changes which images a step sees.

Images are stored in row groups, read whole. An epoch shuffles the row groups
and the rows in each, lays them end to end, and cuts that line into L equal
lanes; each batch takes B/L images from every lane. A batch thus mixes many row
groups, while a worker, whose run of a batch is a set of lanes, reads its own
share of them and holds about two row groups for each lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LANES = 32  # bounds the row groups that are held at once


@dataclass(frozen=True)
class RowGroup:
    """A row group.

    Attributes:
        file: Shard, relative to the dataset.
        row_group: Index in the shard.
        rows: Images in it.
    """

    file: str
    row_group: int
    rows: int


@dataclass(frozen=True)
class Samples:
    """Some positions of the stream, resolved.

    Attributes:
        epoch: Epoch of each, [n].
        unit: Index of its row group, [n].
        row: Row in the row group, [n].
    """

    epoch: NDArray[np.int64]
    unit: NDArray[np.int64]
    row: NDArray[np.int64]


class SampleOrder:
    """The order of training images.

    Args:
        units: All row groups of the split.
        batch_size: Images B per step over all workers.
        seed: Decides the order.
    """

    def __init__(self, units: Sequence[RowGroup], batch_size: int, seed: int) -> None:
        self.units = list(units)
        self.batch_size = batch_size
        self.seed = seed
        self.images = sum(unit.rows for unit in self.units)
        self.lanes = max(n for n in range(1, MAX_LANES + 1) if batch_size % n == 0)

    def positions(
        self, rank: int, world: int, first_step: int, last_step: int
    ) -> NDArray[np.int64]:
        """Return the stream positions of a worker for steps first … last − 1, in its order.

        Args:
            rank: Of the worker.
            world: Number of workers; divides the batch.
            first_step: First step.
            last_step: Step to stop before.
        """
        share = self.batch_size // world
        steps = np.arange(first_step, last_step, dtype=np.int64)[:, None]
        return (steps * self.batch_size + rank * share + np.arange(share)).ravel()

    def resolve(self, positions: NDArray[np.int64]) -> Samples:
        """Find the images at positions of the stream, [n]."""
        epoch, index = np.divmod(positions, self.images)
        unit, row = np.empty_like(index), np.empty_like(index)
        for number in np.unique(epoch):
            where = epoch == number
            unit[where], row[where] = self._resolve_in(int(number), index[where])
        return Samples(epoch, unit, row)

    def _resolve_in(
        self, epoch: int, index: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find row group and row of positions within an epoch."""
        # Which lane, and how far down it. A lane gives `chunk` neighbours to each batch.
        chunk = self.batch_size // self.lanes
        turn, place = np.divmod(index, self.batch_size)
        lane, within = np.divmod(place, chunk)
        full, rest = divmod(self.images, self.batch_size)
        lengths = full * chunk + np.clip(rest - np.arange(self.lanes) * chunk, 0, chunk)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        line = starts[lane] + turn * chunk + within  # place on the line of all row groups

        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.units))
        ends = np.cumsum([self.units[i].rows for i in order])
        slot = np.searchsorted(ends, line, side="right")
        row = line - np.concatenate([[0], ends[:-1]])[slot]
        unit = order[slot]
        for number in np.unique(unit):
            where = unit == number
            rng = np.random.default_rng([self.seed, epoch, int(number)])
            row[where] = rng.permutation(self.units[number].rows)[row[where]]
        return unit, row
