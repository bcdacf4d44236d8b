"""Parts of every training loop: setup, resume, data reader, checkpoint state."""

import contextlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import distributed

from pipeline.checkpoint.async_saver import Pack, Saver
from pipeline.checkpoint.host_copy import Groups
from pipeline.checkpoint.store import PREFIX, STATE, newest_checkpoint
from pipeline.common.console import print_line
from pipeline.common.environment import differences, refuse_skew, refuse_unsafe_loading
from pipeline.common.redaction import redact_logs, redact_process
from pipeline.config import ROUNDING, RunConfig, refuse_changes
from pipeline.data.dataset import PreparedDataset
from pipeline.data.loader import BatchReader
from pipeline.data.sample_order import SampleOrder
from pipeline.distributed import collective
from pipeline.distributed.graceful_stop import StopWatch
from pipeline.distributed.preemption import Departures
from pipeline.distributed.watchdog import Watchdog
from pipeline.ray_cluster.connection import configure_ray_data, is_connected
from pipeline.storage.folder import Folder
from pipeline.storage.lock import refuse_if_taken_over
from pipeline.storage.run_log import keep_log
from pipeline.tracking.tracker import Tracker

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class Job:
    """What the driver decides for all workers; crosses to them as JSON types.

    Attributes:
        config: Resolved options.
        run: Folder of the run.
        versions: Of what made it, for the record, the commit of the code among them.
        dataset: Digest of what is trained on.
        token: Of this start, for requests to stop it.
        lock: Number of its lock on the run's folder; 0 if there is none.
    """

    config: dict[str, Any]
    run: str
    versions: dict[str, str]
    dataset: str
    token: str = ""
    lock: int = 0

    @property
    def folder(self) -> Folder:
        """The run's folder, which nothing leads out of."""
        return Folder(self.run).closed()


def begin(fields: dict[str, Any], config_type: type[Config]) -> tuple[Job, Config, torch.device]:
    """Set this process up for a job.

    Args:
        fields: Of a `Job`.
        config_type: Of its options.

    Returns:
        The job, its options, and the device to train on.
    """
    redact_logs()
    refuse_unsafe_loading()
    job = Job(**fields)
    if is_connected() and _in_an_actor():  # no process of the user's own
        redact_process()
        keep_log(job.folder)
    refuse_skew(job.versions)
    config = config_type.model_validate(job.config)
    if is_connected():
        configure_ray_data()
    if config.threads:
        torch.set_num_threads(config.threads)
    return job, config, _device()


def _in_an_actor() -> bool:
    import ray

    return bool(ray.get_runtime_context().get_actor_id())


def _device() -> torch.device:
    """Return the device of this worker; in the process of a command, the first GPU or the CPU."""
    if distributed.is_initialized():
        from ray.train.torch import get_device

        return get_device()
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Worker(Generic[Config]):
    """A worker of a training, set up for its job.

    Attributes:
        job: Of this start.
        config: Its options.
        device: To train on.
        saver: Of checkpoints; used on rank 0.
        stop: Requests to stop.
        watchdog: Of steps that hang.
    """

    job: Job
    config: Config
    device: torch.device
    saver: Saver
    stop: StopWatch
    watchdog: Watchdog


@contextlib.contextmanager
def open_worker(fields: dict[str, Any], config_type: type[Config]) -> Iterator[Worker[Config]]:
    """Set this process up for a job; at the end wait for the last checkpoint.

    Args:
        fields: Of a `Job`.
        config_type: Of its options.
    """
    job, config, device = begin(fields, config_type)
    run, departures = job.folder, Departures(device)
    with (
        Saver(
            run / "checkpoints",
            keep=config.keep_checkpoints,
            before=partial(refuse_if_taken_over, run, job.lock),
        ) as saver,
        StopWatch(run, job.token, looks=collective.rank() == 0, notice=departures.notice) as stop,
        Watchdog(run, config.health.hang_s) as watchdog,
    ):
        yield Worker(job, config, device, saver, stop, watchdog)


def open_dataset(job: Job, path: str) -> PreparedDataset:
    """Open the dataset of a job, which must be the same wherever a worker is, and whenever.

    Raises:
        ValueError: If it is another one.
    """
    dataset = PreparedDataset(path)
    if dataset.digest != job.dataset:
        raise ValueError(
            f"{dataset.folder} holds another dataset on {platform.node()} now than where the job "
            f"was started (digest {dataset.digest[:12]}, not {job.dataset[:12]}). Was it prepared "
            "anew meanwhile, or has each machine a copy of its own? Nothing was trained on it."
        )
    return dataset


def resume(
    job: Job,
    config: RunConfig,
    checkpoints: Folder,
    device: torch.device,
    restore: Callable[[Folder], None],
    *,
    extras: bool = True,
) -> dict[str, Any]:
    """Restore the newest checkpoint, the same on every worker.

    Differences to the start that made it are printed, and stay in the run's record.

    Args:
        job: Of this start.
        config: Its options.
        checkpoints: Folder of the run's checkpoints.
        device: To agree by.
        restore: Puts what is trained back to where a checkpoint left it.
        extras: Checkpoints that came at no interval count too.

    Returns:
        State of the checkpoint, with its `step`; empty if there is none.
    """
    found = None
    if collective.rank() == 0:
        found = newest_checkpoint(checkpoints, extras=extras, set_aside=True)
    step = collective.from_rank_zero(found[1]["step"] if found else -1, device)
    if step < 0:
        return {}
    folder = checkpoints / f"{PREFIX}{step:08d}"
    state: dict[str, Any] = folder.read_json(STATE)
    options = refuse_changes(state["config"], config)
    restore(folder)
    if collective.rank() == 0:
        print_line(f"{'resuming' if step else 'starting'} from step {step:,} ({folder})")
        changes = _changes(state, job, options, device)
        for line in changes:
            print_line(f"  {line}")
        if changes:
            Tracker(job.folder).tag(f"resumed.{step}", "; ".join(changes))
    return state


def run_state(
    job: Job,
    config: RunConfig,
    dataset: PreparedDataset,
    plan: SampleOrder,
    device: torch.device | None,
    step: int,
) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors, as JSON types.

    Images seen, epoch and place in it follow from the step and stand there to be read. There is
    no state of a random generator: order, captions, crops and noise follow from seed and step.
    Without a device nothing was added up on one yet.
    """
    images = step * plan.batch_size
    epoch, cursor = divmod(images, plan.images)
    return {
        "run": config.name,
        "images": images,
        "epoch": epoch,
        "cursor": cursor,
        "config": config.record(),
        "dataset": dataset.digest,
        "encoder": dataset.manifest.encoder.record(),
        "versions": job.versions,
        **(_rounding(device) if device else {}),
    }


def _rounding(device: torch.device) -> dict[str, Any]:
    """Return what decides, beside options, in which order numbers are added up."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"workers": collective.world(), "threads": torch.get_num_threads(), "device": name}


def _changes(
    before: dict[str, Any], job: Job, options: list[str], device: torch.device
) -> list[str]:
    """Say in what a start differs from the one that made a checkpoint, by what comes of it."""
    rounding = [
        f"{name} {before[name]} → {now}"
        for name, now in _rounding(device).items()
        if before.get(name, now) != now
    ]
    rounding += [each for each in options if each.partition(":")[0] in ROUNDING]
    named = [each for each in options if each not in rounding]
    versions = before.get("versions", {})
    commit, now = versions.get("commit", ""), job.versions.get("commit", "")
    kinds = {
        "other options than before, so another run from here on": ", ".join(named),
        "the same images, but numbers equal only to rounding": ", ".join(rounding),
        "with other versions than before, so perhaps other numbers": differences(versions),
        "with other code than before": f"{commit} → {now}"
        if commit and now and commit != now
        else "",
    }
    return [f"{kind}: {what}" for kind, what in kinds.items() if what]


def flush_metrics_before(tracker: Tracker, pack: Pack) -> Pack:
    """Make the files of a checkpoint when all that was told before it is on the disk.

    It would not be told again by a start from there.
    """

    def files(groups: Groups, state: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        tracker.flush()
        yield from pack(groups, state)

    return files


def reader(
    config: RunConfig,
    dataset: PreparedDataset,
    plan: SampleOrder,
    *,
    image_size: int,
    captions: bool,
) -> BatchReader:
    """Make what brings this worker its share of the batches."""
    holders = 1
    if distributed.is_initialized():
        from ray.train import get_context

        holders = get_context().get_local_world_size()
    return BatchReader(
        dataset,
        plan,
        rank=collective.rank(),
        world=collective.world(),
        holders=holders,
        image_size=image_size,
        flip=config.data.flip,
        threads=config.data.decode_threads,
        captions=captions,
        reader=config.data.reader,
    )
