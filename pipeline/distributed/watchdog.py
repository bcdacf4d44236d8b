"""Detect a worker that hangs: a thread measures how long the current step has been running.

Only steps are watched: taking a batch, computing, waiting for the other workers. Work between steps
(saving, generating samples, rolling back) has no limit. While rank 0 does it alone, the others wait
in their next step, so that step is not watched either.

A worker that hangs cannot always report it, because its process may be stopped. So each worker
watches itself. The workers that wait for the hanging one detect that their own step is too long,
write the stacks of their threads into the run's folder, and end. From these reports the driver
finds which worker hung, and restarts the training.
"""

import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.common.console import print_line
from pipeline.common.periodic_thread import PeriodicThread
from pipeline.common.screen import say
from pipeline.distributed import collective, hang_report
from pipeline.storage.folder import Folder

TIMES = 10  # the usual step
WARM_UP = 3  # steps: they compile, fill caches, start the stream of batches
REMEMBERED = 50  # steps of which the median is the usual duration
TICK_S = 1.0
WRITING_S = 10.0  # limit for writing the stacks: the storage itself may hang
OTHERS_S = 3.0  # time for the others to write theirs: Ray ends all workers when one is missing
HUNG = 75  # exit status; EX_TEMPFAIL of sysexits.h: try again


class Watchdog(PeriodicThread):
    """Ends this process if a step of it does not end.

    Args:
        least_s: Steps of up to so many seconds are never reported; 0 disables the watchdog.
        end: Ends this process.
    """

    def __init__(self, run: Folder, least_s: float, end: Callable[[], None] | None = None) -> None:
        super().__init__("watchdog", min(TICK_S, least_s / 4), active=bool(least_s))
        self.run, self.least_s = run, least_s
        self._end_process = end or _end_process
        self._ticks = 0
        self._taken_s: deque[float] = deque(maxlen=REMEMBERED)  # durations of the last steps
        self._current: tuple[int, int, int] | None = None  # step, tick at its start, thread

    @contextmanager
    def step(self, step: int, *, patient: bool = False) -> Iterator[None]:
        """Watch the step inside ``with``.

        Args:
            step: Steps done before it.
            patient: Do not watch this step: rank 0 may still do something else.
        """
        started = time.monotonic()
        if not patient and len(self._taken_s) >= WARM_UP:
            self._current = (step, self._ticks, threading.get_ident())
        try:
            yield
        finally:
            self._current = None
        if not patient:
            self._taken_s.append(time.monotonic() - started)

    def warm_up(self) -> None:
        """Forget earlier steps: the next ones start another stream of batches."""
        self._taken_s.clear()

    def look(self) -> bool:
        """Compare the duration of this step so far with the usual one."""
        # Count ticks instead of reading a clock: a stopped process, a suspended machine and a busy
        # machine do not hang.
        self._ticks += 1
        current, taken_s = self._current, self._taken_s.copy()
        if current is None or not taken_s:
            return True
        waited_s = (self._ticks - current[1]) * self.every_s
        usual_s = statistics.median(taken_s)
        if waited_s <= max(self.least_s, TIMES * usual_s):
            return True
        self._tell(current, waited_s, usual_s)
        self.over.wait(OTHERS_S)
        if self._current != current:
            return True
        self._end_process()
        return False

    def _tell(self, current: tuple[int, int, int], waited_s: float, usual_s: float) -> None:
        """Log the hang, and write the stacks."""
        step, _, thread = current
        place, for_others = hang_report.where(thread)
        hang = hang_report.Hang(
            collective.rank(), collective.world(), step, waited_s, place, for_others
        )
        doing = "waits for other workers" if for_others else f"is in {place}"
        print_line(
            f"worker {hang.worker} {doing}: step {step:,} has been running for {waited_s:.0f} s, "
            f"usual are {usual_s:.1f} s. The worker ends; the stacks of its threads are in "
            f"{self.run}/{hang_report.HANGS}"
        )
        leaving = threading.Thread(
            target=hang_report.leave,
            args=(self.run, hang, hang_report.stacks()),
            name="stacks",
            daemon=True,
        )
        leaving.start()
        leaving.join(WRITING_S)


def _end_process() -> None:
    """End at once, as if killed: checkpoints are complete, and waiting for threads could hang."""
    say("")
    os._exit(HUNG)
