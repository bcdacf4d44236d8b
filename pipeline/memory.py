"""Memory: how much is free, and what to do when a step does not fit into that of its device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Return the bytes this process may still take: in a container fewer than the host has."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return free if limit.strip() == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


@contextmanager
def explained(
    *, batch_size: int, workers: int, accumulate: int, device: torch.device
) -> Iterator[None]:
    """Turn a lack of memory inside ``with`` into an error that says how to train the same batch.

    Args:
        batch_size: Images of a step over all workers.
        workers: Their number.
        accumulate: Parts in which each takes its share.
        device: Whose memory it is.

    Raises:
        ValueError: If the device had no memory left.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        share = batch_size // workers
        smaller = smaller_parts(share, accumulate)
        raise ValueError(
            f"{device} has no memory left for a step: optim.batch_size={batch_size} gives each of "
            f"{workers} worker{'s' if workers > 1 else ''} {share} images, "
            f"{-(-share // accumulate)} of them at once (optim.accumulate={accumulate})"
            f"{_use(device)}. "
            + (
                f"Use --optim.accumulate {smaller}: the same batch and result in parts of "
                f"{share // smaller}, 7 % slower."
                if smaller
                else "No part is smaller than one image: use a device with more memory, or a new "
                "run with a smaller --model.base-channels or --model.image-size."
            )
        ) from error


def smaller_parts(share: int, accumulate: int) -> int | None:
    """Find the least number of equal parts that are at most half as large; None if there is none.

    Args:
        share: Images of a worker.
        accumulate: Parts now.
    """
    largest = -(-share // accumulate)
    return next(
        (n for n in range(1, share + 1) if share % n == 0 and 2 * share // n <= largest), None
    )


def _is_lack_of_memory(error: Exception) -> bool:
    # On a CPU torch has no type of its own for it.
    ours = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return ours or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _use(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
    return f"; {total - free:.1f} of {total:.1f} GiB are in use"
