"""Shards that are not what the manifest says: each kind of damage is found, and named."""

import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.data.dataset import PreparedDataset

pytestmark = [pytest.mark.slow, pytest.mark.rest]

COLUMNS = ["id", "captions", "image"]


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_by_one(content: bytes) -> bytes:
    return content[:-1]


def cut_by_eight(content: bytes) -> bytes:
    return content[:-8]


def empty(content: bytes) -> bytes:
    return b""


def magic_only(content: bytes) -> bytes:
    return b"PAR1"


def error_page(content: bytes) -> bytes:
    return b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"


def length_of_footer(content: bytes) -> bytes:
    return content[:-8] + (2**31 - 1).to_bytes(4, "little") + content[-4:]


def flipped_footer(content: bytes) -> bytes:
    length = int.from_bytes(content[-8:-4], "little")
    place = len(content) - 8 - length // 2
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def flipped_page(content: bytes) -> bytes:
    place = content.index(b"JFIF") + 400  # within the pixels of the first image
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = [
    cut_in_half,
    cut_by_one,
    cut_by_eight,
    empty,
    magic_only,
    error_page,
    length_of_footer,
    flipped_footer,
    flipped_page,
]


@pytest.fixture
def copy(shapes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shapes.folder.path, folder)
    return folder / "train/part-00000.parquet"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_bytes_are_found_before_they_are_used(copy, damage):
    copy.write_bytes(damage(copy.read_bytes()))
    dataset = PreparedDataset(str(copy.parents[1]))

    with pytest.raises(ValueError, match=r"part-00000\.parquet is damaged.*--repair"):
        [dataset.read(unit, COLUMNS) for unit in dataset.units("train")]
    with pytest.raises(ValueError, match=r"part-00000\.parquet was changed.*--repair"):
        dataset.verify_content(lambda count: None)


def rewritten(path, change) -> None:
    groups = pq.ParquetFile(path)
    table = change(groups.read())
    pq.write_table(table, path, row_group_size=groups.metadata.row_group(0).num_rows)


def renamed_column(table: pa.Table) -> pa.Table:
    return table.rename_columns(["text" if n == "captions" else n for n in table.column_names])


def numeric_ids(table: pa.Table) -> pa.Table:
    ids = pa.array(range(len(table)), pa.int64())
    return table.set_column(table.column_names.index("id"), "id", ids)


def text_that_is_none(table: pa.Table) -> pa.Table:
    bad = pa.array([b"\xff\xfeA"] * len(table), pa.binary()).view(pa.string())
    return table.set_column(table.column_names.index("id"), "id", bad)


def fewer_rows(table: pa.Table) -> pa.Table:
    return table.slice(0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed_column, r"no column 'captions' of list<.*> but id string, .*text list"),
        (numeric_ids, r"no column 'id' of string but id int64"),
        (text_that_is_none, r"[Ii]nvalid UTF8"),
        (fewer_rows, r"row group 0 has 3 rows"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_another_table_in_the_place_of_a_shard_is_refused(copy, change, message):
    rewritten(copy, change)
    dataset = PreparedDataset(str(copy.parents[1]))

    with pytest.raises(ValueError, match=message):
        dataset.read(dataset.units("train")[0], COLUMNS)


def test_the_undamaged_copy_is_read(copy):
    dataset = PreparedDataset(str(copy.parents[1]))

    dataset.verify_content(lambda count: None)
    tables = [dataset.read(unit, COLUMNS) for unit in dataset.units("train")]

    assert sum(map(len, tables)) == dataset.manifest.rows("train")
    assert pc.sum(pc.list_value_length(tables[0]["captions"])).as_py() == 2 * len(tables[0])
