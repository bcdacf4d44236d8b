"""Guess which columns of a table are the images and captions: by names, types and a few rows."""

import contextlib
import csv
import gzip
import io
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import ijson
import pyarrow as pa

from pipeline.preparation.decoding.isolated_parquet import open_table
from pipeline.preparation.sources.look import HEAD, Fit, Look, held_out_files
from pipeline.preparation.sources.read_original import below, is_there
from pipeline.preparation.sources.shallow_json import ShallowJson
from pipeline.preparation.sources.table_format import open_text, table_format
from pipeline.preparation.sources.table_rows import ENDINGS, OTHER_ENDINGS, Layout, table_rows

IMAGES = (
    *(
        "image",
        "images",
        "img",
        "jpg",
        "jpeg",
        "png",
        "webp",
        "file_name",
        "filename",
        "image_path",
    ),
    *("img_path", "image_file", "image_name", "path", "filepath", "file"),
)
CAPTIONS = (
    *("caption", "captions", "text", "texts", "txt", "sentence", "sentences", "description"),
    *("prompt", "raw", "title", "alt_text", "comment"),
)
FIELDS = ("raw", "caption", "text")  # of records in a column
MAX_TABLES = 20  # that are looked at
ROWS = 20  # of them
MAX_HEAD = 2**20  # bytes of text that are looked at
MAX_ARROW = 2**26  # bytes of an Arrow file, which may have to be read to its end
Columns = dict[str, Sequence[str] | None]  # names, with the fields of records; None for images


def recognise_tables(look: Look) -> Iterator[Fit | str]:
    """Yield how the tables that were seen are prepared: together if they have the same columns."""
    lower = {name: name.lower() for name in look.files}
    tables = [name for name in look.files if lower[name].endswith(ENDINGS)]
    tables = tables or [name for name in look.files if lower[name].endswith(OTHER_ENDINGS)]
    lists = [name for name in look.files if lower[name].endswith(".json") and "/" not in name]
    found: dict[str, Columns] = {}
    for name in (*tables[:MAX_TABLES], *lists[:MAX_TABLES]):
        try:
            found[name] = columns_of(look, name)
        except ValueError as error:
            yield str(error)
    kinds = {(posixpath.splitext(name)[1], *found[name]) for name in found if name not in lists}
    together = len(kinds) == 1 and len(tables) > 1
    for number, (name, columns) in enumerate(found.items()):
        fit = _fit(look, name, columns)
        if name in lists:  # other JSON is no table
            if isinstance(fit, Fit) or look.is_file:
                yield fit
        elif not together or isinstance(fit, str):
            yield fit
        elif number == 0:
            reason = f"{len(tables):,} tables such as {fit.reason}"
            yield Fit(reason, fit.options | {"root": look.root} | held_out_files(tables))


def columns_of(look: Look, name: str) -> Columns:
    """Return the columns of a table.

    Raises:
        ValueError: If it is none, or cannot be read.
    """
    kind, zipped = table_format(look.folder, name, None)
    if kind in ("parquet", "arrow"):
        if kind == "arrow" and (look.folder.size(name) or 0) > MAX_ARROW:
            raise ValueError(f"{name} is a large Arrow file, which is not looked at")
        with open_table(look.folder, name) as table:
            return {field.name: _fields(field.type) for field in table.schema}
    head = _head(look, name, zipped)
    if kind in ("json", "jsonl"):
        records = _records(head if kind == "json" else b"[%s]" % head.partition(b"\n")[0])
        return {column: _keys(value) for column, value in (records[0] if records else {}).items()}
    line = head.decode("utf-8-sig", "replace").partition("\n")[0].rstrip("\r")
    if len(line) > HEAD:
        raise ValueError(f"{name} has a first line of over {HEAD:,} characters, which is no header")
    delimiters = "\t,;|" if kind == "tsv" else ",\t;|"
    headers = [next(csv.reader([line], delimiter=each), []) for each in delimiters]
    return {column.strip(): () for column in max(headers, key=len)}


def _fit(look: Look, name: str, columns: Columns) -> Fit | str:
    """Choose the columns of a table, and find its images."""
    image = _named(IMAGES, columns) or next((c for c, f in columns.items() if f is None), None)
    caption = _named(CAPTIONS, {c: f for c, f in columns.items() if c != image and f is not None})
    if image is None or caption is None:
        there = ", ".join(repr(column[:40]) for column in list(columns)[:12])
        return f"{name} has no column of {'images' if image is None else 'captions'}: {there}"
    if fields := columns[caption]:
        inner = _named(FIELDS, dict.fromkeys(fields, ()))
        if inner is None:
            return f"{name}: column {caption!r} has records without a caption: {', '.join(fields)}"
        caption = f"{caption}.{inner}"
    options = {"root": look.place(name), "image": image, "caption": caption}
    if split := _named(("split",), columns):
        options |= {"split": split}
    shown = f"{name} with columns {image} and {caption}"
    try:
        paths = _paths(look, name, image, caption)
    except ValueError as error:
        return str(error)
    if paths is None:
        return Fit(shown, options)
    if any("://" in path for path in paths):
        return f"{name} names images by their addresses: download them first, as img2dataset does"
    parent = posixpath.dirname(name)
    if any(path.startswith(f"{look.folder}/") for path in paths):
        return Fit(shown, options)
    for tree in dict.fromkeys((parent, "", *look.folders)):
        if any(is_there(look.folder, below(tree, path)) for path in paths):
            images = {} if tree == parent else {"images": f"{look.folder}/{tree}".rstrip("/")}
            where = f", and images in {tree or look.folder}" if images else ""
            return Fit(shown + where, options | images)
    return f"{shown}: its images, such as {paths[0] if paths else None!r}, are not there"


def _paths(look: Look, name: str, image: str, caption: str) -> list[str] | None:
    """Return the paths of the images in the first rows; None if the images are in the table.

    Raises:
        ValueError: If there are no rows, or they cannot be read.
    """
    kind, zipped = table_format(look.folder, name, None)
    if kind == "json":  # reading its first rows would read all of it
        values = [record.get(image) for record in _records(_head(look, name, zipped))]
    else:
        rows = [*islice(table_rows(look.folder, name, image, [caption], Layout()), ROWS)]
        if not rows:
            raise ValueError(f"{name} holds no rows")
        if rows[0].group is not None:
            return None
        values = [row.values.get(image) for row in rows]
    return [value for value in values if isinstance(value, str) and value]


def _head(look: Look, name: str, zipped: bool) -> bytes:
    try:
        with open_text(look.folder, name, zipped) as stream:
            return stream.read(MAX_HEAD)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} is gzip that is damaged: {error}") from error


def _named(wanted: Sequence[str], columns: Columns) -> str | None:
    """Return the column that has the first of some names, in any case."""
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in wanted if name in lower), None)


def _fields(kind: pa.DataType) -> Sequence[str] | None:
    """Return the fields of records; None for images."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _fields(kind.value_type) or ()
    if types.is_struct(kind):
        fields = [each.name for each in kind]
        return None if {"bytes", "path"} & {*fields} else fields
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return None if binary else ()


def _records(head: bytes) -> list[dict[str, Any]]:
    """Return the first records of a list in JSON, whose end may be missing."""
    found: list[Any] = []
    for place in ("item", "images.item"):
        # A list that is longer ends with an error here.
        with contextlib.suppress(ijson.JSONError, ValueError):
            stream = ShallowJson(io.BytesIO(head))
            found += islice(ijson.items(stream, place, use_float=True), ROWS)
    return [record for record in found if isinstance(record, dict)]


def _keys(value: Any) -> Sequence[str]:
    first = value[0] if isinstance(value, list) and value else value
    return [*first] if isinstance(first, dict) else ()
