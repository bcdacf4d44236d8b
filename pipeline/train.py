"""A training run, from the driver's side: check, start or resume, train, hand over the model."""

from pipeline.checkpointing import newest_checkpoint
from pipeline.config import TrainConfig
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
from pipeline.model_card import model_card
from pipeline.progress import say
from pipeline.session import connect
from pipeline.storage import Folder
from pipeline.tracking import Tracker
from pipeline.worker import Job, work


def train(config: TrainConfig) -> Folder:
    """Train as the config says; a run that was cut short goes on from its last checkpoint.

    Returns:
        Folder of the run; the model is in its `model`.

    Raises:
        ValueError: If dataset, run and options do not fit together; nothing was started then.
    """
    config = with_places(config)
    dataset = PreparedDataset(config.data.path)
    batch = config.optim.batch_size
    check_data(
        config,
        dataset,
        image_size=config.model.image_size,
        option="model.image_size",
        batch=batch,
    )
    run = Folder(config.output) / config.name
    total = config.steps(dataset.manifest.rows("train"))
    if is_finished(config, run, dataset, total, f"Its model: {run}/model"):
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
        _hand_over(config, run, dataset, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    say(f"finished. model {run}/model")
    return run


def _hand_over(
    config: TrainConfig, run: Folder, dataset: PreparedDataset, tracker: Tracker
) -> None:
    """Put the last checkpoint's model into the run's folder and into MLflow, with its card."""
    found = newest_checkpoint(run / "checkpoints")
    if found is None:
        raise OSError(f"{run}/checkpoints holds no complete checkpoint.")
    checkpoint, state = found
    captions = [example.caption for example in dataset.examples("train", 4)]
    model = checkpoint / "model"
    files = {name: model.read(name) for name in model.names()}
    files["README.md"] = model_card(config, state, dataset.manifest, captions).encode()
    for name, content in files.items():
        (run / "model").write(name, content)
    tracker.model(files, captions)
