"""The order of training images: complete, repeatable, and the same for any number of workers."""

import numpy as np
import pytest

from pipeline.data.sample_order import RowGroup, SampleOrder

SIZES = (10, 10, 3, 10, 7, 1)  # 41 images: no batch size below divides them


def plan(batch_size: int = 6, seed: int = 0) -> SampleOrder:
    units = [RowGroup("part.parquet", index, rows) for index, rows in enumerate(SIZES)]
    return SampleOrder(units, batch_size, seed)


def ids(plan: SampleOrder, positions: np.ndarray) -> list[tuple[int, int, int]]:
    samples = plan.resolve(positions)
    return list(zip(samples.epoch, samples.unit, samples.row, strict=True))


@pytest.mark.parametrize("batch_size", [1, 2, 6, 37, 48, 64, 100])
def test_each_epoch_holds_every_image_once(batch_size):
    stream = ids(plan(batch_size), np.arange(3 * 41))

    for epoch in range(3):
        seen = stream[epoch * 41 : (epoch + 1) * 41]
        assert {e for e, _, _ in seen} == {epoch}
        everything = {(unit, row) for unit, rows in enumerate(SIZES) for row in range(rows)}
        assert {(unit, row) for _, unit, row in seen} == everything


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_workers_together_see_what_one_worker_sees(world):
    alone = plan().positions(0, 1, 4, 30).reshape(26, 6)

    shares = [plan().positions(rank, world, 4, 30).reshape(26, -1) for rank in range(world)]

    assert np.array_equal(np.concatenate(shares, axis=1), alone)


def test_starting_late_gives_the_tail_of_the_same_stream():
    whole = ids(plan(), plan().positions(1, 2, 0, 40))

    assert ids(plan(), plan().positions(1, 2, 17, 40)) == whole[17 * 3 :]


def test_order_depends_on_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        return [(u, r) for _, u, r in ids(plan(seed=seed), np.arange(41) + 41 * epoch)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_a_batch_mixes_row_groups():
    units = [RowGroup("part.parquet", index, 100) for index in range(32)]
    mixed = SampleOrder(units, batch_size=32, seed=0)

    samples = mixed.resolve(np.arange(32))

    assert len(set(samples.unit.tolist())) >= 31


def test_a_worker_reads_its_share_of_the_row_groups():
    units = [RowGroup("part.parquet", index, 100) for index in range(64)]
    shared = SampleOrder(units, batch_size=32, seed=0)

    read = [
        set(shared.resolve(shared.positions(rank, 4, 0, 200)).unit.tolist()) for rank in range(4)
    ]

    assert set.union(*read) == set(range(64))
    assert sum(map(len, read)) <= 64 + 4, "hardly a row group is read by two workers"
