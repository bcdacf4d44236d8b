"""Preparation with a real Ray: every row accounted for, the same bytes each time."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.common.errors import root_cause
from pipeline.data.dataset import PreparedDataset
from pipeline.data.manifest import MANIFEST, SHARD_SCHEMA, TRANSFORM
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.sources.coco import CocoSource
from pipeline.ray_cluster import parallel_map
from pipeline.storage.folder import Folder
from ratgan.text.loading import load_encoder
from tests.conftest import REAL_DATA, write_coco

pytestmark = pytest.mark.slow


def coco_with_faults(root) -> CocoSource:
    """Ten training images, of which three cannot be used, and two more for validation."""
    captions = {n: [f"picture number {n}", f"the {n}th of them"] for n in range(1, 9)}
    captions |= {9: ["  ", "..."], 10: ["good", "\u200b"]}
    content = write_coco(root, "train2017", captions, bad={3})
    (root / "train2017" / f"{4:012d}.jpg").unlink()
    content["annotations"].append({"id": 999, "image_id": 555, "caption": "of no image"})
    (root / "annotations/captions_train2017.json").write_text(json.dumps(content))
    write_coco(root, "val2017", {21: ["held out"], 22: ["also held out"]})
    return CocoSource(root=str(root))


def options(source, output, **changes) -> PrepareConfig:
    values = {
        "image_size": 32,
        "margin": 1.25,
        "sentence_dim": 8,
        "row_group_rows": 4,
        "max_rejects": "50%",
    }
    return PrepareConfig(source=source, output=str(output), **(values | changes))


@pytest.fixture(scope="module")
def prepared(ray_session, tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    source = coco_with_faults(root / "originals")
    manifest = prepare(options(source, root / "prepared"))
    return source, root / "prepared", manifest


def test_every_row_is_written_or_rejected_with_a_reason(prepared):
    _, output, manifest = prepared

    assert manifest.seen == 13 == manifest.written + manifest.rejected
    reasons = {"CAP_EMPTY": 1, "IMG_TRUNCATED": 1, "IMG_MISSING": 1, "ORPHAN_CAPTION": 1}
    assert manifest.reasons == reasons
    assert manifest.dropped_captions == {"CAP_EMPTY": 1}
    assert (manifest.rows("train"), manifest.rows("validation")) == (7, 2)
    rows = pq.read_table(output / manifest.splits["train"][0].rejects_file).to_pylist()
    images = {row["id"][-3:]: row for row in rows if row["kind"] == "image"}
    assert sorted(images) == ["003", "004", "009", "555"]
    assert "truncated" in images["003"]["detail"].lower()
    content = (output.parent / "originals" / images["003"]["location"]).read_bytes()
    assert images["003"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert "no image goes with these captions" in images["555"]["detail"]
    (caption,) = [row for row in rows if row["kind"] == "caption"]
    assert (caption["id"][-3:], caption["reason"]) == ("010", "CAP_EMPTY")
    assert {row["source"] for row in rows} == {"coco"}


def test_shards_hold_what_the_contract_says(prepared):
    _, output, manifest = prepared

    shard = manifest.splits["train"][0]
    file = pq.ParquetFile(output / shard.file, page_checksum_verification=True)
    rows = file.read().to_pylist()

    assert file.schema_arrow.remove_metadata().equals(SHARD_SCHEMA.remove_metadata())
    assert file.schema_arrow.metadata[b"ratgan_schema_version"] == b"2"
    assert (
        shard.row_groups
        == (4, 3)
        == tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
    )
    assert (output / shard.file).stat().st_size == shard.bytes
    first = rows[0]
    assert first["captions"] == ["picture number 1", "the 1th of them"]
    assert (first["original_width"], first["original_height"]) == (60, 40)
    expected = load_encoder("minilm").encode(first["captions"])
    stored = torch.tensor(first["sentences"]).view(2, 384)
    torch.testing.assert_close(stored, expected, rtol=0, atol=1e-5)


def test_transform_whitens_the_training_captions(prepared):
    _, output, _ = prepared
    dataset = PreparedDataset(str(output))

    rows = pq.read_table(output / dataset.manifest.splits["train"][0].file).to_pylist()
    white = dataset.transform(torch.cat([torch.tensor(r["sentences"]).view(-1, 384) for r in rows]))

    assert white.shape == (13, 8)
    torch.testing.assert_close(white.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(8), atol=2e-3, rtol=0)


@pytest.mark.parametrize("here", ["nothing", "the first shard", "all"])
def test_the_same_originals_give_the_same_bytes(prepared, tmp_path, monkeypatch, capsys, here):
    source, output, _ = prepared
    if here != "nothing":
        monkeypatch.setattr(parallel_map, "is_connected", lambda: False)
    monkeypatch.setattr(parallel_map, "START_S", float("inf") if here == "all" else -1)
    monkeypatch.setattr(parallel_map, "usable_cpus", lambda: 2)

    prepare(options(source, tmp_path / "again"))

    assert ("starting Ray" in capsys.readouterr().out) == (here == "the first shard")
    files = sorted(p.relative_to(output) for p in output.rglob("[!.]*") if p.is_file())
    assert len(files) == 5
    for file in files:
        assert (output / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_preparing_again_finds_it_done_and_other_options_are_refused(prepared, capsys):
    source, output, manifest = prepared

    assert prepare(options(source, output)) == manifest
    assert "is prepared already: 9 images" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"prepared differently \(options\.quality: 95 → 80\).*--overwrite"
    ):
        prepare(options(source, output, quality=80))
    with pytest.raises(ValueError, match=r"options\.limit: None → 5"):
        prepare(options(source, output, limit=5))


def test_a_folder_with_other_things_in_it_is_left_alone(prepared, tmp_path):
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(ValueError, match=r"not belong to a prepared dataset \(thesis\.tex\)"):
        prepare(options(prepared[0], tmp_path, overwrite=True))

    assert (tmp_path / "thesis.tex").exists()


def test_overwrite_deletes_no_folder_of_originals(prepared, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "my_original.jpg").touch()

    with pytest.raises(ValueError, match=r"not belong to a prepared dataset \(my_original\.jpg"):
        prepare(options(prepared[0], tmp_path, overwrite=True))

    assert (tmp_path / "train" / "my_original.jpg").exists()


class Locked(CocoSource):
    """A source whose server refuses: expired credentials, say."""

    def read_image(self, record):
        raise PermissionError("the token has expired")


def test_images_that_may_be_read_later_stop_the_preparation(ray_session, tmp_path):
    write_coco(tmp_path, "train2017", {1: ["one"], 2: ["two"]})
    write_coco(tmp_path, "val2017", {3: ["three"]})

    with pytest.raises(Exception, match="the token has expired") as raised:
        prepare(options(Locked(root=str(tmp_path)), tmp_path / "out"))

    assert isinstance(root_cause(raised.value), PermissionError)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_source_with_nothing_usable_says_why(ray_session, tmp_path):
    write_coco(tmp_path, "train2017", {1: ["one"], 2: ["two"]}, bad={1, 2})
    write_coco(tmp_path, "val2017", {3: ["three"]})

    with pytest.raises(
        ValueError,
        match=r"left of 3.*IMG_TRUNCATED 2\.\nThe first IMG_TRUNCATED: train2017/0+1\.jpg: .+",
    ):
        prepare(options(CocoSource(root=str(tmp_path)), tmp_path / "out", max_rejects="100%"))

    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_dataset_without_manifest_or_with_a_changed_file_is_refused(prepared, tmp_path):
    _, output, _ = prepared
    with pytest.raises(ValueError, match=r"does not exist, so there is no manifest\.json"):
        PreparedDataset(str(tmp_path / "nowhere"))
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"holds no manifest.json.*--output data/coco$"):
        PreparedDataset(str(tmp_path))

    copy = Folder(str(tmp_path))
    for name in (MANIFEST, TRANSFORM):
        copy.write(name, (output / name).read_bytes())
    copy.write(TRANSFORM, (output / TRANSFORM).read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="was changed after preparation"):
        PreparedDataset(str(tmp_path))


@pytest.mark.skipif(not (REAL_DATA / "coco").is_dir(), reason="the real images are not here")
def test_real_coco_sample_is_prepared_without_a_loss(ray_session, tmp_path):
    manifest = prepare(options(CocoSource(root=str(REAL_DATA / "coco")), tmp_path / "out"))

    assert (manifest.seen, manifest.written, manifest.rejected) == (108, 108, 0)
    assert manifest.captions == 540
