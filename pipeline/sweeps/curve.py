"""The curves of a run, followed while it trains and read again after it.

What a run measures is in its spool, wherever its workers are: so a trial is watched without a
word from them, and its whole history is there when it goes on after a kill.
"""

import math
from dataclasses import dataclass, field

from pipeline.spool import RECORDS, SPOOL, Position, read
from pipeline.storage import Folder


@dataclass
class Point:
    """Where a run has come to.

    Attributes:
        step: Steps done.
        score: Value of the curve that is followed.
        seconds: That training took up to here, over all starts.
        latest: Last value of each curve up to here.
    """

    step: int
    score: float
    seconds: float
    latest: dict[str, float] = field(default_factory=dict)


class Curve:
    """Follows one curve of a run.

    Args:
        run: Folder of the run; it need not be there yet.
        name: Of the curve.
    """

    def __init__(self, run: Folder, name: str) -> None:
        self.records, self.name = run / SPOOL / RECORDS, name
        self.latest: dict[str, float] = {}
        self.seconds = 0.0
        self.step = 0  # of the last point; the untrained run does not count
        self._images = 0.0
        self._position: Position = {}

    def new(self) -> list[Point]:
        """Return the points that were told since the last look, those told twice once."""
        points = []
        for entry in read(self.records, dict(self._position)):
            self._position[entry.writer] = list(entry.end)
            record = entry.record
            if record is None or record["kind"] != "points":
                continue
            step, values = int(record["step"]), record["values"]
            self._time(values)
            self.latest |= values
            score = values.get(self.name)
            if score is not None and math.isfinite(score) and step > self.step:
                self.step = step
                points.append(Point(step, float(score), self.seconds, dict(self.latest)))
        return points

    def _time(self, values: dict[str, float]) -> None:
        """Add up how long training took, from how fast it said it went."""
        images, speed = values.get("images_seen", 0.0), values.get("speed/images_per_s", 0.0)
        if images > self._images and speed > 0:
            self.seconds += (images - self._images) / speed
            self._images = images
