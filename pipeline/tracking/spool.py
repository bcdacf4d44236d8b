"""The spool: records of a run, stored in its folder before they are sent to the tracker.

    spool/records/000001-5f3a9c21/00000000.jsonl    a record is a line of JSON

Each process that writes has a folder of its own, numbered as they start, so nothing is
written by two and no clock decides what came first. On a local disk a writer appends to one
file; the record is with the operating system when `append` returns, so that a killed process
loses nothing, and on the disk within seconds. An object store cannot append: there a writer
puts what came together in some seconds as the next numbered object, and a kill loses those
seconds at most. `flush` makes everything durable and comes before each checkpoint, in both
worlds: what a kill loses, the step that training resumes from makes again.
"""

import json
import logging
import os
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.common.redaction import redacted
from pipeline.storage.folder import Folder

logger = logging.getLogger(__name__)

SPOOL = "spool"  # in the run's folder
RECORDS = "records"  # in the spool: the folders of the writers
KEEP_EVERY_S = 3.0  # longest time in seconds between a record and its being durable
READ_AT_ONCE = 2**22  # bytes

Record = dict[str, Any]
Position = dict[str, list[int]]  # of a reader: segment and bytes read of it, by writer


class Entry(NamedTuple):
    """A record and where the next one begins.

    Attributes:
        record: None if the line is not JSON.
        line: As it stands in the file.
        writer: Whose it is.
        end: Segment and byte after it.
    """

    record: Record | None
    line: str
    writer: str
    end: tuple[int, int]


class Spool:
    """One writer of records; they go to the end and are never changed."""

    def __init__(self, folder: Folder) -> None:
        number = max((int(name.partition("-")[0]) for name in _writers(folder)), default=0) + 1
        self.folder = folder / f"{number:06d}-{uuid.uuid4().hex[:8]}"
        self._pending: list[bytes] = []
        self._pending_lock = threading.Lock()  # held for microseconds, never over a write
        self._write_lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._descriptor: int | None = None  # of the local file
        self._done = 0  # bytes of the local file, or objects, that are complete
        self._warned = False

    def append(self, record: Record) -> None:
        """Add a record; never waits for a network or for the disk itself.

        A full disk stops nothing here: the record stays in memory and is written with the next.
        """
        line = redacted(json.dumps(record)).encode() + b"\n"
        with self._pending_lock:
            self._pending.append(line)
        if self.folder.local_path:
            self._try(self._write)
        self._flush_soon()

    def flush(self) -> None:
        """Return when every record is durable.

        Raises:
            OSError: If they cannot be written.
        """
        self._write()
        if self._descriptor is not None:
            os.fsync(self._descriptor)  # outside of the lock: a record must not wait for the disk

    def _flush_soon(self) -> None:
        with self._pending_lock:
            if self._timer is None:
                self._timer = threading.Timer(KEEP_EVERY_S, self._keep)
                self._timer.daemon = True
                self._timer.start()

    def _keep(self) -> None:
        with self._pending_lock:
            self._timer = None
        self._try(self.flush)
        if self._pending:
            self._flush_soon()

    def _try(self, write: Any) -> None:
        try:
            write()
        except Exception as error:  # each object store has errors of its own
            if not self._warned:
                logger.warning("records cannot be written to %s for now: %s", self.folder, error)
            self._warned = True

    def _write(self) -> None:
        with self._write_lock:
            with self._pending_lock:
                lines, self._pending = self._pending, []
            if not lines:
                return
            try:
                self._put(b"".join(lines))
            except BaseException:
                with self._pending_lock:
                    self._pending = lines + self._pending
                raise

    def _put(self, content: bytes) -> None:
        if not self.folder.local_path:
            self.folder.write(_segment(self._done), content)
            self._done += 1
            return
        if self._descriptor is None:
            path = Path(self.folder.file(_segment(0)))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            written = os.write(self._descriptor, content)
            if written < len(content):
                raise OSError(f"{written} of {len(content)} bytes were written: the disk is full?")
        except OSError:
            # Half a record would spoil the one that is written after it.
            os.ftruncate(self._descriptor, self._done)
            raise
        self._done += len(content)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def read(folder: Folder, position: Position) -> Iterator[Entry]:
    """Read the records of all writers, in the order in which the writers started.

    A line without an end is being written, or was when its writer was killed: it is left.
    """
    for writer in _writers(folder):
        segment, offset = position.get(writer, [0, 0])
        while (size := folder.size(f"{writer}/{_segment(segment)}")) is not None:
            for line in _lines(folder, f"{writer}/{_segment(segment)}", offset, size):
                offset += len(line)
                text = line.decode(errors="replace")
                yield Entry(_parsed(text), text, writer, (segment, offset))
            segment, offset = segment + 1, 0


def _lines(folder: Folder, name: str, offset: int, size: int) -> Iterator[bytes]:
    """Yield the complete lines of a file between two bytes, with their ends."""
    at_once = READ_AT_ONCE
    while offset < size:
        stop = min(size, offset + at_once)
        content = folder.read(name, offset, stop)
        *lines, _ = content.split(b"\n")
        if not lines:
            if offset + at_once >= size:
                return
            at_once *= 2
        for line in lines:
            offset += len(line) + 1
            yield line + b"\n"


def _parsed(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # the second of brackets by the thousand
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def _writers(folder: Folder) -> list[str]:
    """Name the folders of the writers, in order; a desktop may have left files of its own."""
    return [name for name in folder.names() if re.fullmatch(r"\d+-\w+", name)]


def _segment(number: int) -> str:
    return f"{number:08d}.jsonl"
