"""A prepared dataset to batches: Ray Data reads row groups in the plan's order, threads decode.

Dimensions in this file:
    b images of one worker's share of a batch, R raw and S transformed sentence size,
    H W height and width.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.manifest import read_manifest, read_transform
from pipeline.plan import Plan, Unit
from pipeline.row_groups import MEND, read_row_group
from pipeline.storage import Folder

HOLD_ROWS = 4096  # a split of at most so many rows is held in memory over many epochs
HOLD_EPOCHS = 64
PREFETCHED_BATCHES = 4
LISTERS = 16  # files asked about at once
EXAMPLE_COLUMNS = ["id", "label", "image", "captions", "sentences", "meaning"]
CROP_AND_FLIP = 2  # keeps these draws apart from those of the plan


@dataclass(frozen=True)
class Batch:
    """One worker's share of a batch, on the CPU.

    Attributes:
        images: uint8, cropped and flipped, [b, 3, H, W].
        sentences: Raw vector of one caption of each image, [b, R]. A matrix product may round
            differently for another number of rows, so the transform is left to who holds
            the whole batch.
        image_keys: A number for each image, int64, [b].
        class_keys: A number for each image's class (or image), int64, [b].
        captions: The captions of the sentences, b of them; empty unless asked for.
    """

    images: Tensor
    sentences: Tensor
    image_keys: Tensor
    class_keys: Tensor
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """An image with one of its captions.

    Attributes:
        image: uint8, stored size, [3, H, W].
        caption: Its first caption.
        sentence: Transformed vector of that caption, [S].
        meaning: What the caption says, where that is known.
        class_key: A number for the image's class (or image).
    """

    image: Tensor
    caption: str
    sentence: Tensor
    meaning: dict[str, Any] | None
    class_key: int


class PreparedDataset:
    """A folder that `prepare` wrote.

    Args:
        location: Folder or bucket address.

    Raises:
        ValueError: If it is not a complete prepared dataset.
    """

    def __init__(self, location: str) -> None:
        self.folder = Folder(location)
        self.manifest, self.digest = read_manifest(self.folder)
        self.transform = read_transform(self.folder, self.manifest.transform)

    def verify(self) -> None:
        """Check that the shards are those of the manifest, by their size.

        What is in them is verified by its checksums when it is read.

        Raises:
            ValueError: If one is missing or of another size.
        """
        shards = self.manifest.shards
        with ThreadPoolExecutor(LISTERS) as pool:  # a bucket answers late, but many at a time
            sizes = pool.map(lambda shard: self.folder.size(shard.file), shards)
            for shard, size in zip(shards, sizes, strict=True):
                if size != shard.bytes:
                    raise ValueError(
                        f"{self.folder}/{shard.file} "
                        + ("is missing" if size is None else f"has {size:,} bytes")
                        + f", and the manifest says {shard.bytes:,} bytes. {MEND}"
                    )

    def verify_content(self, progress: Callable[[int], None]) -> None:
        """Read every shard and check that it is the manifest's, by its sha256.

        Args:
            progress: Told of each shard.

        Raises:
            ValueError: If one is not.
        """
        for shard in self.manifest.shards:
            if hashlib.sha256(self.folder.read(shard.file)).hexdigest() != shard.sha256:
                raise ValueError(f"{self.folder}/{shard.file} was changed. {MEND}")
            progress(1)

    def encoder_file(self) -> bytes | None:
        """Read the text encoder that the dataset keeps a copy of, if it does.

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

    def units(self, split: str) -> list[Unit]:
        """List the row groups of a split."""
        return [
            Unit(shard.file, index, rows)
            for shard in self.manifest.splits.get(split, ())
            for index, rows in enumerate(shard.row_groups)
        ]

    def examples(self, split: str, count: int | None = None) -> list[Example]:
        """Read the first images of a split, in the order they are stored, or all of them."""
        return list(islice(self.each(split), count))

    def each(self, split: str) -> Iterator[Example]:
        """Read the images of a split one after another, in the order they are stored."""
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

    def _example(self, row: dict[str, Any]) -> Example:
        raw = torch.tensor(row["sentences"]).view(len(row["captions"]), -1)[:1]
        return Example(
            image=_decode(row["image"]),
            caption=row["captions"][0],
            sentence=self.transform(raw)[0],
            meaning=json.loads(row["meaning"]) if row["meaning"] else None,
            class_key=_class_key(row["label"], _key(row["id"])),
        )

    def read(self, unit: Unit, columns: list[str]) -> pa.Table:
        """Read columns of a row group; raises as `read_row_group` does."""
        return read_row_group(self.folder, unit, columns)

    def captions(self, split: str) -> Iterator[str]:
        """Read every caption of a split, in the order they are stored, and no image."""
        for unit in self.units(split):
            for texts in read_row_group(self.folder, unit, ["captions"])["captions"].to_pylist():
                yield from texts

    def batches(
        self,
        plan: Plan,
        *,
        rank: int,
        world: int,
        first_step: int,
        last_step: int,
        image_size: int,
        flip: bool,
        threads: int,
        captions: bool = False,
    ) -> Iterator[Batch]:
        """Stream a worker's share of the training batches.

        Caption, crop and mirroring of an image are a function of (seed, epoch, image).

        Args:
            plan: The order.
            rank: Of this worker.
            world: Number of workers.
            first_step: First step.
            last_step: Step to stop before.
            image_size: Crop to this many pixels.
            flip: Mirror half of the images.
            threads: Threads that decode.
            captions: Bring the texts along.
        """
        # A small split is read once for many epochs, a large one streams: one pass, one execution.
        # A window ends where an epoch does, or row groups of two epochs would be held at once.
        epochs = HOLD_EPOCHS if plan.images <= HOLD_ROWS else 1
        stop = first_step
        with ThreadPoolExecutor(threads) as pool:
            while stop < last_step:
                start = stop
                end = (start * plan.batch_size // plan.images + epochs) * plan.images
                stop = min(-(-end // plan.batch_size), last_step)
                positions = plan.positions(rank, world, start, stop)
                samples = zip(
                    plan.resolve(positions).epoch,
                    self._rows(plan, positions, captions),
                    strict=True,
                )

                def prepare(sample: tuple[Any, dict[str, Any]]) -> tuple[Tensor, int]:
                    return self._augment(sample[1], int(sample[0]), plan.seed, image_size, flip)

                share = plan.batch_size // world
                for _ in range(start, stop):
                    rows = [next(samples) for _ in range(share)]
                    yield self._collate(list(pool.map(prepare, rows)), rows)

    def _rows(self, plan: Plan, positions: np.ndarray, captions: bool) -> Iterator[dict[str, Any]]:
        """Yield the stored rows of stream positions in their order.

        Each row group is read once, in the order of first use, and let go after its last.
        """
        samples = plan.resolve(positions)
        units, first, uses = np.unique(samples.unit, return_index=True, return_counts=True)
        order = np.argsort(first)
        left = dict(zip(units.tolist(), uses.tolist(), strict=True))
        arriving = self._stream(plan, [int(units[i]) for i in order], captions)
        held: dict[int, pa.Table] = {}
        for unit, row in zip(samples.unit.tolist(), samples.row.tolist(), strict=True):
            while unit not in held:
                number, table = next(arriving)
                held[number] = table
            table = held[unit]
            yield {name: table[name][row] for name in table.column_names}
            left[unit] -= 1
            if not left[unit]:
                del held[unit]

    def _stream(
        self, plan: Plan, units: list[int], captions: bool
    ) -> Iterator[tuple[int, pa.Table]]:
        """Read row groups with Ray Data, in this order."""
        folder, dim = self.folder, self.manifest.encoder.dim
        columns = ["id", "label", "image", "sentences", *(["captions"] if captions else [])]

        def read(block: pa.Table) -> pa.Table:
            item = block.to_pylist()[0]
            number = item.pop("number")
            table = read_row_group(folder, Unit(**item), columns)
            return _keyed(table, dim).append_column("unit", pa.array([number] * len(table)))

        work = ray.data.from_items(
            [{"number": n, **asdict(plan.units[n])} for n in units], override_num_blocks=len(units)
        )
        blocks = work.map_batches(read, batch_size=None, batch_format="pyarrow").iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=2
        )
        return ((block["unit"][0].as_py(), block) for block in blocks)

    def _augment(
        self, row: dict[str, Any], epoch: int, seed: int, image_size: int, flip: bool
    ) -> tuple[Tensor, int]:
        """Decode, crop and mirror an image, [3, H, W], and choose one of its captions."""
        key = row["image_key"].as_py() & 0x7FFFFFFFFFFFFFFF
        rng = np.random.default_rng([seed, epoch, key, CROP_AND_FLIP])
        image = _decode(row["image"].as_py())
        room = image.shape[-1] - image_size
        top, left = rng.integers(0, room + 1, 2)
        image = image[:, top : top + image_size, left : left + image_size]
        if rng.random() < 0.5 and flip:
            image = image.flip(-1)
        captions = len(row["sentences"].values) // self.manifest.encoder.dim
        return image, int(rng.integers(captions))

    def _collate(self, prepared: list[tuple[Tensor, int]], rows: list[Any]) -> Batch:
        chosen = [(row, choice) for (_, row), (_, choice) in zip(rows, prepared, strict=True)]
        dim = self.manifest.encoder.dim
        vectors = [row["sentences"].values.to_numpy().reshape(-1, dim)[n] for row, n in chosen]
        return Batch(
            images=torch.stack([image for image, _ in prepared]),
            sentences=torch.from_numpy(np.stack(vectors)),
            image_keys=torch.tensor([row["image_key"].as_py() for _, row in rows]),
            class_keys=torch.tensor([row["class_key"].as_py() for _, row in rows]),
            captions=tuple(row["captions"][n].as_py() for row, n in chosen if "captions" in row),
        )


def _keyed(table: pa.Table, dim: int) -> pa.Table:
    """Put numbers that stand for image and class in the place of their names."""
    ids, labels = table["id"].to_pylist(), table["label"].to_pylist()
    images = [_key(name) for name in ids]
    classes = [_class_key(c, k) for c, k in zip(labels, images, strict=True)]
    lengths = pc.list_value_length(table["sentences"]).to_pylist()
    if any(length == 0 or length % dim for length in lengths):
        raise ValueError(f"a shard holds sentence vectors that are not of size {dim}.")
    columns = ("image", "sentences", "captions")
    return pa.table(
        {
            **{name: table[name] for name in columns if name in table.column_names},
            "image_key": pa.array(images, pa.int64()),
            "class_key": pa.array(classes, pa.int64()),
        }
    )


def _class_key(label: str | None, image_key: int) -> int:
    return _key("class " + label) if label else image_key


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def _decode(content: bytes) -> Tensor:
    """Decode a JPEG that preparation wrote, uint8, [3, H, W]."""
    buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return decode_jpeg(buffer, mode=ImageReadMode.RGB)


def prefetch(batches: Iterator[Batch], depth: int = PREFETCHED_BATCHES) -> Iterator[Batch]:
    """Let a thread prepare batches ahead of the one that trains.

    Args:
        batches: Consumed by the thread.
        depth: Batches that may wait.

    Raises:
        Exception: Whatever preparing a batch raised, when its turn comes.
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
                put(batch)
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
