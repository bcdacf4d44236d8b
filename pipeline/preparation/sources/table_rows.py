"""Read the rows of a table file one after another: CSV, TSV, JSON lines or parquet.

A problem of one row is a field of the row; a problem of the file is an error. Bytes that are not
UTF-8 become lone surrogates, for which captions are checked later.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.preparation.decoding.isolated_parquet import open_table
from pipeline.storage.folder import Folder

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
MAX_FIELD = 16 * 2**20  # bytes of a field or line: an open quote includes the rest of a file


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


def _csv(folder: Folder, file: str, columns: Sequence[str], delimiter: str) -> Iterator[TableRow]:
    csv.field_size_limit(MAX_FIELD)
    content: Any = folder.open(file)
    with io.TextIOWrapper(
        content, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as stream:
        reader = csv.reader(_lines(stream, f"{folder}/{file}"), delimiter=delimiter, strict=True)
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


def _lines(stream: io.TextIOWrapper, where: str) -> Iterator[str]:
    number = 0
    while line := stream.readline(MAX_FIELD + 1):
        number += 1
        if len(line) > MAX_FIELD:
            raise ValueError(
                f"{where}, line {number} has over {MAX_FIELD:,} characters. One line is one row, "
                "and a text with line breaks stands in quotation marks."
            )
        yield line


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
    with open_table(folder, file) as table:
        _check_columns(folder, file, (image, *columns), table.schema.names)
        embedded = _is_embedded(folder, file, table.schema.field(image))
        wanted = list(dict.fromkeys([*columns] if embedded else [image, *columns]))
        number = 0
        for group in range(table.groups):
            index = 0
            for batch in table.rows(group, wanted, image if embedded else None):
                values = [list(map(_text, batch.column(name).to_pylist())) for name in wanted]
                for row in zip(*values, strict=True):
                    number += 1
                    cells = dict(zip(wanted, row, strict=True))
                    place = group if embedded else None
                    yield TableRow(number, cells, group=place, index=index)
                    index += 1


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


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return [_text(each) for each in value] if isinstance(value, list) else value
