"""What this process and all below it take: CPU time and memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def _family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cpu_seconds() -> float:
    """Return the CPU seconds that those which are alive have taken so far."""
    total = 0.0
    for process in _family():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@contextmanager
def peak_memory(every_s: float = 0.25) -> Iterator[list[float]]:
    """Watch this process and all below it; yield their peak, together and of the largest one.

    Returns:
        Two numbers in MiB, complete at the end. Memory shared with others (Ray's object store)
        is not counted twice, nor at all.
    """
    peak = [0.0, 0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every_s):
            sizes = []
            for process in _family():
                try:
                    memory = process.memory_info()
                except psutil.NoSuchProcess:
                    continue
                sizes.append((memory.rss - memory.shared) / 2**20)
            peak[0], peak[1] = max(peak[0], sum(sizes)), max(peak[1], *sizes)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
