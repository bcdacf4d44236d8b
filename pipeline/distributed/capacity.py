"""Find out how many workers a cluster has capacity for, by reserving it.

Ray's view of a cluster is delayed: a killed node counts for some more seconds, and ending workers
still hold their resources. So that view is only a first check, and the reservation decides.
"""

import logging
import time
from collections.abc import Callable

from pipeline.common.console import print_line
from pipeline.common.periodic_thread import PeriodicThread
from pipeline.distributed.worker_count import READER, WorkerRange
from pipeline.ray_cluster.connection import obtainable

logger = logging.getLogger(__name__)

RESERVE_S = 3.0  # if there is capacity, a reservation takes a moment
COMING_S = 30.0  # if nodes must be added first: a waiting reservation triggers the autoscaler
SETTLE_S = 15.0  # until ending workers are gone and a killed node is noticed
LOOK_EVERY_S = 5.0


def wait_for_room(crew: WorkerRange, patience_s: float, stopped: Callable[[], bool]) -> int | None:
    """Wait for capacity, and return the largest number of workers that the cluster can hold.

    Args:
        crew: The numbers to choose from.
        patience_s: Seconds to wait.
        stopped: Returns whether to stop waiting.

    Returns:
        The number; None if `stopped` returned true.

    Raises:
        ValueError: If there is no capacity for the smallest number in that time.
    """
    if crew.sizes == (0,):
        return 0
    import ray

    started, told = time.monotonic(), False
    while not stopped():
        waited_s = time.monotonic() - started
        now, most = ray.cluster_resources(), _obtainable()
        hopeful = [size for size in crew.sizes if _holds(most, crew.needs(size))]
        for size in hopeful if waited_s > SETTLE_S else hopeful[:1]:
            patient = len(crew.sizes) == 1 and not _holds(now, crew.needs(size))
            if _reserved([crew.worker] * size + [READER], COMING_S if patient else RESERVE_S):
                return size
        missing = _missing(crew, now)
        if waited_s > patience_s:
            raise ValueError(
                f"no capacity for {crew.sizes[-1]} workers in {patience_s:.0f} s: {missing}. "
                "Committed checkpoints are kept: the same command resumes from the last one when "
                "there is capacity. With --min-workers 1 a run continues with fewer workers; "
                "--wait-for-room-s waits longer."
            )
        if not told and waited_s > RESERVE_S:
            told = True
            print_line(
                f"waiting up to {patience_s:.0f} s for capacity for {crew.sizes[-1]} workers: "
                f"{missing}"
            )
        time.sleep(1)
    return None


def _holds(resources: dict[str, float], needs: dict[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in needs.items())


def _missing(crew: WorkerRange, whole: dict[str, float]) -> str:
    needs = crew.needs(crew.sizes[-1])
    found = " and ".join(f"{whole.get(name, 0):g} {name}s" for name in needs)
    wanted = " and ".join(f"{amount:g} {name}s" for name, amount in needs.items())
    use = ", some of them in use" if _holds(whole, needs) else ""
    return f"the cluster has {found}{use}, and {wanted} are needed, one CPU of them to read data"


def _obtainable() -> dict[str, float]:
    return {name: obtainable(name) for name in ("CPU", "GPU")}


def _reserved(bundles: list[dict[str, float]], within_s: float) -> bool:
    """Return whether resources can be reserved; releases them again."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group(bundles, strategy="PACK")
    try:
        return bool(group.wait(within_s))
    finally:
        remove_placement_group(group)


class GrowthWatch(PeriodicThread):
    """Watches for capacity for more workers than are running.

    Args:
        crew: The numbers to choose from.
        size: Number of running workers.
        on_room: Called once when there is capacity; again only if it fails.

    Attributes:
        found: The larger number after `on_room` was called; 0 before.
    """

    def __init__(self, crew: WorkerRange, size: int, on_room: Callable[[], None]) -> None:
        self.crew, self.size, self.on_room, self.found = crew, size, on_room, 0
        self.larger = [n for n in crew.sizes if n > size]
        self._seen = 0
        super().__init__(
            "growth-watch", LOOK_EVERY_S, active=bool(self.larger), join_s=2 * RESERVE_S
        )

    def look(self) -> bool:
        """Check the cluster; return whether to check again."""
        try:
            found = self._room()
            # Twice, because new capacity may vanish at once, and a restart takes time.
            if found and self._seen and not self.over.is_set():
                self.on_room()
                self.found = found
                print_line(
                    f"capacity for {found} workers: they continue from a checkpoint of this step"
                )
                return False
            self._seen = found
        except Exception as error:  # the cluster or the bucket does not answer: checked again
            logger.debug("the cluster cannot be checked: %s", error)
        return True

    def _room(self) -> int:
        """Return the largest number of workers with capacity beside the running ones, or 0."""
        import ray

        now, free, most = ray.cluster_resources(), ray.available_resources(), _obtainable()
        for size in self.larger:
            more, needs = size - self.size, self.crew.needs(size)
            in_use = _holds(now, needs) and not _holds(free, self.crew.needs(more))
            if not _holds(most, needs) or in_use:
                continue
            if _reserved([self.crew.worker] * more + [READER], RESERVE_S):
                return size
        return 0
