"""Memory and CPUs this process may use; in a container fewer than the host has."""

import os
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Return the bytes this process may still take: in a container fewer than the host has."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return free if limit.strip() == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def usable_cpus() -> int:
    """Return the CPUs this process may use: in a container that can be fewer than the host has."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    usable = affinity or os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return usable
    return usable if quota == "max" else max(1, min(usable, int(quota) // int(period)))
