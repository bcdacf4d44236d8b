"""What is exported is read by the packages of the others, with the same pixels and captions."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.cli.config import ExportConfig
from pipeline.cli.export_data import export_data, plan_export
from pipeline.common.environment import ROOT
from pipeline.data.dataset import PreparedDataset
from pipeline.data.export import UNFINISHED
from pipeline.data.manifest import SCHEMA_VERSION, SHARD_SCHEMA, Encoder, Manifest, write_transform
from pipeline.preparation.listing import Part
from pipeline.preparation.shards import write_shard
from pipeline.preparation.sources.huggingface import HuggingFaceSource
from pipeline.preparation.sources.webdataset import WebDatasetSource
from pipeline.storage import disk_space
from pipeline.storage.folder import Folder
from ratgan.text.transform import SentenceTransform
from tests.conftest import encoded, photo

SIDE = 24
IDS = ["a/../b.jpg", "../../etc/passwd", "a.b.c", "A.B.C", "", "é\n🐦", "x" * 400, "con", "a", "b"]


def captions_of(number: int) -> list[str]:
    texts = ["a red bird — ünï", 'she said "no", {twice}', "['not', 'a list']", "42"]
    return [f"{text} {number}" for text in texts[: 1 + number % 4]]


def row(number: int) -> dict:
    return {
        "id": IDS[number % 10] + "!" * (number // 10),
        "label": None if number % 3 == 0 else f"00{number % 3}.Bird",
        "meaning": json.dumps({"colour": "red", "n": number}) if number % 2 else None,
        "captions": captions_of(number),
        "sentences": [float(number)] * 4 * len(captions_of(number)),
        "image": encoded(photo(SIDE, SIDE, seed=number), quality=90),
        "digest": bytes([number] * 16),
        "original_width": 60,
        "original_height": 40,
    }


def prepared(folder, sizes: dict[str, list[int]], **changes) -> str:
    """Write a prepared dataset with shards of some sizes."""
    place, number, splits = Folder(str(folder)), 0, {}
    for split, rows_of in sizes.items():
        shards = []
        for index, rows in enumerate(rows_of):
            table = pa.Table.from_pylist(
                [row(n) for n in range(number, number + rows)], schema=SHARD_SCHEMA
            )
            part = Part(split, index, rows, "digest")
            shards.append(write_shard(place, part, table, [], row_group_rows=3, seen=rows))
            number += rows
        splits[split] = tuple(shards)
    values = {
        "schema_version": SCHEMA_VERSION,
        "source": {"name": "table", "root": "/home/somebody/secret/place/t.csv", "caption": "text"},
        "fingerprint": "f",
        "options": {"quality": 90, "encoder": "minilm"},
        "cache_size": SIDE,
        "mirrors": True,
        "encoder": Encoder(name="minilm", sha256="s", dim=4),
        "transform": write_transform(place, SentenceTransform.identity(4)),
        "overlapping_splits": False,
        "splits": splits,
        "seen": number,
        "written": number,
        "rejected": 0,
        "captions": sum(len(captions_of(n)) for n in range(number)),
    }
    place.write_json("manifest.json", Manifest(**values | changes).model_dump(mode="json"))
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve images in three shards, one of them empty, and three more that are held out."""
    folder = tmp_path_factory.mktemp("data") / "prepared"
    return prepared(folder, {"train": [5, 0, 7], "validation": [3]})


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """The packages of the others keep what they keep below the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return str(tmp_path / "cache")


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def check_huggingface(folder: str, caches: str) -> None:
    from datasets import load_dataset

    found = load_dataset(folder, cache_dir=caches)

    assert {split: len(rows) for split, rows in found.items()} == {"train": 12, "validation": 3}
    for number, got in enumerate([*found["train"], *found["validation"]]):
        wanted = row(number)
        assert np.array_equal(np.asarray(got.pop("image")), pixels(wanted["image"]))
        assert got == {name: wanted[name] for name in ("captions", "id", "label", "meaning")}


def test_datasets_reads_the_same_pixels_captions_ids_labels_and_meanings(
    dataset, tmp_path, caches, capsys
):
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    out = tmp_path / "hub"

    export_data(ExportConfig(data=dataset, to="huggingface", output=str(out)))

    check_huggingface(str(out), caches)
    assert sorted(p.name for p in (out / "data").iterdir()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "validation-00000-of-00001.parquet",
    ]
    assert not (out / UNFINISHED).exists()
    # The files alone say that the column is an image, as they do where a card is lost.
    alone = load_dataset("parquet", data_files=f"{out}/data/train-*.parquet", cache_dir=caches)
    assert isinstance(alone["train"].features["image"], ImageFeature)
    undecoded = alone["train"].cast_column("image", ImageFeature(decode=False))
    assert [r["image"]["bytes"] for r in undecoded] == [row(n)["image"] for n in range(12)]
    said = capsys.readouterr().out
    assert re.search(r"train +12 images, 30 captions, 2 files", said)
    assert f"load_dataset({str(out)!r}, split='train')" in said


def test_datasets_refuses_an_export_with_a_file_less_than_its_card_says(dataset, tmp_path, caches):
    from datasets import load_dataset

    out = tmp_path / "hub"
    export_data(ExportConfig(data=dataset, to="huggingface", output=str(out)))
    (out / "data" / "train-00001-of-00002.parquet").unlink()

    with pytest.raises(Exception, match=r"NonMatchingSplitsSizes|expected") as error:
        load_dataset(str(out), cache_dir=caches)
    assert "12" in str(error.value)


def test_webdataset_reads_the_same_and_our_source_takes_it_back(dataset, tmp_path, caches):
    import webdataset
    from datasets import load_dataset

    out = tmp_path / "tars"

    export_data(ExportConfig(data=dataset, to="webdataset", output=str(out)))

    number = 0
    for pattern in ("train-{000000..000001}.tar", "validation-{000000..000000}.tar"):
        for got in webdataset.WebDataset(f"{out}/{pattern}", shardshuffle=False).decode("pil"):
            wanted = row(number)
            expected = {"id": wanted["id"], "captions": wanted["captions"]}
            expected |= {"label": wanted["label"]} if wanted["label"] else {}
            if wanted["meaning"]:
                expected["meaning"] = json.loads(wanted["meaning"])
            assert got["json"] == expected
            assert np.array_equal(np.asarray(got["jpg"]), pixels(wanted["image"]))
            number += 1
    assert number == 15
    by_datasets = load_dataset(str(out), cache_dir=caches)
    assert {split: len(rows) for split, rows in by_datasets.items()} == {
        "train": 12,
        "validation": 3,
    }

    source = WebDatasetSource(root=str(out), validation_files="validation-*.tar")
    records = list(source.records())
    assert [record.split for record in records] == ["train"] * 12 + ["validation"] * 3
    assert [source.read_captions(record) for record in records] == [
        captions_of(n) for n in range(15)
    ]
    assert [source.read_image(record) for record in records] == [row(n)["image"] for n in range(15)]


def test_names_in_tars_are_safe_and_unique_whatever_the_ids_hold(dataset, tmp_path):
    out = tmp_path / "tars"

    export_data(ExportConfig(data=dataset, to="webdataset", output=str(out)))

    names = []
    for file in sorted(out.glob("*.tar")):
        with tarfile.open(file) as tar:
            names += tar.getnames()
    assert len(set(names)) == len(names) == 30
    assert all(re.fullmatch(r"(train|validation)-\d{8}\.(jpg|json)", name) for name in names)


@pytest.mark.parametrize("to", ["huggingface", "webdataset"])
def test_the_first_captions_alone_are_a_text_and_the_card_says_so(dataset, tmp_path, caches, to):
    import webdataset
    from datasets import load_dataset

    out, first = tmp_path / "out", [captions_of(n)[0] for n in range(12)]

    export_data(ExportConfig(data=dataset, to=to, output=str(out), captions="first"))

    if to == "huggingface":
        train = load_dataset(str(out), split="train", cache_dir=caches)
        assert list(train["text"]) == first
        assert "captions" not in train.column_names
    else:
        tars = f"{out}/train-{{000000..000001}}.tar"
        found = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
        assert [sample["txt"] for sample in found] == first
        assert all("captions" not in sample["json"] for sample in found)
    assert "Of 36 captions, the first of each image is here." in (out / "README.md").read_text()


@pytest.mark.parametrize("to", ["huggingface", "webdataset"])
def test_the_same_export_has_the_same_bytes(dataset, tmp_path, to):
    contents = []
    for name in ("a", "b"):
        export_data(ExportConfig(data=dataset, to=to, output=str(tmp_path / name)))
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        contents.append([(str(p.relative_to(tmp_path / name)), p.read_bytes()) for p in files])

    assert contents[0] == contents[1]


def test_a_card_says_where_it_is_from_and_tells_no_place_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "sesame-open-now")
    source = {
        "name": "table",
        "root": "/home/somebody/private/birds.csv",
        "images": "s3://inner-host/deep/pictures",
        "url": "https://host/x/list.csv?X-Amz-Signature=abcdef",
        "windows": "C:\\Users\\somebody\\t.csv",
        "note": "sesame-open-now",
        "nested": [{"place": "/home/somebody/else"}],
    }
    data = prepared(tmp_path / "prepared", {"train": [4]}, source=source, overlapping_splits=True)
    out = tmp_path / "hub"

    export_data(ExportConfig(data=data, to="huggingface", output=str(out)))

    card = (out / "README.md").read_text()
    for secret in ("somebody", "private", "inner-host", "Amz", "sesame", str(tmp_path), "host/"):
        assert secret not in card, secret
    for said in (
        "birds.csv",
        "pictures",
        "list.csv",
        "licence of their originals",
        '"quality": 90',
    ):
        assert said in card, said
    assert PreparedDataset(data).digest in card
    assert "The validation images are training images." in card


@pytest.mark.rest
@pytest.mark.parametrize("to", ["huggingface", "webdataset"])
def test_a_stopped_export_has_no_card_and_the_same_command_finishes_it(
    dataset, tmp_path, caches, to
):
    out = tmp_path / "out"
    second = {"huggingface": "train-00001-of-00002.parquet", "webdataset": "train-000001.tar"}[to]
    command = [sys.executable, "jobs/export_data.py", "--data", dataset, "--to", to]
    fault = {"RATGAN_FAULT": f"kill@storage.before_rename:file={second}"}

    killed = subprocess.run(
        [*command, "--output", str(out)],
        cwd=ROOT,
        env={**os.environ, **fault},
        capture_output=True,
        timeout=300,
        check=False,
    )

    assert killed.returncode == -signal.SIGKILL
    assert not (out / "README.md").exists()
    assert any(name.endswith(".tmp") for name, _ in Folder(str(out)).walk())
    other = {"huggingface": "webdataset", "webdataset": "huggingface"}[to]
    with pytest.raises(ValueError, match="unfinished export of another dataset, or with other"):
        export_data(ExportConfig(data=dataset, to=other, output=str(out)))
    export_data(ExportConfig(data=dataset, to=to, output=str(out)))
    whole = tmp_path / "whole"
    export_data(ExportConfig(data=dataset, to=to, output=str(whole)))
    assert sorted(Folder(str(out)).walk()) == sorted(Folder(str(whole)).walk())
    if to == "huggingface":
        check_huggingface(str(out), caches)


def test_a_folder_with_anything_in_it_is_refused_and_left_as_it_is(dataset, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    done = tmp_path / "done"
    export_data(ExportConfig(data=dataset, to="webdataset", output=str(done)))

    for place, message in (
        (tmp_path / "full", r"is not empty: it has files \(notes\.txt\)\. Name a new or empty"),
        (done, r"is not empty: it has a complete export .*delete this one"),
        (tmp_path / "file", "is a file"),
        (f"{dataset}/hub", "is in the dataset itself"),
        (dataset, "is in the dataset itself"),
    ):
        before = sorted(Folder(str(tmp_path)).walk())
        with pytest.raises(ValueError, match=message):
            export_data(ExportConfig(data=dataset, to="huggingface", output=str(place)))
        assert sorted(Folder(str(tmp_path)).walk()) == before


def test_a_damaged_dataset_is_not_exported(tmp_path):
    data = prepared(tmp_path / "prepared", {"train": [4]})
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    manifest["splits"]["train"][0]["captions"] += 1
    (tmp_path / "prepared" / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "out"

    with pytest.raises(
        ValueError, match="4 images with 10 captions, and the manifest says 4 with 11"
    ):
        export_data(ExportConfig(data=data, to="huggingface", output=str(out)))
    assert not (out / "README.md").exists()


def test_a_split_whose_name_leads_elsewhere_is_refused(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "prepared")
    file = tmp_path / "prepared" / "manifest.json"
    file.write_text(file.read_text().replace('"validation":', '"../../out":'))

    with pytest.raises(ValueError, match=r"a split named '../../out'"):
        export_data(
            ExportConfig(data=str(file.parent), to="webdataset", output=str(tmp_path / "out"))
        )


def test_an_export_that_does_not_fit_is_refused_before_it_begins(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 1000)

    for job in (plan_export, export_data):
        with pytest.raises(
            OSError, match=r"no room for the export: need .* another disk by --output"
        ):
            job(ExportConfig(data=dataset, to="webdataset", output=str(tmp_path / "out")))
    assert not any(Folder(str(tmp_path)).walk())


def test_a_dry_run_says_what_would_be_written_and_leaves_nothing(dataset, tmp_path, capsys):
    plan_export(ExportConfig(data=dataset, to="webdataset", output=str(tmp_path / "a" / "b")))

    assert "15 images" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_no_more_room_is_taken_than_the_plan_says(dataset, tmp_path):
    from pipeline.data.export import Export
    from pipeline.data.export_layouts import LAYOUTS

    for name, layout in LAYOUTS.items():
        folder = Folder(str(tmp_path / name))
        export = Export(PreparedDataset(dataset), folder, layout("all"))
        export.write()

        assert (
            sum(size for name, size in folder.walk() if name != "README.md") <= export.most_bytes()
        )


@pytest.mark.slow
def test_an_export_to_a_bucket_has_the_bytes_of_one_to_a_disk(
    dataset, tmp_path, bucket, s3_server, monkeypatch
):
    monkeypatch.setitem(fsspec.config.conf, "s3", s3_server.options)
    _, lake = bucket

    for place in ("s3://lake/hub", str(tmp_path / "hub")):
        export_data(ExportConfig(data=dataset, to="huggingface", output=place))

    here = {
        name: (tmp_path / "hub" / name).read_bytes()
        for name, _ in Folder(str(tmp_path / "hub")).walk()
    }
    there = {path.removeprefix("lake/hub/"): lake.cat_file(path) for path in lake.find("lake/hub")}
    assert here == there


@pytest.mark.rest
@pytest.mark.slow
@pytest.mark.parametrize("to", ["huggingface", "webdataset"])
def test_what_is_exported_is_prepared_again_with_the_same_pixels_and_captions(
    ray_session, to, shapes, tmp_path
):
    from pipeline.preparation.config import PrepareConfig
    from pipeline.preparation.prepare import prepare

    out = export_data(
        ExportConfig(data=str(shapes.folder), to=to, output=str(tmp_path / "exported"))
    )
    source = (
        HuggingFaceSource(root=str(out))
        if to == "huggingface"
        else WebDatasetSource(root=str(out), validation_files="validation-*.tar")
    )
    options = {"image_size": 32, "margin": 1.25, "sentence_dim": 16, "rows_per_shard": 50}
    prepare(PrepareConfig(source=source, output=str(tmp_path / "again"), **options))

    again = PreparedDataset(str(tmp_path / "again"))
    for split in ("train", "validation"):
        assert list(again.captions(split)) == list(shapes.captions(split))
        for new, old in zip(again.each(split), shapes.each(split), strict=True):
            # A JPEG of a JPEG: near, and exactly the pixels of no other image.
            assert (new.image.float() - old.image.float()).abs().mean() < 4
            assert torch.equal(new.sentence, old.sentence)
