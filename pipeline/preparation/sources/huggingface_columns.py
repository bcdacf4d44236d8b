"""Which columns of a table of Hugging Face hold images, captions and class names."""

import json
import posixpath
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pipeline.preparation.decoding.isolated_parquet import open_table
from pipeline.preparation.sources.huggingface_files import INFO, read_json
from pipeline.preparation.sources.image_rows import Columns
from pipeline.preparation.sources.table_format import table_format
from pipeline.preparation.sources.table_rows import (
    column_names,
    is_list,
    is_text,
    listed,
    nested_field,
)
from pipeline.storage.folder import Folder

CAPTIONS = (
    *("text", "caption", "captions", "texts", "sentences", "sentences.raw", "sentence"),
    *("description", "descriptions", "prompt"),
)
USUAL = ("image", "file_name")  # of several columns of images
MAX_FEATURES = 16 * 2**20  # characters


def find_columns(
    folder: Folder,
    table: str,
    pictures: bool,
    image: str | None,
    caption: str | None,
    label: str | None,
) -> Columns:
    """Find the columns of a table.

    Args:
        table: Its name.
        pictures: Whether it names image files.
        image: Column that the user names, if any.
        caption: As `image`.
        label: As `image`; the class is known only then.

    Raises:
        ValueError: If there is none, or if several could be meant; lists the columns.
    """
    schema = _schema(folder, table)
    names = column_names(folder, table) if schema is None else schema.names
    where = f"{folder}/{table}"
    features = {} if schema is None else _features(folder, table, schema)
    if image is None:
        found = _files(names) if pictures else _images(schema, features)
        image = _only(where, found, names)
    if caption is None:
        there = [n for n in CAPTIONS if n != image and _is_caption(names, schema, n)]
        if not there:
            raise ValueError(
                f"{where} has no column of captions by a usual name ({', '.join(CAPTIONS)}). "
                f"Columns there: {listed(names)}. Name one with --caption."
            )
        caption = there[0]
    return Columns(image, caption, _labels(features, label))


@lru_cache(maxsize=256)
def image_column(folder: str, table: str) -> str:
    """Return the column of a table that holds its images."""
    place = Folder(folder)
    schema = _schema(place, table)
    found = [] if schema is None else _images(schema, _features(place, table, schema))
    return _only(f"{folder}/{table}", found, [] if schema is None else schema.names)


def _schema(folder: Folder, table: str) -> pa.Schema | None:
    """Return the schema of parquet or Arrow; None for text."""
    if table_format(folder, table, None)[0] not in ("parquet", "arrow"):
        return None
    with open_table(folder, table) as opened:
        return opened.schema


def _only(where: str, found: Sequence[str], names: Sequence[str]) -> str:
    for usual in USUAL:
        if usual in found:
            return usual
    if len(found) != 1:
        what = f"columns of images {listed(found)}" if found else "no column of images"
        raise ValueError(
            f"{where} has {what}. Columns there: {listed(names)}. Name one with --image."
        )
    return found[0]


def _files(names: Sequence[str]) -> list[str]:
    return [name for name in names if name == "file_name" or name.endswith("_file_name")]


def _images(schema: pa.Schema | None, features: dict[str, Any]) -> list[str]:
    """Return the columns of the feature Image, otherwise of its type, of bytes, or of paths."""
    if schema is None:
        return []
    known = {name: kind for name in schema.names if (kind := _kind(features.get(name)))}
    rest = [column for column in schema if column.name not in known]
    found = [
        [name for name, kind in known.items() if kind == "Image"],
        [each.name for each in rest if _is_image_struct(each.type)],
        [each.name for each in rest if _is_bytes(each.type)],
        [each.name for each in rest if each.name in USUAL and is_text(each.type)],
    ]
    return next(filter(None, found), [])


def _kind(feature: Any) -> str | None:
    """Return the type of a feature; None for a struct, as a table without features has it."""
    kind = feature.get("_type") if isinstance(feature, dict) else None
    return kind if isinstance(kind, str) and kind != "Value" else None


def _is_image_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_caption(names: Sequence[str], schema: pa.Schema | None, name: str) -> bool:
    if schema is None:
        return name in names
    try:
        kind = nested_field(schema, name).type
    except (KeyError, ValueError):
        return False
    kind = kind.value_type if is_list(kind) else kind
    return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _features(folder: Folder, table: str, schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` wrote into the schema, or beside the table."""
    text = (schema.metadata or {}).get(b"huggingface", b"")
    info: Any = None
    if 0 < len(text) <= MAX_FEATURES:
        try:
            info = json.loads(text).get("info")
        except (ValueError, RecursionError, AttributeError):
            info = None
    beside = posixpath.join(posixpath.dirname(table), INFO)
    if info is None and folder.exists(beside):
        info = read_json(folder, beside)
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


def _labels(features: dict[str, Any], label: str | None) -> tuple[str, ...] | None:
    """Return the names of the classes, if the column has them."""
    feature = features.get(label) if label is not None else None
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)
