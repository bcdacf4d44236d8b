"""Decide the number of workers and whether they use GPUs, or refuse for lack of resources."""

from dataclasses import dataclass

from pipeline.config import RunConfig

READER = {"CPU": 1.0}  # for the tasks that read data


@dataclass(frozen=True)
class WorkerRange:
    """Permitted numbers of workers.

    Attributes:
        sizes: The numbers, the largest first; 0 means training in this process.
        use_gpu: Whether each worker has a GPU.
    """

    sizes: tuple[int, ...]
    use_gpu: bool = False

    @property
    def worker(self) -> dict[str, float]:
        """Resources of one worker."""
        return {"GPU": 1.0} if self.use_gpu else {"CPU": 1.0}

    def needs(self, workers: int) -> dict[str, float]:
        """Return the resources of so many workers and the tasks that read for them."""
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
    """Return the numbers of workers that divide a batch, the largest first.

    Raises:
        ValueError: If there is none.
    """
    found = tuple(n for n in range(min(most, batch), least - 1, -1) if batch % n == 0)
    if not found:
        raise ValueError(
            f"min_workers={least}: no number of workers from {least} to {most} divides "
            f"optim.batch_size={batch}. Use --min-workers 1."
        )
    return found


def refuse_crowd(config: RunConfig, cpus: int) -> None:
    """Raise ValueError for more workers than a machine without a cluster has CPUs."""
    if (config.workers or 0) > max(2, cpus):
        raise ValueError(
            f"workers={config.workers} on a machine with {cpus} CPUs: each worker needs one. "
            f"Use --workers {cpus} or fewer, or submit the job to a larger cluster."
        )


def choose_crew(config: RunConfig, batch: int, gpus: int) -> WorkerRange:
    """Decide the permitted numbers of workers and whether they use GPUs.

    Args:
        batch: Images per step over all workers.
        gpus: Available GPUs.

    Raises:
        ValueError: If there are too few GPUs, or the batch cannot be divided.
    """
    workers = gpus if config.workers is None else config.workers
    least = config.min_workers or workers
    if config.min_workers and not workers:
        raise ValueError(
            f"min_workers={least} in a run without worker processes: give the maximum too, for "
            "example --workers 2."
        )
    if 0 < gpus < least:
        raise ValueError(
            f"workers={workers}, and the cluster has {gpus} GPUs: some workers would train without "
            f"one. Use --workers {gpus}, or omit --workers to use all GPUs."
        )
    if not config.min_workers:
        check_share(batch, max(workers, 1))
        return WorkerRange((workers,), use_gpu=0 < workers <= gpus)
    # Without --workers, a run uses all GPUs, including those that join later.
    return WorkerRange(sizes(least, config.workers or batch, batch), use_gpu=gpus > 0)


def check_share(batch: int, workers: int) -> None:
    """Raise ValueError if the workers do not divide the batch."""
    if batch % workers:
        larger = -(-batch // workers) * workers
        raise ValueError(
            f"optim.batch_size={batch} must give each of the {workers} workers the same number of "
            f"images; {larger} is the next size that works."
        )
