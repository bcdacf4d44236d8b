"""A training run, from the driver's side: check, start or resume, train, hand over the model."""

import os
import platform
import uuid
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
import torch
from ray.train import LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.checkpointing import newest_checkpoint
from pipeline.config import TrainConfig, flatten, refuse_changes
from pipeline.dataset import PreparedDataset
from pipeline.model_card import model_card
from pipeline.progress import say
from pipeline.session import connect, usable_cpus
from pipeline.storage import Folder, absolute
from pipeline.tracking import Tracker, git_state, redacted, tracking_uri
from pipeline.worker import Job, work
from ratgan.checkpoint import MODEL_JSON, MODEL_TENSORS

RUN_RECORD = "run.json"  # in the run's folder: the id of its MLflow run
RAY_RECORDS = "ray"  # in the run's folder, while it runs
COLLECTIVE_TIMEOUT_S = 300  # a worker that is silent for so long is gone; Ray's default is 1800 s


def train(config: TrainConfig) -> Folder:
    """Train as the config says; a run that was cut short goes on from its last checkpoint.

    Returns:
        Folder of the run; the model is in its `model`.

    Raises:
        ValueError: If dataset, run and options do not fit together; nothing was started then.
    """
    # Workers run elsewhere: every place must mean the same there.
    config = config.model_copy(
        update={
            "output": absolute(config.output, "output"),
            "data": config.data.model_copy(
                update={"path": absolute(config.data.path, "data.path")}
            ),
        }
    )
    Folder(config.output).check_writable("output")
    dataset = PreparedDataset(config.data.path)
    check(config, dataset)
    dataset.verify()
    run = Folder(config.output) / config.name
    total = config.steps(dataset.manifest.rows("train"))
    done = _steps_done(config, run, dataset)
    if done >= total and _record(run).get("handed_over") == done:
        say(
            f"run {config.name} is finished: {done:,} of {total:,} steps. "
            f"Its model: {run}/model. Train on with a larger --total-steps, "
            "or start a new run with another --name."
        )
        return run
    workers, use_gpu = _connect(config)

    tracker = _start_tracking(config, run, dataset)
    say(
        f"run {config.name}: {dataset.manifest.rows('train'):,} images of {dataset.folder}, "
        f"{total:,} steps of {config.optim.batch_size}, {_where(workers)}"
        f"{' on GPU' if use_gpu or (not workers and torch.cuda.is_available()) else ''}\n"
        f"  folder {run}\n  mlflow {redacted(tracker.uri)} run {tracker.run_id}"
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
        TorchTrainer(
            work,
            train_loop_config=vars(job),
            torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            # Our own commit marker says where to resume. Ray keeps its records under a name
            # that is used once, so that no state of an earlier start can get in the way.
            run_config=RunConfig(
                name=f"{config.name}-{uuid.uuid4().hex[:8]}",
                storage_path=f"{run}/{RAY_RECORDS}",
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        ).fit()
        (run / RAY_RECORDS).remove()
        _hand_over(config, run, dataset, tracker)
        run.write_json(RUN_RECORD, _record(run) | {"handed_over": total})
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit) as stop:  # Ray turns Ctrl-C into an exit of its own
        status = "KILLED"
        raise KeyboardInterrupt from stop
    finally:
        tracker.finish(status)
    say(f"finished. model {run}/model")
    return run


def _record(run: Folder) -> dict[str, Any]:
    """Read what the run keeps of itself; empty if it is new."""
    record: dict[str, Any] = run.read_json(RUN_RECORD) if run.exists(RUN_RECORD) else {}
    return record


def _steps_done(config: TrainConfig, run: Folder, dataset: PreparedDataset) -> int:
    """Return the steps of the newest checkpoint, and refuse to go on as another run."""
    found = newest_checkpoint(run / "checkpoints")
    if found is None:
        return 0
    state = found[1]
    refuse_changes(state["config"], config)
    if state["dataset"] != dataset.digest:
        raise ValueError(
            f"run {config.name} was trained on another dataset than {dataset.folder} holds "
            "now. Start a new run with another --name."
        )
    return int(state["step"])


def check(config: TrainConfig, dataset: PreparedDataset) -> None:
    """Refuse options that do not fit the dataset.

    Raises:
        ValueError: With what does not fit.
    """
    manifest = dataset.manifest
    if manifest.cache_size < config.model.image_size:
        raise ValueError(
            f"model.image_size={config.model.image_size} is larger than the images in "
            f"{dataset.folder}, which are {manifest.cache_size} px. Train at "
            f"--model.image-size {manifest.options['image_size']}, for which they were prepared, "
            f"or prepare the dataset with --image-size {config.model.image_size}."
        )
    margin = float(manifest.options["margin"])
    if manifest.cache_size > int(config.model.image_size * margin):
        raise ValueError(
            f"the images in {dataset.folder} are {manifest.cache_size} px, prepared for training "
            f"at {manifest.options['image_size']} px: model.image_size={config.model.image_size} "
            "would see but a corner of each. Train at --model.image-size "
            f"{manifest.options['image_size']}, or prepare the dataset with "
            f"--image-size {config.model.image_size}."
        )
    if config.data.flip and not manifest.mirrors:
        raise ValueError(
            f"captions of {manifest.source['name']} say left and right, and a mirrored image would "
            "not fit them. Use --data.no-flip."
        )
    if manifest.rows("train") < 2:
        raise ValueError(f"{dataset.folder} has fewer than 2 training images.")
    if config.workers and config.optim.batch_size % config.workers:
        raise _indivisible(config.optim.batch_size, config.workers)


def _indivisible(batch: int, workers: int) -> ValueError:
    larger = -(-batch // workers) * workers
    return ValueError(
        f"optim.batch_size={batch} must give each of the {workers} workers the same number of "
        f"images; {larger} is the next that does."
    )


def _connect(config: TrainConfig) -> tuple[int, bool]:
    """Connect to Ray and decide the number of workers and whether they use GPUs."""
    usable = usable_cpus()
    if not os.environ.get("RAY_ADDRESS") and (config.workers or 0) > max(2, usable):
        raise ValueError(
            f"workers={config.workers} on a machine with {usable} CPUs: each worker needs one. "
            f"Use --workers {usable} or fewer, or submit the job to a larger cluster."
        )
    expected = torch.cuda.device_count() if config.workers is None else config.workers
    connect(cpus=expected + 1)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = gpus if config.workers is None else config.workers
    if 0 < gpus < workers:
        raise ValueError(
            f"workers={workers}, and the cluster has {gpus} GPUs: some workers would train without "
            f"one. Use --workers {gpus}, or leave it out to use them all."
        )
    connect(cpus=workers + 1)
    if config.optim.batch_size % max(workers, 1):
        raise _indivisible(config.optim.batch_size, workers)
    return workers, 0 < workers <= gpus


def _where(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}" if workers else "in this process"


def _start_tracking(config: TrainConfig, run: Folder, dataset: PreparedDataset) -> Tracker:
    """Create the MLflow run, or go on with the one this run started."""
    output = Folder(config.output)
    record = _record(run)
    encoder = dataset.manifest.encoder
    tracker = Tracker.start(
        tracking_uri(config.tracking.uri, output),
        experiment=config.tracking.experiment,
        name=config.name,
        resume=record.get("mlflow_run_id"),
        params=flatten(config.record()),
        tags={
            "dataset.digest": dataset.digest,
            "dataset.path": dataset.folder.location,
            "dataset.source": str(dataset.manifest.source["name"]),
            "text_encoder": encoder.name,
            "text_encoder.sha256": encoder.sha256,
            "sentence_transform": f"{dataset.transform.kind} to {dataset.transform.dim}",
            **git_state(),
            **{f"version.{name}": value for name, value in versions().items()},
        },
    )
    if tracker.run_id != record.get("mlflow_run_id"):
        run.write_json(
            RUN_RECORD, {"mlflow_run_id": tracker.run_id, "mlflow_uri": redacted(tracker.uri)}
        )
        tracker.dataset(
            str(dataset.manifest.source["name"]),
            dataset.digest,
            dataset.folder.location,
            dataset.manifest.rows("train"),
        )
        tracker.json(config.record(), "config.json")
        tracker.json(dataset.manifest.model_dump(mode="json"), "dataset_manifest.json")
    return tracker


def _hand_over(
    config: TrainConfig, run: Folder, dataset: PreparedDataset, tracker: Tracker
) -> None:
    """Put the last checkpoint's model into the run's folder and into MLflow, with its card."""
    found = newest_checkpoint(run / "checkpoints")
    if found is None:
        raise OSError(f"{run}/checkpoints holds no complete checkpoint.")
    checkpoint, state = found
    captions = [example.caption for example in dataset.examples("train", 4)]
    files = {"README.md": model_card(config, state, dataset.manifest, captions).encode()}
    # The one that names the hash of the other comes last.
    files |= {name: checkpoint.read(f"model/{name}") for name in (MODEL_TENSORS, MODEL_JSON)}
    for name, content in files.items():
        (run / "model").write(name, content)
    tracker.model(files, captions)


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("ratgan", "ray", "torchvision", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # runs from a folder that was not installed
            found[name] = "not installed"
    return found
