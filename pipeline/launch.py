"""What every training job does before and around its workers: check, find, start, record."""

import platform
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import ray
import torch
from ray.train import LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline import config as options
from pipeline.checkpointing import newest_checkpoint
from pipeline.config import flatten, refuse_changes
from pipeline.dataset import PreparedDataset
from pipeline.progress import say
from pipeline.storage import Folder, absolute
from pipeline.tracking import Tracker, git_state, tracking_uri

RUN_RECORD = "run.json"  # in the run's folder: the id of its MLflow run
RAY_RECORDS = "ray"  # in the run's folder, while it runs
COLLECTIVE_TIMEOUT_S = 300  # a worker that is silent for so long is gone; Ray's default is 1800 s

Config = TypeVar("Config", bound=options.RunConfig)


def with_places(config: Config) -> Config:
    """Make every place absolute: workers run elsewhere, and it must mean the same there."""
    data = config.data.model_copy(update={"path": absolute(config.data.path, "data.path")})
    return config.model_copy(update={"output": absolute(config.output, "output"), "data": data})


def check_data(
    config: options.RunConfig, dataset: PreparedDataset, *, image_size: int, option: str, batch: int
) -> None:
    """Refuse options that do not fit the dataset.

    Args:
        config: Of the run.
        dataset: To train on.
        image_size: Height and width to train at, in pixels.
        option: What the user calls that.
        batch: Images per step over all workers.

    Raises:
        ValueError: With what does not fit.
    """
    manifest = dataset.manifest
    if manifest.cache_size < image_size:
        raise ValueError(
            f"{option}={image_size} is larger than the images in {dataset.folder}, which are "
            f"{manifest.cache_size} px. Prepare the dataset with --image-size {image_size}."
        )
    if config.data.flip and not manifest.mirrors:
        raise ValueError(
            f"captions of {manifest.source['name']} say left and right, and a mirrored image would "
            "not fit them. Use --data.no-flip."
        )
    if manifest.rows("train") < 2:
        raise ValueError(f"{dataset.folder} has fewer than 2 training images.")
    _check_share(batch, config.workers or 1)


def is_finished(
    config: options.RunConfig, run: Folder, dataset: PreparedDataset, total: int, result: str
) -> bool:
    """Tell whether a run has done its steps; refuse to go on with it under other conditions.

    Args:
        config: Of this start.
        run: Folder of the run.
        dataset: To train on.
        total: Steps of the whole run.
        result: What the run leaves, for the message.

    Raises:
        ValueError: If its options or its dataset are not those it was started with.
    """
    found = newest_checkpoint(run / "checkpoints")
    if found is None:
        return False
    state = found[1]
    refuse_changes(state["config"], config.model_dump(mode="json"), config.name)
    if state["dataset"] != dataset.digest:
        raise ValueError(
            f"run {config.name} was trained on another dataset than {dataset.folder} holds "
            "now. Start a new run with another --name."
        )
    if state["step"] < total:
        return False
    say(
        f"run {config.name} is finished: {state['step']:,} of {total:,} steps. "
        f"{result}. Train on with a larger --total-steps, or start a new run with another --name."
    )
    return True


def decide_workers(config: options.RunConfig, batch: int) -> tuple[int, bool]:
    """Decide the number of workers and whether they use GPUs; Ray must be connected.

    Raises:
        ValueError: If they cannot share a batch of this size.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = gpus if config.workers is None else config.workers
    _check_share(batch, max(workers, 1))
    return workers, 0 < workers <= gpus


def _check_share(batch: int, workers: int) -> None:
    if batch % workers:
        larger = -(-batch // workers) * workers
        raise ValueError(
            f"optim.batch_size={batch} must give each of the {workers} workers the same number of "
            f"images; {larger} is the next that does."
        )


def where(workers: int, use_gpu: bool) -> str:
    """Say where training runs."""
    place = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "in this process"
    return f"{place}{' on GPU' if use_gpu else ''}"


def fit(
    work: Callable[[dict[str, Any]], None],
    fields: dict[str, Any],
    *,
    name: str,
    run: Folder,
    workers: int,
    use_gpu: bool,
) -> None:
    """Run a function in every worker and wait for its end.

    Args:
        work: What each worker does.
        fields: Its argument, as JSON types.
        name: Of the run.
        run: Folder of the run.
        workers: Their number; with 0 it runs in this process.
        use_gpu: Give each worker a GPU.
    """
    TorchTrainer(
        work,
        train_loop_config=fields,
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        # Our own commit marker says where to resume. Ray keeps its records under a name
        # that is used once, so that no state of an earlier start can get in the way.
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{run}/{RAY_RECORDS}",
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    ).fit()
    (run / RAY_RECORDS).remove()


def start_tracking(config: options.RunConfig, run: Folder, dataset: PreparedDataset) -> Tracker:
    """Create the MLflow run, or go on with the one this run started."""
    output = Folder(config.output)
    record = run.read_json(RUN_RECORD) if run.exists(RUN_RECORD) else {}
    encoder = dataset.manifest.encoder
    tracker = Tracker.start(
        tracking_uri(config.tracking.uri, output),
        experiment=config.tracking.experiment,
        name=config.name,
        resume=record.get("mlflow_run_id"),
        params=flatten(config.model_dump(mode="json")),
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
        run.write_json(RUN_RECORD, {"mlflow_run_id": tracker.run_id, "mlflow_uri": tracker.uri})
        tracker.dataset(
            str(dataset.manifest.source["name"]),
            dataset.digest,
            dataset.folder.location,
            dataset.manifest.rows("train"),
        )
        tracker.json(config.model_dump(mode="json"), "config.json")
        tracker.json(dataset.manifest.model_dump(mode="json"), "dataset_manifest.json")
    return tracker


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("ratgan", "ray", "torchvision", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # runs from a folder that was not installed
            found[name] = "not installed"
    return found
