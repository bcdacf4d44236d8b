"""DAMSM pretraining, from the driver's side: check, start or resume, train, hand over."""

from pipeline.checkpointing import newest_checkpoint
from pipeline.dataset import PreparedDataset
from pipeline.launch import (
    check_data,
    decide_workers,
    fit,
    is_finished,
    start_tracking,
    versions,
    where,
    with_places,
)
from pipeline.pretrain_config import PretrainConfig
from pipeline.pretrain_worker import describe, work
from pipeline.progress import say
from pipeline.session import connect
from pipeline.storage import Folder, absolute
from pipeline.tracking import Tracker
from pipeline.worker import Job
from ratgan.checkpoint import TEXT_ENCODER
from ratgan.metrics.retrieval import RPrecision

RETRIEVAL = "retrieval.json"  # in the run's folder: R-precision of the encoder


def pretrain(config: PretrainConfig) -> Folder:
    """Pretrain as the config says; a run that was cut short goes on from its last checkpoint.

    Returns:
        Folder of the run; `text_encoder.safetensors` in it is what preparation takes.

    Raises:
        ValueError: If dataset, run and options do not fit together; nothing was started then.
    """
    config = with_places(config)
    if (weights := config.pair.inception_weights) is not None:
        place = absolute(weights, "pair.inception_weights")
        pair = config.pair.model_copy(update={"inception_weights": place})
        config = config.model_copy(update={"pair": pair})
    dataset = PreparedDataset(config.data.path)
    batch = config.optim.batch_size
    check_data(
        config, dataset, image_size=config.pair.image_size, option="pair.image_size", batch=batch
    )
    if config.pair.branch == "small" and weights is not None:
        raise ValueError("pair.inception_weights has no use with --pair.branch small.")
    run = Folder(config.output) / config.name
    total = config.steps(dataset.manifest.rows("train"))
    if is_finished(config, run, dataset, total, f"Its encoder: {run}/{TEXT_ENCODER}"):
        return run
    connect(cpus=(config.workers or 0) + 1)
    workers, use_gpu = decide_workers(config, batch)

    tracker = start_tracking(config, run, dataset)
    say(
        f"run {config.name}: {dataset.manifest.rows('train'):,} images of {dataset.folder}, "
        f"{total:,} steps of {batch}, {where(workers, use_gpu)}\n"
        f"  folder {run}\n  mlflow {tracker.uri} run {tracker.run_id}"
    )
    job = Job(
        config=config.model_dump(mode="json"),
        run=run.location,
        tracking=tracker.uri,
        run_id=tracker.run_id,
        versions=versions(),
    )
    status = "FAILED"
    try:
        fit(work, vars(job), name=config.name, run=run, workers=workers, use_gpu=use_gpu)
        _hand_over(run, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    return run


def _hand_over(run: Folder, tracker: Tracker) -> None:
    """Put the last checkpoint's encoder and its measure into the run's folder and into MLflow."""
    found = newest_checkpoint(run / "checkpoints")
    if found is None:
        raise OSError(f"{run}/checkpoints holds no complete checkpoint.")
    checkpoint, state = found
    content = checkpoint.read(TEXT_ENCODER)
    sha256 = run.write(TEXT_ENCODER, content)
    retrieval = {"step": state["step"], "sha256": sha256, "r_precision": state["retrieval"]}
    run.write_json(RETRIEVAL, retrieval)
    tracker.json(retrieval, RETRIEVAL)
    tracker.file(content, TEXT_ENCODER)
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
