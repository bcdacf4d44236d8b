"""Decide the number of workers and whether they use GPUs, or refuse for lack of resources."""

from dataclasses import dataclass

from pipeline.config import RunConfig

READER = {"CPU": 1.0}  # a place for the tasks that read data


@dataclass(frozen=True)
class WorkerRange:
    """How many workers may train together.

    Attributes:
        sizes: Their numbers, the largest first; 0 is in this process.
        use_gpu: Each has a GPU.
    """

    sizes: tuple[int, ...]
    use_gpu: bool = False

    @property
    def worker(self) -> dict[str, float]:
        """The place that a worker takes."""
        return {"GPU": 1.0} if self.use_gpu else {"CPU": 1.0}

    def needs(self, workers: int) -> dict[str, float]:
        """Return what so many workers and the tasks that read for them take in all."""
        if self.use_gpu:
            return {"GPU": float(workers), **READER}
        return {"CPU": workers + READER["CPU"]}

    def __str__(self) -> str:
        if self.sizes == (0,):
            return "in this process"
        least, most = self.sizes[-1], self.sizes[0]
        numbers = f"{most}" if least == most else f"{least} to {most}"
        return f"{numbers} worker{'s' if most > 1 else ''}{' on GPU' if self.use_gpu else ''}"


def sizes(least: int, most: int, batch: int) -> tuple[int, ...]:
    """Return the numbers of workers that give each an equal share of a batch, the largest first.

    Raises:
        ValueError: If none does.
    """
    found = tuple(n for n in range(min(most, batch), least - 1, -1) if batch % n == 0)
    if not found:
        raise ValueError(
            f"min_workers={least}: no number of workers from {least} to {most} gives each of them "
            f"an equal share of optim.batch_size={batch}. Use --min-workers 1."
        )
    return found


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


def choose_crew(config: RunConfig, batch: int, gpus: int) -> WorkerRange:
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
        return WorkerRange((workers,), use_gpu=0 < workers <= gpus)
    # Where no number is named, a run takes all GPUs that come.
    return WorkerRange(sizes(least, config.workers or batch, batch), use_gpu=gpus > 0)


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
