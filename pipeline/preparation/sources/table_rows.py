"""Read the rows of a table file one after another: CSV, TSV, JSON lines or parquet.

A problem of one row is a field of the row; a problem of the file is an error. Bytes that are not
UTF-8 become lone surrogates, for which captions are checked later.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.preparation.decoding.images import RejectedError
from pipeline.storage.folder import Folder

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
MAX_FIELD = 16 * 2**20  # bytes of a field or line: an open quote includes the rest of a file
MAX_GROUP = 2**30  # bytes of the images in a row group, which is read as a whole
BATCH = 1024  # rows
LOCK = Lock()


@dataclass(frozen=True)
class TableRow:
    """A row.

    Attributes:
        number: Line of the file, from 1; in parquet the row.
        values: Values by column.
        problem: Error in the row, if any.
        group: Row group of its image, if that is in the table.
        index: Index of the row within its group.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    group: int | None = None
    index: int = 0


def table_rows(
    folder: Folder, file: str, image: str, columns: Sequence[str], delimiter: str | None
) -> Iterator[TableRow]:
    """Read a table.

    Args:
        file: Name of the table; its ending is the format.
        image: Column of the images, names or content.
        columns: The other columns.
        delimiter: Delimiter of CSV; by default a comma, and a tab in .tsv.

    Raises:
        ValueError: If it cannot be read, or a column is missing.
    """
    ending = file[file.rfind(".") :].lower()
    if ending == ".parquet":
        yield from _parquet(folder, file, image, columns)
    elif ending in (".jsonl", ".ndjson"):
        yield from _json_lines(folder, file, (image, *columns))
    else:
        tab = "\t" if ending == ".tsv" else ","
        yield from _csv(folder, file, (image, *columns), delimiter or tab)


def read_cell(folder: Folder, file: str, column: str, group: int, index: int) -> Any:
    """Read the image of a row of parquet: bytes, or the unchanged value of another type.

    Raises:
        OSError: If the table cannot be read.
        RejectedError: If its row group is damaged.
    """
    try:
        with LOCK:  # so that threads that need the same group do not all read it
            cells = _cells(folder.location, file, column, group)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise RejectedError("IMG_CORRUPT", f"{file}, row group {group}: {error}") from error
    return cells[index].as_py()


@lru_cache(maxsize=4)
def _cells(location: str, file: str, column: str, group: int) -> pa.ChunkedArray:
    """Read a column of a row group; cached, because rows are read in order."""
    folder = Folder(location)
    with folder.open(file) as stream:
        return pq.ParquetFile(stream).read_row_group(group, columns=[column])[column]


def _csv(folder: Folder, file: str, columns: Sequence[str], delimiter: str) -> Iterator[TableRow]:
    csv.field_size_limit(MAX_FIELD)
    content: Any = folder.open(file)
    with io.TextIOWrapper(
        content, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if header and header[0][:2] in ("\udcff\udcfe", "\udcfe\udcff"):
                raise ValueError(f"{folder}/{file} is UTF-16. Save it as UTF-8.")
            _check_columns(folder, file, columns, header)
            for cells in reader:
                if len(cells) == len(header):
                    yield TableRow(reader.line_num, dict(zip(header, cells, strict=True)))
                elif cells:
                    yield TableRow(
                        reader.line_num,
                        problem=f"{len(cells)} fields, and the first line has {len(header)}",
                    )
        except csv.Error as error:
            raise ValueError(
                f"{folder}/{file}, line {reader.line_num}: {error}. Is a quotation mark not "
                f'closed? Within a quoted field, write it twice: "a ""big"" dog".'
            ) from error


def _json_lines(folder: Folder, file: str, columns: Sequence[str]) -> Iterator[TableRow]:
    checked = False
    # Buffered again: files of a bucket do not support a limit in `readline`.
    content: Any = folder.open(file)
    with io.BufferedReader(content, 2**20) as stream:
        number = 0
        while line := stream.readline(MAX_FIELD + 1):
            number += 1
            if len(line) > MAX_FIELD:
                raise ValueError(
                    f"{folder}/{file}, line {number} has over {MAX_FIELD:,} bytes. One line is "
                    "one JSON object."
                )
            text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").strip()
            if not text:
                continue
            try:
                value, problem = json.loads(text), None
            except (ValueError, RecursionError) as error:
                value, problem = None, f"not valid JSON: {error}"
            if problem is None and not isinstance(value, dict):
                problem = f"a JSON {type(value).__name__}, not an object"
            if not checked:
                if problem is not None:
                    raise ValueError(
                        f"{folder}/{file} is not JSON lines: line {number} is {problem}. Each line "
                        'must be an object, such as {"image": "1.jpg", "caption": "a bird"}.'
                    )
                _check_columns(folder, file, columns, list(value))
                checked = True
            yield TableRow(number, value if problem is None else {}, problem)


def _parquet(folder: Folder, file: str, image: str, columns: Sequence[str]) -> Iterator[TableRow]:
    with folder.open(file) as stream:
        try:
            table = pq.ParquetFile(stream)
            schema = table.schema_arrow
            _check_columns(folder, file, (image, *columns), schema.names)
            embedded = _is_embedded(folder, file, schema.field(image))
            wanted = list(dict.fromkeys([*columns] if embedded else [image, *columns]))
            number = 0
            for group in range(table.num_row_groups):
                if embedded:
                    _check_group(folder, file, table, group, image)
                index = 0
                for batch in table.iter_batches(BATCH, row_groups=[group], columns=wanted):
                    values = [_values(batch.column(name)) for name in wanted]
                    for row in range(batch.num_rows):
                        number += 1
                        cells = {n: v[row] for n, v in zip(wanted, values, strict=True)}
                        place = group if embedded else None
                        yield TableRow(number, cells, group=place, index=index)
                        index += 1
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{folder}/{file} is not parquet that can be read: {error}") from error


def _check_columns(folder: Folder, file: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    twice = [name for name in wanted if list(found).count(name) > 1]
    if missing or twice:
        what = f"has no column {missing[0]!r}" if missing else f"has two columns {twice[0]!r}"
        columns = ", ".join(repr(name[:40]) for name in found[:20]) or "none"
        raise ValueError(
            f"{folder}/{file} {what}. Columns there: {columns}. Name the columns with --image, "
            "--caption, --id, --split and --label; in CSV, the first line names them."
        )


def _is_embedded(folder: Folder, file: str, column: pa.Field) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return False
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_struct(kind) and {"bytes", "path"} & {child.name for child in kind}:
        return True
    raise ValueError(
        f"{folder}/{file}: column {column.name!r} is {kind}. Images are paths (string), the files "
        "themselves (binary), or a struct of bytes and path."
    )


def _check_group(folder: Folder, file: str, table: pq.ParquetFile, group: int, image: str) -> None:
    chunks = table.metadata.row_group(group)
    size = sum(
        chunks.column(i).total_uncompressed_size
        for i in range(chunks.num_columns)
        if chunks.column(i).path_in_schema.split(".")[0] == image
    )
    if size > MAX_GROUP:
        raise ValueError(
            f"{folder}/{file}: the images of row group {group} have {size / 2**30:.1f} GiB. A "
            f"group is read as a whole, so at most {MAX_GROUP / 2**30:.0f} GiB are permitted. "
            "Write the file again with row groups of 100 rows."
        )


def _values(column: pa.Array) -> list[Any]:
    """Convert a column to Python values; text need not be UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    inner = kind.value_type if is_list else kind
    if pa.types.is_string(inner) or pa.types.is_large_string(inner):
        plain = pa.large_binary()
        column = column.cast(pa.large_list(plain) if is_list else plain)
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return [_text(each) for each in value] if isinstance(value, list) else value
