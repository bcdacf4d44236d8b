"""Map a function over many items with Ray Data; results come in order."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray

RETRIES = 3  # of an item whose process was killed, for want of memory for example


def on_each(
    work: Callable[[dict[str, Any]], dict[str, Any]], items: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Let Ray Data do a piece of work on each item.

    Args:
        work: Runs in other processes.
        items: Small; what is large lies in storage.

    Returns:
        The results in the order of the items.
    """
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        # Without a bound, Ray Data starts a task whose process dies again and again, for ever.
        # Ray 2.60 has no other way to say so than the one it warns of.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        results = dataset.map(work, max_retries=RETRIES)
    yield from results.iter_rows()
