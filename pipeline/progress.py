"""What a person reads while work goes on: short lines with a rate and the time left."""

import sys
import time

from pipeline.redaction import redacted


def duration(seconds: float) -> str:
    """Format seconds as 0:07, 12:05 or 3:02:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def say(text: str) -> None:
    """Write a line for the person who started the job, at once, and no secret."""
    sys.stdout.write(redacted(text) + "\n")
    sys.stdout.flush()


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
        say(
            f"{self.what}  {self.done:,}/{self.total:,} {self.unit}  "
            f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s  "
            f"ETA {left}{'  ' + note if note else ''}"
        )
