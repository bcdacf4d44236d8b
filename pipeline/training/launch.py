"""Launch a training job: check, connect, start the workers, record the outcome."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from pipeline import config as options
from pipeline.checkpoint.store import newest_checkpoint
from pipeline.common.console import duration, print_line
from pipeline.common.environment import git_state, refuse_unsafe_loading, versions
from pipeline.common.errors import root_cause
from pipeline.common.machine import usable_cpus
from pipeline.common.redaction import redacted
from pipeline.config import refuse_changes
from pipeline.data.dataset import PreparedDataset
from pipeline.distributed.graceful_stop import StoppedError, StopRequests
from pipeline.distributed.worker_count import WorkerRange, check_share, choose_crew, refuse_crowd
from pipeline.ray_cluster.connection import connect, obtainable, quiet_libraries
from pipeline.storage.folder import Folder, absolute
from pipeline.storage.lock import Lock
from pipeline.storage.run_log import keep_log
from pipeline.tracking.run_description import Purpose, note
from pipeline.tracking.run_record import read_record, update_record
from pipeline.tracking.sender import Sender, send_rest, what_is_left
from pipeline.tracking.spool import SPOOL
from pipeline.tracking.tracker import PartOf, Tracker, sync_command, tracking_uri
from pipeline.training.loop import Job
from pipeline.training.run_metadata import in_words, introduce

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
    check_share(batch, config.workers or 1)
    dataset.verify()
    total = config.length(manifest.rows("train"), batch)
    run = (Folder(config.output) / config.name).closed()
    return Launch(config, dataset, run, batch, total)


def reached(start: Launch) -> dict[str, Any]:
    """Return the state of the checkpoint that a start goes on from; its step is 0 if there is none.

    Raises:
        ValueError: If options or dataset are not those the run was started with.
    """
    found = newest_checkpoint(start.run / "checkpoints")
    if found is None:
        return {"step": 0}
    state = found[1]
    refuse_changes(state["config"], start.config)
    if state["dataset"] != start.dataset.digest:
        raise ValueError(
            f"run {start.config.name} was trained on another dataset than {start.dataset.folder} "
            "holds now. Start a new run with another --name."
        )
    return state


def is_done(start: Launch, state: dict[str, Any]) -> bool:
    """Tell whether a run in this state has done its steps and handed over what came of them."""
    done: int = state["step"]
    return done >= start.total and read_record(start.run).get("handed_over") == done


def is_finished(start: Launch, result: str) -> bool:
    """Tell whether a run has done its steps and handed over what came of them.

    What its tracker does not have yet is sent to it then.

    Args:
        start: Of this start.
        result: What the run leaves, for the message.

    Raises:
        ValueError: If its options or its dataset are not those it was started with.
    """
    state = reached(start)
    if not is_done(start, state):
        return False
    unit = "epochs" if start.config.total_steps is None else "steps"
    whole = max(start.total, state["step"])  # it may have been extended before
    print_line(
        f"run {start.config.name} is finished: {state['step']:,} of {whole:,} steps. {result}. "
        f"Train on with --extend and a number of {unit}, or start a new run with another --name."
    )
    say_what_is_left(start.run, send_rest(start.run, _tracking_uri(start.config)))
    return True


class RunningJob:
    """A training job that holds its run: what the driver needs to train and to export.

    Attributes:
        crew: How many workers there may be.
        fields: Of the `Job` that each worker is given.
        stop: Requests to stop.
        tracker: Of the run.
        state: Of the last checkpoint, when all steps are done; empty before.
    """

    def __init__(
        self, start: Launch, crew: WorkerRange, lock: Lock, stop: StopRequests, tracker: Tracker
    ) -> None:
        self.start, self.crew, self.lock = start, crew, lock
        self.stop, self.tracker = stop, tracker
        self.state: dict[str, Any] = {}
        job = Job(
            # The tracker's address may hold a secret, and workers have no use for it.
            config=start.config.record(),
            run=start.run.location,
            versions=versions() | _commit(),
            dataset=start.dataset.digest,
            token=stop.token,
            lock=lock.number,
        )
        self.fields = vars(job)

    def last_checkpoint(self) -> Folder:
        """Return the checkpoint of the last step, when the workers have come to their end.

        Raises:
            StoppedError: If a stop was requested before the last step.
            OSError: If the last step has no complete checkpoint.
        """
        run, total = self.start.run, self.start.total
        self.stop.trained = True
        self.lock.check()
        found = newest_checkpoint(run / "checkpoints")
        done = found[1]["step"] if found else 0
        if done < total and self.stop.asked:
            raise StoppedError(self.stop.number, done)
        if found is None:
            raise OSError(f"{run}/checkpoints holds no complete checkpoint.")
        if done < total:
            raise OSError(
                f"{run}/checkpoints holds no complete checkpoint after step {done:,} of "
                f"{total:,}. The same command goes on from there."
            )
        checkpoint, self.state = found
        return checkpoint


@contextlib.contextmanager
def running_job(
    start: Launch,
    purpose: Purpose,
    *,
    stop: StopRequests | None = None,
    part_of: PartOf | None = None,
) -> Iterator[RunningJob]:
    """Hold the run's lock, connect to Ray if needed, and record the run to its outcome.

    The tracker is never in the way: what it does not take is kept in the run's folder, and a
    training that ends without it has ended well. The export of a result is done again by a later
    start if it was cut short.

    Args:
        start: Checked.
        purpose: Of the run, for the note on it.
        stop: By which a stop may be asked for, beside the signal.
        part_of: What the run is part of.

    Raises:
        StoppedError: If a signal asked for it; the last step is in a checkpoint then.
        ValueError: If another process is at work on the run.
    """
    crew = _connect(start.config, start.batch)
    requests = stop or StopRequests(start.run)
    with Lock(start.run, "train", on_lost=_end_at_once) as lock, requests.taken() as stop:
        run, began = start.run, time.monotonic()
        keep_log(run)
        run.remove_abandoned()
        known, uri = read_record(run).get("mlflow_run_id", "new"), _tracking_uri(start.config)
        tracker = introduce(start.config, run, start.dataset, uri, part_of)
        describe = partial(_describe, tracker, purpose, start)
        describe(f"training for {start.total:,} steps of {start.batch} images, {crew}")
        print_line(
            f"run {start.config.name}: {start.dataset.manifest.rows('train'):,} images of "
            f"{start.dataset.folder}, {start.total:,} steps of {start.batch}, {crew}\n"
            f"  folder {run}\n  mlflow {redacted(uri)} run {known}"
        )
        _note_extension(start, tracker)
        sender = Sender(run, uri, print_line)
        sender.start()
        status = "FAILED"
        try:
            job = RunningJob(start, crew, lock, stop, tracker)
            yield job
            tracker.flush()
            update_record(run, handed_over=job.state["step"])
            describe(
                f"finished: {job.state['step']:,} steps, {job.state['images']:,} images; the last "
                f"start took {duration(time.monotonic() - began)}, {crew}"
            )
            status = "FINISHED"
        except StoppedError as stopped:
            status = "KILLED"
            describe(f"stopped at step {stopped.step:,} of {start.total:,}")
            print_line(f"stopped at step {stopped.step:,}. The same command goes on from there.")
            raise
        except (KeyboardInterrupt, SystemExit) as end:
            status = "KILLED"
            describe("interrupted")
            raise KeyboardInterrupt(*end.args) from end  # with its exit status
        except BaseException as error:
            describe(f"failed: {_first_line(root_cause(error))}")
            raise
        finally:
            tracker.finish(status)
            with contextlib.suppress(OSError):  # what ended the run matters more
                update_record(run, status=status)
            say_what_is_left(run, sender)


def _describe(tracker: Tracker, purpose: Purpose, start: Launch, state: str) -> None:
    """Write the description of the run in MLflow anew, with what it does now."""
    tracker.note(note(purpose, on=in_words(start.dataset), state=state, run=str(start.run)))


def _commit() -> dict[str, str]:
    state = git_state()
    dirty = " with changes" if state.get("git.dirty") == "true" else ""
    return {"commit": state["git.commit"] + dirty} if state else {}


def _end_at_once(reason: str) -> None:
    """End this process, and with it its workers: whoever took the run over trains it now."""
    print_line(f"error: this run is another start's now ({reason}). Nothing more is written to it.")
    os._exit(1)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _note_extension(start: Launch, tracker: Tracker) -> None:
    """Say and record it if a run that was finished is to have more steps now."""
    record = read_record(start.run)
    ended = record.get("handed_over", start.total)
    if ended >= start.total:
        return
    others = [each for each in record.get("extended", []) if each["from"] != ended]
    extended = [*others, {"from": ended, "to": start.total}]
    update_record(start.run, extended=extended)
    tracker.tag("extended", ", ".join(f"step {e['from']} to {e['to']}" for e in extended))
    print_line(f"  finished at step {ended:,} before; extended to step {start.total:,}")


def say_what_is_left(run: Folder, sender: Sender) -> None:
    """Let the sender end, and say what it leaves, if anything."""
    if left := sender.close():
        print_line(
            f"{what_is_left(left)} of {run} are not in MLflow yet: {sender.problem or 'slow'}. "
            f"They are kept in {run}/{SPOOL}; send them with\n"
            f"  {sync_command(run, sender.delivery.uri)}"
        )


def _tracking_uri(config: options.RunConfig) -> str:
    return tracking_uri(config.tracking.uri, Folder(config.output))


def needs_ray(config: options.RunConfig) -> bool:
    """Return whether a training takes more than this process.

    Where it does not, no Ray is started: its 16 processes take memory and a tenth of a core.
    """
    workers = torch.cuda.device_count() if config.workers is None else config.workers
    return bool(workers or os.environ.get("RAY_ADDRESS") or config.data.reader == "ray")


def _connect(config: options.RunConfig, batch: int) -> WorkerRange:
    """Connect to Ray and decide how many workers there may be and whether they use GPUs."""
    if not needs_ray(config):
        quiet_libraries()
        return choose_crew(config, batch, gpus=0)
    if not os.environ.get("RAY_ADDRESS"):
        refuse_crowd(config, usable_cpus())  # before Ray is started for nothing
    expected = torch.cuda.device_count() if config.workers is None else config.workers
    connect(cpus=expected + 1, least=(config.min_workers or expected) + 1)
    gpus = obtainable("GPU")
    crew = choose_crew(config, batch, gpus)
    workers = gpus if config.workers is None else config.workers
    connect(cpus=workers + 1, least=(config.min_workers or workers) + 1)
    return crew
