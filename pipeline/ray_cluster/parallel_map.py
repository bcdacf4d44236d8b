"""Map a function over many items: in this process, or with Ray Data where that is quicker."""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from pipeline.common.console import duration, print_line
from pipeline.common.machine import usable_cpus
from pipeline.ray_cluster.connection import connect, is_connected

RETRIES = 3  # of an item whose process was killed, for example out of memory
START_S = 20.0  # until Ray and its first workers have started and imported what they need

Item = dict[str, Any]
Result = TypeVar("Result")


def on_each(
    work: Callable[[Item], Item],
    items: list[Item],
    *,
    workers: int | None = None,
    on_ray: Callable[[list[Item]], Iterator[Item]] | None = None,
) -> Iterator[Item]:
    """Call a function for each item.

    If this process is not connected to Ray, it begins itself, with one thread as Ray's tasks do.
    Ray is started for the rest if all of it would take longer here, where each takes as long as the
    last one. Not as long as all so far: what an earlier start did comes first, and takes a moment.

    Args:
        work: Runs in this process or in others.
        items: Small; large data is in storage.
        workers: Processes that would work at once with Ray. Default: one for each CPU.
        on_ray: Returns the results of items with Ray. Default: `with_ray` calls `work` in tasks.

    Returns:
        The results in the order of the items.
    """
    workers, done = workers or usable_cpus(), 0
    if not is_connected():
        for item in items:
            began = time.monotonic()
            result = in_one_thread(work, item)
            took = time.monotonic() - began
            yield result
            done += 1
            here, with_it = _rest(took, len(items) - done, workers)
            if with_it < here:
                print_line(f"  the rest would take {duration(here)} here: starting Ray for it")
                break
    if done < len(items):
        connect(cpus=1)
        rest = items[done:]
        yield from on_ray(rest) if on_ray else with_ray(rest, work, max_retries=RETRIES)


def estimate(each: float, count: int, workers: int) -> tuple[float, int]:
    """Estimate what `on_each` does if this process is not connected to Ray.

    Args:
        each: Seconds that an item takes.
        count: Of items, at least 1.
        workers: As for `on_each`.

    Returns:
        Seconds of all, and how many items are worked on at once in the end.
    """
    here, with_it = _rest(each, count - 1, workers)
    if with_it < here:
        return each + with_it, min(workers, count - 1)
    return each + here, 1


def _rest(each: float, count: int, workers: int) -> tuple[float, float]:
    """Return the seconds that items take in this process, and with a Ray that is started first."""
    return each * count, START_S + each * -(-count // workers)


def in_a_task(work: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
    """Call a function in another process if this one is connected to Ray, else here."""
    if not is_connected():
        return work(*arguments, **named)
    import ray

    result: Result = ray.get(
        ray.remote(num_cpus=1, max_retries=RETRIES)(work).remote(*arguments, **named)
    )
    return result


def in_one_thread(work: Callable[[Item], Item], item: Item) -> Item:
    """Call a function for an item as a task of Ray does: threads decide the last bits of a sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work(item)
    finally:
        torch.set_num_threads(threads)


def with_ray(items: list[Item], work: Any, **options: Any) -> Iterator[Item]:
    """Yield the results of items with Ray Data, in their order.

    Args:
        items: As for `on_each`.
        work: A function, or a class whose instances are called, each in an actor.
        options: Of `ray.data.Dataset.map`.
    """
    import ray

    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        # Without a limit, Ray Data retries a task whose process dies without end. In Ray 2.60 the
        # only options for it raise a warning.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        results = dataset.map(work, **options)
    yield from results.iter_rows()
