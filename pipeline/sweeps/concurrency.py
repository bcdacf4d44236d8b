"""Decide how many trials run at a time, and the resources of each."""

import os
from dataclasses import dataclass

import ray
import torch

from pipeline.common.machine import usable_cpus
from pipeline.ray_cluster.connection import connect, obtainable

SUPERVISOR_CPUS = 0.01  # of a trial whose workers do the work; Tune takes no 0


@dataclass(frozen=True)
class Capacity:
    """What there is room for.

    Attributes:
        concurrent: Trials at a time.
        workers: Training processes of each, beside its own; 0: it trains itself.
        threads: CPU threads of each process, or what torch takes.
        resources: That Tune reserves for a trial.
    """

    concurrent: int
    workers: int
    threads: int | None
    resources: dict[str, float]


def connect_for(
    workers: int | None, threads: int | None, concurrent: int | None, trials: int
) -> Capacity:
    """Join or start Ray with room for trials.

    Args:
        workers: Training processes of a trial; None: one if there are GPUs, else 0.
        threads: CPU threads of each, if that was asked for.
        concurrent: Trials at a time, if that was asked for.
        trials: In all.

    Raises:
        ValueError: If there is no room for what was asked for.
    """
    own = not os.environ.get("RAY_ADDRESS") and not ray.is_initialized()
    if own:  # a CPU for each training process, and one that reads for each trial
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
            f"there is room for {room} trials at a time on {cpus} CPUs and {gpus} GPUs: each has "
            f"{each} of them and a CPU that reads. Use a lower --concurrent or --train.workers, "
            "or a larger cluster."
        )
    at_once = min(concurrent or room, trials)
    workers = (1 if gpus else 0) if workers is None else workers
    if workers == 0 and not gpus and own:
        threads = threads or max(1, usable_cpus() // at_once)
    itself: dict[str, float] = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    return Capacity(at_once, workers, threads, {"CPU": SUPERVISOR_CPUS} if workers else itself)


def _each(workers: int | None, gpus: int) -> int:
    """Return the CPUs, or GPUs where there are some, that one trial trains on."""
    return max(1, (1 if gpus else 0) if workers is None else workers)
