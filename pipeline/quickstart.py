"""The whole way in minutes: draw shapes, prepare, train, generate, and measure what came out."""

import io
import time
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.config import TrainConfig
from pipeline.dataset import Example, PreparedDataset
from pipeline.generate import load_from
from pipeline.launch import RUN_RECORD
from pipeline.prepare import PrepareConfig, prepare
from pipeline.progress import say
from pipeline.settings import Settings
from pipeline.sources.shapes import COLOURS, PLACES, SHAPES, SIZES, ShapesSource
from pipeline.storage import Folder
from pipeline.train import train
from ratgan.metrics.agreement import agreement, train_classifier
from ratgan.pictures import grid
from ratgan.randomness import sample_noise
from ratgan.sampling import sample

ATTRIBUTES = {
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}
SHOWN = (
    "a large red circle at the top left",
    "a large red circle at the bottom right",
    "a large blue circle at the bottom right",
    "a small blue circle at the bottom right",
    "a small green square in the centre",
    "a large green square in the centre",
    "a large yellow square in the centre",
    "a large yellow triangle in the centre",
    "a huge white cross at the top right",
    "a tiny white cross at the top right",
    "a tiny purple cross in the lower left corner",
    "a big purple triangle in the lower left corner",
    "a big purple circle in the upper left corner",
    "a little yellow circle in the upper left corner",
    "a little red square in the middle",
    "a huge blue triangle in the middle",
)


class QuickstartConfig(Settings):
    """Draw shapes, prepare them, train on them, and see if the pictures follow the captions."""

    source: ShapesSource = ShapesSource(pairs=0.0)
    """What to draw."""
    sentence_dim: int = 32
    """Numbers kept of a whitened sentence vector; so few suffice for so small a language."""
    train: TrainConfig = TrainConfig(total_steps=2000)
    """How to train; the dataset is the one drawn here."""


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run the whole way and write `summary.json`.

    Returns:
        The summary: `agreement` and `classifier_accuracy` per attribute (shares in
        [0, 1]), `seconds` per stage, `steps`, `grid`, `mlflow_run_id`.

    Raises:
        ValueError: If the shapes come in pairs, for which one place is not defined.
    """
    if config.source.pairs:
        raise ValueError("source.pairs must be 0: the quickstart measures images of one shape.")
    folder = Folder(config.train.output) / config.train.name
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def stage(name: str) -> None:
        nonlocal started
        seconds[name], started = round(time.monotonic() - started, 1), time.monotonic()

    say("1/4 prepare")
    data = folder / "data"
    prepare(
        PrepareConfig(
            source=config.source,
            output=data.location,
            image_size=config.source.size,
            margin=1,
            sentence_dim=config.sentence_dim,
            rows_per_shard=512,
        )
    )
    stage("prepare")

    say("\n2/4 train")
    options = config.train.data.model_copy(update={"path": data.location})
    train(config.train.model_copy(update={"data": options}))
    stage("train")

    say("\n3/4 generate")
    model = load_from(f"{folder}/model")
    picture = io.BytesIO()
    images = model.draw(SHOWN, seed=config.train.seed)
    grid(images, SHOWN, scale=max(1, 128 // images.shape[-1])).save(picture, "PNG")
    folder.write("grid.png", picture.getvalue())
    stage("generate")

    say("4/4 measure: a classifier learns to read real shapes, then reads the generated ones")
    dataset = PreparedDataset(data.location)
    real, held_out = dataset.examples("train"), dataset.examples("validation")
    classifier = train_classifier(_images(real), _labels(real), ATTRIBUTES, epochs=4)
    accuracy = agreement(classifier, _images(held_out), _labels(held_out))
    sentences = torch.stack([example.sentence for example in held_out])
    noise = sample_noise(config.train.seed, len(held_out), model.generator.noise_dim)
    drawn = sample(model.generator, sentences, noise)
    agreed = agreement(classifier, drawn, _labels(held_out))
    stage("measure")

    run_id = folder.read_json(RUN_RECORD)["mlflow_run_id"]
    summary = {
        "agreement": {name: round(share, 4) for name, share in agreed.items()},
        "classifier_accuracy": {name: round(share, 4) for name, share in accuracy.items()},
        "seconds": seconds,
        "steps": model.origin["step"],
        "grid": f"{folder}/grid.png",
        "mlflow_run_id": run_id,
    }
    if folder.exists("summary.json"):
        # A repeated command finds the work done; what it cost is what it cost then.
        before = folder.read_json("summary.json")
        if (before["mlflow_run_id"], before["steps"]) == (run_id, summary["steps"]):
            summary["seconds"] = before["seconds"]
    folder.write_json("summary.json", summary)
    _tell(folder, summary, len(held_out))
    return summary


def _images(examples: Sequence[Example]) -> torch.Tensor:
    return torch.stack([example.image for example in examples])


def _labels(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Read the value of each attribute from the meaning of each caption."""
    things = [(example.meaning or {})["objects"][0] for example in examples]
    return {name: [thing[name] for thing in things] for name in ATTRIBUTES}


def _tell(folder: Folder, summary: dict[str, Any], count: int) -> None:
    lines = [
        f"\nagreement of {count} generated images with their held-out captions, after "
        f"{summary['steps']:,} steps",
        f"{'':10}{'generated':>10}{'real images':>13}{'by chance':>11}",
    ]
    for name, values in ATTRIBUTES.items():
        lines.append(
            f"{name:10}{summary['agreement'][name]:>10.0%}"
            f"{summary['classifier_accuracy'][name]:>13.0%}{1 / len(values):>11.0%}"
        )
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in summary["seconds"].items())
    lines += [
        f"time: {stages}",
        "",
        f"grid     {summary['grid']}",
        f"model    {folder}/model",
        f"run      {summary['mlflow_run_id']} in MLflow; see its curves with: make ui",
        "next     .venv/bin/python jobs/generate.py "
        f'--model {folder}/model "a huge green triangle at the top right"',
    ]
    say("\n".join(lines))
