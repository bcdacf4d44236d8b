"""Read foreign parquet and Arrow in a disposable child process with limits of memory and time."""

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.common.console import printable
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.decoding.isolated_decoder import child_of
from pipeline.preparation.decoding.parquet_process import READ_AT_ONCE
from pipeline.storage.folder import Folder

_lock = threading.Lock()  # threads that need the same group wait for it instead of each reading it
Read = Callable[[int, int], bytes]
MAX_FAILED = 1000
_failed: dict[tuple[str, str, str, int], tuple[str, str]] = {}  # row groups that ended a child


@dataclass(frozen=True)
class ParquetLimits:
    """What the child is started with.

    Attributes:
        module: What it runs.
        deadline_s: Seconds it may take over 256 rows or a row group of images.
        memory_bytes: Four times the images of a row group: compressed, not so, as a dictionary,
            and as values.
    """

    module: str = "pipeline.preparation.decoding.parquet_process"
    deadline_s: float = 600.0  # the storage's time counts, too
    memory_bytes: int = 4 * 2**30


LIMITS = ParquetLimits()


class Table:
    """An open table: what it holds, and its rows.

    Args:
        where: Its name, for errors.
        read: Reads some bytes of it.
    """

    def __init__(self, where: str, read: Read) -> None:
        self.where, self._read, self._id = where, read, uuid.uuid4().hex
        answer, schema = self._ask("open")
        self.groups: int = answer["groups"]
        try:
            self.schema = pa.ipc.read_schema(pa.py_buffer(schema))
            _ = self.schema.names  # which need not be text
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise self._unreadable(str(error)) from error

    def rows(
        self, group: int, columns: Sequence[str], image: str | None
    ) -> Iterator[pa.RecordBatch]:
        """Read columns of a row group; text comes as bytes, which need not be UTF-8.

        Args:
            group: Its number.
            columns: Without that of the images.
            image: That column, if the images are in the table.
        """
        self._ask("rows", group=group, columns=list(columns), image=image)
        while content := self._ask("next")[1]:
            try:
                batch = pa.ipc.open_stream(content).read_next_batch()
                batch.validate(
                    full=True
                )  # or wrong offsets would be read as memory of this process
            except pa.ArrowException as error:
                raise self._unreadable(str(error)) from error
            yield batch

    def close(self) -> None:
        """Let the child forget it."""
        self._ask("close")

    def _ask(self, what: str, **options: Any) -> tuple[dict[str, Any], bytes]:
        request = {"do": what, "table": self._id, **options}
        try:
            with _lock:
                answer, content = child_of(LIMITS).ask(request, b"", self._read)
        except RejectedError as problem:  # it crashed, or takes too long
            raise self._unreadable(problem.detail) from problem
        if "error" in answer:
            raise self._unreadable(answer["error"])
        return answer, content

    def _unreadable(self, why: str) -> ValueError:
        return ValueError(
            f"{self.where} is not parquet or Arrow that can be read: {printable(why)}"
        )


@contextmanager
def open_table(folder: Folder, file: str) -> Iterator[Table]:
    """Open a table.

    Raises:
        OSError: If the storage fails.
        ValueError: If it is no parquet, is damaged, or takes more memory or time than is given.
    """
    with folder.open(file) as stream:
        table = Table(f"{folder}/{file}", _reader(stream))
        try:
            yield table
        finally:
            table.close()


def read_cell(folder: Folder, file: str, column: str, group: int, index: int) -> bytes | str | None:
    """Read the image of a row: its bytes, the path that stands for it, or None.

    Raises:
        OSError: If the table cannot be read.
        RejectedError: If its row group is damaged or too large.
    """
    request = {"do": "cell", "table": f"{folder}/{file}", "column": column, "group": group}

    with ExitStack() as opened, _lock:
        stream: list[Any] = []

        def read(start: int, size: int) -> bytes:
            if not stream:  # the child may hold the row group already
                stream.append(opened.enter_context(folder.open(file)))
            return _reader(stream[0])(start, size)

        key = (str(folder), file, column, group)
        if key in _failed:
            raise RejectedError(*_failed[key])
        try:
            answer, content = child_of(LIMITS).ask(request | {"index": index}, b"", read)
        except RejectedError as problem:  # it crashed, or took too long: not again for each row
            if len(_failed) >= MAX_FAILED:
                _failed.clear()
            _failed[key] = problem.reason, problem.detail
            raise
    match answer:
        case {"reason": str(reason), "detail": str(detail)}:
            raise RejectedError(reason, f"{file}, row group {group}: {printable(detail)}")
        case {"error": str(error)}:
            raise RejectedError("IMG_CORRUPT", f"{file}, row group {group}: {printable(error)}")
        case {"found": True}:
            return content
        case {"path": str(path)}:
            return path
    return None


def _reader(stream: Any) -> Read:
    def read(start: int, size: int) -> bytes:
        # The child may ask for anything: places come from the file.
        end = stream.seek(0, 2)
        if start < 0:
            return json.dumps(end).encode()
        if start >= end:
            return b""
        stream.seek(start)
        content: bytes = stream.read(max(0, min(size, READ_AT_ONCE)))
        return content

    return read


def _renew_lock() -> None:
    """In a forked copy of this process: a thread that does not exist there may hold it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
