"""One trial of a sweep: it calls `train`, and reports the run's metrics to Ray Tune.

The run trains in a thread. Its metrics are read from its spool and reported to Tune, which never
blocks it. A trial that Tune ends receives a stop request, like a run that receives a signal: it
saves a checkpoint, logs to MLflow, and releases its folder.
"""

import math
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune

from pipeline.checkpoint.store import FILES, MARKER, newest_checkpoint
from pipeline.common.console import print_line
from pipeline.common.errors import USER_ERRORS, root_cause
from pipeline.common.screen import say
from pipeline.config import TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.distributed.graceful_stop import StoppedError, StopRequests
from pipeline.storage.folder import Folder
from pipeline.storage.lock import FolderInUseError, Lock
from pipeline.sweeps.config import with_values
from pipeline.sweeps.schedulers import PROGRESS, SCORE, progress
from pipeline.sweeps.study_folder import StudyFolder
from pipeline.tracking.run_record import read_record, update_record
from pipeline.tracking.spool import RECORDS, SPOOL, Position, read
from pipeline.tracking.tracker import PartOf, Tracker
from pipeline.training.train import train

LOCAL_POLL_S, BUCKET_POLL_S = 0.2, 3.0  # between two reads of the spool
REPORT_S = 1.0  # longest time without a report: Tune can end a trial only between two reports
STOP_S = 300.0  # for the last checkpoint of a trial that is ended
IN_USE_S = 120.0  # wait for an earlier process of the same trial to end


@dataclass
class Point:
    """The state of a run at one step.

    Attributes:
        step: Steps done.
        score: Value of the metric.
        seconds: Training time up to this step, over all starts.
        latest: Last value of each metric up to this step.
    """

    step: int
    score: float
    seconds: float
    latest: dict[str, float] = field(default_factory=dict)


class Curve:
    """Reads one metric of a run.

    Args:
        run: Folder of the run; it need not exist yet.
    """

    def __init__(self, run: Folder, name: str) -> None:
        self.records, self.name = run / SPOOL / RECORDS, name
        self.latest: dict[str, float] = {}
        self.seconds = 0.0
        self.step = 0  # of the last point; the untrained run does not count
        self._images = 0.0
        self._position: Position = {}

    def new(self) -> list[Point]:
        """Return the points logged since the last call, each once."""
        points = []
        for entry in read(self.records, dict(self._position)):
            self._position[entry.writer] = list(entry.end)
            record = entry.record
            # Beside the training older steps are measured later, but one after the other.
            if record is None or record["kind"] not in ("points", "measured"):
                continue
            step, values = int(record["step"]), record["values"]
            self._time(values)
            self.latest |= values
            score = values.get(self.name)
            if score is not None and math.isfinite(score) and step > self.step:
                self.step = step
                points.append(Point(step, float(score), self.seconds, dict(self.latest)))
        return points

    def _time(self, values: dict[str, float]) -> None:
        """Add up the training time, from the logged images and speed."""
        images, speed = values.get("images_seen", 0.0), values.get("speed/images_per_s", 0.0)
        if images > self._images and speed > 0:
            self.seconds += (images - self._images) / speed
            self._images = images


@dataclass(frozen=True)
class TrialPlan:
    """Common settings of all trials of a study.

    Attributes:
        train: The run that is varied, with absolute paths, its tracker and its workers.
        metric: Metric that is reported.
        parent: Our id of the study's run.
        varied: Names of the options that vary.
        replay: Whether points of earlier starts are reported again to the scheduler.
    """

    train: TrainConfig
    folder: str
    name: str
    metric: str
    parent: str
    varied: tuple[str, ...]
    replay: bool

    def config(self, number: int, values: dict[str, Any]) -> TrainConfig:
        """Return the options of a trial's run.

        Raises:
            ValueError: If the combination of values is invalid.
        """
        return with_values(self.train, values).model_copy(
            update={
                "name": StudyFolder(Folder(self.folder), self.name).run_name(number),
                "output": self.folder,
            }
        )


class TrialRun(tune.Trainable):  # type: ignore[misc]
    """A trial; Tune calls it in an actor of its own."""

    def setup(self, config: dict[str, Any], plan: TrialPlan) -> None:
        """Store the arguments; nothing here can fail."""
        leave_quietly()
        self.plan, self.trial = plan, config["trial"]
        self.number: int = self.trial["number"]
        self.run = StudyFolder(Folder(plan.folder), plan.name).run(self.number)
        self.requests = StopRequests(self.run)
        self.curve = Curve(self.run, plan.metric)
        self.poll_s = LOCAL_POLL_S if self.run.local_path else BUCKET_POLL_S
        self.points: deque[Point] = deque()
        self.total = 0
        self.ended = threading.Event()
        self.outcome: dict[str, Any] = {}
        self.thread = threading.Thread(target=self._work, name="train", daemon=True)

    def __repr__(self) -> str:  # Ray puts it before each line that the trial prints
        return f"trial {self.number}"

    def step(self) -> dict[str, Any]:
        """Return the next point of the metric, the end of the trial, or an empty report."""
        if self.thread.ident is None:
            if not self.plan.replay and (known := self.curve.new()):
                last = known[-1]
                return {"points": [[p.step, p.score] for p in known]} | self._state(last)
            self.thread.start()
        until = time.monotonic() + REPORT_S
        while True:
            ended = self.ended.is_set()  # before the read, so that the read sees all points
            if self.total and not self.points:
                self.points += self.curve.new()
            if self.points:
                point = self.points.popleft()
                return {
                    SCORE: point.score,
                    PROGRESS: progress(point.step, self.total),
                    "points": [[point.step, point.score]],
                } | self._state(point)
            if ended:
                return {"done": True} | self._end()
            if time.monotonic() > until:
                return {"points": []}
            self.ended.wait(self.poll_s)

    def _state(self, point: Point) -> dict[str, Any]:
        return {"seconds": point.seconds, "latest": point.latest, "total": self.total}

    def _end(self) -> dict[str, Any]:
        """Return the outcome of the trial; one without a point of the metric has failed."""
        if self.outcome["outcome"] != "finished" or self.curve.step:
            return self.outcome
        names = ", ".join(sorted(self.curve.latest)) or "none"
        why = (
            f"the run has no point of {self.plan.metric} after its start. Choose another of its "
            f"metrics with --metric: {names}"
        )
        return {"outcome": "failed", "why": why, "hopeless": True}

    def save_checkpoint(self, checkpoint_dir: str) -> str:
        """Write a placeholder for Tune: the run has its own checkpoints."""
        Path(checkpoint_dir, "trial").write_text(f"{self.number}\n")
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing: the run resumes from its own checkpoint, or from the one it takes over."""

    def cleanup(self) -> None:
        """End the trial, with a checkpoint if it is unfinished."""
        if self.thread.ident is not None and not self.ended.is_set():
            if self.curve.step < self.total or not self.total:
                self.requests.request()
            self.thread.join(STOP_S)

    def _work(self) -> None:
        """Train and store the outcome; this function runs in the thread."""
        try:
            self._train()
        except StoppedError:
            self.outcome = {"outcome": "stopped", "why": "stop requested"}
        except BaseException as error:
            cause = root_cause(error)
            user = isinstance(cause, USER_ERRORS)
            if not user:
                say("".join(traceback.format_exception(error)), "stderr")
            self.outcome = {
                "outcome": "failed",
                "why": str(cause) if user else f"{type(cause).__name__}: {cause}",
            }
        else:
            self.outcome = {"outcome": "finished"}
        self.ended.set()

    def _train(self) -> None:
        config = self.plan.config(self.number, self.trial["values"])
        if weights := self.trial.get("weights"):
            _when_free(self.run, lambda: self._adopt(weights))
        if not self.plan.replay:  # taking over weights and values of others is intended
            config = config.model_copy(update={"allow_changes": ("name", *self.plan.varied)})
        self.total = config.steps(PreparedDataset(config.data.path).manifest.rows("train"))
        tags = {
            "sweep": self.plan.name,
            "sweep.trial": str(self.number),
            **{f"sweep.{name}": str(value) for name, value in self.trial["values"].items()},
        }
        part_of = PartOf(self.plan.parent, tags)
        _when_free(self.run, lambda: train(config, stop=self.requests, part_of=part_of))

    def _adopt(self, weights: dict[str, Any]) -> None:
        """Take over the newest checkpoint of another trial, once, even after a restart."""
        if read_record(self.run).get("adopted") == weights["as"]:
            return
        other = StudyFolder(Folder(self.plan.folder), self.plan.name).run(weights["of"])
        with Lock(self.run, "adopt") as lock:
            found = newest_checkpoint(other / "checkpoints")
            if found is None:  # the other has no checkpoint yet: continue with the own one
                update_record(self.run, adopted=weights["as"])
                return
            source, state = found
            own = self.run / "checkpoints"
            own.remove()
            target = own / source.location.rpartition("/")[2]
            for name in (*source.read_json(FILES), FILES, MARKER):  # the marker last, as in a save
                lock.check()
                target.write(name, source.read(name))
            update_record(self.run, adopted=weights["as"])
        step = state["step"]
        print_line(f"continues from the weights of trial {weights['of']} at step {step:,}")
        tracker = Tracker(self.run)
        values = ", ".join(f"{k}={v}" for k, v in self.trial["values"].items())
        tracker.tag(f"sweep.adopted.{step}", f"weights of trial {weights['of']}; {values}")
        tracker.flush()


def _when_free(run: Folder, work: Callable[[], object]) -> None:
    """Call a function as soon as the earlier process of a run has released its lock."""
    until = time.monotonic() + IN_USE_S
    while True:
        try:
            work()
            return
        except FolderInUseError:
            if time.monotonic() > until:
                raise
            print_line(f"{run} is still in use by an earlier start of this trial; waiting")
            time.sleep(2)


def leave_quietly() -> None:
    """Let this process show no traceback of its end.

    Ray ends it by a SystemExit wherever it is, be it in a callback, where Python can only show it.
    """
    shown = sys.unraisablehook
    sys.unraisablehook = lambda it: None if it.exc_type is SystemExit else shown(it)
