"""Send the spool of a run to MLflow, during the training and after it.

    spool/sent.json    which run of which tracker has what
    spool/refused/     records that MLflow will never take, each with its reason

There are two lanes, values and files: a server without room for files still gets the curves.
In a lane each record waits for the one before it. A record that was sent, but whose sender was
killed before it noted that, is sent again; it carries its first time and step, so MLflow keeps
it once.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from pipeline.common.redaction import redacted
from pipeline.storage.folder import Folder
from pipeline.storage.lock import FolderInUseError, Lock
from pipeline.tracking.mlflow_access import waiting_at_most
from pipeline.tracking.mlflow_run import UPLOAD_TIMEOUT_S, MlflowRun, Point
from pipeline.tracking.refusals import BlockedError, GoneError, NotYetError, UnavailableError
from pipeline.tracking.run_record import read_record, update_record
from pipeline.tracking.spool import RECORDS, SPOOL, Entry, Position, Record, Spool, read
from pipeline.tracking.tracker import START
from pipeline.tracking.untrusted_records import RefusedError

logger = logging.getLogger(__name__)

SENT = "sent.json"
REFUSED = "refused"
# Kinds of the first lane.
VALUES = ("options", "dataset", "points", "measured", "status", "note", "quality")
LANES = ("values", "files")
MAX_POINTS = 1000  # in a request; MLflow takes no more
LOCAL_POLL_S, BUCKET_POLL_S = 1.0, 5.0  # between two looks at the spool
TIMEOUT_S, MAX_TIMEOUT_S = 2, 30  # for an answer: longer after each time that it failed
MAX_PAUSE_S = 30.0  # between two tries
PATIENCE_S = 10.0  # at the end, for a tracker that does not answer
LIMIT_S = 300.0  # at the end, for one record of a tracker that does


@dataclass
class Sent:
    """What a run of a tracker has.

    Attributes:
        uri: Of the tracker, without user and password.
        run_id: Of the run there.
        lanes: How far the spool was read, by lane.
        points: Last step of each curve.
        images: Last step of each series of pictures.
        afterwards: Value or file of what was measured after its step, by "name@step".
    """

    uri: str
    run_id: str | None = None
    lanes: dict[str, Position] = field(default_factory=lambda: {lane: {} for lane in LANES})
    points: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    afterwards: dict[str, float | str] = field(default_factory=dict)


class Delivery:
    """Brings the records of one run to MLflow, each once.

    Args:
        run: Folder of the run.
        uri: Of the MLflow server or store.

    Attributes:
        delivered: Records that MLflow took.
        refused: Records, or points, that it will never take.
        progress: Of `time.monotonic`, when something last got through.
        stopped: Set to end a delivery before its next request.
    """

    def __init__(self, run: Folder, uri: str) -> None:
        self.run, self.uri = run.closed(), uri
        self.spool = self.run / SPOOL
        self.delivered = self.refused = 0
        self.progress = time.monotonic()
        self.stopped = threading.Event()
        self.timeout_s = TIMEOUT_S
        self._remote: MlflowRun | None = None
        self._doubtful = False
        self._dead_letters: Spool | None = None
        self._sent = self._read_sent()

    def deliver(self) -> None:
        """Bring all that is in the spool now.

        Raises:
            UnavailableError: If MLflow does not take it now.
        """
        try:
            with waiting_at_most(self.timeout_s):
                self._connect()
                self._deliver("values")
            with waiting_at_most(max(self.timeout_s, UPLOAD_TIMEOUT_S)):
                self._deliver("files")
        except GoneError as error:
            # Someone deleted the run while it goes on. It is made anew, with its whole history.
            self._remote, self._sent = None, Sent(redacted(self.uri))
            raise NotYetError(f"run {error} was deleted there, and is made anew") from error
        except BaseException:
            self._doubtful = True
            self.timeout_s = min(2 * self.timeout_s, MAX_TIMEOUT_S)
            raise

    def left(self) -> dict[str, int]:
        """Count the records that MLflow does not have, by lane; empty if it has all."""
        counts = {
            lane: sum(
                _is_of(lane, e.record) for e in read(self.spool / RECORDS, self._sent.lanes[lane])
            )
            for lane in LANES
        }
        return {lane: count for lane, count in counts.items() if count}

    def _connect(self) -> None:
        if self._remote is not None:
            if self._doubtful:
                self._remote.check()
            self._doubtful = False
            return
        start = self.spool.read_json(START)
        known = self._sent.run_id or read_record(self.run).get("mlflow_run_id")
        remote = MlflowRun.find_or_create(self.uri, start, known)
        if remote.run_id != self._sent.run_id:
            self._sent = Sent(redacted(self.uri), remote.run_id, points=remote.last_steps())
            self._note()
        update_record(self.run, mlflow_run_id=remote.run_id, mlflow_uri=redacted(self.uri))
        self._remote, self._doubtful, self.progress = remote, False, time.monotonic()

    def _deliver(self, lane: str) -> None:
        position = self._sent.lanes[lane]
        batch = OutgoingBatch(dict(self._sent.points))
        for entry in read(self.spool / RECORDS, dict(position)):
            if self.stopped.is_set():
                return
            record, ends = entry.record, list(entry.end)
            if not _is_of(lane, record):
                batch.ends[entry.writer] = ends
            elif record is not None and record["kind"] == "points":
                if not batch.add(record):
                    batch = self._send(batch, position)
                    batch.add(record)
                batch.ends[entry.writer] = ends
            else:
                batch = self._send(batch, position)
                self._send_one(entry)
                batch.records, batch.ends[entry.writer] = 1, ends
                batch = self._send(batch, position)
        self._send(batch, position)

    def _send(self, batch: "OutgoingBatch", position: Position) -> "OutgoingBatch":
        """Send a batch, note what MLflow has now, and return an empty one."""
        for first in range(0, len(batch.points), MAX_POINTS):
            self._send_points(batch.points[first : first + MAX_POINTS])
        position |= batch.ends
        self._sent.points = batch.last
        if batch.records:
            self.delivered += batch.records
            self.progress = time.monotonic()
            self._note()
        return OutgoingBatch(dict(batch.last))

    def _send_points(self, points: list[Point]) -> None:
        """Send points; one that is refused does not take the others with it."""
        if not points or self._remote is None:
            return
        try:
            self._remote.points(points)
        except RefusedError as reason:
            self._remote.check()  # a run that was deleted refuses everything
            if len(points) == 1:
                self._refuse({"kind": "points", **points[0]._asdict()}, str(reason))
                return
            half = len(points) // 2
            self._send_points(points[:half])
            self._send_points(points[half:])

    def _send_one(self, entry: Entry) -> None:
        """Send a record that is not points."""
        record = entry.record
        if record is None or self._remote is None:
            self._refuse({"kind": "line", "line": entry.line}, "it is not a record")
            return
        if record["kind"] == "measured":
            self._send_measured(record)
            return
        if record["kind"] == "image" and self._has(record):
            return
        try:
            self._remote.record(record, self.run)
        except RefusedError as reason:
            self._remote.check()
            self._refuse(record, str(reason))
        if record["kind"] == "image":
            if record.get("afterwards"):
                self._sent.afterwards[_place(record["key"], record)] = record["file"]
            else:
                self._sent.images[record["key"]] = record["step"]

    def _has(self, image: Record) -> bool:
        """Tell whether MLflow has a picture."""
        if image.get("afterwards"):
            return self._sent.afterwards.get(_place(image["key"], image)) == image["file"]
        return bool(image["step"] <= self._sent.images.get(image["key"], -1))  # drawn again

    def _send_measured(self, record: Record) -> None:
        """Send values of any step, in any order; one that was told again stands once."""
        told = self._sent.afterwards
        new = {k: v for k, v in record["values"].items() if told.get(_place(k, record)) != v}
        self._send_points([Point(k, v, record["time"], record["step"]) for k, v in new.items()])
        told |= {_place(k, record): v for k, v in new.items()}

    def _refuse(self, record: Record, reason: str) -> None:
        """Put aside what MLflow will never take; said once, since it may be every point."""
        if self._dead_letters is None:
            self._dead_letters = Spool(self.spool / REFUSED)
        self._dead_letters.append({"kind": "refused", "reason": reason, "record": record})
        self._dead_letters.flush()
        if not self.refused:
            logger.warning(
                "MLflow refuses %s of %s: %s. It is kept with such others in %s/%s; the rest goes "
                "on to MLflow.",
                record.get("key") or record["kind"],
                self.run,
                reason,
                self.spool,
                REFUSED,
            )
        self.refused += 1

    def _read_sent(self) -> Sent:
        """Read what is sent; nothing is where the tracker is another one than last time."""
        uri = redacted(self.uri)
        try:
            found = Sent(**self.spool.read_json(SENT))
        except (FileNotFoundError, ValueError, TypeError):
            return Sent(uri)
        return found if found.uri == uri else Sent(uri)

    def _note(self) -> None:
        self.spool.write_json(SENT, asdict(self._sent))


@dataclass
class OutgoingBatch:
    """Points that are sent in one request, and what is sent when they are.

    Attributes:
        last: Last step of each curve, those of the batch included.
        points: That no curve has.
        records: That they are from.
        ends: How far the spool is read with them.
    """

    last: dict[str, int]
    points: list[Point] = field(default_factory=list)
    records: int = 0
    ends: Position = field(default_factory=dict)

    def add(self, record: Record) -> bool:
        """Add the points of a record that are new; False if the batch is full."""
        step = record["step"]
        # A start that was cut short told of steps after its last checkpoint. They were trained
        # again, to the same numbers, and would stand in the curves twice.
        new = [key for key in record["values"] if step > self.last.get(key, -1)]
        if self.points and len(self.points) + len(new) > MAX_POINTS:
            return False
        self.points += [Point(key, record["values"][key], record["time"], step) for key in new]
        self.last |= dict.fromkeys(new, step)
        self.records += 1
        return True


def _place(name: str, record: Record) -> str:
    return f"{name}@{record['step']}"


def _is_of(lane: str, record: Record | None) -> bool:
    return (record is None or record["kind"] in VALUES) == (lane == "values")


class Sender(threading.Thread):
    """Delivers while training goes on, and tries again, ever less often, where that fails.

    One process at a time may send: the one that has the run's lock.

    Args:
        run: Folder of the run.
        uri: Of the MLflow server or store.
        tell: Takes lines for the person who watches.

    Attributes:
        problem: Why the last try failed; None if it did not.
        blocked: Whether it failed because MLflow refuses the run, and a person must do something.
    """

    def __init__(self, run: Folder, uri: str, tell: Callable[[str], None] | None = None) -> None:
        super().__init__(name=f"sender of {run}", daemon=True)
        self.delivery = Delivery(run, uri)
        self.problem: str | None = None
        self.blocked = False
        self._told: str | None = None  # that it is away, or what it asks for
        self._tell = tell or (lambda line: None)
        self._ending = threading.Event()
        self._awake = threading.Event()

    def run(self) -> None:
        """Deliver until the end; the work of the thread."""
        poll_s = LOCAL_POLL_S if self.delivery.run.local_path else BUCKET_POLL_S
        failures = 0
        while not self.delivery.stopped.is_set():
            ending = self._ending.is_set()  # before the look, which sees all that was told by then
            try:
                self.delivery.deliver()
            except Exception as error:  # whatever it is, it must not end what is measured
                if self.problem is None and not isinstance(error, UnavailableError):
                    logger.warning("records of %s wait", self.delivery.run, exc_info=error)
                self._failed(error)
                if ending and self.blocked:
                    break  # nobody mends that in seconds
                failures += 1
                longest = 1.0 if ending else min(MAX_PAUSE_S, 2.0**failures)
                pause_s = longest * random.uniform(0.5, 1)
            else:
                if self.delivery.stopped.is_set():
                    break  # it was cut short, which is no success
                self._succeeded()
                failures, pause_s = 0, poll_s
                if ending:
                    break
            self._awake.wait(pause_s)
            self._awake.clear()

    def close(self) -> dict[str, int]:
        """Wait for what is left to be sent, for as long as it goes on.

        Returns:
            What is left all the same, in records by lane; empty if nothing is.
        """
        began = time.monotonic()
        self._ending.set()
        self._awake.set()
        try:
            while self.is_alive():
                idle_s = time.monotonic() - max(began, self.delivery.progress)
                if idle_s > (PATIENCE_S if self.problem else LIMIT_S):
                    break
                self.join(0.05)
        finally:
            self.delivery.stopped.set()
        return self.delivery.left()

    def _failed(self, error: Exception) -> None:
        self.problem, self.blocked = str(error), isinstance(error, BlockedError)
        told = self.problem.partition(" (")[0] if self.blocked else "away"
        if told == self._told or isinstance(error, NotYetError):
            return
        self._told = told
        uri, spool = redacted(self.delivery.uri), self.delivery.spool
        if self.blocked:
            self._tell(
                f"MLflow at {uri} refuses the run: {error}. Training goes on, and what is measured "
                f"is kept in {spool}. It is sent when MLflow takes it, or later by jobs/sync.py."
            )
        else:
            self._tell(
                f"MLflow at {uri} does not answer; training goes on, and what is measured is kept "
                f"in {spool}. It is sent as soon as MLflow does, or later by jobs/sync.py. "
                f"({error})"
            )

    def _succeeded(self) -> None:
        if self._told:
            now = "answers again" if self._told == "away" else "takes the run again"
            self._tell(f"MLflow at {redacted(self.delivery.uri)} {now}")
        self.problem, self.blocked, self._told = None, False, None


def send_rest(run: Folder, uri: str) -> Sender:
    """Send what a run that is not being trained still has, and return when that ends.

    Returns:
        The sender, which knows how it went; if another process has the run, that one sends.
    """
    sender = Sender(run, uri)
    if sender.delivery.left():
        try:
            with Lock(run, "send"):
                sender.start()
                sender.close()
        except FolderInUseError as error:
            sender.problem = str(error)
    return sender


def what_is_left(left: dict[str, int]) -> str:
    """Say it in words: 12 records and 3 files."""
    names = {"values": "record", "files": "file"}
    return " and ".join(
        f"{count:,} {names[lane]}{'s' if count > 1 else ''}" for lane, count in left.items()
    )
