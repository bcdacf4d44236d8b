"""Run a study: trials on Ray Tune, each recorded before it starts and after it ends.

Tune places trials on the cluster, ends and restarts them. Its state is lost with the driver and
never read back. The same command reads the trials' records and their runs, and starts a new Tune
with the unfinished trials.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from pipeline.common.console import print_line
from pipeline.config import flatten
from pipeline.distributed.elastic import RAY_RECORDS
from pipeline.distributed.graceful_stop import StoppedError, StopRequests
from pipeline.storage.folder import Folder
from pipeline.storage.lock import FolderInUseError, Lock
from pipeline.storage.run_log import keep_log
from pipeline.sweeps.check import check_study
from pipeline.sweeps.concurrency import Capacity, connect_for
from pipeline.sweeps.config import RESUMABLE, StudyConfig
from pipeline.sweeps.monitor import SweepMonitor
from pipeline.sweeps.parent_run import ParentRun, finish_trial_run
from pipeline.sweeps.schedulers import SCORE, Halving
from pipeline.sweeps.search import Proposals
from pipeline.sweeps.study_folder import StudyFolder
from pipeline.sweeps.trial import TrialPlan, TrialRun
from pipeline.tracking.sender import what_is_left
from pipeline.tracking.tracker import sync_command, tracking_uri

# Disables files, checks and output of Tune; all state of trials is in their records.
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial also sends reports without a score
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is for `StopRequests`
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Study:
    """A sweep or an ablation.

    Attributes:
        scheduler: Decides which trials continue; None: all.
        replay: Whether the scheduler needs the points of earlier starts again.
        together: Whether trials depend on each other, and must all run at a time.
    """

    config: StudyConfig
    count: int
    proposals: Proposals
    scheduler: Any
    replay: bool = True
    together: bool = False

    @property
    def what(self) -> str:
        """Its kind for messages: "sweep" or "ablation"."""
        return self.config.kind

    @property
    def name(self) -> str:
        """Name of the study, and of its folder."""
        return self.config.study


def run_study(study: Study, conclude: Callable[[Study, StudyFolder, ParentRun], None]) -> Folder:
    """Run all unfinished trials, then report the results.

    Args:
        conclude: Writes tables and plots, and logs them to the study's run.

    Returns:
        Folder of the study.

    Raises:
        ValueError: If the study was started with other options, cannot be trained at all, or all
            of its trials failed.
        StoppedError: If a signal requested a stop; the same command resumes the study.
    """
    train = check_study(study.config)
    uri = tracking_uri(train.tracking.uri, Folder(train.output))
    folder = StudyFolder(Folder(train.output) / study.name, study.name)
    with (
        Lock(folder.folder, study.what) as lock,
        StopRequests(folder.folder).taken() as stop,
    ):
        keep_log(folder.folder)
        folder.open(study.config.record(train), RESUMABLE)
        left = _plan(study, folder)
        parent = ParentRun(folder, train, uri)
        print_line(
            f"{study.what} {study.name}: {study.count} trials, {_already(folder)}in {folder.folder}"
        )
        status = "FAILED"
        try:
            our_id = parent.begin(_parameters(study), {"study": study.what})
            watch = SweepMonitor(folder, parent, study.config, study.count, study.proposals, stop)
            if left:
                capacity = connect_for(
                    train.workers, train.threads, study.config.concurrent, len(left)
                )
                if study.together and capacity.concurrent < len(left):
                    raise ValueError(
                        f"{len(left)} trials take over weights from each other while they run, but "
                        f"there is capacity for {capacity.concurrent} at a time. Use fewer "
                        "--trials, or --scheduler asha."
                    )
                own: dict[str, Any] = {"workers": capacity.workers, "threads": capacity.threads}
                tracking = train.tracking.model_copy(update={"uri": uri})
                plan = TrialPlan(
                    train=train.model_copy(
                        update=own | {"min_workers": None, "tracking": tracking}
                    ),
                    folder=folder.folder.location,
                    name=study.name,
                    metric=study.config.metric,
                    parent=our_id,
                    varied=tuple(study.config.domains()),
                    replay=study.replay,
                )
                _run(study, folder, left, plan, capacity, watch)
                lock.check()
            _settle(folder, uri, send=not parent.sender.problem)
            _refuse_failure(study, folder, watch)
            if stop.asked:
                status = "KILLED"
                print_line(f"stopped. The same command resumes the {study.what}.")
                raise StoppedError(stop.number)
            if any(not each.is_done for each in folder.trials.values()):
                status = "KILLED"
                raise KeyboardInterrupt
            conclude(study, folder, parent)
            status = "FINISHED"
        finally:
            parent.finish(status)
    return folder.folder


def _plan(study: Study, folder: StudyFolder) -> list[int]:
    """Record the planned trials, and return the numbers of the unfinished ones."""
    for record in folder.trials.values():
        if record.status == "failed" and study.config.retry_failed:
            record.status, record.why = "running", ""
            folder.write(record)
        if record.is_done:
            study.proposals.learn(record)
    if not study.proposals.wait:
        for number in range(study.count):
            if number not in folder.trials:
                folder.add(number, study.proposals.propose(number))
    if isinstance(study.scheduler, Halving):
        study.scheduler.remember(each for each in folder.trials.values() if each.is_done)
    return [
        number
        for number in range(max(study.count, len(folder.trials)))
        if number not in folder.trials or not folder.trials[number].is_done
    ]


def _run(
    study: Study,
    folder: StudyFolder,
    numbers: list[int],
    plan: TrialPlan,
    capacity: Capacity,
    watch: SweepMonitor,
) -> None:
    """Let Tune run trials until all are finished or a stop is requested."""
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
    print_line(
        f"  {capacity.concurrent} trials at a time, "
        f"{f'{capacity.workers} workers each' if capacity.workers else 'each in one process'}"
    )
    given = {number: folder.trials[number].start() for number in numbers if number in folder.trials}
    search: dict[str, Any]
    if study.proposals.wait:
        chooser = Chooser(folder, study.proposals, numbers, study.config.mode)
        search = {"search_alg": chooser, "num_samples": len(numbers)}
        space = {}
    else:
        search = {}
        space = {"trial": tune.grid_search(list(given.values()))}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialRun, plan=plan), capacity.resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            scheduler=study.scheduler,
            max_concurrent_trials=capacity.concurrent,
            trial_name_creator=_tune_name,
            trial_dirname_creator=_tune_name,
            **search,
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:8],
            storage_path=(folder.folder / RAY_RECORDS).uri,
            failure_config=tune.FailureConfig(max_failures=study.config.train.max_restarts),
            callbacks=[watch],
            stop=watch.stopper,
            verbose=0,
        ),
    )
    # It warns of missing files, which are disabled above.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    tuner.fit()
    (folder.folder / RAY_RECORDS).remove()


def _tune_name(trial: Any) -> str:
    return f"trial-{trial.config['trial']['number']:03d}"


class Chooser(Searcher):  # type: ignore[misc]
    """Chooses the values of a trial when it can start, and records them.

    Args:
        numbers: Numbers of the trials to start, in order; some may have their values already.
        mode: Direction of the score.
    """

    def __init__(
        self, folder: StudyFolder, proposals: Proposals, numbers: Iterable[int], mode: str
    ) -> None:
        super().__init__(metric=SCORE, mode=mode)
        self.folder, self.proposals, self.numbers = folder, proposals, list(numbers)

    def __getstate__(self) -> dict[str, Any]:  # empty for the reason in `SweepMonitor`
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return number and values of the next trial."""
        if not self.numbers:
            return Searcher.FINISHED
        number = self.numbers.pop(0)
        record = self.folder.trials.get(number) or self.folder.add(
            number, self.proposals.propose(number)
        )
        return {"trial": record.start()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: `SweepMonitor` handles the result."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Do nothing: all state is in the records of the trials."""


def _settle(folder: StudyFolder, uri: str, *, send: bool) -> None:
    """Log to MLflow how each trial ended; print how many records it does not have."""
    total: dict[str, int] = {}
    for record in folder.trials.values():
        with contextlib.suppress(FolderInUseError):  # still ending: it logs its end itself
            for lane, count in finish_trial_run(folder, record, uri, send=send).items():
                total[lane] = total.get(lane, 0) + count
    if total:
        print_line(
            f"{what_is_left(total)} of trials are not in MLflow yet; send them with\n"
            f"  {sync_command(folder.folder, uri)}"
        )


def _refuse_failure(study: Study, folder: StudyFolder, watch: SweepMonitor) -> None:
    """Raise ValueError if no trial can be used, with the cause."""
    failed = [each for each in folder.trials.values() if each.status == "failed"]
    if watch.hopeless:
        raise ValueError(f"{study.what} {study.name} cannot compare its trials: {watch.hopeless}")
    if failed and len(failed) == len(folder.trials):
        raise ValueError(
            f"all {len(failed)} trials of {study.name} failed; trial {failed[0].number}: "
            f"{failed[0].why}\nAfter solving this, run them again with --retry-failed."
        )


def _already(folder: StudyFolder) -> str:
    done = sum(each.is_done for each in folder.trials.values())
    return f"{done} of them done, " if done else ""


def _parameters(study: Study) -> dict[str, object]:
    """Return the options of the study for its MLflow run."""
    config = study.config
    own = config.model_dump(mode="json", exclude={"train", "name", "retry_failed"})
    varied = config.domains()
    shared = {k: v for k, v in flatten(config.train.record()).items() if k not in varied}
    return {f"{study.what}.{name}": value for name, value in own.items()} | shared
