"""What every training job does before and around its workers: check, find, start, record."""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import torch
from ray.train import LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline import config as options
from pipeline.checkpointing import newest_checkpoint
from pipeline.config import flatten, refuse_changes
from pipeline.dataset import PreparedDataset
from pipeline.local_files import remove_abandoned
from pipeline.lock import Lock
from pipeline.loop import Job
from pipeline.losses import lost_worker
from pipeline.mlflow_run import context_tags
from pipeline.progress import say
from pipeline.redaction import redacted
from pipeline.run_record import read_record, update_record
from pipeline.safe_loading import refuse_unsafe_loading
from pipeline.sender import Sender, send_rest, what_is_left
from pipeline.session import connect, usable_cpus
from pipeline.spool import SPOOL
from pipeline.stopping import StoppedError, StopRequests
from pipeline.storage import Folder, absolute
from pipeline.tracking import Tracker, git_state, tracking_uri
from pipeline.versions import versions

RAY_RECORDS = "ray"  # in the run's folder, while it runs
COLLECTIVE_TIMEOUT_S = 300  # a worker that is silent for so long is gone; Ray's default is 1800 s

Config = TypeVar("Config", bound=options.RunConfig)


@dataclass(frozen=True)
class Launch:
    """A checked start of a training job.

    Attributes:
        config: Of the run.
        dataset: To train on.
        run: Folder of the run.
        batch: Images per step over all workers.
        total: Steps of the whole run.
    """

    config: options.RunConfig
    dataset: PreparedDataset
    run: Folder
    batch: int
    total: int


def with_places(config: Config) -> Config:
    """Make every place absolute: workers run elsewhere, and it must mean the same there."""
    data = config.data.model_copy(update={"path": absolute(config.data.path, "data.path")})
    return config.model_copy(update={"output": absolute(config.output, "output"), "data": data})


def check(config: options.RunConfig, *, image_size: int, option: str, batch: int) -> Launch:
    """Refuse what could not be trained, before anything starts.

    Args:
        config: Of the run, with absolute places.
        image_size: Height and width to train at, in pixels.
        option: What the user calls that.
        batch: Images per step over all workers.

    Raises:
        ValueError: If dataset and options do not fit together.
        OSError: If nothing can be written to the output folder.
    """
    refuse_unsafe_loading()
    Folder(config.output).check_writable("output")
    dataset = PreparedDataset(config.data.path)
    manifest = dataset.manifest
    prepared_for, margin = manifest.options["image_size"], float(manifest.options["margin"])
    remedy = (
        f"Train at --{option.replace('_', '-')} {prepared_for}, for which they were prepared, or "
        f"prepare the dataset with --image-size {image_size}."
    )
    if manifest.cache_size < image_size:
        raise ValueError(
            f"{option}={image_size} is larger than the images in {dataset.folder}, which are "
            f"{manifest.cache_size} px. {remedy}"
        )
    if manifest.cache_size > int(image_size * margin):
        raise ValueError(
            f"the images in {dataset.folder} are {manifest.cache_size} px: {option}={image_size} "
            f"would see but a corner of each. {remedy}"
        )
    if config.data.flip and not manifest.mirrors:
        raise ValueError(
            f"captions of {manifest.source['name']} say left and right, and a mirrored image would "
            "not fit them. Use --data.no-flip."
        )
    if manifest.rows("train") < 2:
        raise ValueError(f"{dataset.folder} has fewer than 2 training images.")
    _check_share(batch, config.workers or 1)
    dataset.verify()
    total = config.length(manifest.rows("train"), batch)
    return Launch(config, dataset, Folder(config.output) / config.name, batch, total)


def is_finished(start: Launch, result: str) -> bool:
    """Tell whether a run has done its steps and handed over what came of them.

    What its tracker does not have yet is sent to it then.

    Args:
        start: Of this start.
        result: What the run leaves, for the message.

    Raises:
        ValueError: If its options or its dataset are not those it was started with.
    """
    found = newest_checkpoint(start.run / "checkpoints")
    if found is None:
        return False
    name, state = start.config.name, found[1]
    refuse_changes(state["config"], start.config)
    if state["dataset"] != start.dataset.digest:
        raise ValueError(
            f"run {name} was trained on another dataset than {start.dataset.folder} holds "
            "now. Start a new run with another --name."
        )
    if state["step"] < start.total or read_record(start.run).get("handed_over") != state["step"]:
        return False
    say(
        f"run {name} is finished: {state['step']:,} of {start.total:,} steps. "
        f"{result}. Train on with a larger --total-steps, or start a new run with another --name."
    )
    _say_what_is_left(start.run, send_rest(start.run, _tracking_uri(start.config)))
    return True


def carry_out(
    start: Launch,
    work: Callable[[dict[str, Any]], None],
    hand_over: Callable[[Folder, dict[str, Any], Tracker], None],
) -> None:
    """Run a function in every worker, then hand over what came of it; all of it recorded.

    The tracker is never in the way: what it does not take is kept in the run's folder, and a
    training that ends without it has ended well.

    Args:
        start: Checked.
        work: What each worker does, given the fields of a `Job`.
        hand_over: Puts the result into the run's folder and into MLflow, given the last
            checkpoint, its state and the run there. Done again if it was cut short.

    Raises:
        StoppedError: If a signal asked for it; the last step is in a checkpoint then.
        ValueError: If another process is at work on the run.
    """
    workers, use_gpu = _connect(start.config, start.batch)
    with Lock(start.run, "train") as lock, StopRequests(start.run).taken() as stop:
        _carry_out(start, work, hand_over, workers, use_gpu, lock, stop)


def _carry_out(
    start: Launch,
    work: Callable[[dict[str, Any]], None],
    hand_over: Callable[[Folder, dict[str, Any], Tracker], None],
    workers: int,
    use_gpu: bool,
    lock: Lock,
    stop: StopRequests,
) -> None:
    config, run = start.config, start.run
    if run.is_local:
        remove_abandoned(run.path)
    known = read_record(run).get("mlflow_run_id", "new")
    tracker = _start_tracking(config, run, start.dataset)
    uri = _tracking_uri(config)
    say(
        f"run {config.name}: {start.dataset.manifest.rows('train'):,} images of "
        f"{start.dataset.folder}, {start.total:,} steps of {start.batch}, "
        f"{_where(workers, use_gpu)}\n"
        f"  folder {run}\n  mlflow {redacted(uri)} run {known}"
    )
    sender = Sender(run, uri, say)
    sender.start()
    job = Job(
        # The tracker's address may hold a secret, and workers have no use for it.
        config=config.record(),
        run=run.location,
        versions=versions(),
        token=stop.token,
    )
    status = "FAILED"
    try:
        _fit_through_losses(work, vars(job), config, run=run, workers=workers, use_gpu=use_gpu)
        lock.check()
        found = newest_checkpoint(run / "checkpoints")
        if found is None:
            raise OSError(f"{run}/checkpoints holds no complete checkpoint.")
        if found[1]["step"] < start.total and stop.asked:
            say(f"stopped at step {found[1]['step']:,}. The same command goes on from there.")
            raise StoppedError
        hand_over(*found, tracker)
        tracker.flush()
        update_record(run, handed_over=found[1]["step"])
        status = "FINISHED"
    except StoppedError:
        status = "KILLED"
        raise
    except (KeyboardInterrupt, SystemExit) as end:  # Ray turns Ctrl-C into an exit of its own
        status = "KILLED"
        raise KeyboardInterrupt from end
    finally:
        tracker.finish(status)
        _say_what_is_left(run, sender)


def record_afterwards(
    config: options.RunConfig, run: Folder, step: int, values: dict[str, float]
) -> None:
    """Add to the curves of a run that has ended.

    Args:
        config: Of the run, with absolute places.
        run: Its folder.
        step: That the values are of.
        values: By name of the curve.
    """
    tracker = Tracker(run)
    tracker.metrics(step, values)
    tracker.flush()
    _say_what_is_left(run, send_rest(run, _tracking_uri(config)))


def _say_what_is_left(run: Folder, sender: Sender) -> None:
    """Let the sender end, and say what it leaves, if anything."""
    if left := sender.close():
        say(
            f"{what_is_left(left)} of {run} are not in MLflow yet: {sender.problem or 'slow'}. "
            f"They are kept in {run}/{SPOOL}; send them with\n"
            f"  python jobs/sync.py --run {run}"
        )


def _tracking_uri(config: options.RunConfig) -> str:
    return tracking_uri(config.tracking.uri, Folder(config.output))


def _connect(config: options.RunConfig, batch: int) -> tuple[int, bool]:
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
    _check_share(batch, max(workers, 1))
    return workers, 0 < workers <= gpus


def _check_share(batch: int, workers: int) -> None:
    if batch % workers:
        larger = -(-batch // workers) * workers
        raise ValueError(
            f"optim.batch_size={batch} must give each of the {workers} workers the same number of "
            f"images; {larger} is the next that does."
        )


def _where(workers: int, use_gpu: bool) -> str:
    place = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "in this process"
    on_gpu = use_gpu or (not workers and torch.cuda.is_available())
    return f"{place}{' on GPU' if on_gpu else ''}"


def _fit_through_losses(
    work: Callable[[dict[str, Any]], None],
    fields: dict[str, Any],
    config: options.RunConfig,
    *,
    run: Folder,
    workers: int,
    use_gpu: bool,
) -> None:
    """Run a function in every worker, and again from the last checkpoint if one is lost."""
    for restarts in range(config.max_restarts + 1):
        try:
            _fit(work, fields, name=config.name, run=run, workers=workers, use_gpu=use_gpu)
            return
        except Exception as error:
            loss = lost_worker(error)
            if loss is None or restarts == config.max_restarts:
                raise
            say(
                f"{loss}. Starting again from the last checkpoint "
                f"({restarts + 1} of {config.max_restarts} times)"
            )


def _fit(
    work: Callable[[dict[str, Any]], None],
    fields: dict[str, Any],
    *,
    name: str,
    run: Folder,
    workers: int,
    use_gpu: bool,
) -> None:
    """Run a function in every worker, or in this process with none, and wait for its end."""
    trainer = TorchTrainer(
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
    )
    threads = torch.get_num_threads()
    try:
        trainer.fit()
    finally:
        torch.set_num_threads(threads)  # which a run in this process may have changed
    (run / RAY_RECORDS).remove()


def _start_tracking(config: options.RunConfig, run: Folder, dataset: PreparedDataset) -> Tracker:
    """Tell the tracker what run this is, or that it goes on."""
    tracker = Tracker(run)
    update_record(run, mlflow_uri=redacted(_tracking_uri(config)))
    if not tracker.is_new():
        tracker.resume()
        return tracker
    encoder, source = dataset.manifest.encoder, str(dataset.manifest.source["name"])
    tags = {
        "dataset.digest": dataset.digest,
        "dataset.path": dataset.folder.location,
        "dataset.source": source,
        "text_encoder": encoder.name,
        "text_encoder.sha256": encoder.sha256,
        "sentence_transform": f"{dataset.transform.kind} to {dataset.transform.dim}",
        **git_state(),
        **{f"version.{name}": value for name, value in versions().items()},
    }
    tracker.options(flatten(config.record()), tags)
    images = dataset.manifest.rows("train")
    tracker.dataset(source, dataset.digest, dataset.folder.location, images)
    tracker.json(config.record(), "config.json")
    tracker.json(dataset.manifest.model_dump(mode="json"), "dataset_manifest.json")
    tracker.begin(experiment=config.tracking.experiment, name=config.name, tags=context_tags())
    return tracker
