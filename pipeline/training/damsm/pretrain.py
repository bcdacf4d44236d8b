"""The driver of DAMSM pretraining: check, start or resume, train, export the encoder."""

from typing import Any

from pipeline.common.commands import MORE, job_command
from pipeline.common.console import print_line
from pipeline.distributed.elastic import train_with_restarts
from pipeline.storage.folder import Folder, absolute
from pipeline.tracking.run_description import Purpose
from pipeline.tracking.tracker import Tracker
from pipeline.training.damsm.config import PretrainConfig
from pipeline.training.damsm.worker import describe, work
from pipeline.training.launch import Launch, check, is_finished, running_job, with_places
from ratgan.efficientnet import find_efficientnet
from ratgan.metrics.retrieval import RPrecision
from ratgan.weights.saved_model import TEXT_ENCODER

RETRIEVAL = "retrieval.json"  # in the run's folder: R-precision of the encoder


def check_pretraining(config: PretrainConfig) -> Launch:
    """Make all checks that are possible before a pretraining starts.

    Raises:
        ValueError: If dataset and options do not fit together.
        OSError: If the output folder cannot be written, or weights are not installed.
    """
    config = with_places(config)
    if (weights := config.pair.inception_weights) is not None:
        place = absolute(weights, "pair.inception_weights")
        pair = config.pair.model_copy(update={"inception_weights": place})
        config = config.model_copy(update={"pair": pair})
    branch = config.pair.branch
    if branch != "inception" and weights is not None:
        raise ValueError(f"pair.inception_weights has no effect with --pair.branch {branch}.")
    if branch == "efficientnet-lite0":
        find_efficientnet()
    return check(
        config,
        image_size=config.pair.image_size,
        option="pair.image_size",
        batch=config.optim.batch_size,
    )


def pretrain(config: PretrainConfig) -> Folder:
    """Start a pretraining, or resume it from its last checkpoint.

    Returns:
        Folder of the run, with `text_encoder.safetensors` for preparation.

    Raises:
        ValueError: If dataset, run and options do not fit together, before anything starts.
    """
    start = check_pretraining(config)
    if is_finished(start, f"Its encoder: {start.run}/{TEXT_ENCODER}"):
        return start.run

    encoder = f"{start.run}/{TEXT_ENCODER}"
    purpose = Purpose(
        "DAMSM text encoder",
        (f"Encoder: `{encoder}`; use it with `{_use(encoder)}`",),
    )
    with running_job(start, purpose) as job:
        train_with_restarts(
            work, job.fields, start.config, run=start.run, crew=job.crew, stop=job.stop
        )
        checkpoint = job.last_checkpoint()
        _export(start.run, checkpoint, job.state, job.tracker)
    return start.run


def _export(run: Folder, checkpoint: Folder, state: dict[str, Any], tracker: Tracker) -> None:
    """Write the last checkpoint's encoder and its R-precision to the run's folder and MLflow."""
    content = checkpoint.read(TEXT_ENCODER)
    sha256 = run.write(TEXT_ENCODER, content)
    retrieval = {"step": state["step"], "sha256": sha256, "r_precision": state["retrieval"]}
    run.write_json(RETRIEVAL, retrieval)
    tracker.json(retrieval, RETRIEVAL)
    tracker.file(TEXT_ENCODER, sha256)
    measured = state["retrieval"]
    print_line(
        f"finished. text encoder {run}/{TEXT_ENCODER}\n  sha256 {sha256}\n  "
        + (
            describe(RPrecision(**measured))
            if measured
            else "R-precision not measured: the held-out images have fewer than 2 classes"
        )
        + f"\n  use it: {_use(f'{run}/{TEXT_ENCODER}')}"
    )


def _use(encoder: str) -> str:
    return job_command("prepare", MORE, "--encoder", "damsm", "--encoder-path", encoder)
