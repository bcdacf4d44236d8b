"""The quickstart: draw shapes, prepare, train, generate, and measure the result."""

import time
from typing import Any

from pipeline.checkpoint.load_model import load_from
from pipeline.cli.quickstart_config import QuickstartConfig
from pipeline.common.commands import job_command
from pipeline.common.console import DryRunReport, print_line
from pipeline.data.dataset import PreparedDataset
from pipeline.evaluation.config import CACHE
from pipeline.evaluation.shapes_classifier import ATTRIBUTES, ShapesReader
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.ray_cluster.connection import connect, end_private_ray
from pipeline.storage.disk_space import leaving_nothing
from pipeline.storage.folder import Folder
from pipeline.tracking.late_metrics import Findings, record_numbers
from pipeline.tracking.run_record import read_record
from pipeline.training.dry_run import (
    _gan_trial,
    find_place,
    say_cost,
    say_eta,
    say_room,
    tracker_state,
)
from pipeline.training.launch import needs_ray
from pipeline.training.step_cost import FIRST
from pipeline.training.train import train
from ratgan.text.transform import SentenceTransform
from ratgan.visualize import grid, png

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


MIN_TRAINING_IMAGES = 64  # a batch of the classifier


def refuse_unmeasurable(config: QuickstartConfig) -> None:
    """Raise ValueError for options whose images could not be trained on or measured."""
    source, size = config.source, config.train.model.image_size
    if source.pairs:
        raise ValueError("source.pairs must be 0: the quickstart measures images of one shape.")
    if source.size != size:
        raise ValueError(
            f"source.size={source.size} must be train.model.image_size={size}: images are measured "
            "at the size they are drawn in."
        )
    held_out = round(source.count * source.validation)
    if held_out < 1 or source.count - held_out < MIN_TRAINING_IMAGES:
        raise ValueError(
            f"source.count={source.count} and source.validation={source.validation} leave "
            f"{source.count - held_out} images to train on and {held_out} to measure with; "
            f"at least {MIN_TRAINING_IMAGES} and 1 are needed."
        )


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run all stages and write `summary.json`.

    Returns:
        The summary: `agreement` and `classifier_accuracy` per attribute (shares in
        [0, 1]), `seconds` per stage, `steps`, `grid`, `mlflow_run_id`.

    Raises:
        ValueError: If the images could not be trained on or measured.
    """
    refuse_unmeasurable(config)
    if needs_ray(config.train):
        connect(cpus=(config.train.workers or 0) + 1)
    folder = Folder(config.train.output) / config.train.name
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def stage(name: str) -> None:
        nonlocal started
        seconds[name], started = round(time.monotonic() - started, 1), time.monotonic()

    print_line("1/4 prepare")
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
    if not needs_ray(config.train):
        end_private_ray()  # it would take from the training
    stage("prepare")

    print_line("\n2/4 train")
    options = config.train.data.model_copy(update={"path": data.location})
    train(config.train.model_copy(update={"data": options}))
    stage("train")

    print_line("\n3/4 generate")
    model = load_from(f"{folder}/model")
    images = model.draw(SHOWN, seed=config.train.seed)
    picture = grid(images, SHOWN, scale=max(1, 128 // images.shape[-1]))
    folder.write("grid.png", png(picture))
    stage("generate")

    print_line(
        "4/4 measure: a classifier is trained on real shapes and classifies the generated ones"
    )
    dataset = PreparedDataset(data.location)
    reader = ShapesReader(dataset, cache=Folder(config.train.output) / CACHE)
    agreed = reader.agreement_of(model.generator, seed=config.train.seed)
    stage("measure")

    # None if MLflow never answered.
    run_id = read_record(folder).get("mlflow_run_id")
    summary = {
        "agreement": {name: round(share, 4) for name, share in agreed.items()},
        "classifier_accuracy": {name: round(share, 4) for name, share in reader.accuracy.items()},
        "seconds": seconds,
        "steps": model.origin["step"],
        "grid": f"{folder}/grid.png",
        "mlflow_run_id": run_id,
    }
    if folder.exists("summary.json"):
        # A repeated command finds the work done, and keeps the times of the first one.
        before = folder.read_json("summary.json")
        if (before["mlflow_run_id"], before["steps"]) == (run_id, summary["steps"]):
            summary["seconds"] = before["seconds"]
    folder.write_json("summary.json", summary)
    # The metrics `eval/agreement_…` come from the quick evaluations in training, of fewer images.
    count = len(reader.held_out)
    shares = {f"eval/agreement_{n}_{count}": share for n, share in summary["agreement"].items()}
    found = Findings(summary["steps"], shares)
    said = record_numbers(folder, found, uri=config.train.tracking.uri)
    _tell(folder, summary, count, said)
    return summary


def _tell(folder: Folder, summary: dict[str, Any], count: int, record: str) -> None:
    lines = [
        f"\nagreement of {count} generated images with the captions of held-out images, after "
        f"{summary['steps']:,} steps",
        f"{'':10}{'generated':>10}{'real images':>13}{'by chance':>11}",
    ]
    for name, values in ATTRIBUTES.items():
        lines.append(
            f"{name:10}{summary['agreement'][name]:>10.0%}"
            f"{summary['classifier_accuracy'][name]:>13.0%}{1 / len(values):>11.0%}"
        )
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in summary["seconds"].items())
    caption = "a huge green triangle at the top right"
    lines += [
        f"time of this start: {stages}",
        "",
        f"grid     {summary['grid']}",
        f"model    {folder}/model",
        f"mlflow   {record}",
        "curves   make ui",
        f"page     .venv/bin/{job_command('serve', '--model', str(folder))}",
        f"next     .venv/bin/{job_command('generate', '--model', f'{folder}/model', caption)}",
    ]
    print_line("\n".join(lines))


def plan_quickstart(config: QuickstartConfig) -> None:
    """Print what the quickstart would do; raises its errors."""
    train = config.train
    with leaving_nothing(Folder(train.output)):
        refuse_unmeasurable(config)
        Folder(train.output).check_writable("train.output")
        report, images = DryRunReport(), config.source.count
        batch, learned = train.optim.batch_size, images - round(images * config.source.validation)
        steps = train.steps(learned)
        place = find_place(train, batch)
        report.line("run", f"{train.output}/{train.name}: {steps:,} steps of {batch} images")
        report.line("data", f"{images:,} images would be drawn, {learned:,} of them to train on")
        report.line("tracker", tracker_state(train, report))
        report.line("workers", f"{place.crew} ({place.has})")
        transform = SentenceTransform.identity(config.sentence_dim)
        trial = _gan_trial(report, train, config.sentence_dim, transform, place.device)
        share = max(FIRST, batch // max(place.workers, 1))
        measured = say_cost(report, train, trial, share, place, accumulate=train.optim.accumulate)
        say_room(report, train, trial)
        say_eta(report, measured, steps * batch, place)
        report.note("drawing and measuring take about a minute more.")
        report.end()
