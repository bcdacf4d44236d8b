"""Dry run of a training: check, compute memory, and time a step or two."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import psutil
import torch

from pipeline.common.console import DryRunReport, duration
from pipeline.common.redaction import redacted
from pipeline.config import RunConfig, TrainConfig
from pipeline.distributed.worker_count import WorkerRange, choose_crew, refuse_crowd
from pipeline.ray_cluster.connection import Resources, find_resources
from pipeline.storage.disk_space import free_bytes, leaving_nothing, readable
from pipeline.storage.folder import Folder
from pipeline.tracking.mlflow_access import state_of
from pipeline.tracking.refusals import BlockedError, UnavailableError
from pipeline.tracking.tracker import tracking_uri
from pipeline.training.damsm.config import PretrainConfig
from pipeline.training.damsm.pretrain import check_pretraining
from pipeline.training.launch import Launch, is_done, reached
from pipeline.training.start_from import find_start
from pipeline.training.step_cost import FIRST, Measured, Trial, gan_trial, measure, pair_trial
from pipeline.training.train import check_training
from ratgan.text.transform import SentenceTransform
from ratgan.text.vocabulary import Vocabulary

LIMIT_S = 20.0  # for the timed steps
ENOUGH_CAPTIONS = 20_000  # to estimate the size of the vocabulary


@dataclass(frozen=True)
class WorkerResources:
    """Where a training would run.

    Attributes:
        has: Available resources.
        crew: Permitted numbers of workers.
        device: Device of this machine.
    """

    has: Resources
    crew: WorkerRange
    device: torch.device

    @property
    def workers(self) -> int:
        """The largest number of workers; 0 trains in the process of the job."""
        return self.crew.sizes[0]

    @property
    def is_tried_here(self) -> bool:
        """Whether the training would use a device like that of this machine."""
        on_gpu = self.crew.use_gpu or (not self.workers and self.device.type == "cuda")
        return not self.has.cluster and on_gpu == (self.device.type == "cuda")


def plan_training(config: TrainConfig) -> None:
    """Print what a training would do; raises its errors."""
    with leaving_nothing(Folder(config.output)):
        start, report = check_training(config), DryRunReport()
        if weights := find_start(config, start):
            report.line("weights", f"from {weights}")
        raw_dim, transform = start.dataset.manifest.encoder.dim, start.dataset.transform

        def trial(device: torch.device) -> Trial:
            return _gan_trial(report, config, raw_dim, transform, device)

        _plan(start, report, trial, accumulate=config.optim.accumulate)
        report.end()


def plan_pretraining(config: PretrainConfig) -> None:
    """Print what a pretraining would do; raises its errors."""
    with leaving_nothing(Folder(config.output)):
        start, report = check_pretraining(config), DryRunReport()

        def trial(device: torch.device) -> Trial:
            texts = islice(start.dataset.captions("train"), ENOUGH_CAPTIONS)
            return pair_trial(config, Vocabulary.of(texts, config.pair.max_words), device)

        if config.pair.branch == "inception" and config.pair.inception_weights is None:
            report.note(
                "torchvision would download the weights of Inception-v3, unless it has them. "
                "Without internet access, name their file with --pair.inception-weights."
            )
        _plan(start, report, trial, accumulate=None)
        report.end()


def _gan_trial(
    report: DryRunReport,
    config: TrainConfig,
    raw_dim: int,
    transform: SentenceTransform,
    device: torch.device,
) -> Trial:
    """Prepare the trial of a GAN's step; a CPU runs it in float32."""
    if device.type == "cuda" or config.precision == "float32":
        return gan_trial(config, raw_dim, transform, device)
    report.note(f"timed in float32: most CPUs emulate {config.precision}, which takes longer.")
    return gan_trial(config, raw_dim, transform, device, tried_in="float32")


def _plan(
    start: Launch,
    report: DryRunReport,
    trial_of: Callable[[torch.device], Trial],
    *,
    accumulate: int | None,
) -> None:
    state = reached(start)
    place = find_place(start.config, start.batch)
    _say_run(report, start, state)
    _say_data(report, start)
    report.line("tracker", tracker_state(start.config, report))
    report.line("workers", f"{place.crew} ({place.has})")
    if not is_done(start, state):
        trial = trial_of(place.device)
        share = max(FIRST, start.batch // max(place.workers, 1))
        measured = say_cost(report, start.config, trial, share, place, accumulate=accumulate)
        say_room(report, start.config, trial)
        say_eta(report, measured, (start.total - state["step"]) * start.batch, place)


def find_place(config: RunConfig, batch: int) -> WorkerResources:
    """Decide where a training with `batch` images per step over all workers would run.

    Raises:
        ValueError: If there are not enough resources.
        ConnectionError: If a cluster is named and cannot be reached.
    """
    has = find_resources()
    if not has.cluster:
        refuse_crowd(config, has.cpus)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return WorkerResources(has, choose_crew(config, batch, has.gpus), device)


def _say_run(report: DryRunReport, start: Launch, state: dict[str, Any]) -> None:
    done, length = state["step"], f"{start.total:,} steps of {start.batch} images"
    if is_done(start, state):
        text = f"finished with {done:,} steps; nothing is left to do"
    elif done:
        text = f"resumes from step {done:,} of {length}"
    else:
        text = f"new; {length}"
    epochs = start.total * start.batch / start.dataset.manifest.rows("train")
    report.line("run", f"{start.run}: {text}, {epochs:,.1f} epochs")


def _say_data(report: DryRunReport, start: Launch) -> None:
    manifest = start.dataset.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    report.line(
        "data",
        f"{start.dataset.folder}: {manifest.rows('train'):,} images to train on, "
        f"{manifest.rows('validation'):,} held out, {manifest.cache_size} px\n"
        f"all {len(manifest.shards):,} files exist, {readable(size)}; captions encoded by "
        f"{manifest.encoder.name}, {manifest.transform.kind} to "
        f"{manifest.transform.dim} numbers",
    )


def tracker_state(config: RunConfig, report: DryRunReport) -> str:
    """Return the state of the tracker; a run does not need its answer."""
    uri = tracking_uri(config.tracking.uri, Folder(config.output), create=False)
    try:
        return f"{redacted(uri)} {state_of(uri, config.tracking.experiment)}"
    except BlockedError as error:
        report.note(
            "MLflow refuses the run. It continues without it and stores its metrics in its folder. "
            "They are sent when MLflow takes them, or by jobs/sync.py."
        )
        return f"{redacted(uri)} refuses the run: {error}"
    except UnavailableError as error:
        report.note(
            "MLflow does not answer. A run continues without it and stores its metrics in its "
            "folder. They are sent when MLflow answers, or by jobs/sync.py."
        )
        return f"{redacted(uri)} does not answer: {error}"


def say_cost(
    report: DryRunReport,
    config: RunConfig,
    trial: Trial,
    share: int,
    place: WorkerResources,
    *,
    accumulate: int | None = None,
) -> Measured:
    """Report memory and time of a step.

    Args:
        share: Images of a worker.
        place: Where it would run.
        accumulate: Parts of a worker's share, if that is an option.

    Raises:
        ValueError: If this machine would train and has too little memory.
    """
    sizes = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in trial.parameters.items())
    step_bytes = trial.step_bytes(share)
    need = trial.held_bytes + step_bytes
    report.line("model", f"{sizes} parameters")
    report.line(
        "memory",
        f"{readable(need)} for each worker at least, computed: {readable(trial.held_bytes)} of "
        f"weights and optimizers, {readable(step_bytes)} in a step of {share} images"
        + (f" in {accumulate} parts" if (accumulate or 1) > 1 else ""),
    )
    if place.is_tried_here:
        _refuse_too_large(need, place, accumulate)
    threads = torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        measured = measure(trial, share, step_bytes, place.device, LIMIT_S)
    finally:
        torch.set_num_threads(threads)
    peak = measured.peak_bytes
    report.line(
        "speed",
        f"a step of {measured.images} images took {measured.seconds:.2f} s on this machine's "
        f"{'GPU' if place.device.type == 'cuda' else 'CPU'}: "
        f"{measured.images / measured.seconds:,.1f} images/s"
        + ("" if peak is None else f", and {readable(peak)} of its memory"),
    )
    if measured.images < share:
        report.note(
            f"a whole step of {share} images would have taken long, so one of {measured.images} "
            "was timed. A larger step often takes less time for each image."
        )
    return measured


def say_room(report: DryRunReport, config: RunConfig, trial: Trial) -> None:
    """Report the space for checkpoints; the folder was probed before."""
    room = (config.keep_checkpoints + 1) * trial.held_bytes
    free = free_bytes(Folder(config.output))
    report.line(
        "storage",
        f"{config.output} can be written and read; checkpoints take up to "
        f"{readable(room)} there" + ("" if free is None else f", {readable(free)} are free"),
    )
    if free is not None and free < room:
        report.note(
            f"the checkpoints do not fit: they need {readable(room)}, and {readable(free)} are "
            "free. Free some, or use a smaller --keep-checkpoints."
        )


def say_eta(report: DryRunReport, measured: Measured, images: int, place: WorkerResources) -> None:
    """Report how long so many images take at the measured speed."""
    # Workers on the CPUs of one machine share them; otherwise each has its own device.
    side_by_side = max(place.workers, 1) if place.has.cluster or place.crew.use_gpu else 1
    seconds = images * measured.seconds / measured.images / side_by_side
    report.line(
        "ETA",
        f"{duration(seconds)} for {images:,} images at that speed; samples, checkpoints and "
        "waiting for data take additional time",
    )
    if place.crew.use_gpu and place.device.type != "cuda":
        report.note(
            "the workers have GPUs and this machine has none: their speed and ETA will differ."
        )
    elif place.has.cluster:
        report.note("the ETA assumes that each worker is as fast as this machine.")


def _refuse_too_large(need: int, place: WorkerResources, accumulate: int | None) -> None:
    """Raise ValueError if this machine has less memory than the computed minimum."""
    if place.device.type == "cuda":
        total, whose = torch.cuda.mem_get_info(place.device)[1], "its GPU"
    else:
        total, whose = psutil.virtual_memory().total, "this machine"
        need *= max(place.workers, 1)
    if need > total:
        raise ValueError(
            f"a step needs {readable(need)} of memory, and {whose} has {readable(total)}. "
            + (f"Use --optim.accumulate {2 * accumulate} or more, " if accumulate else "Use ")
            + "a machine with more memory, or a smaller --optim.batch-size."
        )
