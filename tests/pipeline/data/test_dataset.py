"""A prepared dataset of somebody else: what is read of it takes no more memory than it says."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.dataset import SMALL, PreparedDataset
from pipeline.data.loader import BatchReader
from pipeline.data.manifest import SHARD_SCHEMA
from pipeline.data.rows import decode
from pipeline.data.sample_order import SampleOrder
from tests.conftest import encoded, photo

pytestmark = pytest.mark.slow

LARGE = 30_000  # pixels a side: 2.7 GB decoded


def with_size(content: bytes, width: int, height: int) -> bytes:
    """Let the header of a JPEG name another size."""
    place = content.index(b"\xff\xc0") + 5
    size = height.to_bytes(2) + width.to_bytes(2)
    return content[:place] + size + content[place + 4 :]


def changed(shapes, folder, change) -> PreparedDataset:
    """Copy a dataset and change the rows of its first shard; the manifest names the new one."""
    shutil.copytree(str(shapes.folder), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = manifest["splits"]["train"][0]
    table = change(pq.read_table(folder / shard["file"]))
    options = {"compression": "ZSTD", "row_group_size": shard["row_groups"][0]}
    pq.write_table(table.cast(SHARD_SCHEMA), folder / shard["file"], **options)
    shard["bytes"] = (folder / shard["file"]).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return PreparedDataset(str(folder))


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(
        place, SHARD_SCHEMA.field(name), pa.array(values, SHARD_SCHEMA.field(name).type)
    )


def test_an_image_of_the_size_of_its_dataset_is_decoded_and_no_other():
    jpeg = encoded(photo(40, 40))
    with_comment = (
        jpeg[:2] + b"\xff\xfe\x00\x0b" + b"\xff\xc0\x00\x11\x08\x00\x28\x00\x28" + jpeg[2:]
    )

    assert decode(jpeg, 40).shape == (3, 40, 40)
    assert decode(with_size(with_comment, LARGE, LARGE), 40).shape == (3, 40, 40)
    for content in (
        encoded(photo(40, 41)),
        with_size(jpeg, LARGE, LARGE),
        with_size(jpeg, 40, LARGE),
        b"",
        b"\xff\xd8",
        jpeg[:20],
        encoded(photo(40, 40), "PNG"),
    ):
        with pytest.raises(ValueError, match=r"a shard holds an image of .* pixels, and its manif"):
            decode(content, 40)


@pytest.mark.rest
@pytest.mark.parametrize("reader", ["threads", "resident", "ray"])
def test_a_loader_decodes_no_image_that_is_larger_than_the_dataset_says(
    ray_session, shapes, tmp_path, reader
):
    def enlarge(table: pa.Table) -> pa.Table:
        images = [with_size(jpeg, LARGE, LARGE) for jpeg in table["image"].to_pylist()]
        return with_column(table, "image", images)

    dataset = changed(shapes, tmp_path / "data", enlarge)
    plan = SampleOrder(dataset.units("train"), 12, seed=5)
    view = {"image_size": 32, "flip": True, "threads": 2, "reader": reader}

    with pytest.raises(Exception, match=r"image of 30000 × 30000 pixels, and its manifest says 40"):
        list(BatchReader(dataset, plan, rank=0, world=1, **view).batches(0, 30))
    with pytest.raises(ValueError, match="image of 30000 × 30000 pixels"):
        dataset.examples("train", 1)


@pytest.fixture
def by_class(shapes, tmp_path):
    """A dataset of 120 training images in 9 row groups, sorted by class, 12 of each."""
    shutil.copytree(str(shapes.folder), tmp_path / "data")
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    start = 0
    for shard in manifest["splits"]["train"]:
        file = tmp_path / "data" / shard["file"]
        table = pq.read_table(file)
        labels = [f"class {row // 12}" for row in range(start, start + len(table))]
        start += len(table)
        options = {"compression": "ZSTD", "row_group_size": shard["row_groups"][0]}
        pq.write_table(with_column(table, "label", labels).cast(SHARD_SCHEMA), file, **options)
        shard["bytes"] = file.stat().st_size
    (tmp_path / "data/manifest.json").write_text(json.dumps(manifest))
    return PreparedDataset(str(tmp_path / "data"))


def test_chosen_images_are_of_all_classes_of_a_sorted_dataset(by_class):
    first, spread = by_class.examples("train", 10), by_class.spread("train", 20, seed=7)

    assert len({each.class_key for each in first}) == 1
    for ten in (spread[:10], spread[10:]):
        assert len({each.class_key for each in ten}) == 10


def test_the_choice_follows_from_seed_and_dataset_and_begins_the_same_for_more(by_class):
    few, again, more, other = (
        [each.sentence.tolist() for each in by_class.spread("train", count, seed)]
        for count, seed in ((5, 7), (5, 7), (30, 7), (5, 8))
    )

    assert few == again == more[:5]
    assert few != other


def test_all_images_of_a_small_split_are_chosen_once(by_class):
    chosen = by_class.spread("train", 500, seed=7)

    everyone = {tuple(each.image.flatten().tolist()) for each in by_class.examples("train")}
    assert len(chosen) == 120
    assert {tuple(each.image.flatten().tolist()) for each in chosen} == everyone


def test_few_row_groups_are_read_for_a_choice(by_class, monkeypatch):
    monkeypatch.setattr("pipeline.data.dataset.SPREAD_ROWS", 40)
    read, units = by_class.read, []
    monkeypatch.setattr(
        by_class, "read", lambda unit, names: units.append(unit) or read(unit, names)
    )

    assert len(by_class.spread("train", 16, seed=7)) == 16

    assert len(units) == 2


@pytest.mark.parametrize("column", ["captions", "sentences", "label", "image"])
def test_a_row_group_that_grows_in_memory_is_refused(shapes, tmp_path, column):
    vector = np.zeros(2**21, np.float32)
    kinds = {"captions": ["x" * 2**23], "sentences": vector, "label": "x" * 2**23}
    value = kinds.get(column, bytes(2**23))
    dataset = changed(
        shapes, tmp_path / "data", lambda table: with_column(table, column, [value] * len(table))
    )
    unit = dataset.units("train")[0]
    assert unit.rows * 2**23 > SMALL
    assert dataset.folder.size(unit.file) < 2**19

    with pytest.raises(
        ValueError, match=r"is damaged, or .*row group 0 takes .* or more in memory"
    ):
        dataset.read(unit, [column])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"cache_size": LARGE}, "cache_size"),
        (lambda m: _first_shard(m, rows=10**12, row_groups=[10**12]), "row_groups"),
        (lambda m: _first_shard(m, rows=3), "rows=3 is not the sum of its row_groups"),
    ],
)
def test_a_manifest_that_would_take_memory_is_refused(shapes, tmp_path, change, message):
    shutil.copytree(str(shapes.folder), tmp_path / "data")
    file = tmp_path / "data" / "manifest.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))

    with pytest.raises(ValueError, match=message):
        PreparedDataset(str(tmp_path / "data"))


def _first_shard(manifest: dict, **fields) -> dict:
    manifest["splits"]["train"][0] |= fields
    return manifest
