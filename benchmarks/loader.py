"""What bringing images to a training costs: ours against a torch DataLoader and plain threads.

    python benchmarks/loader.py            last line JSON
    python benchmarks/loader.py --quick    fewer images

All read the same shards, decode with the same decoder, crop, mirror, and bring uint8 batches with
one sentence vector for each image; nothing is trained. In turns, in one run, on the same cores.

    stream      ours: the plan's order, row groups read and decoded by threads of the worker
    ray         the same, read and decoded by Ray Data's workers
    resident    ours, from memory
    dataloader  torch's, with a process for each core
    threads     pyarrow and a pool of threads, shard after shard: no order, no resume
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.prepare import write_originals
from benchmarks.processes import cpu_seconds
from pipeline.common.machine import usable_cpus
from pipeline.config import ReaderName
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import BatchReader, prefetch
from pipeline.data.rows import decode
from pipeline.data.sample_order import SampleOrder
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.sources.coco import CocoSource
from pipeline.ray_cluster.connection import connect

IMAGE_SIZE = 256
STORED_SIZE = 304  # as preparation keeps them
BATCH = 48
Pair = tuple[Tensor, Tensor]


def main() -> None:
    """Run, print the table, then one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="600 images, 2 rounds")
    options = parser.parse_args()
    images, rounds = (600, 2) if options.quick else (options.images, options.rounds)
    cpus = usable_cpus()
    connect(cpus=1)
    with tempfile.TemporaryDirectory(prefix="ratgan-loader-") as folder:
        dataset = _prepared(Path(folder), images)
        passes = _passes(dataset, cpus)
        rates: dict[str, list[float]] = {name: [] for name in passes}
        work: dict[str, list[float]] = {name: [] for name in passes}
        for number in range(rounds + 1):
            for name, each in passes.items():
                rate, cpu = _time(each)
                if number:  # the first pass starts processes and fills memory
                    rates[name].append(rate)
                    work[name].append(cpu)
    _print(rates, work)
    ratio = _ratios(rates)
    print(
        json.dumps(
            {
                "stream_vs_dataloader": ratio("stream", "dataloader"),
                "resident_vs_dataloader": ratio("resident", "dataloader"),
                "stream_vs_threads": ratio("stream", "threads"),
                "ray_vs_dataloader": ratio("ray", "dataloader"),
                "images_per_s": {name: round(statistics.median(r)) for name, r in rates.items()},
                "cpus": cpus,
            }
        )
    )


def _prepared(root: Path, count: int) -> PreparedDataset:
    write_originals(root / "originals", count, width=640)
    prepare(
        PrepareConfig(
            source=CocoSource(root=str(root / "originals")),
            output=str(root / "prepared"),
            image_size=IMAGE_SIZE,
        )
    )
    return PreparedDataset(str(root / "prepared"))


def _passes(dataset: PreparedDataset, cpus: int) -> dict[str, Callable[[], Iterator[Pair]]]:
    """Return what makes one pass over the training images, for each way."""
    plan = SampleOrder(dataset.units("train"), BATCH, seed=0)
    steps = plan.images // BATCH
    epochs = {name: itertools.count() for name in ("stream", "ray", "resident")}

    def ours(name: str, reader: ReaderName) -> Callable[[], Iterator[Pair]]:
        batches = BatchReader(
            dataset,
            plan,
            rank=0,
            world=1,
            image_size=IMAGE_SIZE,
            flip=True,
            threads=cpus,
            reader=reader,
        )

        def one_pass() -> Iterator[Pair]:
            first = next(epochs[name]) * steps
            coming = prefetch(batches.batches(first, first + steps), torch.device("cpu"))
            return ((batch.images, batch.sentences) for batch in coming)

        return one_pass

    files = [f"{dataset.folder}/{shard.file}" for shard in dataset.manifest.splits["train"]]
    dim = dataset.manifest.encoder.dim
    loader = DataLoader(
        Shards(files, dim),
        batch_size=BATCH,
        num_workers=cpus,
        persistent_workers=True,
        drop_last=True,
        multiprocessing_context="spawn",
    )
    return {
        "stream": ours("stream", "threads"),
        "ray": ours("ray", "ray"),
        "resident": ours("resident", "resident"),
        "dataloader": lambda: iter(loader),
        "threads": lambda: _plain_threads(files, dim, cpus),
    }


class Shards(IterableDataset[Pair]):
    """Images of parquet shards, a share of the row groups for each process.

    Args:
        files: Shards.
        dim: Of a sentence vector.
    """

    def __init__(self, files: list[str], dim: int) -> None:
        self.files, self.dim = files, dim

    def __iter__(self) -> Iterator[Pair]:
        """Yield this process's share in a random order of row groups."""
        torch.set_num_threads(1)
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        groups = _row_groups(self.files)[number::count]
        random.shuffle(groups)
        for file, group in groups:
            table = pq.ParquetFile(file).read_row_group(group, columns=["image", "sentences"])
            vectors = table["sentences"].to_pylist()
            for content, captions in zip(table["image"].to_pylist(), vectors, strict=True):
                yield _augmented(content), _sentence(captions, self.dim)


def _plain_threads(files: list[str], dim: int, threads: int) -> Iterator[Pair]:
    def example(row: tuple[bytes, list[float]]) -> Pair:
        return _augmented(row[0]), _sentence(row[1], dim)

    with ThreadPoolExecutor(threads) as pool:
        waiting: list[tuple[bytes, list[float]]] = []
        for file, group in _row_groups(files):
            table = pq.ParquetFile(file).read_row_group(group, columns=["image", "sentences"])
            waiting += zip(table["image"].to_pylist(), table["sentences"].to_pylist(), strict=True)
            while len(waiting) >= BATCH:
                images, sentences = zip(*pool.map(example, waiting[:BATCH]), strict=True)
                del waiting[:BATCH]
                yield torch.stack(images), torch.stack(sentences)


def _row_groups(files: list[str]) -> list[tuple[str, int]]:
    return [(f, group) for f in files for group in range(pq.ParquetFile(f).num_row_groups)]


def _augmented(content: bytes) -> Tensor:
    image = decode(content, STORED_SIZE)
    room = image.shape[-1] - IMAGE_SIZE
    top, left = random.randint(0, room), random.randint(0, room)
    image = image[:, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    return image.flip(-1) if random.random() < 0.5 else image.contiguous()


def _sentence(captions: list[float], dim: int) -> Tensor:
    choice = random.randrange(len(captions) // dim) * dim
    return torch.tensor(captions[choice : choice + dim])


def _time(start: Callable[[], Iterator[Pair]]) -> tuple[float, float]:
    """Start a pass and take all its batches; return images a second, CPU seconds per 1,000."""
    started, cpu, count = time.perf_counter(), cpu_seconds(), 0
    for images, _ in start():
        count += len(images)
    return count / (time.perf_counter() - started), 1000 * (cpu_seconds() - cpu) / count


def _ratios(rates: dict[str, list[float]]) -> Callable[[str, str], float]:
    def ratio(ours: str, theirs: str) -> float:
        pairs = zip(rates[ours], rates[theirs], strict=True)
        return round(float(np.median([mine / other for mine, other in pairs])), 2)

    return ratio


def _print(rates: dict[str, list[float]], work: dict[str, list[float]]) -> None:
    print(f"{'':12}{'images/s: median (range)':>32}{'CPU s per 1,000':>18}")
    for name, values in rates.items():
        spread = f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"
        print(f"{name:12}{spread:>32}{statistics.median(work[name]):>18.2f}")


if __name__ == "__main__":
    main()
