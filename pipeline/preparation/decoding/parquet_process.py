"""The child process that reads foreign parquet and Arrow; `isolated_parquet.py` starts and asks it.

A few bytes of parquet can stand for gigabytes, and what its header says of sizes need not be true:
only a limit on the memory of a process holds. It opens no file: the parent gives it the bytes.
"""

import io
import json
import struct
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.preparation.decoding.decoder_process import serve
from pipeline.preparation.decoding.images import MAX_BYTES, RejectedError

MAX_GROUP = 2**30  # bytes of the images in a row group, which is read as a whole
MAX_ROW = 16 * 2**20  # bytes of a row without its image
MAX_PART = 8 * 2**20  # bytes of the rows that cross at once
READ_AT_ONCE = 8 * 2**20  # bytes: storage answers late
HEADS_AT_ONCE = 64 * 2**10  # bytes
SCHEMA, DICTIONARY, BATCH = 1, 2, 3  # kinds of messages in an Arrow stream
ROWS = 256  # of a batch
CELLS = 16  # of a batch: images are large
LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
HELD = 2**28  # bytes of images kept while others are read; threads may be in two row groups


class _ParentsFile(io.RawIOBase):
    """A file that the parent reads."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._place = connection, 0
        self._size = int(self._asked(-1, 0))

    def _asked(self, start: int, size: int) -> bytes:
        self._connection.send_bytes(json.dumps({"read": [start, size]}).encode())
        return self._connection.recv_bytes()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        content = self._asked(self._place, min(len(buffer), READ_AT_ONCE))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


class Tables:
    """Answers what is asked of tables.

    Args:
        connection: To the parent.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: dict[str, pq.ParquetFile | _Arrow] = {}
        self._rows: dict[str, Iterator[pa.RecordBatch]] = {}
        self._cells: dict[tuple[Any, ...], pa.ChunkedArray | RejectedError] = {}
        self._starts: dict[str, list[int] | None] = {}

    def answer(self, request: dict[str, Any], _content: bytes) -> tuple[dict[str, Any], bytes]:
        """Do what is asked; what fails is an answer, too."""
        try:
            found: tuple[dict[str, Any], bytes] = getattr(self, request.pop("do"))(**request)
            return found
        except RejectedError as problem:
            return {"reason": problem.reason, "detail": problem.detail}, b""
        except MemoryError:
            return {"error": "it takes more memory than reading a table is given"}, b""
        except Exception as error:  # Arrow raises almost anything for damaged files
            return {"error": str(error)[:2000]}, b""

    def open(self, table: str) -> tuple[dict[str, Any], bytes]:
        """Open a table: the number of its row groups, and its columns."""
        file = self._open[table] = self._file(table)
        return {"groups": file.num_row_groups}, file.schema_arrow.serialize().to_pybytes()

    def close(self, table: str) -> tuple[dict[str, Any], bytes]:
        """Forget a table."""
        self._open.pop(table, None)
        self._starts.pop(table, None)
        self._rows.pop(table, None)
        return {}, b""

    def rows(
        self, table: str, group: int, columns: list[str], image: str | None
    ) -> tuple[dict[str, Any], bytes]:
        """Begin to read columns of a row group; see before that its images can be read."""
        file = self._open[table]
        if image is not None and isinstance(file, pq.ParquetFile):
            chunks = file.metadata.row_group(group)
            size = sum(
                chunks.column(i).total_uncompressed_size
                for i in range(chunks.num_columns)
                if chunks.column(i).path_in_schema.split(".")[0] == image
            )
            if size > MAX_GROUP:
                raise ValueError(
                    f"the images of row group {group} have {size / 2**30:.1f} GiB, and a group is "
                    f"read as a whole: at most {MAX_GROUP / 2**30:.0f} GiB. Write it again with "
                    "row groups of 100 rows."
                )
        self._rows[table] = _parts(file, group, columns)
        return {}, b""

    def next(self, table: str) -> tuple[dict[str, Any], bytes]:
        """Read some more rows, as a stream of Arrow; nothing at the end of the row group."""
        batch = next(self._rows[table], None)
        if batch is None:
            return {}, b""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return {}, sink.getvalue().to_pybytes()

    def cell(self, table: str, column: str, group: int, index: int) -> tuple[dict[str, Any], bytes]:
        """Read the image of a row: its bytes, or the path that stands for it."""
        key = (table, column, group)
        if key not in self._cells:
            while sum(_size(cells) for cells in self._cells.values()) > HELD:
                self._cells.pop(next(iter(self._cells)))
            try:
                self._cells[key] = _cells(self._file(table), column, group)
            except RejectedError as problem:  # once for all of its rows
                self._cells[key] = problem
        cells = self._cells[key]
        if isinstance(cells, RejectedError):
            raise cells
        value: Any = cells[index].as_py()
        path = None
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path")
        if not isinstance(value, bytes | None):
            kind = type(value).__name__
            raise RejectedError("IMG_CORRUPT", f"column {column!r} has a {kind}, not an image")
        if value is not None and len(value) > MAX_BYTES:
            detail = f"{len(value)} bytes, at most {MAX_BYTES} are taken"
            raise RejectedError("IMG_TOO_LARGE", detail)
        return {"found": value is not None, "path": path or None}, value or b""

    def _file(self, table: str) -> "pq.ParquetFile | _Arrow":
        raw = _ParentsFile(self._connection)
        start = raw.read(6) or b""
        raw.seek(0)
        if start.startswith(b"PAR1"):
            file = io.BufferedReader(raw, READ_AT_ONCE)
            return pq.ParquetFile(file, buffer_size=READ_AT_ONCE, pre_buffer=False)
        if start == b"ARROW1":
            return _Arrow(io.BufferedReader(raw, READ_AT_ONCE), is_file=True)
        stream = io.BufferedReader(raw, HEADS_AT_ONCE)  # larger reads pass it by
        if table not in self._starts:
            self._starts[table] = _batch_starts(stream)
            stream.seek(0)
        return _Arrow(stream, is_file=False, starts=self._starts[table])


class _Arrow:
    """An Arrow file or stream, with what a `ParquetFile` has; its batches are the row groups.

    Args:
        file: Open at its start.
        is_file: Whether it has the index of a file.
        starts: Where the batches of a stream start; None: it can only be read from its start.
    """

    def __init__(self, file: Any, *, is_file: bool, starts: list[int] | None = None) -> None:
        self._file, self._is_file, self._starts = file, is_file, starts
        self._reader: Any = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        self._next = 0
        self.schema_arrow: pa.Schema = self._reader.schema

    @property
    def num_row_groups(self) -> int:
        """Number of batches; those of a stream are read for it."""
        if self._is_file:
            return int(self._reader.num_record_batches)
        if self._starts is not None:
            return len(self._starts)
        while self._advance() is not None:
            pass
        return self._next

    def iter_batches(
        self, rows: int, *, row_groups: list[int], columns: list[str], use_threads: bool
    ) -> Iterator[pa.RecordBatch]:
        """Read columns of a batch in parts of some rows."""
        batch = self._batch(row_groups[0]).select(columns)
        yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))

    def _batch(self, number: int) -> pa.RecordBatch:
        if self._is_file:
            return self._reader.get_batch(number)
        if self._starts is not None:
            self._file.seek(self._starts[number])
            return pa.ipc.read_record_batch(pa.ipc.read_message(self._file), self.schema_arrow)
        if number < self._next:
            self._file.seek(0)
            self._reader, self._next = pa.ipc.open_stream(self._file), 0
        batch = None
        while self._next <= number:
            batch = self._advance()
            if batch is None:
                raise ValueError(f"there is no batch {number}")
        return batch

    def _advance(self) -> pa.RecordBatch | None:
        try:
            batch = self._reader.read_next_batch()
        except StopIteration:
            return None
        self._next += 1
        return batch


def _batch_starts(file: IO[bytes]) -> list[int] | None:
    """Return where the batches of an Arrow stream start, by the heads of its messages.

    To read the batches before each one would read a file of 500 MB a hundred times. None if there
    are dictionaries, for which the batches before matter.

    Raises:
        ValueError: If the stream is cut.
    """
    end, place = file.seek(0, 2), 0
    starts: list[int] = []
    while place < end:
        file.seek(place)
        start = file.read(8)
        mark, size = struct.unpack("<Ii", start) if len(start) == 8 else (0, 0)
        if (mark, size) == (0xFFFFFFFF, 0):  # the end of the stream
            break
        head = file.read(max(0, size))
        kind, body = _message(head) if mark == 0xFFFFFFFF and len(head) == size > 0 else (0, 0)
        if kind == DICTIONARY:
            return None
        if kind not in (SCHEMA, BATCH) or body < 0:
            raise ValueError(f"byte {place:,} of {end:,} is in no message of an Arrow stream")
        if kind == BATCH:
            starts.append(place)
        place += 8 + size + body
    if place > end:
        raise ValueError(f"it is cut: it has {end:,} bytes of at least {place:,}")
    return starts


def _message(head: bytes) -> tuple[int, int]:
    """Return kind and bytes of a message: fields 1 and 3 of a flatbuffer, 0 by default.

    https://github.com/apache/arrow/blob/main/format/Message.fbs
    """
    (table,) = struct.unpack_from("<I", head)
    offsets = table - struct.unpack_from("<i", head, table)[0]
    (size,) = struct.unpack_from("<H", head, offsets)  # fields at its end are left out
    kind, body = (
        struct.unpack_from("<H", head, offsets + 4 + 2 * field)[0] if 4 + 2 * field < size else 0
        for field in (1, 3)
    )
    return (
        head[table + kind] if kind else 0,
        struct.unpack_from("<q", head, table + body)[0] if body else 0,
    )


def _size(cells: pa.ChunkedArray | RejectedError) -> int:
    return 0 if isinstance(cells, RejectedError) else cells.nbytes


def _parts(
    file: "pq.ParquetFile | _Arrow", group: int, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """Read columns of a row group in parts that may cross; `a.b` is field b of column a."""
    tops = [_top(file.schema_arrow, name) for name in columns]
    wanted = list(dict.fromkeys(tops))
    batches = file.iter_batches(ROWS, row_groups=[group], columns=wanted, use_threads=False)
    for batch in batches:
        plain = [
            _plain(name, _field(batch.column(top), name.removeprefix(top).split(".")[1:]))
            for name, top in zip(columns, tops, strict=True)
        ]
        yield from _cut(pa.RecordBatch.from_arrays(plain, columns))


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.nbytes <= MAX_PART or (batch.num_rows == 1 and batch.nbytes <= MAX_ROW):
        yield batch
    elif batch.num_rows == 1:
        raise ValueError(f"a row has {batch.nbytes:,} bytes, at most {MAX_ROW:,} are taken")
    else:
        half = batch.num_rows // 2
        yield from _cut(batch.slice(0, half))
        yield from _cut(batch.slice(half))


def _top(schema: pa.Schema, name: str) -> str:
    return name if name in schema.names else name.split(".")[0]


def _field(column: pa.Array, path: list[str]) -> pa.Array:
    """Return a field of records, or of the records in lists."""
    for part in path:
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            inner = pc.struct_field(column.values, part)
            column = type(column).from_arrays(column.offsets, inner)
        else:
            column = pc.struct_field(column, part)
    return column


def _plain(name: str, column: pa.Array) -> pa.Array:
    """Take off what could grow in the parent, and the trust that text is UTF-8."""
    kind = column.type
    is_list = any(check(kind) for check in LISTS)
    inner = kind.value_type if is_list else kind
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    if pa.types.is_nested(inner) or (is_list and inner in (pa.null(), pa.bool_())):
        raise ValueError(f"column {name!r} is {kind}, not a text, a number or a list of such")
    if any(check(inner) for check in TEXTS):
        inner = pa.large_binary()
    return column.cast(pa.large_list(inner) if is_list else inner)


def _cells(file: "pq.ParquetFile | _Arrow", column: str, group: int) -> pa.ChunkedArray:
    """Read the images of a row group."""
    found: list[pa.Array] = []
    size, top = 0, _top(file.schema_arrow, column)
    try:
        batches = file.iter_batches(CELLS, row_groups=[group], columns=[top], use_threads=False)
        for batch in batches:
            found.append(_field(batch.column(0), column.removeprefix(top).split(".")[1:]))
            size += batch.nbytes
            if size > MAX_GROUP:
                break
    except MemoryError:
        size = MAX_GROUP + 1
    except (pa.ArrowException, OSError) as error:
        raise RejectedError("IMG_CORRUPT", str(error)[:300]) from error
    if size > MAX_GROUP:
        raise RejectedError(
            "IMG_TOO_LARGE",
            f"the images of row group {group} have over {MAX_GROUP / 2**30:.0f} GiB, and a group "
            "is read as a whole",
        )
    return pa.chunked_array(found)


def main() -> None:
    """Read one table after the other until the parent is gone."""
    serve(lambda connection: Tables(connection).answer)


if __name__ == "__main__":
    main()
