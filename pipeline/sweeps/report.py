"""Report on a study: table, plots, summary, and the preset of the winner."""

import hashlib
import io
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

import yaml
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.common.commands import job_command
from pipeline.common.console import duration, print_line
from pipeline.config import TrainConfig
from pipeline.storage.folder import Folder
from pipeline.sweeps.config import Mode, with_values
from pipeline.sweeps.parent_run import ParentRun
from pipeline.sweeps.space import Choice, Domain, Real, Space, Value, Whole
from pipeline.sweeps.study_folder import StudyFolder, TrialRecord
from pipeline.tracking.run_record import read_record
from ratgan.metrics.intervals import difference, of_count

TABLE, SUMMARY, WINNER = "table.md", "summary.json", "winner.yaml"
DPI = 120
BEST = "#d62728"


def trial_table(trials: Sequence[TrialRecord], space: Space, metric: str, mode: Mode) -> str:
    """Format trials as a Markdown table, in the order given."""
    head = ["trial", *space, metric, "best step", "status", "seconds", "why"]
    rows = [head, ["---"] * len(head)]
    for trial in trials:
        best = trial.best(mode)
        rows.append(
            [
                str(trial.number),
                *(str(trial.values[name]) for name in space),
                f"{best[1]:.4g}" if best else "–",
                f"{best[0]:,}" if best else "–",
                trial.status,
                f"{trial.seconds:.0f}",
                " ".join(trial.why.split())[:300].replace("|", "/"),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def winner_command(folder: Folder, train: TrainConfig, name: str, values: dict[str, Value]) -> str:
    """Write the winner's options as a preset, and return the command that trains with them.

    Args:
        train: The run that was varied, with the user's options.
    """
    config = with_values(train, values).model_copy(update={"name": f"{name}-winner"})
    preset = config.model_dump(mode="json", exclude={"tracking": {"uri"}})
    # A preset is read from a local file: one in a bucket is copied first.
    place = f"{folder}/{WINNER}" if folder.local_path else WINNER
    command = job_command("train_coco", "--preset", place)
    text = (
        f"# The winner of {name}: "
        + ", ".join(f"{option} {value}" for option, value in values.items())
        + f".\n# Run: {command}\n"
        + yaml.safe_dump(preset, sort_keys=False)
    )
    folder.write(WINNER, text.encode())
    return command


def draw(
    study: StudyFolder, parent: ParentRun, space: Space, metric: str, mode: Mode
) -> dict[str, str]:
    """Draw the plots of a study and log them; return their files in the folder by key."""
    ranked = study.ranked(mode)
    if not ranked:
        return {}
    best, done = ranked[0].number, len(study.trials)
    pictures = {
        "learning_curves": learning_curves(ranked, best, metric, study.name),
        "parallel_coordinates": parallel_coordinates(ranked, best, space, metric, mode, study.name),
    }
    files = {}
    for key, content in pictures.items():
        files[key] = f"{key}.png"
        study.folder.write(files[key], content)
        # Also under the number of trials: the log entry of an earlier state needs its own file.
        study.folder.write(f"plots/{key}-{done:03d}.png", content)
        parent.picture(key, done, f"plots/{key}-{done:03d}.png")
    return files


def write(study: StudyFolder, files: dict[str, str | dict[str, Any]]) -> dict[str, str]:
    """Write texts and records into the folder of a study; return their sha256 by name."""
    hashes = {}
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
        study.folder.write(name, text.encode())
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def trial_records(study: StudyFolder, mode: Mode) -> list[dict[str, Any]]:
    """Return the trials as JSON types, in the order of their numbers."""
    return [
        {
            "trial": trial.number,
            "run": study.run_name(trial.number),
            "mlflow_run_id": read_record(study.run(trial.number)).get("mlflow_run_id"),
            "values": trial.values,
            "status": trial.status,
            "why": trial.why,
            "best": dict(zip(("step", "value"), best, strict=True)) if best else None,
            "seconds": round(trial.seconds, 1),
            "curve": trial.curve,
            "adopted": trial.adopted,
        }
        for _, trial in sorted(study.trials.items())
        for best in [trial.best(mode)]
    ]


def counted(trials: Sequence[TrialRecord]) -> str:
    """Return the counts by status: 5 finished, 2 stopped early, 1 failed."""
    words = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}
    counts = {
        word: sum(trial.status == status for trial in trials) for status, word in words.items()
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def spread(values: Sequence[float]) -> str:
    """Return median and range: 0.53 (0.29–0.59)."""
    if not values:
        return "–"
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def how_sure(ranked: Sequence[TrialRecord], metric: str, mode: Mode, images: int) -> str:
    """Say whether the winner is better than the next by more than chance; empty for one alone.

    Args:
        ranked: Trials with points of the metric, the best first.
        images: That each point was measured with.
    """
    first, *others = (best for trial in ranked if (best := trial.best(mode)))
    if not others or not metric.startswith("eval/"):
        return ""
    if not metric.startswith("eval/agreement"):
        return (
            f"How sure {metric} is was not measured in training: before you choose, evaluate the "
            "best two with jobs/evaluate.py and compare them with jobs/compare.py."
        )
    # Of a mean of shares too: it varies at most as a single one of its size.
    reaches = [of_count(value, images) for value in (first[1], others[0][1])]
    if abs(first[1] - others[0][1]) > difference(*reaches):
        return ""
    return (
        f"Trial {ranked[1].number} ({others[0][1]:.4g}) is not distinguishable from it with "
        f"{images:,} images (90 %)."
    )


def tell(study: StudyFolder, table: str, lines: Sequence[str]) -> None:
    """Print the table and the places of all files."""
    took = sum(trial.seconds for trial in study.trials.values())
    print_line("\n" + _aligned(table) + f"\n\ntotal training time: {duration(took)}")
    print_line("\n".join(lines))


def _aligned(table: str) -> str:
    """Format a Markdown table for a screen."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    del rows[1]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def learning_curves(trials: Sequence[TrialRecord], best: int, metric: str, title: str) -> bytes:
    """Plot the metric of each trial over its steps; a cross marks a trial that was stopped.

    Args:
        trials: Trials with points of the metric, the best first.
        best: Number of the best trial.

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
    """Plot each trial as a line through its values, coloured by its result.

    Args:
        trials: Trials with a value of the metric, the best first.
        best: Number of the best trial.
        mode: Direction of the metric, "max" or "min".

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
    """Return the position of a value on its axis, 0 to 1."""
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
