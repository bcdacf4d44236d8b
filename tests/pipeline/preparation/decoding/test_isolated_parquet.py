"""Tables of somebody else take no more memory than they are given, whatever their headers say."""

import io
import os
import re
import struct
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.preparation.decoding import isolated_parquet
from pipeline.preparation.decoding.images import MAX_BYTES, RejectedError
from pipeline.preparation.decoding.isolated_decoder import child_of
from pipeline.preparation.decoding.isolated_parquet import LIMITS, _reader
from pipeline.preparation.decoding.parquet_process import READ_AT_ONCE, _batch_starts
from pipeline.preparation.sources.table import TableSource
from tests.pipeline.preparation.sources.layouts import jpeg

pytestmark = pytest.mark.slow

MIB = 2**20
# Lists a table and reads its first image; its last line is the most memory that this took.
READ = """
import resource, sys
from pipeline.preparation.decoding import isolated_parquet
isolated_parquet.LIMITS = isolated_parquet.ParquetLimits(memory_bytes=int(sys.argv[2]))
from pipeline.preparation.sources.table import TableSource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = TableSource(root=sys.argv[1], validation=0)
try:
    records = list(source.records())
    print(len(records), len(source.read_image(records[0])))
except Exception as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def write(path, image, captions, **options):
    """Write a table whose repeated values are there once."""
    table = pa.table({"image": image, "caption": captions})
    options = {"compression": "zstd", "write_statistics": False, "store_schema": False} | options
    pq.write_table(table, path, dictionary_pagesize_limit=2**30, **options)
    return path


def repeated(value, rows: int) -> pa.Array:
    """Repeat a value without having it in memory so often."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def read(path, memory_bytes: int = LIMITS.memory_bytes) -> tuple[str, int]:
    """Read a table in a process of its own: what it said, and the MiB that it took."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    out = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(memory_bytes)],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    said, mib = out.stdout.strip().rsplit("\n", 1)
    return said, int(mib)


@pytest.mark.rest  # each reads a bomb in a process of its own
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux only")
@pytest.mark.parametrize(
    ("value", "rows", "message"),
    [
        (
            "x" * 2_000_000,
            256,
            "is not parquet or Arrow that can be read: it takes more memory than read",
        ),
        (
            "x" * 20_000_000,
            2,
            r"is not parquet or Arrow that can be read: a row has 20,000,\d+ bytes, at mo",
        ),
        (["x" * 1_000] * 20_000, 2, r"is not parquet .*: a row has 20,\d+,\d+ bytes, at most 16,"),
    ],
    ids=["many long rows", "a long row", "a list"],
)
def test_captions_that_grow_in_memory_are_refused(tmp_path, value, rows, message):
    captions = [value] * rows if isinstance(value, list) else repeated(value, rows)
    path = write(tmp_path / "rows.parquet", ["a.jpg"] * rows, captions)
    assert path.stat().st_size < MIB / 4

    said, mib = read(path, memory_bytes=2**29 if rows > 2 else LIMITS.memory_bytes)

    assert re.search(message, said), said
    assert mib < 100


@pytest.mark.rest
@pytest.mark.parametrize(("length", "rows"), [(1_600_000, 1024), (1_000, 20_000)])
def test_one_image_with_captions_that_grow_in_memory_is_refused(tmp_path, length, rows):
    path = write(tmp_path / "rows.parquet", ["a.jpg"] * rows, repeated("x" * length, rows))
    assert path.stat().st_size < MIB / 4

    said, mib = read(path)

    assert "image 'a.jpg' has over 16,777,216 bytes of captions" in said
    assert mib < 200


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is kept on Linux only")
def test_images_that_grow_in_memory_are_rejected_and_cost_the_parent_nothing(tmp_path):
    path = write(tmp_path / "rows.parquet", repeated(bytes(8 * MIB), 400), ["a bird"] * 400)
    assert path.stat().st_size < MIB / 4

    said, mib = read(path)

    assert said.startswith("IMG_TOO_LARGE: rows.parquet, row group 0: the images of row group 0 ha")
    assert mib < 100


def test_what_only_looks_like_a_bomb_is_read(tmp_path):
    caption, rows = "a bird " * 5_000, 3_000  # 100 MB of captions in a few kilobytes
    path = write(tmp_path / "rows.parquet", [jpeg()] * rows, [caption] * rows)
    assert path.stat().st_size < MIB / 4
    source = TableSource(root=str(path), validation=0)

    records = list(source.records())

    assert len(records) == rows
    assert {record.captions for record in records} == {(caption,)}
    assert source.read_image(records[-1]) == jpeg()


def test_a_large_image_is_rejected_alone(tmp_path):
    path = write(tmp_path / "rows.parquet", [jpeg(), bytes(MAX_BYTES + 1)], ["a", "b"])
    source = TableSource(root=str(path), validation=0)
    small, large = source.records()

    with pytest.raises(RejectedError, match=f"IMG_TOO_LARGE: .*: {MAX_BYTES + 1} bytes, at most"):
        source.read_image(large)
    assert source.read_image(small) == jpeg()


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        (
            pa.array([[None] * 9], pa.list_(pa.null())),
            "'caption' is list<.*, not a text, a number or a list",
        ),
        (
            pa.array([[True] * 9], pa.list_(pa.bool_())),
            "'caption' is list<.*, not a text, a number or a list",
        ),
        (pa.array([{"a": "b"}]), "'caption' holds records with the fields a"),
    ],
)
def test_captions_of_a_kind_that_grows_are_refused(tmp_path, captions, said):
    path = write(tmp_path / "rows.parquet", ["a.jpg"], captions, store_schema=True)

    with pytest.raises(ValueError, match=said):
        list(TableSource(root=str(path)).records())


def test_lists_of_each_kind_are_read_alike(tmp_path):
    texts = [["a bird", "grün"]]
    kinds = [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ]
    found = []
    for kind in kinds:
        values = pa.array(texts, pa.list_(pa.string())).cast(kind)
        path = write(tmp_path / "rows.parquet", ["a.jpg"], values, store_schema=True)
        found += [record.captions for record in TableSource(root=str(path)).records()]

    assert found == [("a bird", "grün")] * len(kinds)


def test_a_reader_that_dies_is_an_error_once_and_the_next_table_is_read(tmp_path):
    path = write(tmp_path / "rows.parquet", ["a.jpg", "b.jpg"], ["a", "b"])
    rows = TableSource(root=str(path)).records()
    child = child_of(LIMITS)
    child.process.kill()
    child.process.wait()

    assert len(list(rows)) == 2  # the child is started by the first that asks


@pytest.mark.parametrize("asked", [[0, -1], [0, 2**40]])
def test_the_child_cannot_make_the_parent_read_a_whole_file(tmp_path, asked):
    (tmp_path / "large").write_bytes(bytes(2 * READ_AT_ONCE))
    with open(tmp_path / "large", "rb") as stream:
        assert len(_reader(stream)(*asked)) <= READ_AT_ONCE


def test_arrow_whose_offsets_lead_elsewhere_is_refused(tmp_path):
    offsets = np.array([0, 1, 2**40, 3], np.int64)
    captions = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"abc")]
    )
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["a.jpg", "b.jpg", "c.jpg"]), captions], ["image", "caption"]
    )
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_file(path, batch.schema) as file:
        file.write_batch(batch)

    with pytest.raises(ValueError, match="is not parquet or Arrow that can be read"):
        list(TableSource(root=str(path), validation=0).records())


def write_stream(path, batches: int, image_bytes: int) -> None:
    images = [os.urandom(image_bytes) for _ in range(batches)]
    table = pa.table({"image": images, "caption": [f"{n}" for n in range(batches)]})
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table, max_chunksize=1)


def test_a_batch_of_a_stream_is_read_without_those_before_it(tmp_path, monkeypatch):
    path, sizes = tmp_path / "rows.arrow", []
    write_stream(path, batches=40, image_bytes=MIB)
    source = TableSource(root=str(path), validation=0)

    def counted(stream):
        read = _reader(stream)

        def read_and_count(start, size):
            content = read(start, size)
            sizes.append(len(content))
            return content

        return read_and_count

    monkeypatch.setattr(isolated_parquet, "_reader", counted)

    assert [len(source.read_image(record)) for record in source.records()] == [MIB] * 40
    assert sum(sizes) < 3 * path.stat().st_size  # to list, to read, and where each batch is


def test_a_stream_that_is_cut_anywhere_but_after_a_batch_is_refused(tmp_path):
    write_stream(tmp_path / "rows.arrow", batches=2, image_bytes=16)
    whole = (tmp_path / "rows.arrow").read_bytes()
    found = Counter[int | str]()

    for size in range(1, len(whole) + 1):
        try:
            found[len(_batch_starts(io.BufferedReader(io.BytesIO(whole[:size]))))] += 1
        except (ValueError, struct.error):
            found["refused"] += 1

    # After the schema and each batch, because the end of a stream may be left out; and the whole.
    assert found == {"refused": len(whole) - 4, 0: 1, 1: 1, 2: 2}


def test_a_stream_with_a_damaged_byte_is_read_or_refused_by_its_name(tmp_path):
    path = tmp_path / "rows.arrow"
    write_stream(path, batches=2, image_bytes=16)
    whole = path.read_bytes()
    found = Counter[int | str]()

    for place in range(0, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found[len(list(TableSource(root=str(path), validation=0).records()))] += 1
        except ValueError as error:
            found[str(error) if str(path) not in str(error) else "refused"] += 1

    assert found["refused"] > 5
    assert set(found) <= {"refused", 1, 2}


def test_a_column_whose_name_is_no_text_is_an_error_of_its_file(tmp_path):
    path = tmp_path / "rows.arrow"
    write_stream(path, batches=1, image_bytes=16)
    path.write_bytes(path.read_bytes().replace(b"caption", b"\x9caption"))

    with pytest.raises(ValueError, match=r"rows\.arrow is not parquet or Arrow .* can't decode"):
        list(TableSource(root=str(path)).records())
