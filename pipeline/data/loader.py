"""Load training batches: the order of `SampleOrder`, and one view of each image.

Dimensions in this file:
    b images of one worker's share of a batch, R raw sentence size, H W height and width.
"""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import ReaderName
from pipeline.data import in_memory
from pipeline.data.dataset import PreparedDataset
from pipeline.data.rows import Rows
from pipeline.data.sample_order import SampleOrder, Samples
from pipeline.data.streaming import by_ray, by_threads

PREFETCHED_BATCHES = 4
PARTS = 2  # of a batch for each thread: single images cost overhead, few parts leave threads idle
COLUMNS = ["id", "label", "image", "sentences"]
CROP_AND_FLIP = 2  # makes these random numbers independent of those of the plan


@dataclass(frozen=True)
class Batch:
    """One worker's share of a batch, on the CPU.

    Attributes:
        images: uint8, cropped and flipped, [b, 3, H, W].
        sentences: Raw vector of one caption of each image, [b, R]. A matrix product may round
            differently for another number of rows, so the transform is applied to whole batches.
        image_keys: A number for each image, int64, [b].
        class_keys: A number for each image's class (or image), int64, [b].
    """

    images: Tensor
    sentences: Tensor
    image_keys: Tensor
    class_keys: Tensor
    captions: tuple[str, ...] = ()

    def pinned(self) -> "Batch":
        """Return the batch in pinned memory, from which a GPU copies asynchronously."""
        return Batch(
            self.images.pin_memory(),
            self.sentences.pin_memory(),
            self.image_keys,
            self.class_keys,
            self.captions,
        )


# Rows, the number of one of them, and the epoch in which it is used.
Sample = tuple[Rows, int, int]


class BatchReader:
    """Yields a worker's share of the training batches.

    Caption, crop and mirroring of an image are a function of (seed, epoch, image), and the plan
    decides the order, so every reader yields the same batches, bit for bit.

    Args:
        plan: The order; all row groups of the training split.
        holders: Number of workers on this machine.
        image_size: Size of the crop in pixels.
        flip: Whether to mirror half of the images.
        threads: Threads that decode.
        captions: Whether batches have the texts.
        reader: `resident` holds all decoded images in memory; `threads` streams row groups; `ray`
            lets the cluster read and decode them. `auto` holds a dataset that needs little of the
            free memory, and otherwise streams by threads.

    Raises:
        ValueError: If `resident` needs more memory than there is.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        plan: SampleOrder,
        *,
        rank: int,
        world: int,
        image_size: int,
        flip: bool,
        threads: int,
        holders: int = 1,
        captions: bool = False,
        reader: ReaderName = "auto",
    ) -> None:
        self.dataset, self.plan = dataset, plan
        self.rank, self.world = rank, world
        self.image_size, self.flip, self.threads = image_size, flip, threads
        self.columns = [*COLUMNS, *(["captions"] if captions else [])]
        if reader == "auto":
            reader = "resident" if in_memory.fits(dataset, "train", holders) else "threads"
        elif reader == "resident":
            in_memory.refuse_if_too_large(dataset, "train", holders)
        self.reader = reader
        self._held: tuple[Rows, Any] | None = None

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield the batches of steps first … last − 1."""
        share = self.plan.batch_size // self.world
        bring = self._of_memory if self.reader == "resident" else self._streamed
        with ThreadPoolExecutor(self.threads, thread_name_prefix="views") as pool:
            yield from self._put_together(bring(first_step, last_step), share, pool)

    def _put_together(
        self, samples: Iterator[Sample], share: int, pool: ThreadPoolExecutor
    ) -> Iterator[Batch]:
        size = -(-share // (PARTS * self.threads))
        parts = [slice(start, start + size) for start in range(0, share, size)]
        while chosen := list(islice(samples, share)):
            images = np.empty((share, 3, self.image_size, self.image_size), dtype=np.uint8)
            taken = pool.map(self._views, [images[p] for p in parts], [chosen[p] for p in parts])
            captions = [caption for part in taken for caption in part]
            yield Batch(
                images=torch.from_numpy(images),
                sentences=torch.from_numpy(
                    np.stack([s[0].sentences[n] for s, n in zip(chosen, captions, strict=True)])
                ),
                image_keys=torch.tensor([rows.image_keys[row] for rows, row, _ in chosen]),
                class_keys=torch.tensor([rows.class_keys[row] for rows, row, _ in chosen]),
                captions=tuple(
                    rows.captions[n].as_py()
                    for (rows, _, _), n in zip(chosen, captions, strict=True)
                    if rows.captions is not None
                ),
            )

    def _views(self, places: NDArray[np.uint8], samples: list[Sample]) -> list[int]:
        return [self._view(p, *sample) for p, sample in zip(places, samples, strict=True)]

    def _view(self, place: NDArray[np.uint8], rows: Rows, row: int, epoch: int) -> int:
        """Write a crop of an image, perhaps mirrored, to `place`; return the chosen caption.

        NumPy makes the copy: torch would distribute even so small a copy over threads.
        """
        key = int(rows.image_keys[row]) & 0x7FFFFFFFFFFFFFFF
        rng = np.random.default_rng([self.plan.seed, epoch, key, CROP_AND_FLIP])
        image, size = rows.image(row), self.image_size
        places = image.shape[-1] - size + 1
        top, left = rng.integers(places), rng.integers(places)
        image = image[:, top : top + size, left : left + size]
        place[:] = image[..., ::-1] if rng.random() < 0.5 and self.flip else image
        start, end = rows.starts[row : row + 2]
        return int(start + rng.integers(end - start))

    def _of_memory(self, first_step: int, last_step: int) -> Iterator[Sample]:
        if self._held is None:
            self._held = in_memory.load(self.dataset, self.plan.units, self.columns, self.threads)
        rows, starts = self._held
        for samples in self._windows(first_step, last_step):
            numbers = starts[samples.unit] + samples.row
            for number, epoch in zip(numbers.tolist(), samples.epoch.tolist(), strict=True):
                yield rows, number, epoch

    def _streamed(self, first_step: int, last_step: int) -> Iterator[Sample]:
        """Read each row group once an epoch, in order of first use, and free it after the last."""
        read = by_ray if self.reader == "ray" else by_threads
        windows, ahead = tee(self._windows(first_step, last_step))
        arriving = read(self.dataset, self.columns)(map(self._wanted, ahead))
        for samples in windows:
            units, uses = np.unique(samples.unit, return_counts=True)
            left = dict(zip(units.tolist(), uses.tolist(), strict=True))
            held: dict[int, Rows] = {}
            for epoch, unit, row in zip(
                samples.epoch.tolist(), samples.unit.tolist(), samples.row.tolist(), strict=True
            ):
                while unit not in held:
                    number, rows = next(arriving)
                    held[number] = rows
                yield held[unit], row, epoch
                left[unit] -= 1
                if not left[unit]:
                    del held[unit]

    def _windows(self, first_step: int, last_step: int) -> Iterator[Samples]:
        """Resolve this worker's positions epoch by epoch: each is one pass over the row groups."""
        plan, stop = self.plan, first_step
        while stop < last_step:
            start = stop
            end = (start * plan.batch_size // plan.images + 1) * plan.images
            stop = min(-(-end // plan.batch_size), last_step)
            yield plan.resolve(plan.positions(self.rank, self.world, start, stop))

    def _wanted(self, samples: Samples) -> list[tuple[int, Any]]:
        """List the row groups of a window in the order of first use."""
        units, first = np.unique(samples.unit, return_index=True)
        return [(int(n), self.plan.units[n]) for n in units[np.argsort(first)]]


def prefetch(
    batches: Iterator[Batch], device: torch.device, depth: int = PREFETCHED_BATCHES
) -> Iterator[Batch]:
    """Prepare batches in another thread, ahead of the training.

    Raises:
        Exception: The error of preparing a batch, when that batch is due.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch.pinned() if device.type == "cuda" else batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=10)
