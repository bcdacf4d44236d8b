"""Follow trials while Ray Tune runs them: update their records and print their progress."""

from typing import Any

from ray import tune

from pipeline.common.console import duration, print_line
from pipeline.distributed.graceful_stop import StopRequests
from pipeline.sweeps.config import StudyConfig
from pipeline.sweeps.parent_run import ParentRun
from pipeline.sweeps.search import Proposals
from pipeline.sweeps.study_folder import StudyFolder, TrialRecord


class Stopper(tune.Stopper):  # type: ignore[misc]
    """Ends all trials after a stop request, or if none of them can be used."""

    def __init__(self, watch: "SweepMonitor") -> None:
        self.watch = watch

    def __getstate__(self) -> dict[str, Any]:  # empty for the reason in `SweepMonitor`
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: no trial is stopped alone."""
        return False

    def stop_all(self) -> bool:
        """Return whether all trials must end."""
        return self.watch.ending


class SweepMonitor(tune.Callback):  # type: ignore[misc]
    """Keeps the records of trials.

    Args:
        proposals: Learn from finished trials.

    Attributes:
        hopeless: Why no trial can be used, or "".
    """

    def __init__(
        self,
        folder: StudyFolder,
        parent: ParentRun,
        config: StudyConfig,
        count: int,
        proposals: Proposals,
        stop: StopRequests,
    ) -> None:
        self.folder, self.parent, self.stop = folder, parent, stop
        self.metric, self.mode, self.count = config.metric, config.mode, count
        self.proposals = proposals
        self.hopeless = ""
        self.stopper = Stopper(self)

    # Tune stores its callbacks. They are never read, and a tracker's address may have a secret.
    def __getstate__(self) -> dict[str, Any]:
        return {}

    @property
    def ending(self) -> bool:
        """Whether all trials must end, finished or not."""
        return self.stop.asked or bool(self.hopeless)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record that a trial starts or resumes, perhaps from the weights of another."""
        record, config = self._record(trial), trial.config["trial"]
        weights = config.get("weights")
        if weights and all(weights["as"] != each.get("as") for each in record.adopted):
            record.adopted.append({**weights, "values": config["values"]})
            record.values = config["values"]
            print_line(
                f"trial {record.number} takes over from trial {weights['of']}: {_values(record)}"
            )
        elif record.status == "planned":
            print_line(f"trial {record.number} starts: {_values(record)}")
        else:
            print_line(f"trial {record.number} resumes: {_values(record)}")
        record.status = "running"
        self.folder.write(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Record the results of a trial."""
        record = self._record(trial)
        last = record.curve[-1][0] if record.curve else 0
        # A resumed trial reports all its points again.
        record.curve += [(step, score) for step, score in result.get("points", ()) if step > last]
        for name in ("seconds", "latest", "total"):
            if name in result:
                setattr(record, name, result[name])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record how a trial ended: at its end, or by the scheduler."""
        record, result = self._record(trial), trial.last_result or {}
        if "outcome" in result:
            self._done(record, result["outcome"], result.get("why", ""))
            if result.get("hopeless"):
                self.hopeless = result["why"]
        elif not self.ending:  # otherwise it is unfinished, and the same command resumes it
            step, score = record.curve[-1]
            said = f"at step {step:,} of {record.total:,}, {self.metric} {score:.4g}"
            self._done(record, "stopped", said)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record that the process of a trial was lost too often."""
        why = "its process was lost more often than train.max_restarts permits"
        self._done(self._record(trial), "failed", why)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Print that a trial restarts."""
        print_line(
            f"trial {self._record(trial).number} lost its process; it resumes from its checkpoint"
        )

    def _done(self, record: TrialRecord, status: Any, why: str) -> None:
        record.status, record.why = status, why
        self.folder.write(record)
        self.proposals.learn(record)
        self.parent.trial_done(self.mode, self.metric)
        done = sum(each.is_done for each in self.folder.trials.values())
        best = record.best(self.mode)
        score = f", best {self.metric} {best[1]:.4g} at step {best[0]:,}" if best else ""
        cause = f" ({why.splitlines()[0]})" if why else ""
        lead = next(iter(self.folder.ranked(self.mode)), None)
        leading = f"; trial {lead.number} leads" if lead else ""
        print_line(
            f"trial {record.number} {status}{cause}{score}, {duration(record.seconds)}  "
            f"[{done}/{self.count}{leading}]"
        )

    def _record(self, trial: Any) -> TrialRecord:
        return self.folder.trials[trial.config["trial"]["number"]]


def _values(record: TrialRecord) -> str:
    return "  ".join(f"{name}={value}" for name, value in record.values.items())
