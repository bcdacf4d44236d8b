"""What a listing leaves aside: counted by kind, in little space, and only while it runs."""

import json

from pipeline.data.manifest import Manifest
from pipeline.preparation.listing import list_originals
from pipeline.preparation.sources.left_aside import (
    MAX_KINDS,
    counting,
    describe,
    is_enough,
    leave_aside,
    leave_beside,
    leave_file,
)
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.preparation.sources.webdataset import WebDatasetSource
from pipeline.storage.folder import Folder
from tests.pipeline.preparation.decoding.test_fuzz import MANIFEST_BYTES
from tests.pipeline.preparation.sources.layouts import jpeg, write, write_tar


def test_counts_are_by_unit_and_kind_and_small():
    with counting() as aside:
        leave_file("a/b.TXT")
        leave_file("Makefile")
        leave_aside("rows", "of split 'x'", 3)
        leave_aside("rows", "never", 0)
        for number in range(1000):
            leave_file(f"a.{number}{'x' * 500}\x1b")

    counts = aside.as_plain()
    assert counts["rows"] == {"of split 'x'": 3}
    assert sum(counts["files"].values()) == 1002
    assert len(counts["files"]) == MAX_KINDS + 1
    assert all(len(kind) < 100 and kind.isprintable() for kind in counts["files"])
    assert "3 rows (of split 'x' 3)" in describe(counts)
    assert describe({}) == "nothing"


def test_nothing_is_counted_where_no_listing_runs():
    leave_file("a.md")

    with counting() as aside:
        assert not is_enough()

    assert aside.as_plain() == {}


def test_what_lies_beside_the_files_that_are_read_is_counted_at_each_level(tmp_path):
    for name in ("a/pics/1.jpg", "a/pics/x/2.jpg", "a/text/1.txt", "a/notes.md", "b/3.jpg", "c"):
        write(tmp_path / name, "")

    with counting() as aside:
        leave_beside(Folder(str(tmp_path)), ["a/pics", "a/text/", "missing.csv"])

    assert aside.as_plain() == {"files and folders": {"beside what is read": 3}}


def test_records_beyond_the_limit_are_counted_and_no_further_tar_is_opened(tmp_path):
    for tar in ("0-train", "1-val", "2", "3"):
        write_tar(tmp_path / f"{tar}.tar", {f"{i}.jpg": jpeg(i) for i in (0, 1)})
    write(tmp_path / "2.tar", "no tar")
    tars = WebDatasetSource(root=str(tmp_path), validation_files="1-val.tar")

    listing = list_originals(tars, 8, 1, None)
    shapes = list_originals(ShapesSource(count=50, validation=0.5), 8, 10, None)

    assert listing.rows == 2
    assert listing.left_aside == {
        "files": {"beyond --limit, not opened": 2},
        "records": {"beyond --limit in train": 1, "beyond --limit in validation": 1},
    }
    assert shapes.left_aside is not None
    assert shapes.rows + sum(shapes.left_aside["records"].values()) == 50


def test_a_manifest_without_the_counts_is_one_of_an_older_version():
    content = json.loads(MANIFEST_BYTES)
    del content["left_aside"]

    manifest = Manifest.model_validate(content)

    assert manifest.left_aside is None
    assert describe(manifest.left_aside) == "not counted"
