"""One trial of a sweep: it calls `train`, and reports the run's metrics to Ray Tune.

The run trains in a thread. What it measures is read from its spool and reported to Tune, which
never keeps it waiting; a trial that Tune ends is asked to stop as a signal asks a run: it saves
its step, tells MLflow, and gives its folder free.
"""

import math
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

LOCAL_POLL_S, BUCKET_POLL_S = 0.2, 3.0  # between two looks at the spool
REPORT_S = 1.0  # longest time without a word to Tune, which can end a trial only between two
STOP_S = 300.0  # for a checkpoint of a trial that is ended
IN_USE_S = 120.0  # patience with a process of the same trial that is still ending


@dataclass
class Point:
    """Where a run has come to.

    Attributes:
        step: Steps done.
        score: Value of the curve that is followed.
        seconds: That training took up to here, over all starts.
        latest: Last value of each curve up to here.
    """

    step: int
    score: float
    seconds: float
    latest: dict[str, float] = field(default_factory=dict)


class Curve:
    """Follows one curve of a run.

    Args:
        run: Folder of the run; it need not be there yet.
        name: Of the curve.
    """

    def __init__(self, run: Folder, name: str) -> None:
        self.records, self.name = run / SPOOL / RECORDS, name
        self.latest: dict[str, float] = {}
        self.seconds = 0.0
        self.step = 0  # of the last point; the untrained run does not count
        self._images = 0.0
        self._position: Position = {}

    def new(self) -> list[Point]:
        """Return the points that were told since the last look, those told twice once."""
        points = []
        for entry in read(self.records, dict(self._position)):
            self._position[entry.writer] = list(entry.end)
            record = entry.record
            if record is None or record["kind"] != "points":
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
        """Add up how long training took, from how fast it said it went."""
        images, speed = values.get("images_seen", 0.0), values.get("speed/images_per_s", 0.0)
        if images > self._images and speed > 0:
            self.seconds += (images - self._images) / speed
            self._images = images


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a study share.

    Attributes:
        train: The run that is varied, with absolute places, its tracker and its workers.
        folder: Of the study.
        name: Of the study.
        metric: Curve that is reported.
        parent: Our id of the study's run.
        varied: Names of the options that vary.
        replay: Whether points of earlier starts are reported again, for a scheduler to know.
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
            ValueError: If the values do not go together.
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
        """Take what the trial is to do; nothing that can fail."""
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
        """Return the next point of the curve, or the end of the trial, or after a while nothing."""
        if self.thread.ident is None:
            if not self.plan.replay and (known := self.curve.new()):
                last = known[-1]
                return {"points": [[p.step, p.score] for p in known]} | self._state(last)
            self.thread.start()
        until = time.monotonic() + REPORT_S
        while True:
            ended = self.ended.is_set()  # before the look, which sees all that was told by then
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
        """Return what became of the trial; one that nothing can be compared by has failed."""
        if self.outcome["outcome"] != "finished" or self.curve.step:
            return self.outcome
        names = ", ".join(sorted(self.curve.latest)) or "none"
        why = (
            f"the run has no point of {self.plan.metric} after its start. Name another of its "
            f"curves with --metric: {names}"
        )
        return {"outcome": "failed", "why": why, "hopeless": True}

    def save_checkpoint(self, checkpoint_dir: str) -> str:
        """Give Tune something to pass on: the run has checkpoints of its own."""
        Path(checkpoint_dir, "trial").write_text(f"{self.number}\n")
        return checkpoint_dir

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the run goes on from its own last checkpoint, or the one it takes over."""

    def cleanup(self) -> None:
        """End the trial, with a checkpoint if it is not at its end."""
        if self.thread.ident is not None and not self.ended.is_set():
            if self.curve.step < self.total or not self.total:
                self.requests.request()
            self.thread.join(STOP_S)

    def _work(self) -> None:
        """Train to the end, and note how that ended; the work of the thread."""
        try:
            self._train()
        except StoppedError:
            self.outcome = {"outcome": "stopped", "why": "asked to stop"}
        except BaseException as error:
            cause = root_cause(error)
            user = isinstance(cause, USER_ERRORS)
            if not user:
                traceback.print_exception(error)
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
        if not self.plan.replay:  # weights and values of others are meant to be taken over
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
        """Take over the newest checkpoint of another trial; once, however often it is tried."""
        if read_record(self.run).get("adopted") == weights["as"]:
            return
        other = StudyFolder(Folder(self.plan.folder), self.plan.name).run(weights["of"])
        with Lock(self.run, "adopt") as lock:
            found = newest_checkpoint(other / "checkpoints")
            if found is None:  # nothing to take over yet: it goes on with its own
                update_record(self.run, adopted=weights["as"])
                return
            source, state = found
            own = self.run / "checkpoints"
            own.remove()
            target = own / source.location.rpartition("/")[2]
            for name in (*source.read_json(FILES), FILES, MARKER):  # the marker last, as ever
                lock.check()
                target.write(name, source.read(name))
            update_record(self.run, adopted=weights["as"])
        step = state["step"]
        print_line(f"goes on from the weights of trial {weights['of']} at step {step:,}")
        tracker = Tracker(self.run)
        values = ", ".join(f"{k}={v}" for k, v in self.trial["values"].items())
        tracker.tag(f"sweep.adopted.{step}", f"weights of trial {weights['of']}; {values}")
        tracker.flush()


def _when_free(run: Folder, work: Callable[[], object]) -> None:
    """Do something with a run once the process that had it before lets go of it."""
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
