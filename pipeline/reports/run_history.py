"""Read what a page shows of a run: its spool, checkpoints and evaluations, all of bounded size.

The folder may be of a stranger. Nothing outside of it is read, whatever its records name; a value
that is not of the expected type is left out, and `problems` says what could not be read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.checkpoint.store import DAMAGED, MARKER, PREFIX, STATE
from pipeline.data.manifest import MANIFEST
from pipeline.evaluation.report import REPORT
from pipeline.storage.folder import Folder
from pipeline.tracking.run_record import RUN_RECORD
from pipeline.tracking.spool import RECORDS, SPOOL, Record, read
from pipeline.tracking.tracker import START
from pipeline.tracking.untrusted_records import number

MAX_JSON = 4 * 2**20  # bytes of a file
MAX_RECORDS = 256 * 2**20  # bytes of a spool; a run of a million steps has 16 MB
MAX_CURVES, MAX_OPTIONS, MAX_EVENTS, MAX_EVALUATIONS = 200, 300, 100, 12
MAX_STEP = 2**53
SAMPLES = "samples"  # key of the pictures
MAX_PROBLEMS = 20  # that are shown
# What odd files of a stranger raise: a folder by the name of a file, a loop of links.
ODD = (
    *(ValueError, RuntimeError, FileNotFoundError, IsADirectoryError),
    *(NotADirectoryError, PermissionError),
)

# Tags that say what happened, and not what the run is.
_EVENTS = re.compile(r"(health|resumed|sweep\.adopted|started_from)\b|extended$")


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        time: Milliseconds since 1970.
        what: In words; from anywhere.
        fault: It is a warning or the end of a run that did not finish.
    """

    time: int
    what: str
    fault: bool = False


@dataclass
class Evaluation:
    """An evaluation in the folder of a run.

    Attributes:
        folder: Its own.
        report: As in report.json, of which some may be missing or of another type.
    """

    folder: Folder
    report: dict[str, Any]


@dataclass
class RunHistory:
    """A run as its folder has it.

    Attributes:
        name: How the page calls it.
        options: By dotted name.
        tags: What else identifies it.
        curves: Values by step, by name of the metric; of a step that was trained again, the last.
        progress: Time in milliseconds and step of each line of metrics.
        samples: Files of the grids by step.
        manifest: Of the dataset, as the run's own record has it.
        checkpoint: State of the newest one.
        kept: Steps of the committed checkpoints.
        problems: What could not be read, for people.
    """

    folder: Folder
    name: str
    status: str = ""
    note: str = ""
    options: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    progress: list[tuple[int, int]] = field(default_factory=list)
    samples: dict[int, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def told(self) -> list[str]:
        """Return the first problems, and how many more there are."""
        more = len(self.problems) - MAX_PROBLEMS
        return self.problems[:MAX_PROBLEMS] + [f"and {more:,} more problems"] * (more > 0)


def is_run(folder: Folder) -> bool:
    """Tell whether a folder is that of a run."""
    return folder.exists(f"{SPOOL}/{START}") or (folder / SPOOL / RECORDS).exists()


def read_run(folder: Folder) -> RunHistory:
    """Read a run, which may go on meanwhile.

    Args:
        folder: Its folder, closed.

    Raises:
        OSError: If the storage fails.
    """
    history = RunHistory(folder, folder.location.rsplit("/", 1)[-1])
    record = read_json(folder, RUN_RECORD, history.problems)
    history.status = str(record.get("status", "unknown"))
    for part in (_read_spool, _read_checkpoints, _read_evaluations):
        try:
            part(history)
        except ODD as error:  # a name that leads out, or no record
            history.problems.append(str(error))
    return history


def _read_evaluations(history: RunHistory) -> None:
    evaluations = history.folder / "evaluation"
    names = [name for name in evaluations.names() if evaluations.exists(f"{name}/{REPORT}")]
    if len(names) > MAX_EVALUATIONS:
        said = f"only the last {MAX_EVALUATIONS} of {len(names):,} evaluations are shown"
        history.problems.append(said)
    names.sort(key=lambda name: name.partition("-step-")[2])
    for name in names[-MAX_EVALUATIONS:]:
        if report := read_json(evaluations / name, REPORT, history.problems):
            history.evaluations.append(Evaluation(evaluations / name, report))


def read_json(folder: Folder, name: str, problems: list[str]) -> dict[str, Any]:
    """Read an object from a JSON file; empty if there is none that can be read."""
    try:
        size = folder.size(name)
        if size is None:
            return {}
        if not size:  # a named pipe too, and reading that would wait for ever
            raise ValueError("it is empty")
        if size > MAX_JSON:
            problems.append(f"{folder}/{name} has {size:,} bytes, over {MAX_JSON:,}: not read")
            return {}
        found = folder.read_json(name)
    except ODD as error:
        problems.append(f"{folder}/{name}: {error}")
        return {}
    return found if isinstance(found, dict) else {}


def whole(value: Any, most: int = MAX_STEP) -> int | None:
    """Return a count from a record, from 0 on; None if it is none."""
    return value if isinstance(value, int) and 0 <= value <= most else None


def texts(value: Any, most: int) -> Iterator[tuple[str, str]]:
    """Yield names and values of an object from a record, as texts."""
    if isinstance(value, dict):
        for name, each in list(value.items())[:most]:
            yield str(name), str(each)


def _read_spool(history: RunHistory) -> None:
    records = history.folder / SPOOL / RECORDS
    if sum(size for _, size in records.walk()) > MAX_RECORDS:
        history.problems.append(f"{records} has over {MAX_RECORDS:,} bytes: it is not read")
        return
    trained: dict[str, int] = {}  # first step by process, of those that trained
    unread, taken = 0, 0
    for entry in read(records, {}):
        taken += len(entry.line)
        if taken > MAX_RECORDS:  # links inside the folder are not counted above
            history.problems.append(
                f"{records} has over {MAX_RECORDS:,} bytes: the rest is not read"
            )
            break
        time = whole((entry.record or {}).get("time"), 2**42)
        if entry.record is None or time is None:
            unread += 1
            continue
        if entry.record["kind"] == "points" and entry.writer not in trained:
            step = whole(entry.record.get("step")) or 0
            if trained:
                told = f"training was started again; its first metrics are of step {step:,}"
                history.events.append(Event(time, told))
            trained[entry.writer] = step
        _take(history, entry.record, time)
    if unread:
        history.problems.append(f"{unread:,} lines of the spool are no records")
    history.events.sort(key=lambda event: event.time)
    if len(history.events) > MAX_EVENTS:
        history.problems.append(
            f"the last {MAX_EVENTS} of {len(history.events):,} events are shown"
        )
        history.events = history.events[-MAX_EVENTS:]


def _take(history: RunHistory, record: Record, time: int) -> None:
    """Take what a record says into the history."""
    kind, step = record["kind"], whole(record.get("step"))
    if kind == "options":
        for name, value in texts(record.get("params"), MAX_OPTIONS):
            if len(history.options) < MAX_OPTIONS or name in history.options:
                history.options[name] = value
        for name, value in texts(record.get("tags"), MAX_OPTIONS):
            if _EVENTS.match(name):
                history.events.append(
                    Event(time, f"{name}: {value}"[:1000], fault=name.startswith("health"))
                )
            elif len(history.tags) < MAX_OPTIONS or name in history.tags:
                history.tags[name] = value
    elif kind in ("points", "measured") and step is not None:
        values = record.get("values")
        for name, value in values.items() if isinstance(values, dict) else ():
            if name not in history.curves and len(history.curves) >= MAX_CURVES:
                if (problem := f"only {MAX_CURVES} metrics are read") not in history.problems:
                    history.problems.append(problem)
            elif (point := number(value)) is not None:
                history.curves.setdefault(name, {})[step] = point
        if kind == "points":
            history.progress.append((time, step))
    elif kind == "image" and step is not None and record.get("key") == SAMPLES:
        if not record.get("afterwards"):
            history.samples[step] = str(record.get("file"))
    elif kind == "status":
        status = str(record.get("status"))
        history.events.append(Event(time, status.lower()[:40], status in ("FAILED", "KILLED")))
    elif kind == "note":
        history.note = str(record.get("text"))
    elif kind == "json" and record.get("file") == f"dataset_{MANIFEST}":
        manifest = record.get("value")
        history.manifest = manifest if isinstance(manifest, dict) else {}


def _read_checkpoints(history: RunHistory) -> None:
    root = history.folder / "checkpoints"
    for name in root.names():
        if name.startswith(f"{DAMAGED}{PREFIX}"):
            history.problems.append(f"{name[:60]}: this checkpoint was damaged and set aside")
        match = re.fullmatch(rf"{PREFIX}(\d{{8,15}})", name)
        if match and root.exists(f"{name}/{MARKER}"):
            history.kept.append(int(match[1]))
    if history.kept:
        newest = f"{PREFIX}{max(history.kept):08d}"
        history.checkpoint = read_json(root / newest, STATE, history.problems)
