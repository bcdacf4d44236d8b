"""Print messages, progress with rate and time left, and dry-run reports to the console."""

import time

from pipeline.common.redaction import redacted
from pipeline.common.screen import refuse_loss, say
from pipeline.common.terminal import escaped

WIDTH = 9  # characters of the longest label


def duration(seconds: float) -> str:
    """Format seconds as 0:07, 12:05 or 3:02:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def printable(text: str, limit: int = 300) -> str:
    """Escape what a terminal would obey or hide, ends of lines too, and shorten.

    For a name or value in a line. Markup stays as it is: a page escapes it where it is made.

    Args:
        text: From a file, a file name, or the error of a library that repeats them.
        limit: Most characters of `text` that are shown; "…" stands for the rest.
    """
    # Cut first: a text of 10 MB costs no more than one of 300 characters.
    shown = escaped(text[:limit], keep="")
    return shown + "…" if len(text) > limit else shown


def print_line(text: str) -> None:
    """Write a line for the person who started the job, at once: no secret, nothing to obey."""
    say(escaped(redacted(text)) + "\n")


def print_result(text: str) -> None:
    """Write what a command is for: that it cannot be written is an error.

    Raises:
        OSError: If it cannot; not if its reader has left, as `head` does.
    """
    print_line(text)
    refuse_loss()


class Progress:
    """Says how far a count has come, at most once in a while.

    Args:
        what: Verb for the start of each line.
        total: Count at the end.
        unit: What is counted.
        every_s: Shortest time between two lines in seconds.
    """

    def __init__(self, what: str, total: int, unit: str, every_s: float = 5.0) -> None:
        self.what, self.total, self.unit, self.every_s = what, total, unit, every_s
        self.done = 0
        self.started = self.last = time.monotonic()

    def add(self, count: int, note: str = "") -> None:
        """Count on, and say so if it is time or the work is done."""
        self.done += count
        now = time.monotonic()
        if now - self.last < self.every_s and self.done < self.total:
            return
        self.last = now
        rate = self.done / max(now - self.started, 1e-9)
        left = duration((self.total - self.done) / rate) if rate else "?"
        print_line(
            f"{self.what}  {self.done:,}/{self.total:,} {self.unit}  "
            f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s  "
            f"ETA {left}{'  ' + note if note else ''}"
        )


class DryRunReport:
    """Lines of a plan, said as they come: some take a while to find out."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def line(self, label: str, text: str) -> None:
        """Say a part of the plan."""
        first, *rest = text.splitlines()
        print_line(f"{label:{WIDTH}} {first}")
        for each in rest:
            print_line(f"{'':{WIDTH}} {each}")

    def note(self, text: str) -> None:
        """Keep what a person should know, but that stops nothing, for the end."""
        self.notes.append(text)

    def end(self) -> None:
        """Say what was kept, and that nothing was done."""
        for text in self.notes:
            print_line(f"note: {text}")
        print_result(
            "dry run: nothing was started, and nothing was kept. Without --dry-run it starts."
        )
