"""Stream row groups to a training worker, by its own threads or by the cluster's CPUs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa

from pipeline.data.dataset import PreparedDataset, read_row_group
from pipeline.data.rows import Rows, decoded
from pipeline.data.sample_order import RowGroup

READ_AT_ONCE = 4  # row groups: storage has latency, but serves many requests at a time
READ_AHEAD = 8  # row groups ahead of those in use
PREFETCHED_BLOCKS = 2

# Takes windows of numbered row groups, and yields their rows one after another.
Windows = Iterable[Sequence[tuple[int, RowGroup]]]
Reader = Callable[[Windows], Iterator[tuple[int, Rows]]]


def by_threads(dataset: PreparedDataset, columns: list[str]) -> Reader:
    """Read row groups in this process, some of them ahead, across windows."""
    dim, side = dataset.manifest.encoder.dim, dataset.manifest.cache_size

    def read(unit: RowGroup) -> Rows:
        return Rows.of(dataset.read(unit, columns), dim, side)

    def bring(windows: Windows) -> Iterator[tuple[int, Rows]]:
        waiting: deque[tuple[int, Future[Rows]]] = deque()
        with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="read") as pool:
            try:
                for number, unit in (each for window in windows for each in window):
                    waiting.append((number, pool.submit(read, unit)))
                    if len(waiting) > READ_AHEAD:
                        yield _first(waiting)
                while waiting:
                    yield _first(waiting)
            finally:
                pool.shutdown(cancel_futures=True)

    return bring


def _first(waiting: deque[tuple[int, Future[Rows]]]) -> tuple[int, Rows]:
    number, rows = waiting.popleft()
    return number, rows.result()


def by_ray(dataset: PreparedDataset, columns: list[str]) -> Reader:
    """Read and decode row groups with Ray Data, on any CPUs of the cluster."""
    import ray

    folder, manifest = dataset.folder, dataset.manifest
    dim, side = manifest.encoder.dim, manifest.cache_size

    def read(block: pa.Table) -> pa.Table:
        item = block.to_pylist()[0]
        number = item.pop("number")
        table = decoded(read_row_group(folder, RowGroup(**item), columns), side)
        return table.append_column("unit", pa.array([number] * len(table)))

    def bring(windows: Windows) -> Iterator[tuple[int, Rows]]:
        for window in windows:  # one execution of Ray Data for each, a pass over an epoch
            items = [{"number": number, **asdict(unit)} for number, unit in window]
            work = ray.data.from_items(items, override_num_blocks=len(items))
            blocks = work.map_batches(read, batch_size=None, batch_format="pyarrow").iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=PREFETCHED_BLOCKS
            )
            for block in blocks:
                yield block["unit"][0].as_py(), Rows.of(block, dim, side)

    return bring
