"""How many workers there is room for, on a real Ray."""

import pytest
import ray

from pipeline.config import RunConfig, TrainConfig
from pipeline.distributed import capacity
from pipeline.distributed.capacity import GrowthWatch, wait_for_room
from pipeline.distributed.worker_count import WorkerRange, sizes
from pipeline.training.gan_step import parts_of_share
from tests.waiting import wait_until

PATIENCE_S = 120


def never() -> bool:
    return False


def test_numbers_of_workers_are_those_that_divide_the_batch():
    assert sizes(1, 4, 12) == (4, 3, 2, 1)
    assert sizes(2, 10, 16) == (8, 4, 2)
    assert sizes(1, 1000, 6) == (6, 3, 2, 1)
    with pytest.raises(ValueError, match=r"from 5 to 5 divides .*batch_size=12.*--min-workers"):
        sizes(5, 5, 12)


def test_a_crew_says_how_many_it_may_be():
    assert str(WorkerRange((4, 2, 1))) == "1 to 4 workers"
    assert str(WorkerRange((2,), use_gpu=True)) == "2 workers on GPU"
    assert str(WorkerRange((1,))) == "1 worker"
    assert str(WorkerRange((0,))) == "in this process"


def test_more_workers_to_go_on_with_than_there_may_be_are_refused():
    with pytest.raises(ValueError, match="min_workers=3 is more than workers=2"):
        RunConfig(total_steps=1, workers=2, min_workers=3)


@pytest.mark.parametrize(
    ("changes", "workers", "parts"),
    [
        ({"workers": 4}, 4, 1),
        ({"workers": 4, "min_workers": 1}, 4, 1),
        ({"workers": 4, "min_workers": 1}, 2, 2),
        ({"workers": 4, "min_workers": 1}, 1, 4),
        ({"workers": 4, "min_workers": 1, "optim": {"batch_size": 24, "accumulate": 2}}, 3, 3),
        ({"workers": 2}, 1, 1),  # a number that was changed is meant
        ({"min_workers": 1}, 3, 1),
    ],
)
def test_no_worker_holds_more_images_at_once_when_there_are_fewer(changes, workers, parts):
    config = TrainConfig(**{"total_steps": 1, "optim": {"batch_size": 24}} | changes)

    assert parts_of_share(config, workers) == parts


def test_as_many_workers_start_as_there_is_room_for(ray_session, monkeypatch, capsys):
    monkeypatch.setattr(capacity, "SETTLE_S", 0)
    # What the test before held may still be on its way back.
    monkeypatch.setattr(capacity, "RESERVE_S", PATIENCE_S)

    # The session has 3 CPUs, one of them to read.
    assert wait_for_room(WorkerRange((2,)), PATIENCE_S, never) == 2
    assert wait_for_room(WorkerRange((6, 4, 2, 1)), PATIENCE_S, never) == 2
    assert wait_for_room(WorkerRange((0,)), PATIENCE_S, never) == 0
    assert wait_for_room(WorkerRange((6,)), PATIENCE_S, lambda: True) is None
    with pytest.raises(
        ValueError, match=r"no capacity for 6 workers in 0 s: the cluster has 3 CPU"
    ):
        wait_for_room(WorkerRange((6,)), 0, never)
    with pytest.raises(ValueError, match=r"3 CPUs and 0 GPUs|0 GPUs and 3 CPUs"):
        wait_for_room(WorkerRange((1,), use_gpu=True), 0, never)


def test_room_for_more_workers_is_found_when_it_comes(ray_session, monkeypatch):
    monkeypatch.setattr(capacity, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(capacity, "SETTLE_S", 0)

    @ray.remote(num_cpus=2)
    class Other:
        def ready(self) -> bool:
            return True

    other = Other.remote()
    ray.get(other.ready.remote())
    monkeypatch.setattr(capacity, "RESERVE_S", 0.5)
    with pytest.raises(ValueError, match="has 3 CPUs, some of them in use, and 2 CPUs are needed"):
        wait_for_room(WorkerRange((1,)), 0, never)
    monkeypatch.setattr(capacity, "RESERVE_S", PATIENCE_S)

    found: list[int] = []
    looks: list[int] = []
    look = GrowthWatch._room

    def counted(self: GrowthWatch) -> int:
        looks.append(look(self))
        return looks[-1]

    monkeypatch.setattr(GrowthWatch, "_room", counted)
    wait_until(lambda: ray.available_resources().get("CPU", 0) <= 1, "what is in use is known")
    full = iter([OSError("the disk is full")])

    def on_room() -> None:
        for error in full:  # the first time
            raise error
        found.append(1)

    with GrowthWatch(WorkerRange((2, 1)), 1, on_room) as growth:
        wait_until(lambda: len(looks) >= 5, "looks at a cluster in use")
        assert not any(looks)
        assert not found
        ray.kill(other)
        wait_until(lambda: growth.found, "room for more")

    assert (found, growth.found) == ([1], 2)
    with GrowthWatch(WorkerRange((2, 1)), 2, pytest.fail) as growth:
        assert not growth._thread.is_alive(), "there cannot be more"
