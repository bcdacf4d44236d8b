"""Graceful stop on SIGTERM, SIGINT, SIGHUP: training ends at the next step with a checkpoint.

`ray job stop` and schedulers send SIGTERM to the driver, not to its workers, and Ray's workers do
not receive the SIGINT of Ctrl-C. So the driver writes the request into the run's folder, where rank
0 polls for it; all workers then stop at the same step. A second signal stops at once, but for
SIGHUP: a terminal that closes sends several.
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
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StoppedError(SystemExit):
    """Training stopped on request, and can be resumed.

    Args:
        number: Number of the signal; the exit status is 128 more, as in shells.
        step: Step of the saved checkpoint.
    """

    def __init__(self, number: int = signal.SIGTERM, step: int = 0) -> None:
        super().__init__(128 + number)
        self.step = step


class StopRequests:
    """Handles signals in the driver and passes them on to its workers.

    Attributes:
        token: Id of this start; workers ignore a request of an earlier start.
        asked: Whether a stop was requested.
        number: Number of the signal.
        trained: Set when no worker runs any more: then a signal stops at once.
    """

    def __init__(self, run: Folder) -> None:
        self.run = run
        self.token = uuid.uuid4().hex
        self.asked, self.number = False, int(signal.SIGTERM)
        self.trained = False

    @contextlib.contextmanager
    def taken(self) -> Iterator[Self]:
        """Handle the signals inside ``with``. Only the main thread can do this."""
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
            if handler != signal.SIG_IGN:  # the parent process wants the signal to be ignored
                signal.signal(number, self._take)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self.asked:
                self.run.delete(REQUEST)

    def request(self) -> None:
        """Request a stop like a signal, from any thread of this process."""
        self.asked = True
        self.tell_workers()

    def tell_workers(self) -> None:
        """Request the workers to save a checkpoint of the current step and stop."""
        self.run.write_json(REQUEST, {"start": self.token})

    def withdraw_stop(self) -> None:
        """Withdraw the request after the workers stopped, unless the user requested a stop too."""
        self.run.delete(REQUEST)
        if self.asked:
            self.tell_workers()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)  # of the next ones
            if self.asked:
                return
        if self.asked or self.trained:
            raise KeyboardInterrupt(128 + number)  # its exit status, as in shells
        self.asked, self.number = True, number
        # Not in this handler: it interrupts the main thread, which may hold a lock that we need.
        threading.Thread(target=self._write, name="stop-request", daemon=True).start()

    def _write(self) -> None:
        print_line(
            "stop requested: a checkpoint is saved at the next step. A second signal stops at once."
        )
        told = False
        while True:
            try:
                self.tell_workers()
                return
            except Exception as error:  # a full disk, a bucket without an answer: retried
                if not told:
                    print_line(f"the stop request cannot be written, and is retried: {error}")
                told = True
                time.sleep(LOOK_EVERY_S)


class StopWatch(PeriodicThread):
    """Polls for a stop request in a worker.

    Args:
        token: Id of the start that this worker belongs to.
        looks: Whether this worker polls; rank 0 does, and informs the others.
        notice: Returns another reason to stop, or "".
        every_s: Seconds between two checks.

    Attributes:
        asked: Whether a stop was requested, or there is another reason.
        reason: The reason, or "".
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
        """Check the notice and the request; return whether there is neither."""
        if reason := self.notice():
            self.reason, self.asked = reason, True
            return False
        try:
            if self.run.exists(REQUEST):
                mine = self.run.read_json(REQUEST).get("start") == self.token
                self.reason, self.asked = "stop requested" if mine else "", mine
        except (OSError, ValueError) as error:  # checked again soon
            logger.debug("%s/%s cannot be checked: %s", self.run, REQUEST, error)
        return not self.asked
