"""The report that workers write when one of them hangs, and the verdict on which one it was.

    RUN/hangs/20260131T120000-worker-0.txt    a line of JSON, then the stacks of all its threads

A worker whose process is stopped, or whose machine is gone, writes no report: that identifies it.
"""

import faulthandler
import json
import logging
import sys
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import FrameType

from pipeline.storage.folder import Folder

logger = logging.getLogger(__name__)

HANGS = "hangs"  # in the run's folder
OURS = ("pipeline.", "ratgan.")
TOGETHER = "pipeline.distributed.collective"  # a thread in this module waits for the others


@dataclass(frozen=True)
class Hang:
    """The report of one worker about a step that does not end.

    Attributes:
        worker: Rank of the worker.
        step: Steps done before it.
        waited_s: Duration of the step so far, in seconds.
        place: Innermost function of this project in which the training is.
        for_others: Whether it waits for other workers there.
    """

    worker: int
    workers: int
    step: int
    waited_s: float
    place: str
    for_others: bool


def where(thread: int) -> tuple[str, bool]:
    """Return where a thread of this process is, and whether it waits for other workers."""
    frame: FrameType | None = sys._current_frames().get(thread)
    place, for_others = "", False
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if not place and module.startswith(OURS):
            place = f"{module}.{frame.f_code.co_name}, line {frame.f_lineno}"
        for_others |= module == TOGETHER
        frame = frame.f_back
    return place or "code outside this project", for_others


def stacks() -> str:
    """Return the stacks of all threads of this process; needs no lock that another may hold."""
    with tempfile.TemporaryFile() as file:  # faulthandler writes to descriptors only
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


def leave(run: Folder, hang: Hang, text: str) -> None:
    """Write the report of this worker."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-worker-{hang.worker}.txt"
    (run / HANGS).write(name, f"{json.dumps(asdict(hang))}\n\n{text}".encode())


def names(run: Folder) -> set[str]:
    """List the reports in a run; empty if they cannot be listed."""
    try:
        return set((run / HANGS).names())
    except OSError as error:
        logger.warning("%s/%s cannot be listed: %s", run, HANGS, error)
        return set()


def verdict(run: Folder, before: Collection[str]) -> str | None:
    """Return which worker hung; None if none did.

    Args:
        before: Reports of earlier starts.
    """
    found: dict[int, Hang] = {}
    for name in sorted(names(run).difference(before)):
        try:
            first_line = (run / HANGS).read(name).split(b"\n", 1)[0]
            hang = Hang(**json.loads(first_line))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s/%s/%s cannot be read: %s", run, HANGS, name, error)
            continue
        found[hang.worker] = hang
    return describe(found.values(), f"{run}/{HANGS}") if found else None


def describe(hangs: Collection[Hang], place: str) -> str:
    """Return which worker hung, from the reports of the workers that could write one.

    Args:
        hangs: One or more, of the same step.
        place: Where their stacks are.
    """
    waited_s, step = max((hang.waited_s, hang.step) for hang in hangs)
    silent = sorted(set(range(max(h.workers for h in hangs))) - {h.worker for h in hangs})
    stuck = [hang for hang in hangs if not hang.for_others]
    if stuck:
        who = " and ".join(f"worker {hang.worker} (in {hang.place})" for hang in stuck)
    elif silent:
        numbers = " and ".join(map(str, silent))
        who = f"worker{'s' if len(silent) > 1 else ''} {numbers} (stopped, or its machine is gone)"
    else:
        who = "all workers, each waiting for the others,"
    return f"step {step:,} took more than {waited_s:.0f} s: {who} hung. Stacks: {place}"
