"""Asynchronous checkpoints: a step waits for a copy to host memory, a thread writes the files.

One save is in flight at a time. The training hears of what went wrong at its next step; where a
disk is full, only the third time in a row, or at the end.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from pipeline.checkpoint.host_copy import Groups, HostCopy, refuse_not_finite, size
from pipeline.checkpoint.store import Score, commit
from pipeline.common.console import print_line
from pipeline.storage.disk_space import DiskFullError
from pipeline.storage.folder import Folder

# Makes the files of a checkpoint, one after another, of tensors on the CPU and the state.
Pack = Callable[[Groups, dict[str, Any]], Iterable[tuple[str, bytes]]]

logger = logging.getLogger(__name__)

DISK_FULL_TRIES = 3
SAY_EVERY_S = 60.0  # while a save is waited for


class Saver:
    """Writes the checkpoints of a run.

    Beside the networks it holds one copy of all that is saved in host memory, and while it
    writes the largest file twice.

    Args:
        root: Folder of the run's checkpoints.
        keep: Newest checkpoints to keep, at least 2.
        background: Write in a thread; otherwise `save` returns when all is written.
        before: Called before each save is written, in its thread; what it raises, the save meets.
    """

    def __init__(
        self,
        root: Folder,
        *,
        keep: int,
        background: bool = True,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.root, self.keep, self.background, self.before = root, keep, background, before
        self.copy = HostCopy()
        self.thread: threading.Thread | None = None
        self.step = 0  # of the last save
        self.error: BaseException | None = None  # that the training has not heard of
        self.full: list[DiskFullError] = []  # in a row, up to the last save

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Wait for the save in flight, and tell of what it met unless something else went wrong."""
        self._join()
        if kind is not None:
            if self.error is not None:
                logger.warning("the checkpoint of step %s failed too: %s", self.step, self.error)
            return
        self.check()
        if self.full:  # the last step is in no checkpoint
            raise self.full[-1]

    def check(self) -> None:
        """Raise what a save met; called between steps, where it costs nothing."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def finish(self) -> None:
        """Wait for the save in flight: what is newest is known then."""
        self._join()
        self.check()

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        pack: Pack,
        state: dict[str, Any],
        score: Score | None = None,
        *,
        extra: bool = False,
    ) -> None:
        """Copy what is to be saved, and have it written; at most one save is in flight.

        Args:
            step: Steps done.
            tensors: By group and name; may change as soon as this returns.
            pack: Makes the files of them.
            state: What else the run needs to go on, as JSON types.
            score: How good the checkpoint is, where that was measured.
            extra: It is not one of those that come at an interval.

        Raises:
            Exception: What the save before this one met.
        """
        self._wait(step)
        self.check()
        self.step = step
        groups = self.copy.take(tensors)
        self.thread = threading.Thread(
            target=self._write,
            args=(step, groups, pack, {**state, "step": step}, score, extra),
            name=f"checkpoint-{step}",
            daemon=True,  # an interrupted program does not wait: what is not marked is not there
        )
        self.thread.start()
        if not self.background:
            self._join()
            self.check()

    def _wait(self, step: int) -> None:
        """Wait for the save in flight, and say so if there is one."""
        if self.thread is None or not self.thread.is_alive():
            return
        started = time.monotonic()
        self._join()
        print_line(
            f"step {step:,} waited {time.monotonic() - started:.1f} s for the checkpoint of step "
            f"{self.step:,} to be written; a larger --checkpoint-every leaves more time for it"
        )

    def _join(self) -> None:
        """Wait for the save in flight; a disk or a bucket that holds it up is named."""
        started = time.monotonic()
        while self.thread is not None and self.thread.is_alive():
            self.thread.join(SAY_EVERY_S)
            if self.thread.is_alive():
                print_line(
                    f"the checkpoint of step {self.step:,} has been on its way to {self.root} for "
                    f"{time.monotonic() - started:.0f} s, and is waited for"
                )

    def _write(
        self,
        step: int,
        groups: Groups,
        pack: Pack,
        state: dict[str, Any],
        score: Score | None,
        extra: bool,
    ) -> None:
        try:
            refuse_not_finite(groups, f"the checkpoint of step {step:,} was not written")
            self.before()
            files = pack(groups, state)
            commit(
                self.root,
                files,
                step=step,
                state=state,
                keep=self.keep,
                score=score,
                extra=extra,
                size=size(groups),
            )
            self.full = []
        except DiskFullError as error:
            self.full.append(error)
            if len(self.full) == DISK_FULL_TRIES:
                self.error = error
            else:
                print_line(
                    f"{error} Training goes on without it ({len(self.full)} in a row; it stops "
                    f"after {DISK_FULL_TRIES})."
                )
        except BaseException as error:
            self.error = error
