"""Pictures of a study: how its trials learnt, and which values went with which result."""

import io
import math
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.sweeps.record import TrialRecord
from pipeline.sweeps.space import Choice, Domain, Real, Space, Whole

DPI = 120
BEST = "#d62728"


def learning_curves(trials: Sequence[TrialRecord], best: int, metric: str, title: str) -> bytes:
    """Draw the metric of each trial over its steps; crosses end those that were stopped.

    Args:
        trials: With their curves, the best first.
        best: Number of the best trial.
        metric: Name.
        title: Of the picture.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(8, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for place, trial in reversed(list(enumerate(trials))):
        steps, values = zip(*trial.curve, strict=True)
        mine = trial.number == best
        colour = BEST if mine else _colour(place, len(trials))
        axes.plot(steps, values, color=colour, linewidth=2.4 if mine else 1.2, zorder=2 + mine)
        end = {"stopped": "x", "failed": "v"}.get(trial.status, "o")
        axes.plot(steps[-1], values[-1], end, color=colour, markersize=6, zorder=3 + mine)
        if len(trials) <= 12 or mine:
            axes.annotate(
                f"   {trial.number}", (steps[-1], values[-1]), color=colour, fontsize=8, va="center"
            )
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.set_title(f"{title}: o finished, × stopped early; best in red", fontsize=10)
    axes.grid(alpha=0.3)
    return _png(figure)


def parallel_coordinates(
    trials: Sequence[TrialRecord], best: int, space: Space, metric: str, mode: str, title: str
) -> bytes:
    """Draw each trial as a line through its values, coloured by what it came to.

    Args:
        trials: With a value of the metric, the best first.
        best: Number of the best trial.
        space: What varied.
        metric: Name.
        mode: Direction, "max" or "min".
        title: Of the picture.

    Returns:
        A PNG.
    """
    names = [*space, metric]
    figure = Figure(figsize=(max(6, 2.2 * len(names)), 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    scores = [point[1] for trial in trials if (point := trial.best(mode))]
    result = Real(min(scores), max(scores)) if min(scores) < max(scores) else None
    for place, trial in reversed(list(enumerate(trials))):
        score = trial.best(mode)
        heights = [_height(space[name], trial.values[name]) for name in space]
        heights.append(_height(result, score[1]) if result and score else 0.5)
        mine = trial.number == best
        axes.plot(
            range(len(names)),
            heights,
            color=BEST if mine else _colour(place, len(trials)),
            linewidth=2.4 if mine else 1.2,
            linestyle="-" if trial.status == "finished" else "--",
            marker="o",
            markersize=4,
            zorder=2 + mine,
        )
    for at, name in enumerate(names):
        axes.axvline(at, color="black", linewidth=0.8, zorder=1)
        for height, text in _ticks(space.get(name, result), scores):
            axes.annotate(f" {text}", (at, height), fontsize=8, va="center")
    axes.set_xticks(range(len(names)), [_short(name) for name in names])
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(names) - 0.6)
    axes.set_title(f"{title}: dashed were stopped early; best in red", fontsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    return _png(figure)


def _height(domain: Domain | None, value: Any) -> float:
    """Return where a value stands on its axis, 0 to 1."""
    if isinstance(domain, Choice):
        last = len(domain.values) - 1
        return domain.values.index(value) / last if value in domain.values else 0.5
    if isinstance(domain, Real) and domain.log:
        return _share(math.log(domain.low), math.log(domain.high), math.log(value))
    if isinstance(domain, Real | Whole):
        return _share(domain.low, domain.high, value)
    return 0.5


def _ticks(domain: Domain | None, scores: Sequence[float]) -> list[tuple[float, str]]:
    """Return heights and labels for an axis."""
    if domain is None:
        return [(0.5, f"{scores[0]:.4g}")]
    if isinstance(domain, Choice):
        return [(_height(domain, value), str(value)) for value in domain.values]
    if isinstance(domain, Real) and domain.log:
        middle = (domain.low * domain.high) ** 0.5
    else:
        low, high = domain.extremes()
        middle = (low + high) / 2
    ends = domain.extremes()
    return [(_height(domain, value), f"{value:.3g}") for value in (ends[0], middle, ends[1])]


def _share(low: float, high: float, value: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _colour(place: int, count: int) -> Any:
    """Return the colour of a rank: dark for good, light for poor."""
    return colormaps["viridis"](0.05 + 0.85 * place / max(1, count - 1))


def _short(name: str) -> str:
    return name.replace(".", ".\n", 1) if len(name) > 14 else name


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
