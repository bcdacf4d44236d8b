"""What recurrent controller and attention are worth on coloured shapes: the paper's ablation.

    python benchmarks/ablation.py --output outputs/ablation

Four settings on the same data for the same number of steps, several seeds each;
the score is the agreement of generated images with held-out captions. Runs that
are complete are not trained again.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import ratgan
from pipeline.cli.main import load_preset, run
from pipeline.cli.quickstart_config import QuickstartConfig
from pipeline.common.console import print_line
from pipeline.common.environment import versions
from pipeline.common.settings import Settings
from pipeline.data.dataset import PreparedDataset
from pipeline.evaluation.shapes_classifier import ATTRIBUTES, ShapesReader
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.training.train import train

CHANGES: dict[str, dict[str, Any]] = {
    "controller + attention": {},
    "controller, no attention": {"attention": "none"},
    "no controller, attention": {"recurrent": False},
    "neither": {"recurrent": False, "attention": "none"},
}


class AblationConfig(Settings):
    """Train four settings with several seeds on shapes, and compare."""

    output: str = "outputs/ablation"
    """Folder for the runs, their data and results.json."""
    seeds: int = 3
    """Seeds of each setting."""
    steps: int = 1200
    """Training steps of each run."""
    score_every: int = 400
    """Steps between two scores."""
    threads: int = 1
    """CPU threads."""


def ablation(config: AblationConfig) -> None:
    """Train, score, and print a table of medians with the range over seeds."""
    folder = Path(config.output)
    preset = load_preset(QuickstartConfig, "quickstart")
    data = str(folder / "data")
    prepare(
        PrepareConfig(
            source=preset.source,
            output=data,
            image_size=preset.source.size,
            margin=1,
            sentence_dim=preset.sentence_dim,
            rows_per_shard=512,
        )
    )
    dataset = PreparedDataset(data)
    reader = ShapesReader(dataset)
    steps = range(config.score_every, config.steps + 1, config.score_every)
    scores: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in CHANGES}
    for seed in range(config.seeds):
        for number, (name, changes) in enumerate(CHANGES.items()):
            done = train(
                preset.train.model_copy(
                    update={
                        "name": f"setting-{number}-seed-{seed}",
                        "output": str(folder),
                        "seed": seed,
                        "threads": config.threads,
                        "total_steps": config.steps,
                        "checkpoint_every": config.score_every,
                        "keep_checkpoints": max(2, len(steps)),
                        "sample_every": config.steps,
                        "data": preset.train.data.model_copy(update={"path": data}),
                        "model": preset.train.model.model_copy(update=changes),
                    }
                )
            )
            scores[name].append(
                {
                    str(step): reader.agreement_of(
                        ratgan.load(f"{done}/checkpoints/step-{step:08d}").generator, seed=seed
                    )
                    for step in steps
                }
            )
            record = {
                "options": config.model_dump(exclude={"output"}),
                "versions": versions(),
                "dataset": dataset.digest,
                "classifier_accuracy": reader.accuracy,
                "agreement": scores,
            }
            (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    print_line(table(scores, [str(step) for step in steps]))


def table(scores: dict[str, list[dict[str, dict[str, float]]]], steps: list[str]) -> str:
    """Lay out median (lowest–highest) over seeds in Markdown."""
    head = "| setting | step | " + " | ".join(ATTRIBUTES) + " |"
    lines = [head, "| --- | --- |" + " --- |" * len(ATTRIBUTES)]
    for name, runs in scores.items():
        for step in steps:
            cells = []
            for attribute in ATTRIBUTES:
                values = [100 * each[step][attribute] for each in runs]
                spread = f"({min(values):.0f}–{max(values):.0f})"
                cells.append(f"{statistics.median(values):.0f} {spread}")
            lines.append(f"| {name} | {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(lambda: (ablation, None), AblationConfig)
