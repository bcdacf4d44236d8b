"""The parent run of a study in MLflow, above the runs of its trials.

Its metrics are those of the best trial so far, over the number of finished trials. So a list of
runs that shows only parents has the result of the search.
"""

import time
from typing import Any

from pipeline.common.environment import git_state, versions
from pipeline.common.redaction import redacted
from pipeline.config import TrainConfig
from pipeline.storage.lock import Lock
from pipeline.sweeps.study_folder import StudyFolder, TrialRecord
from pipeline.tracking.mlflow_access import context_tags
from pipeline.tracking.run_record import read_record, update_record
from pipeline.tracking.sender import Sender, send_rest
from pipeline.tracking.spool import SPOOL
from pipeline.tracking.tracker import START, Tracker
from pipeline.training.launch import say_what_is_left

CONNECT_S = 60.0  # one process creates a new database, before others connect
NOTE = "mlflow.note.content"


class ParentRun:
    """Logs the study to MLflow, from the process that has the lock of its folder."""

    def __init__(self, study: StudyFolder, config: TrainConfig, uri: str) -> None:
        self.study, self.config, self.uri = study, config, uri
        self.tracker = Tracker(study.folder)
        self.sender = Sender(study.folder, uri)

    def begin(self, options: dict[str, object], tags: dict[str, str]) -> str:
        """Log the start or the resume of the study, and return our id of the run."""
        folder = self.study.folder
        update_record(folder, mlflow_uri=redacted(self.uri), status="RUNNING")
        if self.tracker.is_new():
            told = tags | git_state() | {f"version.{k}": v for k, v in versions().items()}
            self.tracker.options(options, told)
            self.tracker.begin(
                experiment=self.config.tracking.experiment,
                name=self.study.name,
                tags=context_tags(),
            )
        else:
            self.tracker.resume()
        self.sender.start()
        until = time.monotonic() + CONNECT_S
        while time.monotonic() < until and not self.sender.problem:
            if read_record(folder).get("mlflow_run_id"):
                break
            time.sleep(0.1)
        return str((folder / SPOOL).read_json(START)["id"])

    def trial_done(self, mode: str, metric: str) -> None:
        """Log the best trial so far."""
        trials = self.study.trials.values()
        done = [trial for trial in trials if trial.is_done]
        counts = {
            f"trials/{status}": float(sum(trial.status == status for trial in done))
            for status in ("finished", "stopped", "failed")
        }
        best = next((trial for trial in self.study.ranked(mode) if trial.is_done), None)
        values = dict(best.latest) if best else {}
        if best and (point := best.best(mode)):
            values[metric] = point[1]
        self.tracker.metrics(len(done), values | counts)

    def conclude(self, best: TrialRecord | None, note: str, files: dict[str, str]) -> None:
        """Log the result.

        Args:
            best: The best trial, if any.
            note: Description for the page of the run.
            files: sha256 of files in the folder, by name.
        """
        tags = {NOTE: note}
        params: dict[str, object] = {}
        if best is not None:
            run = read_record(self.study.run(best.number)).get("mlflow_run_id")
            tags |= {"best.trial": str(best.number), "best.run_id": str(run)}
            tags |= {f"best.{name}": str(value) for name, value in best.values.items()}
            told: dict[str, object] | None = read_record(self.study.folder).get("best")
            # A param cannot change later, and more trials may find a better one.
            if told is None:
                params = dict(best.values)
                update_record(self.study.folder, best=params)
        self.tracker.options(params, tags)
        for name, sha256 in files.items():
            self.tracker.file(name, sha256)

    def picture(self, key: str, step: int, file: str) -> None:
        """Log an image of the folder."""
        self.tracker.image(key, step, file)

    def finish(self, status: str) -> None:
        """Log the status, and wait until the rest is sent."""
        self.tracker.finish(status)
        update_record(self.study.folder, status=status)
        say_what_is_left(self.study.folder, self.sender)


def finish_trial_run(
    study: StudyFolder, record: TrialRecord, uri: str, *, send: bool = True
) -> dict[str, int]:
    """Log how the run of a trial ended, whatever ended it.

    Args:
        send: Whether the tracker answered so far.

    Returns:
        Number of records by lane that MLflow does not have yet.
    """
    run = study.run(record.number)
    known = read_record(run)
    if not known:
        return {}  # it never started
    tags = {"sweep.status": record.status} | ({"sweep.why": record.why} if record.why else {})
    settled: dict[str, Any] = {"tags": tags, "status": _status(record, known.get("status"))}
    if known.get("settled") != settled:
        with Lock(run, "settle"):
            tracker = Tracker(run)
            tracker.options({}, tags)
            if known.get("status") != settled["status"]:
                tracker.finish(settled["status"])
            tracker.flush()
            update_record(run, status=settled["status"], settled=settled)
    sender = send_rest(run, uri) if send else Sender(run, uri)
    return sender.delivery.left()


def _status(record: TrialRecord, known: str | None) -> str:
    """Return the status for MLflow."""
    ended = {"finished": "FINISHED", "failed": "FAILED"}.get(record.status, "KILLED")
    return known if known == "FINISHED" else ended
