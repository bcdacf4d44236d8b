"""The folder of a study: records from which the same command resumes it.

    sweep.json          the options of the sweep, and our id of its MLflow run
    trials/000.json     one for each trial, from before it starts; only the driver writes it
    NAME-000/           the run of that trial, as any run: checkpoints, samples, spool, model

Ray's own records are never read after its end: the state of a trial after a kill is here and in the
folder of its run.
"""

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.config import TrainConfig, flatten
from pipeline.storage.folder import Folder
from pipeline.sweeps.space import Value

STUDY = "sweep.json"  # in the folder of the sweep
TRIALS = "trials"
Status = Literal["planned", "running", "finished", "stopped", "failed"]
DONE = ("finished", "stopped", "failed")  # training does not continue


@dataclass
class TrialRecord:
    """One trial.

    Attributes:
        values: Values of the options that vary.
        total: Steps of the whole trial, known after its start.
        curve: Steps and values of the metric.
        latest: Last value of each of its metrics.
        adopted: Each take-over of weights: number of the other trial, id of the take-over, and the
            values since.
    """

    number: int
    values: dict[str, Value]
    status: Status = "planned"
    why: str = ""
    total: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    latest: dict[str, float] = field(default_factory=dict)
    adopted: list[dict[str, Any]] = field(default_factory=list)

    def start(self) -> dict[str, Any]:
        """Return the arguments of its start, with the last take-over of weights if any."""
        given: dict[str, Any] = {"number": self.number, "values": self.values}
        if self.adopted and "as" in self.adopted[-1]:
            given["weights"] = self.adopted[-1]
        return given

    @property
    def is_done(self) -> bool:
        """Whether it is finished, stopped or failed."""
        return self.status in DONE

    def best(self, mode: str) -> tuple[int, float] | None:
        """Return step and value of its best point; of equal ones the first."""
        sign = 1 if mode == "max" else -1
        return max(self.curve, key=lambda point: (sign * point[1], -point[0]), default=None)


class StudyFolder:
    """The folder of a sweep; trials are named after it.

    It is closed: no name in its records and no link leads out of it.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder.closed(), name
        self.trials: dict[int, TrialRecord] = {}

    def open(self, options: dict[str, Any], resumable: frozenset[str]) -> None:
        """Start, or resume from the records in the folder; arguments and errors as in `read`."""
        self.read(options, resumable)
        self.folder.write_json(STUDY, options)

    def read(self, options: dict[str, Any], resumable: frozenset[str]) -> None:
        """Read the records in the folder, if there are some.

        Args:
            options: Options of this start, as JSON types.
            resumable: Names of options that may change.

        Raises:
            ValueError: If it was started with other options; with each difference.
        """
        if self.folder.exists(STUDY):
            before = self.folder.read_json(STUDY)
            self._refuse_changes(flatten(before), flatten(options), resumable)
        for number in self._numbers():
            content = (self.folder / TRIALS).read_json(_file(number))
            content["curve"] = [(int(step), float(value)) for step, value in content["curve"]]
            self.trials[number] = TrialRecord(**content)

    def add(self, number: int, values: dict[str, Value]) -> TrialRecord:
        """Plan a trial."""
        self.trials[number] = record = TrialRecord(number, values)
        self.write(record)
        return record

    def write(self, record: TrialRecord) -> None:
        """Store the current state of a trial."""
        (self.folder / TRIALS).write_json(_file(record.number), asdict(record))

    def run_name(self, number: int) -> str:
        """Return the name of a trial's run."""
        return f"{self.name}-{number:03d}"

    def run(self, number: int) -> Folder:
        """Return the folder of a trial's run."""
        return self.folder / self.run_name(number)

    def ranked(self, mode: str) -> list[TrialRecord]:
        """Return the trials that have a value of the metric, the best first.

        Trials that were stopped early or failed rank after all others: their best point may be
        temporary, and others were better at the same step.
        """
        sign = 1 if mode == "max" else -1
        found = [(each.best(mode), each) for each in self.trials.values()]
        scored = [(best[1], each) for best, each in found if best is not None]

        def place(found: tuple[float, TrialRecord]) -> tuple[bool, float, int]:
            value, trial = found
            return trial.status in ("stopped", "failed"), -sign * value, trial.number

        return [trial for _, trial in sorted(scored, key=place)]

    def _numbers(self) -> list[int]:
        found = (re.fullmatch(r"(\d+)\.json", name) for name in (self.folder / TRIALS).names())
        return sorted(int(match[1]) for match in found if match)

    def _refuse_changes(
        self, before: dict[str, Any], now: dict[str, Any], resumable: frozenset[str]
    ) -> None:
        # An option that the study does not have is newer than it, and had its default.
        defaults = flatten({"train": TrainConfig(total_steps=1).record()})
        before = {name: defaults[name] for name in now.keys() & defaults.keys()} | before
        changed = [
            f"{name}: {before.get(name)} → {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name not in resumable
        ]
        if changed:
            raise ValueError(
                f"{self.name} was started with other options:\n" + "\n".join(changed) + "\n"
                "Use the earlier options to resume it, or start another one with another --name."
            )


def _file(number: int) -> str:
    return f"{number:03d}.json"
