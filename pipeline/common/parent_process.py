"""End a child process with its parent, however that ends."""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK_EVERY_S = 1.0


def end_with(parent: int) -> None:
    """End this process with its parent, whatever it is doing.

    On Linux the kernel does it. It counts the thread that starts a child as its parent: it must not
    end before.

    Args:
        parent: Process id of it, as it knew it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=end_after, args=(parent,), name="end-after", daemon=True).start()
    if os.getppid() != parent:  # it ended before it could be watched
        sys.exit()


def end_after(parent: int) -> None:
    """End this process when it has another parent: for where the kernel does not.

    Args:
        parent: Process id of it, as it knew it.
    """
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGKILL)
