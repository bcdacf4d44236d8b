"""Named points at which a test makes the program fail; without such a test they do nothing.

    RATGAN_FAULT=kill@checkpoint.before_marker            the first time it gets there
    RATGAN_FAULT=kill@checkpoint.before_marker:40         at step 40
    RATGAN_FAULT=nan@worker.step:rank=1,step=25           on worker 1 only
    RATGAN_FAULT=full@storage.before_fsync:file=step-00000040/state.json
    RATGAN_FAULT=kill@worker.step:step=25,once=/tmp/done  not again after a restart
    RATGAN_FAULT=kill@worker.step:step=25,after=/tmp/go   as soon as there is that file

Several are separated by semicolons. `file` means the end of a path; `once` names a file that is
made when the fault strikes, and with which it does not strike again. `after` names a file that is
waited for there: what one thread or process does comes before what another does then, on a machine
that is busy too.
"""

import errno
import logging
import os
import signal
import time
from dataclasses import dataclass

logger = logging.getLogger(__name__)

VARIABLE = "RATGAN_FAULT"
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "segv": signal.SIGSEGV}
ACTIONS = (*SIGNALS, "hang", "slow", "raise", "full", "nan", "eat")
SLOW_S = 0.3
ALLOC_BYTES = 256 * 2**20
POINTS = (
    "worker.step",  # before a training step; step, rank
    "checkpoint.before_write",  # of each of its files; step, file
    "storage.before_fsync",  # a file is written under a temporary name; file
    "storage.before_rename",  # and is on the disk; file
    "checkpoint.before_marker",  # all files are there and were read back; step
    "checkpoint.after_marker",  # step
    "checkpoint.before_letting_go",  # the older ones are still there; step
)


@dataclass(frozen=True)
class Fault:
    """What is to happen, and where.

    Attributes:
        action: ``kill``, ``stop`` and ``segv`` send this process that signal, ``hang`` never
            comes back, ``slow`` takes a moment, ``raise`` raises a RuntimeError, ``full`` the
            OSError of a full disk, ``nan`` asks the caller to spoil its numbers, ``eat`` takes
            memory until somebody ends the process.
        point: One of `POINTS`.
        where: Step, rank or file it is bound to.
        once: File that is made when it strikes; empty to strike each time.
        after: File that is waited for before it strikes; empty to strike at once.
    """

    action: str
    point: str
    where: dict[str, str]
    once: str = ""
    after: str = ""

    def strikes(self, point: str, here: dict[str, object]) -> bool:
        """Tell whether it is bound to this place, and take its one turn if it has but one."""
        if point != self.point or not all(
            str(here.get(key)) == value
            or (key == "file" and str(here.get(key)).endswith(f"/{value}"))
            for key, value in self.where.items()
        ):
            return False
        if self.once:
            try:
                os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return False
        return True


def parse(text: str) -> tuple[Fault, ...]:
    """Read faults as `RATGAN_FAULT` gives them.

    Raises:
        ValueError: If one could never strike.
    """
    faults = []
    for each in filter(None, text.split(";")):
        action, _, rest = each.partition("@")
        point, _, bounds = rest.partition(":")
        if action not in ACTIONS or point not in POINTS:
            raise ValueError(
                f"{VARIABLE}: {each!r} must be ACTION@POINT or ACTION@POINT:step=40, with an "
                f"action of {', '.join(ACTIONS)} and a point of {', '.join(POINTS)}."
            )
        pairs = [bound if "=" in bound else f"step={bound}" for bound in bounds.split(",") if bound]
        where = dict(pair.split("=", 1) for pair in pairs)
        once, after = where.pop("once", ""), where.pop("after", "")
        faults.append(Fault(action, point, where, once, after))
    return tuple(faults)


_armed: tuple[Fault, ...] = parse(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """Set the faults of this process, in place of those of its environment."""
    global _armed
    _armed = parse(text)


def reach(point: str, **here: object) -> bool:
    """Pass a named place, or fail there if a test says so.

    Args:
        point: One of `POINTS`.
        here: Step, rank, file.

    Returns:
        Whether the caller is to turn its numbers into NaN.

    Raises:
        RuntimeError: For the fault ``raise``.
        OSError: For the fault ``full``.
    """
    if not _armed:
        return False
    spoil = False
    for fault in _armed:
        if not fault.strikes(point, here):
            continue
        while fault.after and not os.path.exists(fault.after):
            time.sleep(0.01)
        logger.warning("fault %s@%s strikes at %s", fault.action, point, here)
        if fault.action in SIGNALS:
            os.kill(os.getpid(), SIGNALS[fault.action])
        eaten = []
        while fault.action == "eat":
            eaten.append(b"x" * ALLOC_BYTES)
            time.sleep(0.05)
        while fault.action == "hang":
            time.sleep(1)
        if fault.action == "slow":
            time.sleep(SLOW_S)
        if fault.action == "raise":
            raise RuntimeError(f"{VARIABLE}: fault at {point} {here}")
        if fault.action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        spoil |= fault.action == "nan"
    return spoil
