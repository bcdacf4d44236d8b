"""End a child process with its parent, however that ends."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Have the kernel end this process with its parent, whatever it is doing.

    The kernel counts the thread that starts a child as its parent: it must not end before.

    Args:
        parent: Process id of it, as it knew it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be watched
        sys.exit()
