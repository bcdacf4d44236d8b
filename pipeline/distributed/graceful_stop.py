"""Graceful stop on SIGTERM and SIGINT: training ends at the next step with a checkpoint.

`ray job stop` and schedulers send SIGTERM to the process that started the job, not to its workers,
and Ctrl-C is SIGINT, which Ray's workers do not hear. So that process writes the request down in
the run's folder, where worker 0 looks for it; all workers then leave at the same step. A second
signal stops at once.
"""

import contextlib
import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Self

from pipeline.common.console import print_line
from pipeline.common.periodic_thread import PeriodicThread
from pipeline.storage.folder import Folder

logger = logging.getLogger(__name__)

REQUEST = "stop.json"  # in the run's folder
LOOK_EVERY_S = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(SystemExit):
    """Training was asked to stop, and did: what is there can be gone on with.

    Args:
        number: Of the signal that asked; the exit status says it, as shells have it.
        step: Of the checkpoint that was saved.
    """

    def __init__(self, number: int = signal.SIGTERM, step: int = 0) -> None:
        super().__init__(128 + number)
        self.step = step


class StopRequests:
    """Takes signals in the process that started a job and hands them to its workers.

    Attributes:
        token: Of this start; a request that an earlier start left means nothing to this one.
        asked: Whether a stop was asked for.
        number: Of the signal that asked.
        trained: Set when no worker is at work any more: then a signal stops at once.
    """

    def __init__(self, run: Folder) -> None:
        self.run = run
        self.token = uuid.uuid4().hex
        self.asked, self.number = False, int(signal.SIGTERM)
        self.trained = False

    @contextlib.contextmanager
    def taken(self) -> Iterator[Self]:
        """Take the signals; they are as before afterwards. Only the main thread can take them."""
        if threading.current_thread() is not threading.main_thread():
            try:
                yield self
            finally:
                if self.asked:
                    self.run.delete(REQUEST)
            return
        self.run.delete(REQUEST)  # of a start that was killed
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # who started this process wants it to go on
                signal.signal(number, self._take)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self.asked:
                self.run.delete(REQUEST)

    def request(self) -> None:
        """Ask for a stop as the signal does, from any thread of this process."""
        self.asked = True
        self.tell_workers()

    def tell_workers(self) -> None:
        """Ask the workers to save the step at hand and stop."""
        self.run.write_json(REQUEST, {"start": self.token})

    def withdraw_stop(self) -> None:
        """Take that back, once they have stopped, unless the user asked for it too."""
        self.run.delete(REQUEST)
        if self.asked:
            self.tell_workers()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked or self.trained:
            raise KeyboardInterrupt
        self.asked, self.number = True, number
        # Not here, between any two instructions of the main thread: it may hold a lock we need.
        threading.Thread(target=self._write, name="stop-request", daemon=True).start()

    def _write(self) -> None:
        print_line(
            "asked to stop: a checkpoint is saved at the next step. Again, and it stops at once."
        )
        told = False
        while True:
            try:
                self.tell_workers()
                return
            except Exception as error:  # a full disk, a bucket that is away: they must hear of it
                if not told:
                    print_line(f"the workers do not know yet, and are told again: {error}")
                told = True
                time.sleep(LOOK_EVERY_S)


class StopWatch(PeriodicThread):
    """Watches for a request to stop.

    Args:
        run: Folder of the run.
        token: Of the start that this worker belongs to.
        looks: Only one worker needs to; the others hear of it from that one.
        notice: Says what else is a reason to stop, for now; empty while nothing is.
        every_s: Seconds between two looks.

    Attributes:
        asked: Whether a stop was asked for, or there is another reason.
        reason: Why, or empty.
    """

    def __init__(
        self,
        run: Folder,
        token: str,
        *,
        looks: bool = True,
        notice: Callable[[], str] = str,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        super().__init__("stop-watch", every_s, active=looks)
        self.run, self.token, self.notice = run, token, notice
        self.asked, self.reason = False, ""

    def look(self) -> bool:
        """Look at the notice and for the request; return whether there is neither."""
        if reason := self.notice():
            self.reason, self.asked = reason, True
            return False
        try:
            if self.run.exists(REQUEST):
                mine = self.run.read_json(REQUEST).get("start") == self.token
                self.reason, self.asked = "asked to stop" if mine else "", mine
        except (OSError, ValueError) as error:  # looked at again soon
            logger.debug("no look at %s/%s: %s", self.run, REQUEST, error)
        return not self.asked
