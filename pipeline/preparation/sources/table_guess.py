"""Guess which columns of a table are the images and captions: by names, types and a few rows."""

import contextlib
import csv
import io
import json
import posixpath
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import ijson
import pyarrow as pa

from pipeline.preparation.decoding.isolated_parquet import open_table
from pipeline.preparation.sources.look import Fit, Look, held_out_files
from pipeline.preparation.sources.read_original import below, is_there
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
Columns = dict[str, Sequence[str] | None]  # names, with the fields of records; None for images


def recognise_tables(look: Look) -> Iterator[Fit | str]:
    """Yield how the tables that were seen are prepared: together if they have the same columns."""
    lower = {name: name.lower() for name in look.files}
    tables = [name for name in look.files if lower[name].endswith(ENDINGS)]
    joined = tables or [name for name in look.files if lower[name].endswith(OTHER_ENDINGS)]
    single = [name for name in look.files if lower[name].endswith(".json") and "/" not in name]
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in joined[:MAX_TABLES]:
        try:
            columns = columns_of(look, name)
        except ValueError as error:
            yield str(error)
            continue
        groups.setdefault((posixpath.splitext(name)[1], *columns), []).append(name)
    together = len(groups) == 1 and len(joined) > 1
    for group in groups.values():
        for name in group[:1] if together else group:
            root = {"root": look.root} if together else {"root": look.place(name)}
            held = held_out_files(joined) if together else {}
            count = f"{len(joined):,} tables such as " if together else ""
            yield _fit(look, name, root | held, count)
    for name in single[:MAX_TABLES]:
        try:
            found = _fit(look, name, {"root": look.place(name)}, "")
            if isinstance(found, Fit) or look.root == look.place(name):
                yield found
        except ValueError:  # other JSON than a table
            continue


def columns_of(look: Look, name: str) -> Columns:
    """Return the columns of a table.

    Raises:
        ValueError: If it is none, or cannot be read.
    """
    kind, zipped = table_format(look.folder, name, None)
    if kind in ("parquet", "arrow"):
        with open_table(look.folder, name) as table:
            return {field.name: _fields(field.type) for field in table.schema}
    with open_text(look.folder, name, zipped) as stream:
        head = stream.read(MAX_HEAD)
    if kind in ("json", "jsonl"):
        return {column: _keys(value) for column, value in _first_record(head, kind).items()}
    line = head.decode("utf-8-sig", "replace").partition("\n")[0].rstrip("\r")
    rows = [
        next(csv.reader([line], delimiter=d), []) for d in ("\t,;|" if kind == "tsv" else ",\t;|")
    ]
    return {column.strip(): () for column in max(rows, key=len)}


def _fit(look: Look, name: str, options: dict[str, Any], count: str) -> Fit | str:
    """Choose the columns of a table, and find its images."""
    columns = columns_of(look, name)
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
    options |= {"image": image, "caption": caption}
    if split := _named(("split",), columns):
        options |= {"split": split}
    try:
        rows = [*islice(table_rows(look.folder, name, image, [caption], Layout()), ROWS)]
    except ValueError as error:
        return str(error)
    shown = f"{count}{name} with columns {image} and {caption}"
    paths = [row.values.get(image) for row in rows if row.group is None]
    if not rows or not paths:
        return Fit(shown, options, general=True) if rows else f"{name} holds no rows"
    names = [path for path in paths if isinstance(path, str) and path]
    if any("://" in path for path in names):
        return f"{name} names images by their addresses: download them first, as img2dataset does"
    parent = posixpath.dirname(name)
    if any(path.startswith(f"{look.folder}/") for path in names):
        return Fit(shown, options, general=True)
    for tree in dict.fromkeys((parent, "", *look.folders)):
        if any(is_there(look.folder, below(tree, path)) for path in names):
            images = {} if tree == parent else {"images": f"{look.folder}/{tree}".rstrip("/")}
            where = f", and images in {tree or look.folder}" if images else ""
            return Fit(shown + where, options | images, general=True)
    return f"{shown}: its images, such as {names[0] if names else None!r}, are not there"


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


def _first_record(head: bytes, kind: str) -> dict[str, Any]:
    """Return the first record of JSON lines, or of a list in JSON whose end may be missing."""
    try:
        if kind == "jsonl":
            record = json.loads(head.partition(b"\n")[0])
            return record if isinstance(record, dict) else {}
        for place in ("item", "images.item"):
            with contextlib.suppress(ijson.JSONError):
                record = next(ijson.items(io.BytesIO(head), place, use_float=True), None)
                if isinstance(record, dict):
                    return record
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a list of records: {error}") from error
    return {}


def _keys(value: Any) -> Sequence[str]:
    first = value[0] if isinstance(value, list) and value else value
    return [*first] if isinstance(first, dict) else ()
