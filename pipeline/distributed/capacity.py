"""Find out how many workers a cluster has capacity for, by reserving it.

What Ray says of a cluster lags behind: a node that was killed is counted for some seconds more, and
workers on their way out still hold their places. So what it says is only a first look, and what
counts is whether the places can be had now.
"""

import logging
import time
from collections.abc import Callable

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from pipeline.common.console import print_line
from pipeline.common.periodic_thread import PeriodicThread
from pipeline.distributed.worker_count import READER, WorkerRange
from pipeline.ray_cluster.connection import obtainable

logger = logging.getLogger(__name__)

RESERVE_S = 3.0  # where there is room, a place is had in a moment
COMING_S = 30.0  # where nodes have to come first: what waits for a place is what calls them
SETTLE_S = 15.0  # for those who leave; a node that was killed is noticed within that
LOOK_EVERY_S = 5.0


def wait_for_room(crew: WorkerRange, patience_s: float, stopped: Callable[[], bool]) -> int | None:
    """Return the largest number of workers there is room for, as soon as there is.

    Args:
        crew: The numbers to choose from.
        patience_s: Seconds to wait.
        stopped: Whether to give up.

    Returns:
        The number; None if it was told to give up.

    Raises:
        ValueError: If there is no room for the least of them in that time.
    """
    if crew.sizes == (0,):
        return 0
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
                f"there was no room for {crew.sizes[-1]} workers in {patience_s:.0f} s: {missing}. "
                "Nothing that was committed is lost: the same command goes on from the last "
                "checkpoint when there is room. With --min-workers 1 a run goes on with what there "
                "is; --wait-for-room-s waits longer."
            )
        if not told and waited_s > RESERVE_S:
            told = True
            print_line(
                f"waiting up to {patience_s:.0f} s for room for {crew.sizes[-1]} workers: {missing}"
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
    """Tell whether places can be had, by taking them and giving them back."""
    group = placement_group(bundles, strategy="PACK")
    try:
        return bool(group.wait(within_s))
    finally:
        remove_placement_group(group)


class GrowthWatch(PeriodicThread):
    """Watches for room for more workers than are at work.

    Args:
        crew: The numbers to choose from.
        size: How many are at work.
        on_room: Called when there is; once, unless it fails.

    Attributes:
        found: For how many there is room, if for more and that was told.
    """

    def __init__(self, crew: WorkerRange, size: int, on_room: Callable[[], None]) -> None:
        self.crew, self.size, self.on_room, self.found = crew, size, on_room, 0
        self.larger = [n for n in crew.sizes if n > size]
        self._seen = 0
        super().__init__(
            "growth-watch", LOOK_EVERY_S, active=bool(self.larger), join_s=2 * RESERVE_S
        )

    def look(self) -> bool:
        """Look at the cluster; return whether there is no room yet."""
        try:
            found = self._room()
            # Twice, since what comes may go at once, and starting again takes a while.
            if found and self._seen and not self.over.is_set():
                self.on_room()
                self.found = found
                print_line(
                    f"room for {found} workers: a checkpoint is saved, and they go on from it"
                )
                return False
            self._seen = found
        except Exception as error:  # the cluster or the bucket is away: looked at again
            logger.debug("no look at the cluster: %s", error)
        return True

    def _room(self) -> int:
        """Return the largest number there is room for beside those at work, or 0."""
        now, free, most = ray.cluster_resources(), ray.available_resources(), _obtainable()
        for size in self.larger:
            more, needs = size - self.size, self.crew.needs(size)
            in_use = _holds(now, needs) and not _holds(free, self.crew.needs(more))
            if not _holds(most, needs) or in_use:
                continue
            if _reserved([self.crew.worker] * more + [READER], RESERVE_S):
                return size
        return 0
