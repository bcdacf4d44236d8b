"""DAMSM pretraining, from the driver's side: check, start or resume, train, hand over."""

from typing import Any

from pipeline.launch import Launch, carry_out, check, is_finished, with_places
from pipeline.pretrain_config import PretrainConfig
from pipeline.pretrain_worker import describe, work
from pipeline.progress import say
from pipeline.run_note import Purpose
from pipeline.storage import Folder, absolute
from pipeline.tracking import Tracker
from ratgan.checkpoint import TEXT_ENCODER
from ratgan.metrics.retrieval import RPrecision

RETRIEVAL = "retrieval.json"  # in the run's folder: R-precision of the encoder


def checked(config: PretrainConfig) -> Launch:
    """Check what can be known before a pretraining starts.

    Raises:
        ValueError: If dataset and options do not fit together.
        OSError: If nothing can be written to the output folder.
    """
    config = with_places(config)
    if (weights := config.pair.inception_weights) is not None:
        place = absolute(weights, "pair.inception_weights")
        pair = config.pair.model_copy(update={"inception_weights": place})
        config = config.model_copy(update={"pair": pair})
    if config.pair.branch == "small" and weights is not None:
        raise ValueError("pair.inception_weights has no use with --pair.branch small.")
    return check(
        config,
        image_size=config.pair.image_size,
        option="pair.image_size",
        batch=config.optim.batch_size,
    )


def pretrain(config: PretrainConfig) -> Folder:
    """Pretrain as the config says; a run that was cut short goes on from its last checkpoint.

    Returns:
        Folder of the run; `text_encoder.safetensors` in it is what preparation takes.

    Raises:
        ValueError: If dataset, run and options do not fit together; nothing was started then.
    """
    start = checked(config)
    if is_finished(start, f"Its encoder: {start.run}/{TEXT_ENCODER}"):
        return start.run

    def hand_over(checkpoint: Folder, state: dict[str, Any], tracker: Tracker) -> None:
        _hand_over(start.run, checkpoint, state, tracker)

    encoder = f"{start.run}/{TEXT_ENCODER}"
    purpose = Purpose(
        "DAMSM text encoder",
        (
            f"Encoder: `{encoder}`; use it with "
            f"`python jobs/prepare.py … --encoder damsm --encoder-path {encoder}`",
        ),
    )
    carry_out(start, work, hand_over, purpose)
    return start.run


def _hand_over(run: Folder, checkpoint: Folder, state: dict[str, Any], tracker: Tracker) -> None:
    """Put the last checkpoint's encoder and its measure into the run's folder and into MLflow."""
    content = checkpoint.read(TEXT_ENCODER)
    sha256 = run.write(TEXT_ENCODER, content)
    retrieval = {"step": state["step"], "sha256": sha256, "r_precision": state["retrieval"]}
    run.write_json(RETRIEVAL, retrieval)
    tracker.json(retrieval, RETRIEVAL)
    tracker.file(TEXT_ENCODER, sha256)
    measured = state["retrieval"]
    say(
        f"finished. text encoder {run}/{TEXT_ENCODER}\n  sha256 {sha256}\n  "
        + (
            describe(RPrecision(**measured))
            if measured
            else "R-precision not measured: the held-out images are not of 2 classes or more"
        )
        + "\n  use it: python jobs/prepare.py … --encoder damsm "
        f"--encoder-path {run}/{TEXT_ENCODER}"
    )
