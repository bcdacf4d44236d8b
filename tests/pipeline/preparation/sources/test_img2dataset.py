"""What img2dataset writes: each format, what it left out, and folders that are not its own."""

import re

import pytest

from pipeline.preparation.sources.img2dataset import Img2datasetSource
from pipeline.preparation.sources.left_aside import counting
from tests.pipeline.preparation.sources.layouts import (
    jpeg,
    write,
    write_img2dataset,
    write_table,
    write_tar,
)

FORMS = ["files", "webdataset", "parquet"]
MADE = [0, 2, 4, 10, 12, 14]  # seeds of the images of the rows that did not fail
BESIDE = {".json beside a text, read only if that is empty": 6}
OWN = {
    "files": {".feather": 1, ".json": 2, ".parquet": 2},
    "webdataset": {".feather": 1, ".json": 2, ".parquet": 2},
    "parquet": {".feather": 1, ".json": 2},
}


@pytest.mark.parametrize("form", FORMS)
def test_images_of_each_format_are_listed_and_what_failed_is_counted(form, tmp_path):
    write_img2dataset(tmp_path, form)
    write(tmp_path / "_tmp/0.feather", b"ARROW1")
    source = Img2datasetSource(root=str(tmp_path))

    with counting() as aside:
        records = list(source.records())

    failed = {"of status 'failed_to_download'": 2, "of status 'failed_to_resize'": 2}
    texts = {} if form == "parquet" else {"caption files": BESIDE}
    assert aside.as_plain() == {"files": OWN[form], "rows": failed} | texts
    assert [source.read_image(record) for record in records] == [jpeg(seed) for seed in MADE]
    (caption,) = source.read_captions(records[0])
    text = caption.decode() if isinstance(caption, bytes) else caption
    assert text.split() == ["photo", "000000000,", "by", "me"], "lines of a text are one caption"


@pytest.mark.parametrize("form", FORMS)
def test_a_share_of_the_images_is_held_out(form, tmp_path):
    write_img2dataset(tmp_path, form, shards=8)

    halves = [r.split for r in Img2datasetSource(root=str(tmp_path), validation=0.5).records()]
    none = [r.split for r in Img2datasetSource(root=str(tmp_path), validation=0).records()]

    assert {halves.count(split) > 4 for split in ("train", "validation")} == {True}
    assert none == ["train"] * 24


@pytest.mark.parametrize("form", ["files", "webdataset"])
def test_an_empty_text_falls_back_to_the_caption_in_json(form, tmp_path):
    made = {"000000000.jpg": jpeg(), "000000000.txt": "", "000000000.json": '{"caption": "a cat"}'}
    if form == "webdataset":
        write_tar(tmp_path / "00000.tar", made)
    else:
        for name, content in made.items():
            write(tmp_path / "00000" / name, content)
    source = Img2datasetSource(root=str(tmp_path))

    (record,) = source.records()

    assert source.read_captions(record) == ["a cat"]


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_images_in_parquet_may_have_another_encoding(encoding, tmp_path):
    write_img2dataset(tmp_path, "parquet", shards=1, encoding=encoding)
    source = Img2datasetSource(root=str(tmp_path))

    assert [source.read_image(record) for record in source.records()] == [
        jpeg(seed) for seed in MADE[:3]
    ]


def test_a_shard_that_was_not_finished_does_not_end_the_listing(tmp_path, capsys):
    write_img2dataset(tmp_path, "webdataset")
    write(tmp_path / "00001.parquet", b"PAR1")

    with counting() as aside:
        assert len(list(Img2datasetSource(root=str(tmp_path)).records())) == 6
    said = capsys.readouterr().out
    assert re.search("00001.parquet is not parquet .* is not counted there", said)
    assert aside.as_plain()["rows"]["of status 'failed_to_resize'"] == 1


def test_a_folder_without_its_images_is_refused_with_what_it_holds(tmp_path):
    write(tmp_path / "text/a.txt", "a cat")
    with pytest.raises(ValueError, match=r"no images of img2dataset .*: it holds text\. Name its"):
        list(Img2datasetSource(root=str(tmp_path)).records())

    write_table(tmp_path / "00000.parquet", [{"url": "https://x", "status": "success"}])
    with pytest.raises(ValueError, match=r"it holds 00000\.parquet, text"):
        list(Img2datasetSource(root=str(tmp_path)).records())

    write(tmp_path / "00000.tfrecord", b"")
    with pytest.raises(ValueError, match=r"\.tfrecord is not read\. .* files, webdataset or parq"):
        list(Img2datasetSource(root=str(tmp_path)).records())
