"""Processes that a test looks at, which may end at any moment."""

import contextlib
from collections.abc import Iterator

import psutil


def runs(process: psutil.Process) -> bool:
    """Tell whether a process runs.

    One whose parent has ended stays a zombie for as long as the first process of the machine does
    not wait for it; psutil's `is_running` and `wait_procs` count it as running.
    """
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def started_by(pid: int, word: str) -> Iterator[psutil.Process]:
    """Return what a process has started, and those in turn, whose command line holds a word."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # of a zombie, too
                if word in " ".join(child.cmdline()):
                    yield child
