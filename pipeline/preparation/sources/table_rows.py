"""Read the rows of a table file one after another: CSV, TSV, JSON, parquet, Arrow.

A problem of one row is a field of the row; a problem of the file is an error. Bytes that are not
UTF-8 become lone surrogates, for which captions are checked later.
"""

import csv
import gzip
import io
import json
import shlex
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from posixpath import basename, splitext
from typing import IO, Any, AnyStr, Literal

import ijson
import pyarrow as pa

from pipeline.common.console import print_line
from pipeline.preparation.decoding.isolated_parquet import open_table
from pipeline.preparation.sources.shallow_json import ShallowJson
from pipeline.preparation.sources.table_format import Format, open_text, table_format
from pipeline.storage.folder import Folder

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # as Hugging Face names them
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
# In a folder, only if it has none of the others: a copy beside its original is no second table.
OTHER_ENDINGS = (".arrow", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz", ".json.gz")
# An empty cell, as text.
NOTHING = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>", "NA", "N/A", "n/a", "#N/A"})
MAX_FIELD = 16 * 2**20  # bytes of a field or line: an open quote includes the rest of a file


@dataclass(frozen=True)
class TableRow:
    """A row.

    Attributes:
        number: Line of the file, from 1; in parquet the row.
        values: Values by column.
        problem: Error in the row, if any.
        group: Row group or batch of its image, if that is in the table.
        index: Index of the row within its group.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    group: int | None = None
    index: int = 0


@dataclass(frozen=True)
class Layout:
    """How the text of a table is divided.

    Attributes:
        format: The user's choice; by default as the file says.
        delimiter: Of CSV. Default: a comma, and a tab in TSV.
        quoting: Whether fields may be quoted. Default: in CSV, not in TSV.
    """

    format: Format | None = None
    delimiter: str | None = None
    quoting: Literal["csv", "none"] | None = None


def table_rows(
    folder: Folder, file: str, image: str, columns: Sequence[str], layout: Layout
) -> Iterator[TableRow]:
    """Read a table.

    Args:
        file: Name of the table.
        image: Column of the images, names or content.
        columns: The other columns; `a.b` is field b of the records in column a.
        layout: How text is divided.

    Raises:
        ValueError: If it cannot be read, or a column is missing.
    """
    kind, zipped = table_format(folder, file, layout.format)
    try:
        if kind in ("parquet", "arrow"):
            yield from _columns(folder, file, image, columns)
        elif kind in ("jsonl", "json"):
            read = _json_lines if kind == "jsonl" else _json_list
            yield from read(folder, file, (image, *columns), zipped)
        else:
            yield from _csv(folder, file, (image, *columns), layout, kind == "tsv", zipped)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{folder}/{file} is gzip that is damaged: {error}.") from error


def column_names(folder: Folder, file: str) -> list[str]:
    """Return the columns of a table of text; of JSON, the keys of its first object.

    Raises:
        ValueError: If it cannot be read, or has no rows.
    """
    kind, zipped = table_format(folder, file, None)
    if kind in ("jsonl", "json"):
        rows = (_json_lines if kind == "jsonl" else _json_list)(folder, file, (), zipped)
    else:
        rows = _csv(folder, file, (), Layout(), kind == "tsv", zipped)
    first = next((row for row in rows if row.problem is None), None)
    if first is None:
        raise ValueError(f"{folder}/{file} has no rows. Take it out of the folder.")
    return list(first.values)


def _csv(
    folder: Folder, file: str, columns: Sequence[str], layout: Layout, tabs: bool, zipped: bool
) -> Iterator[TableRow]:
    csv.field_size_limit(MAX_FIELD)
    delimiter = layout.delimiter or ("\t" if tabs else ",")
    plain = layout.quoting == "none" or (tabs and layout.quoting is None)
    quoting: Any = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    quoted = 0
    with io.TextIOWrapper(
        open_text(folder, file, zipped),
        encoding="utf-8-sig",
        errors="surrogateescape",
        newline="",
    ) as stream:
        advice = "One line is one row, and a text with line breaks stands in quotation marks."
        lines = _lines(stream, f"{folder}/{file}", "characters", advice)
        reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
        try:
            header = [name.strip() for name in next(reader, [])]
            if layout.delimiter is None and len(header) == 1:
                for other in ";\t|,":
                    names = [name.strip() for name in next(csv.reader(header, delimiter=other))]
                    if set(columns) <= set(names):  # the columns are there: this is no guess
                        header = names
                        reader = csv.reader(lines, delimiter=other, strict=True, quoting=quoting)
                        delimiter = other
                        break
            _check_columns(folder, file, columns, header)
            for cells in reader:
                line = reader.line_num
                if len(cells) == len(header):
                    if plain:
                        quoted += any(len(c) > 1 and c[0] == c[-1] == '"' for c in cells)
                    elif any("\n" in cell and _swallowed(cell, cells, delimiter) for cell in cells):
                        raise ValueError(
                            f"{folder}/{file}, line {line}: a field holds whole rows. Is a "
                            "quotation mark before it not closed? If quotation marks are text in "
                            "this table, say so with --quoting none."
                        )
                    cells = ["" if cell.strip() in NOTHING else cell for cell in cells]
                    yield TableRow(line, dict(zip(header, cells, strict=True)))
                elif cells:
                    yield TableRow(
                        line, problem=f"{len(cells)} fields, and the first line has {len(header)}"
                    )
        except csv.Error as error:
            raise ValueError(
                f"{folder}/{file}, line {reader.line_num}: {error}. Is a quotation mark not "
                f'closed? Within a quoted field, write it twice: "a ""big"" dog". If quotation '
                "marks are text in this table, say so with --quoting none."
            ) from error
    if quoted:
        print_line(
            f"{folder}/{file}: {quoted:,} rows have fields in quotation marks, which are kept as "
            "text. If they only enclose a field, use --quoting csv."
        )


def _lines(stream: IO[AnyStr], where: str, unit: str, advice: str) -> Iterator[AnyStr]:
    """Read lines; an endless one is an error before it fills the memory."""
    number = 0
    while line := stream.readline(MAX_FIELD + 1):
        number += 1
        if len(line) > MAX_FIELD:
            raise ValueError(f"{where}, line {number} has over {MAX_FIELD:,} {unit}. {advice}")
        yield line


def _swallowed(cell: str, cells: list[str], delimiter: str) -> bool:
    """Return whether a line in a field looks like a row: as many fields, and the same endings."""
    endings = [splitext(each)[1] for each in cells]
    for line in cell.splitlines()[1:]:
        found = [splitext(each)[1] for each in line.split(delimiter)]
        pairs = zip(found, endings, strict=False)
        if len(found) == len(cells) and any(a == b and 2 < len(a) < 6 for a, b in pairs):
            return True
    return False


def _json_lines(
    folder: Folder, file: str, columns: Sequence[str], zipped: bool
) -> Iterator[TableRow]:
    checked = False
    with open_text(folder, file, zipped) as stream:
        lines = _lines(stream, f"{folder}/{file}", "bytes", "One line is one JSON object.")
        for number, line in enumerate(lines, 1):
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
            yield TableRow(number, _picked(value, columns) if problem is None else {}, problem)


def _json_list(
    folder: Folder, file: str, columns: Sequence[str], zipped: bool
) -> Iterator[TableRow]:
    """Read a list of records, or an object that has one, such as 'images' of a split file."""
    number = 0
    try:
        with open_text(folder, file, zipped) as stream:
            place = _list_place(folder, file, stream)
        with open_text(folder, file, zipped) as stream:
            records = ijson.items(ShallowJson(stream), place, use_float=True)
            for number, value in enumerate(records, 1):
                if not isinstance(value, dict):
                    kind = type(value).__name__
                    yield TableRow(number, problem=f"a JSON {kind}, not an object")
                    continue
                if number == 1:
                    _check_columns(folder, file, columns, list(value))
                yield TableRow(number, _picked(value, columns))
    except ijson.JSONError as error:
        raise ValueError(
            f"{folder}/{file} is not valid JSON, after row {number}: {error}"
        ) from error


def _list_place(folder: Folder, file: str, stream: IO[bytes]) -> str:
    keys = []
    for prefix, event, _ in ijson.parse(ShallowJson(stream)):
        if event == "start_array" and prefix.count(".") == 0:
            keys.append(prefix)
            if prefix == "":
                return "item"
    if len(keys) == 1 or ("images" in keys and "annotations" not in keys):
        return f"{keys[0] if len(keys) == 1 else 'images'}.item"
    raise ValueError(
        f"{folder}/{file} is a JSON object with {len(keys)} lists "
        f"({', '.join(keys[:8]) or 'none'}), not a list of records. A captions file of COCO is "
        "prepared with jobs/prepare.py coco; of others, save the list alone."
    )


def _picked(values: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Add the fields that dotted columns name."""
    dotted = [name for name in columns if name not in values and "." in name]
    return {**values, **{name: field_of(values, name.split(".")) for name in dotted}}


def field_of(value: Any, path: Sequence[str]) -> Any:
    """Return a field of a record, or of each of a list; None if it is not there."""
    if isinstance(value, list):
        return [field_of(each, path) for each in value]
    if not path:
        return value
    return field_of(value.get(path[0]), path[1:]) if isinstance(value, dict) else None


def nested_field(schema: pa.Schema, name: str) -> pa.Field:
    """Return the field that a column names, which may be dotted."""
    if name in schema.names:
        return schema.field(name)
    top, *path = name.split(".")
    found = schema.field(top)
    for part in path:
        kind = found.type.value_type if is_list(found.type) else found.type
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            raise ValueError(f"column {top!r} is {found.type} and has no field {part!r}")
        found = kind.field(kind.get_field_index(part))
    return found


def _check_texts(
    folder: Folder, file: str, schema: pa.Schema, image: str, columns: Sequence[str]
) -> None:
    """Refuse a column of records once, with the fields that can be named."""
    for name in (image, *columns):
        try:
            kind = nested_field(schema, name).type
        except ValueError as error:
            raise ValueError(f"{folder}/{file}: {error}.") from error
        kind = kind.value_type if is_list(kind) else kind
        if name != image and pa.types.is_struct(kind):
            fields = [each.name for each in kind]
            raise ValueError(
                f"{folder}/{file}: column {name!r} holds records with the fields "
                f"{', '.join(fields)}. Name one of them, for example {name}.{fields[0]}."
            )


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list, of any kind."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _columns(folder: Folder, file: str, image: str, columns: Sequence[str]) -> Iterator[TableRow]:
    """Read parquet, or an Arrow file or stream as `datasets` of Hugging Face writes it."""
    with open_table(folder, file) as table:
        _check_columns(folder, file, (image, *columns), table.schema.names)
        _check_texts(folder, file, table.schema, image, columns)
        embedded = _is_embedded(folder, file, nested_field(table.schema, image))
        wanted = list(dict.fromkeys([*columns] if embedded else [image, *columns]))
        number = 0
        for group in range(table.groups):
            index = 0
            for batch in table.rows(group, wanted, image if embedded else None):
                values = [list(map(_text, column.to_pylist())) for column in batch.columns]
                for row in zip(*values, strict=True):
                    number += 1
                    cells = dict(zip(wanted, row, strict=True))
                    place = group if embedded else None
                    yield TableRow(number, cells, group=place, index=index)
                    index += 1


def _check_columns(folder: Folder, file: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [n for n in wanted if n not in found and n.split(".")[0] not in found]
    twice = [name for name in wanted if list(found).count(name) > 1]
    if missing or twice:
        what = f"has no column {missing[0]!r}" if missing else f"has two columns {twice[0]!r}"
        advice = (
            "Name the columns with --image, --caption, --id, --split and --label; in CSV, the "
            "first line names them."
        )
        if basename(file) in METADATA and "file_name" in set(found) - set(wanted):
            advice = (
                "If these are images of their folder, as Hugging Face names them, prepare them "
                f"with jobs/prepare.py huggingface --root {shlex.quote(str(folder))}"
            )
        raise ValueError(f"{folder}/{file} {what}. Columns there: {listed(found)}. {advice}")


def listed(columns: Sequence[str]) -> str:
    """Return the names of columns for an error."""
    return ", ".join(repr(name[:40]) for name in columns[:20]) or "none"


def _is_embedded(folder: Folder, file: str, column: pa.Field) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if is_text(kind):
        return False
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return True
    if pa.types.is_struct(kind) and {"bytes", "path"} & {child.name for child in kind}:
        return True
    raise ValueError(
        f"{folder}/{file}: column {column.name!r} is {kind}. Images are paths (string), the files "
        "themselves (binary), or a struct of bytes and path."
    )


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is a text, of any kind."""
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return [_text(each) for each in value] if isinstance(value, list) else value
