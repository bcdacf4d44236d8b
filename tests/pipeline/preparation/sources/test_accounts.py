"""Every file of a layout is read, or counted by kind: small trees with something of everything."""

import json
import os
import pickle
import re
import tarfile
import tempfile
import unicodedata
from pathlib import Path

import pytest

from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.cub import CubSource
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.left_aside import counting
from pipeline.preparation.sources.oxford102 import Oxford102Source
from pipeline.preparation.sources.table import TableSource
from pipeline.preparation.sources.webdataset import WebDatasetSource
from pipeline.storage.folder import Folder
from tests.conftest import write_coco
from tests.pipeline.preparation.sources.layouts import (
    BIRDS,
    jpeg,
    write,
    write_cub,
    write_flowers,
    write_pickles,
    write_table,
    write_tar,
)

BESIDE = {"files and folders": {"beside what is read": 3}}


def account(source):
    """List a source: its records, and the counts of what is left aside."""
    with counting() as aside:
        records = list(source.records())
    return records, aside.as_plain()


def test_coco_counts_images_that_no_file_names_and_other_annotations(tmp_path):
    for split in ("train2017", "val2017"):
        write_coco(tmp_path, split, {1: ["one"]})
        write(tmp_path / split / "extra/2.jpg", jpeg())
        write(tmp_path / split / ".DS_Store", "")
    for name in ("annotations/instances_val2017.json", "test2017/3.jpg", "README.md"):
        write(tmp_path / name, "")

    records, aside = account(CocoSource(root=str(tmp_path)))

    assert len(records) == 2
    assert aside == BESIDE | {
        "files": {
            "hidden": 2,
            "in train2017, and not in annotations/captions_train2017.json": 1,
            "in val2017, and not in annotations/captions_val2017.json": 1,
        }
    }


def test_coco_names_are_the_same_in_composed_and_decomposed_unicode(tmp_path):
    content = write_coco(tmp_path, "train2017", {1: ["one"]})
    write_coco(tmp_path, "val2017", {1: ["one"]})
    content["images"][0]["file_name"] = "./" + unicodedata.normalize("NFC", "é.jpg")
    write(tmp_path / "annotations/captions_train2017.json", json.dumps(content))
    (tmp_path / "train2017/000000000001.jpg").rename(
        tmp_path / "train2017" / unicodedata.normalize("NFD", "é.jpg")
    )

    source = CocoSource(root=str(tmp_path))
    records, aside = account(source)

    assert all(source.read_image(record) for record in records)
    assert aside == {}


def test_cub_counts_images_and_captions_in_no_list(tmp_path):
    write_cub(tmp_path)
    write_pickles(tmp_path, [*BIRDS][:2], [[*BIRDS][2]])
    write(tmp_path / "train/class_info.pickle", pickle.dumps([1]))
    for name in ("CUB_200_2011/images/new.jpg", "CUB_200_2011/README", "text/README.md"):
        write(tmp_path / name, "")
    write(tmp_path / "text/._Albatross_1.txt", "")
    write(tmp_path / "CUB_200_2011/parts/parts.txt", "")

    records, aside = account(CubSource(root=str(tmp_path)))

    assert len(records) == 3
    assert aside == BESIDE | {
        "files": {
            ".md": 1,
            "captions of images in neither filenames.pickle": 1,
            "hidden": 1,
            "images in neither filenames.pickle": 2,
        }
    }


def test_oxford102_counts_what_is_no_image_and_no_captions(tmp_path):
    write_flowers(tmp_path)
    for name in ("jpg/notes.md", "jpg/.DS_Store", "text_c10/class_00001/image_00001.h5"):
        write(tmp_path / name, "")
    for name in ("setid.mat", "imagelabels.mat", "segmim/a.jpg"):
        write(tmp_path / name, "")

    records, aside = account(Oxford102Source(root=str(tmp_path)))

    assert len(records) == 10
    assert aside == BESIDE | {"files": {".h5": 1, ".md": 1, "hidden": 1}}


def test_oxford102_refuses_an_image_in_two_classes_and_reads_lists_with_a_mark(tmp_path):
    write_flowers(tmp_path)
    write(tmp_path / "testclasses.txt", b"\xef\xbb\xbfclass_00001\r\nclass_00002\r\n")

    records, _ = account(Oxford102Source(root=str(tmp_path)))

    held_out = {r.label for r in records if r.split == "validation"}
    assert held_out == {"class_00001", "class_00002"}
    write(tmp_path / "text_c10/class_00002/image_00001.txt", "x")
    with pytest.raises(ValueError, match=r"image_00001\.txt is in class_00001 and class_00002\."):
        account(Oxford102Source(root=str(tmp_path)))


def test_a_folder_counts_what_lies_beside_and_json_beside_texts(tmp_path):
    for name in ("data/pics/a.jpg", "data/pics/b.jpg", "data/raw/c.jpg", "data/notes.md", "x"):
        write(tmp_path / name, jpeg())
    for name in ("a.txt", "a.json", "b.json"):
        write(tmp_path / "data/text" / name, '"a picture"')
    os.mkfifo(tmp_path / "data/pics/pipe")
    (tmp_path / "data/pics/again").symlink_to("..")

    source = FolderSource(root=str(tmp_path), images="data/pics", captions="data/text")
    records, aside = account(source)

    assert len(records) == 2
    assert aside == {
        "caption files": {".json beside a text, read only if that is empty": 1},
        "files and folders": {
            "beside what is read": 3,
            "links that lead back": 1,
            "neither files nor folders": 1,
        },
    }


def test_tables_in_a_folder_count_what_no_row_names(tmp_path):
    pictures = ("images/1.jpg", f"images/{unicodedata.normalize('NFD', 'é')}.jpg", "images/3.jpg")
    for name in (*pictures, "README.md", ".gitattributes", "images/.hidden.jpg"):
        write(tmp_path / name, jpeg())
    for name in (".ipynb_checkpoints/rows-checkpoint.csv", "._rows.csv", "rows.csv.gz"):
        write(tmp_path / name, "no table")
    rows = [{"image": f"./images/{n}.jpg", "caption": n, "part": "train"} for n in ("1", "é")]
    write_table(tmp_path / "rows.csv", [*rows, rows[0] | {"part": "odd"}])

    expected = {
        "files": {".gz": 1, ".jpg": 1, ".md": 1, "hidden": 4},
        "rows": {"of part 'odd'": 1},
    }
    for options in ({}, {"images": str(tmp_path)}):
        records, aside = account(TableSource(root=str(tmp_path), split="part", **options))
        assert len(records) == 2
        assert aside == expected
    rows = [row | {"image": row["image"].removeprefix("./images/")} for row in rows]
    write_table(tmp_path / "rows.csv", rows)
    _, aside = account(TableSource(root=f"{tmp_path}/r*.csv", images=f"{tmp_path}/images"))
    assert aside == {"files": expected["files"]}
    _, aside = account(TableSource(root=f"{tmp_path}/rows.csv", images=f"{tmp_path}/images"))
    assert aside == {}


def test_webdataset_counts_members_and_files_that_are_no_samples(tmp_path):
    write(tmp_path / "00000.parquet", "")
    write(tmp_path / "00000_stats.json", "")
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": jpeg(), "._a.jpg": "x", "a.cls": "1"})
    with tarfile.open(tar, "a") as opened:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.jpg"
            opened.addfile(member)

    records, aside = account(WebDatasetSource(root=str(tmp_path)))

    assert len(records) == 1
    assert aside == {
        "files": {".json": 1, ".parquet": 1},
        "members": {".cls": 1, "hidden": 1, "links and devices": 1},
    }
    _, aside = account(WebDatasetSource(root=f"{tmp_path}/0.*"))
    assert aside["files"] == {"that --root does not match": 2}


def test_keys_in_composed_and_decomposed_unicode_are_one_sample(tmp_path):
    names = {form: unicodedata.normalize(form, "é") for form in ("NFC", "NFD")}
    members = {f"{names['NFC']}.jpg": jpeg(), f"{names['NFD']}.txt": "a picture"}
    source = WebDatasetSource(root=str(write_tar(tmp_path / "0.tar", members)))

    (record,) = source.records()

    assert source.read_captions(record) == [b"a picture"]


def test_files_that_may_not_be_looked_at_are_no_empty_folder():
    nobody = 65534 if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as root:  # tmp_path is closed to other users
        locked = write(Path(root) / "a/1.jpg", jpeg()).parent
        os.chmod(root, 0o755)
        locked.chmod(0o444)
        us = os.geteuid()
        os.seteuid(nobody)
        try:
            with pytest.raises(PermissionError, match=re.escape(str(locked))):
                list(Folder(root).walk(links=True))
        finally:
            os.seteuid(us)
            locked.chmod(0o755)
