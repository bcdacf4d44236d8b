"""Memory and CPUs this process may use; in a container fewer than the host has."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUP, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MEMORY = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def available() -> int:
    """Return the bytes this process may still take: in a container fewer than the host has."""
    free = int(psutil.virtual_memory().available)
    for group in _groups("memory"):
        for limit, used in MEMORY:
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                left = int((group / limit).read_text()) - int((group / used).read_text())
                free = min(free, left)
    return max(0, free)


def usable_cpus() -> int:
    """Return the CPUs this process may use: in a container that can be fewer than the host has."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    usable = affinity or os.cpu_count() or 1
    for group in _groups("cpu"):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit, and -1 neither
                quota, period = " ".join((group / file).read_text() for file in files).split()
                if int(quota) > 0:
                    usable = min(usable, int(quota) // int(period))
    return max(1, usable)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the control group of this process and those around it, of either version.

    Each limits the process: a batch system sets its limits on a group further out.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = CGROUP / controller if controllers else CGROUP
            place = root / path.lstrip("/")
            yield from (each for each in (place, *place.parents) if each.is_relative_to(root))
