"""Waiting in tests for what must come, however busy the machine is."""

import time
from collections.abc import Callable

LOOK_EVERY_S = 0.02


def wait_until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Return as soon as a condition holds.

    Args:
        condition: Looked at again and again.
        what: Is waited for, for the message.
        seconds: After which it is given up; far more than it takes on a machine with much to do.

    Raises:
        AssertionError: If it did not hold in that time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            # Looked at once more: this process may have had no time itself until now.
            if condition():
                return
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(LOOK_EVERY_S)
