"""What came of a study: a table, pictures, a summary, and the command that trains the winner."""

import hashlib
import json
import statistics
from collections.abc import Sequence
from typing import Any

import yaml

from pipeline.config import TrainConfig
from pipeline.progress import duration, say
from pipeline.run_record import read_record
from pipeline.storage import Folder
from pipeline.sweeps.config import Mode
from pipeline.sweeps.options import with_values
from pipeline.sweeps.parent import ParentRun
from pipeline.sweeps.plots import learning_curves, parallel_coordinates
from pipeline.sweeps.record import StudyFolder, TrialRecord
from pipeline.sweeps.space import Space, Value

TABLE, SUMMARY, WINNER = "table.md", "summary.json", "winner.yaml"


def trial_table(trials: Sequence[TrialRecord], space: Space, metric: str, mode: Mode) -> str:
    """Lay out trials in Markdown, in the order given.

    Args:
        trials: All of them.
        space: What varied.
        metric: Name.
        mode: Direction.
    """
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
        folder: Of the study.
        train: The run that was varied, as it was given.
        name: Of the study.
        values: Of the winner.
    """
    config = with_values(train, values).model_copy(update={"name": f"{name}-winner"})
    preset = config.model_dump(mode="json", exclude={"tracking": {"uri"}})
    # A preset is read from a local file: one in a bucket is copied first.
    place = f"{folder}/{WINNER}" if folder.is_local else WINNER
    command = f"python jobs/train_coco.py --preset {place}"
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
    """Draw the pictures of a study and tell its run of them.

    Returns:
        Their files in the folder, by what they show.
    """
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
        # Kept by the number of trials too: a record of an earlier state must find its own.
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
    """Say how many trials ended how: 5 finished, 2 stopped early, 1 failed."""
    words = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}
    counts = {
        word: sum(trial.status == status for trial in trials) for status, word in words.items()
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def spread(values: Sequence[float]) -> str:
    """Say median and range: 0.53 (0.29–0.59)."""
    if not values:
        return "–"
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def tell(study: StudyFolder, table: str, lines: Sequence[str]) -> None:
    """Print the table and where everything is."""
    took = sum(trial.seconds for trial in study.trials.values())
    say("\n" + _aligned(table) + f"\n\ntraining took {duration(took)} in all")
    say("\n".join(lines))


def _aligned(table: str) -> str:
    """Lay a Markdown table out for a screen."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    del rows[1]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )
