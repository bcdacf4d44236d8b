"""Map a function over many items with Ray Data; results come in order."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray

RETRIES = 3  # of an item whose process was killed, for example out of memory


def on_each(
    work: Callable[[dict[str, Any]], dict[str, Any]], items: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Call a function for each item, with Ray Data.

    Args:
        work: Runs in other processes.
        items: Small; large data is in storage.

    Returns:
        The results in the order of the items.
    """
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    with warnings.catch_warnings():
        # Without a limit, Ray Data retries a task whose process dies without end. In Ray 2.60 the
        # only option for it raises a warning.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        results = dataset.map(work, max_retries=RETRIES)
    yield from results.iter_rows()
