"""Decide how many trials run at a time, and the resources of each."""

import os
from dataclasses import dataclass

import ray
import torch

from pipeline.common.machine import usable_cpus
from pipeline.ray_cluster.connection import connect, obtainable

SUPERVISOR_CPUS = 0.01  # of a trial that trains in workers; Tune accepts no 0


@dataclass(frozen=True)
class Capacity:
    """Number and resources of trials that run at a time.

    Attributes:
        concurrent: Trials at a time.
        workers: Worker processes of each; 0: it trains in its own process.
        threads: CPU threads of each process; None: torch's default.
        resources: Resources that Tune reserves for a trial.
    """

    concurrent: int
    workers: int
    threads: int | None
    resources: dict[str, float]


def connect_for(
    workers: int | None, threads: int | None, concurrent: int | None, trials: int
) -> Capacity:
    """Connect to or start Ray with capacity for trials.

    Args:
        workers: Worker processes of a trial; None: one if there are GPUs, otherwise 0.
        threads: CPU threads of each process; None: as many as there are for it.
        concurrent: Trials at a time; None: as many as possible.
        trials: Number of all trials.

    Raises:
        ValueError: If there is no capacity for these numbers.
    """
    own = not os.environ.get("RAY_ADDRESS") and not ray.is_initialized()
    if own:  # a CPU for each training process, and one to read data for each trial
        gpus = torch.cuda.device_count()
        each = _each(workers, gpus)
        room = max(1, gpus // each if gpus else usable_cpus() // each)
        connect(cpus=min(concurrent or room, trials) * (each + 1))
    else:
        connect(cpus=2)
    gpus, cpus = obtainable("GPU"), obtainable("CPU")
    each = _each(workers, gpus)
    room = cpus // (each + 1)
    if gpus:
        room = min(room, gpus // each)
    if room < (concurrent or 1):
        raise ValueError(
            f"there is capacity for {room} trials at a time on {cpus} CPUs and {gpus} GPUs: each "
            f"needs {each} of them and a CPU to read data. Use a lower --concurrent or "
            "--train.workers, or a larger cluster."
        )
    at_once = min(concurrent or room, trials)
    workers = (1 if gpus else 0) if workers is None else workers
    if workers == 0 and not gpus and own:
        threads = threads or max(1, usable_cpus() // at_once)
    itself: dict[str, float] = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    return Capacity(at_once, workers, threads, {"CPU": SUPERVISOR_CPUS} if workers else itself)


def _each(workers: int | None, gpus: int) -> int:
    """Return the number of GPUs, or of CPUs if there are no GPUs, on which one trial trains."""
    return max(1, (1 if gpus else 0) if workers is None else workers)
