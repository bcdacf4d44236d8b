"""How many workers a training has, and whether on GPUs: decided, or refused for want of them."""

import os
from dataclasses import dataclass

import torch

from pipeline.config import RunConfig
from pipeline.room import Crew, sizes
from pipeline.session import obtainable, usable_cpus


@dataclass(frozen=True)
class Resources:
    """What there is to train with.

    Attributes:
        cpus: That Ray can give away.
        gpus: The same.
        cluster: Whether of a cluster, or of this machine.
    """

    cpus: int
    gpus: int
    cluster: bool

    @classmethod
    def of_machine(cls) -> "Resources":
        """Return what Ray would find if it were started here."""
        return cls(usable_cpus(), torch.cuda.device_count(), cluster=False)

    @classmethod
    def of_ray(cls) -> "Resources":
        """Return what the Ray has, or can grow to, that this process is connected to."""
        in_cluster = bool(os.environ.get("RAY_ADDRESS"))
        return cls(obtainable("CPU"), obtainable("GPU"), in_cluster)

    def __str__(self) -> str:
        where = "in the cluster" if self.cluster else "here"
        return f"{self.cpus:,} CPUs and {self.gpus:,} GPUs {where}"


def refuse_crowd(config: RunConfig, cpus: int) -> None:
    """Refuse more workers than a machine without a cluster has CPUs.

    Raises:
        ValueError: If there are.
    """
    if (config.workers or 0) > max(2, cpus):
        raise ValueError(
            f"workers={config.workers} on a machine with {cpus} CPUs: each worker needs one. "
            f"Use --workers {cpus} or fewer, or submit the job to a larger cluster."
        )


def choose_crew(config: RunConfig, batch: int, gpus: int) -> Crew:
    """Decide how many workers there may be and whether they use GPUs.

    Args:
        config: Of the run.
        batch: Images per step over all workers.
        gpus: There are.

    Raises:
        ValueError: If they have no place there, or no equal share of a batch.
    """
    workers = gpus if config.workers is None else config.workers
    least = config.min_workers or workers
    if config.min_workers and not workers:
        raise ValueError(
            f"min_workers={least} in a run in this process: name the most workers too, for "
            "example --workers 2."
        )
    if 0 < gpus < least:
        raise ValueError(
            f"workers={workers}, and the cluster has {gpus} GPUs: some workers would train without "
            f"one. Use --workers {gpus}, or leave it out to use them all."
        )
    if not config.min_workers:
        check_share(batch, max(workers, 1))
        return Crew((workers,), use_gpu=0 < workers <= gpus)
    # Where no number is named, a run takes all GPUs that come.
    return Crew(sizes(least, config.workers or batch, batch), use_gpu=gpus > 0)


def check_share(batch: int, workers: int) -> None:
    """Make sure that a batch can be dealt out evenly.

    Raises:
        ValueError: If it cannot.
    """
    if batch % workers:
        larger = -(-batch // workers) * workers
        raise ValueError(
            f"optim.batch_size={batch} must give each of the {workers} workers the same number of "
            f"images; {larger} is the next that does."
        )
