"""Draw curves as SVG, in the colours of the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from pipeline.common.console import printable
from pipeline.common.redaction import redacted
from pipeline.reports.run_history import RunHistory

WIDTH, HEIGHT = 400, 190  # of a chart, in units of its own
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 24
COLOURS = 8
MAX_POINTS = 1200  # of all lines of a chart


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        name: Of its run.
        number: Of its run, which decides the colour.
        points: x and y, in the order of x.
    """

    name: str
    number: int
    points: Sequence[tuple[float, float]]


def shown(text: object, limit: int = 200) -> str:
    """Write a text from anywhere for HTML: no secret, no markup, nothing that hides or turns."""
    return escape(printable(redacted(str(text)[:10_000]), limit))


def compact(value: float) -> str:
    """Write a number with four digits."""
    return f"{value:,.0f}" if value == int(value) and 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def colour(number: int) -> str:
    """Return the class of a run's colour; it comes again after eight, with dashes."""
    return f"c{number % COLOURS}" + (" dashed" if number // COLOURS % 2 else "")


def chart(title: str, lines: Sequence[Line], unit: str = "step") -> str:
    """Draw lines over each other, with their last values below."""
    lines = [line for line in lines if line.points]
    ends = "".join(
        f'<li><span class="key {colour(line.number)}"></span>{shown(line.name, 40)} '
        f"<b>{compact(line.points[-1][1])}</b> "
        f'<span class="muted">at {unit} {compact(line.points[-1][0])}</span></li>'
        for line in lines
    )
    said = "; ".join(
        f"{line.name[:40]}: {compact(line.points[0][1])} at first, "
        f"{compact(line.points[-1][1])} at {unit} {compact(line.points[-1][0])}"
        for line in lines
    )
    return (
        f'<figure class="chart"><figcaption>{shown(title, 80)}</figcaption>'
        f"{_svg(f'{title[:80]} over {unit}. {said}', lines)}<ul>{ends}</ul></figure>"
    )


def timeline(run: RunHistory, number: int) -> str:
    """Draw the steps of a run over its time, with marks where something happened."""
    times = [time for time, _ in run.progress] + [event.time for event in run.events]
    if not times:
        return '<p class="muted">No record of its time.</p>'
    start = min(times)
    points = sorted(((time - start) / 3.6e6, float(step)) for time, step in run.progress)
    marks = [((event.time - start) / 3.6e6, event.fault) for event in run.events]
    said = f"Steps of {run.name[:40]} over hours, with {len(marks)} events, which are listed below."
    svg = _svg(said, [Line(run.name, number, points)], marks, (max(times) - start) / 3.6e6)
    rows = "".join(
        f"<li{' class=fault' if event.fault else ''}><time>{when(event.time)}</time> "
        f"<span>{shown(event.what, 400)}</span></li>"
        for event in run.events
    )
    return f'<figure class="chart">{svg}</figure><ol class="events">{rows}</ol>'


def when(time: int) -> str:
    """Write a time in milliseconds since 1970."""
    return f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _svg(
    label: str,
    lines: Sequence[Line],
    marks: Sequence[tuple[float, bool]] = (),
    most_x: float = 0.0,
) -> str:
    every = [point for line in lines for point in line.points]
    low_x, high_x = _range([x for x, _ in every] + [x for x, _ in marks] + [most_x] * bool(most_x))
    low_y, high_y = _range([y for _, y in every])

    def x_of(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(x, low_x, high_x)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(y, low_y, high_y)

    parts = []
    for tick in _ticks(low_y, high_y):
        at = f"{y_of(tick):.1f}"
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text x="{LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">{compact(tick)}</text>'
        )
    for tick in _ticks(low_x, high_x):
        parts.append(
            f'<text x="{x_of(tick):.1f}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{compact(tick)}</text>"
        )
    for x, fault in marks:
        at = f"{x_of(x):.1f}"
        parts.append(
            f'<line class="mark{" fault" if fault else ""}" x1="{at}" x2="{at}" '
            f'y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
    for line in reversed(lines):  # the first run lies on top
        points = _thinned(line.points, max(60, MAX_POINTS // len(lines)))
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        if len(points) > 1:
            parts.append(f'<polyline class="line {colour(line.number)}" points="{path}"/>')
        elif points:
            x, y = points[0]
            parts.append(
                f'<circle class="dot {colour(line.number)}" cx="{x_of(x):.1f}" '
                f'cy="{y_of(y):.1f}" r="3"/>'
            )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{shown(label, 600)}">'
        f"{''.join(parts)}</svg>"
    )


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Keep the lowest and the highest point of each piece, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // (most // 2))
    kept = []
    for first in range(0, len(points), size):
        piece = points[first : first + size]
        kept += sorted({min(piece, key=lambda p: p[1]), max(piece, key=lambda p: p[1])})
    return kept


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _share(value: float, low: float, high: float) -> float:
    # Halves: a stranger's values may be as far apart as floats go.
    width = high / 2 - low / 2
    return (value / 2 - low / 2) / width if width > 0 else 0.5


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers in a range; its ends if they are too large for that."""
    width = high - low
    if not (math.isfinite(width) and width > 1e-200 and max(abs(low), abs(high)) < 1e15 * width):
        return [low, high]
    step = 10.0 ** math.floor(math.log10(width))
    step *= next(size for size in (0.2, 0.5, 1.0, 2.0, 5.0) if width / (step * size) <= 5)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
