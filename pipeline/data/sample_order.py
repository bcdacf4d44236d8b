"""The order in which training sees the images: a function of seed and epoch alone.

Training reads one endless stream of positions: position p is image p mod R of
epoch p div R (R images), and step k uses positions k·B … (k+1)·B − 1 (B images
over all workers). Worker r of N uses the r-th of N equal parts of each batch.
So neither the number of workers nor a restart changes the images of a step.

Images are stored in row groups, which are read as a whole. An epoch shuffles the
row groups and the rows in each, concatenates them, and splits the result into L
equal lanes; each batch takes B/L images from every lane. So a batch mixes many
row groups. The part of a worker is a set of lanes, so a worker reads only its
own share of the row groups, and holds about two for each lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LANES = 32  # limits the row groups in memory


@dataclass(frozen=True)
class RowGroup:
    """A row group.

    Attributes:
        file: Shard, relative to the dataset.
        row_group: Index in the shard.
    """

    file: str
    row_group: int
    rows: int


@dataclass(frozen=True)
class Samples:
    """The images at some positions of the stream.

    Attributes:
        epoch: Epoch of each position, [n].
        unit: Index of the row group, [n].
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
            world: Number of workers; divides the batch.
            last_step: Step after the last one.
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
        # Lane, and position in it. Each batch uses `chunk` neighbours of a lane.
        chunk = self.batch_size // self.lanes
        turn, place = np.divmod(index, self.batch_size)
        lane, within = np.divmod(place, chunk)
        full, rest = divmod(self.images, self.batch_size)
        lengths = full * chunk + np.clip(rest - np.arange(self.lanes) * chunk, 0, chunk)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        line = starts[lane] + turn * chunk + within  # position in the concatenated row groups

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
