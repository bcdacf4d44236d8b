"""Choose the best of the models registered under one name, by a measure or not at all.

Numbers under unlike protocols are no comparison, so one protocol decides: the one that most
versions were measured under. Where no version was, the newest is taken, and the reason says so.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

PREFIX = "quality."  # of tags that hold a measure; the protocol's name follows


@dataclass(frozen=True)
class Quality:
    """How good a model is.

    Attributes:
        metric: Name of the curve that holds it, as in ``eval/fid``.
        value: Of that metric.
        step: Of the model that was measured.
        protocol: Name of all that decides the number; unlike protocols have unlike names.
        lower_is_better: Or higher.
        low: Lower end of the 90 % interval of the value; None if it is not known.
        high: Its upper end.
    """

    metric: str
    value: float
    step: int
    protocol: str
    lower_is_better: bool
    low: float | None = None
    high: float | None = None

    def tag(self) -> tuple[str, str]:
        """Return name and value of the tag that holds it."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return f"{PREFIX}{self.protocol}", json.dumps(known, sort_keys=True)

    def is_unlike(self, other: "Quality") -> bool:
        """Return whether two values differ by more than chance; True if that is not known."""
        reaches = self.reach(), other.reach()
        if None in reaches:
            return True
        return abs(self.value - other.value) > math.hypot(*(each or 0 for each in reaches))

    def reach(self) -> float | None:
        """Return half the interval; None if it is not known."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def __str__(self) -> str:
        """Say it in words."""
        better = "lower" if self.lower_is_better else "higher"
        return (
            f"{self.metric} {self.value:.4g} at step {self.step:,} under protocol "
            f"{self.protocol} ({better} is better)"
        )


def qualities(tags: Mapping[str, str]) -> list[Quality]:
    """Read the measures that are among some tags."""
    return [
        Quality(**json.loads(value))
        for name, value in sorted(tags.items())
        if name.startswith(PREFIX)
    ]


def choose(versions: Mapping[int, list[Quality]]) -> tuple[int, str]:
    """Choose the best of some versions.

    Args:
        versions: The measures of each, by its number.

    Returns:
        Number of the best version, and in words why it is.
    """
    measured: dict[tuple[str, str], dict[int, Quality]] = defaultdict(dict)
    for number, found in versions.items():
        for quality in found:
            measured[quality.protocol, quality.metric][number] = quality
    if not measured:
        newest = max(versions)
        return newest, f"version {newest} is the newest; none was measured under a named protocol"
    # Of two protocols that as many versions were measured under, the one used last.
    compared = max(measured.values(), key=lambda by_number: (len(by_number), max(by_number)))
    best, *rest = sorted(
        compared,
        key=lambda n: (
            -compared[n].value if compared[n].lower_is_better else compared[n].value,
            n,
        ),
        reverse=True,
    )
    alike = [n for n in rest[:1] if not compared[best].is_unlike(compared[n])]
    quality = compared[best]
    extreme = "lowest" if quality.lower_is_better else "highest"
    others = len(versions) - len(compared)
    return best, (
        f"version {best} has the {extreme} {quality.metric}, {quality.value:.4g}, of the "
        f"{len(compared)} measured under protocol {quality.protocol}"
        + "".join(
            f"; version {n} ({compared[n].value:.4g}) is not distinguishable from it" for n in alike
        )
        + (f"; {others} not measured under it" if others else "")
    )
