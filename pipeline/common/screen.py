"""The screen: standard output and error, whose loss ends no work.

A terminal is closed, the reader of a pipe ends, the disk behind a redirection is full. The first
error of a stream is its last: from then on it leads nowhere, and what would have been written to it
is kept in the log of the work (`log_to`). What a screen cannot show is escaped.
"""

import contextlib
import errno
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from pipeline.common.terminal import without_colours

NO_READER = frozenset({errno.EPIPE, errno.EIO})  # who read there has left
EARLY_LINES = 1000  # that are kept before there is a log

_log: Callable[[str], None] | None = None
_keep: Callable[[], None] | None = None
_place = ""
_early: deque[str] = deque(maxlen=EARLY_LINES)
_locked = threading.RLock()


def open_closed_streams() -> None:
    """Let standard streams that were closed lead nowhere, before a file is opened in their place.

    What is printed there would end in that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free
        if getattr(sys, name) is None:
            closed = OSError(errno.EBADF, os.strerror(errno.EBADF))
            stream = LostStream(name, closed) if number else os.fdopen(os.dup(0))
            setattr(sys, name, stream)


def log_to(place: str, append: Callable[[str], None], keep: Callable[[], None]) -> None:
    """Name the log of the work that begins; without one, the last lines wait in memory.

    Args:
        place: What a person calls it.
        append: Adds a text to it, and never fails.
        keep: Writes what waits; called at the end.
    """
    global _log, _keep, _place
    with _locked:
        _log, _keep, _place = append, keep, place
        early = "".join(_early)
        _early.clear()
    if early:
        append(early)
    if early and (error := getattr(sys.stdout, "error", None)):
        _tell_loss(error)


def end() -> None:
    """Write what waits, on the screen and in the log, while an error of it can be seen to."""
    say("")
    say("", "stderr")
    if _keep is not None:
        _keep()


def refuse_loss() -> None:
    """Refuse that what a command is for was not printed; a reader that has left wanted no more.

    Raises:
        OSError: If standard output is lost by anything else.
    """
    error = getattr(sys.stdout, "error", None)
    if error is not None and getattr(error, "errno", None) not in NO_READER:
        raise OSError(f"standard output takes no more lines ({error}). Name another file.")


def say(text: str, name: str = "stdout") -> None:
    """Write to a standard stream at once, whatever has become of it.

    Args:
        text: With its end of line, and without secrets or orders to a terminal.
        name: stdout or stderr.
    """
    before = getattr(sys, name)
    after = put(before, text, name)
    if after is not before and getattr(sys, name) is before:  # it may be redirected meanwhile
        setattr(sys, name, after)


def put(stream: TextIO | None, text: str, name: str) -> TextIO:
    """Write to a stream at once: what waits in a buffer would be lost with it.

    Args:
        stream: None if there is none.
        text: To write.
        name: What a person calls the stream: stdout or stderr.

    Returns:
        The stream to go on with: the same, or, if it is lost, one that writes to the log.
    """
    error: Exception
    try:
        if stream is not None:
            _write(stream, text)
            return stream
        error = OSError(errno.EBADF, os.strerror(errno.EBADF))
    except (OSError, ValueError) as caught:  # a closed file is a ValueError
        error = caught
    lost = LostStream(name, error)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # What is left in its buffers, and what libraries and children write, goes there too.
        os.dup2(lost.fileno(), stream.fileno())  # type: ignore[union-attr]
    lost.write(text)
    if name == "stdout":
        _tell_loss(error)
    return lost  # type: ignore[return-value]


class LostStream:
    """What a standard stream becomes whose screen is gone.

    Attributes:
        error: That it was lost by.
    """

    def __init__(self, name: str, error: Exception) -> None:
        self.error = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        self._nowhere = os.fdopen(nowhere, "w", encoding="utf-8", errors="replace")
        reason = getattr(error, "strerror", None) or str(error)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.write(f"{now} {name} takes no more lines ({reason}); they follow here\n")

    def write(self, text: str) -> int:
        """Add to the log; without one, keep the text for it."""
        shown = without_colours(text)
        with _locked:
            if _log is None:
                _early.append(shown)
            else:
                _log(shown)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nowhere, name)


def _write(stream: TextIO, text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # some have no descriptor
        if not os.get_blocking(stream.fileno()):  # a full pipe would be an error: it is to wait
            os.set_blocking(stream.fileno(), True)
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _tell_loss(error: Exception) -> None:
    """Say on standard error what has become of standard output, if that may not be intended."""
    if _log is not None:
        rest = f": its lines go to {_place}"
    elif getattr(error, "errno", 0) in NO_READER:
        return  # as `| head` does
    else:
        rest = " without it"
    say(
        f"\nnote: standard output takes no more lines ({error}). The work goes on{rest}\n", "stderr"
    )
