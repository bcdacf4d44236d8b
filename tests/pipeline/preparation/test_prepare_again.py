"""Preparation that was stopped, repaired, or done again: the same bytes, and nothing done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.data.dataset import PreparedDataset
from pipeline.data.manifest import MANIFEST
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.reject_budget import Budget
from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.storage.folder import Folder
from pipeline.storage.lock import Lock
from tests.conftest import encoded, photo, write_coco
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]
ROOT = Path(__file__).parents[3]


class Unreliable(CocoSource):
    """A source whose server goes away at one image, while a file says so.

    In the file are the paths of other files, one a line, that are there before it does.
    """

    def read_image(self, record):
        flag = Path(self.root) / f"stop-at-{record.id}"
        if flag.exists():
            earlier = [Path(line) for line in flag.read_text().splitlines()]
            wait_until(lambda: all(path.exists() for path in earlier), "shards are complete")
            raise ConnectionError("the server went away")
        return super().read_image(record)


def options(source, output, **changes) -> PrepareConfig:
    values = {
        "image_size": 32,
        "sentence_dim": 8,
        "row_group_rows": 2,
        "rows_per_shard": 4,
        "max_rejects": "50%",
    }
    return PrepareConfig(source=source, output=str(output), **(values | changes))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".lock-")
    }


@pytest.fixture(scope="module")
def originals(ray_session, tmp_path_factory) -> Path:
    """Three shards to train on, one of them all bad, and one for validation."""
    root = tmp_path_factory.mktemp("originals")
    captions = {n: [f"picture number {n}", f"a {n}th one"] for n in range(1, 12)}
    write_coco(root, "train2017", captions, bad={2, 5, 6, 7, 8})
    write_coco(root, "val2017", {n: [f"held out {n}"] for n in (21, 22, 23)})
    return root


@pytest.fixture(scope="module")
def whole(originals, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "data"
    prepare(options(Unreliable(root=str(originals)), output))
    return output


@pytest.fixture
def interrupted(originals, tmp_path):
    """Prepare until an image cannot be read; return the folder and how to go on."""

    def stop_at(name: str, after: tuple[str, ...] = (), output: Path = tmp_path / "data"):
        flag = originals / f"stop-at-{name}"
        flag.write_text("".join(f"{output}/progress/{shard}.json\n" for shard in after))
        try:
            with pytest.raises(Exception, match="the server went away"):
                prepare(options(Unreliable(root=str(originals)), output))
        finally:
            flag.unlink()
        return output, options(Unreliable(root=str(originals)), output)

    return stop_at


def test_a_shard_that_holds_nothing_is_a_shard(whole):
    dataset = PreparedDataset(str(whole))

    assert [shard.rows for shard in dataset.manifest.splits["train"]] == [3, 0, 3]
    assert len(dataset.examples("train")) == 6
    assert sum(unit.rows for unit in dataset.units("train")) == 6


@pytest.mark.parametrize(
    "name", ["train2017-000000000001", "train2017-000000000009", "val2017-000000000023"]
)
def test_interrupted_preparation_ends_as_if_it_had_not_been(interrupted, whole, name):
    output, config = interrupted(name)
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        PreparedDataset(str(output))

    prepare(config)

    assert files(output) == files(whole)


def test_shards_that_are_complete_are_kept_and_damaged_ones_are_not(interrupted, whole, capsys):
    train = tuple(f"train-{number:05d}" for number in range(3))
    output, config = interrupted("val2017-000000000021", after=train)
    first, second = output / "train/part-00000.parquet", output / "train/part-00002.parquet"
    before = first.stat().st_mtime_ns
    content = bytearray(second.read_bytes())
    content[200] ^= 1
    second.write_bytes(content)

    prepare(config)

    assert "2 of 4 shards were complete and are kept" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == before
    assert files(output) == files(whole)


def test_an_unfinished_dataset_is_finished_only_with_its_own_options(interrupted, whole):
    output, config = interrupted("val2017-000000000021")

    with pytest.raises(
        ValueError, match=r"has an unfinished dataset prepared differently \(options\.quality: 95"
    ):
        prepare(config.model_copy(update={"quality": 80}))
    changed = prepare(config.model_copy(update={"quality": 80, "overwrite": True}))

    assert changed.options["quality"] == 80
    assert sorted(files(output)) == sorted(files(whole))


def test_what_changed_in_the_originals_meanwhile_is_made_anew(originals, tmp_path, interrupted):
    copy = tmp_path / "copy"
    shutil.copytree(originals, copy)
    output = tmp_path / "data"
    (copy / "stop-at-val2017-000000000021").touch()
    with pytest.raises(Exception, match="the server went away"):
        prepare(options(Unreliable(root=str(copy)), output))
    (copy / "stop-at-val2017-000000000021").unlink()
    path = copy / "annotations/captions_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "said otherwise"
    path.write_text(json.dumps(content))

    prepare(options(Unreliable(root=str(copy)), output))

    first = PreparedDataset(str(output)).examples("train")[0]
    assert first.caption == "said otherwise"


def test_a_killed_preparation_goes_on(ray_session, tmp_path, capsys):
    """Of everything: the command, its Ray and its workers, at once."""
    output = tmp_path / "killed"
    killed = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "jobs/prepare.py"),
            *["shapes", "--count=400", "--size=32", "--image-size=32", "--sentence-dim=8"],
            *["--rows-per-shard=20", "--row-group-rows=2", f"--output={output}"],
        ],
        # One shard is never complete, so that it does not end before it is killed.
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        | {"RATGAN_FAULT": "hang@storage.before_fsync:file=train/part-00005.parquet"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_in_the_middle() -> bool:
        assert killed.poll() is None, "it ended before it could be killed"
        return len(list((output / "progress").glob("train-*0?.json"))) >= 4

    try:
        wait_until(is_in_the_middle, "shards are complete", 1200)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (output / MANIFEST).exists()
    changes = {"rows_per_shard": 20, "max_rejects": "5%"}
    source = ShapesSource(count=400, size=32)

    prepare(options(source, output, **changes))

    assert "shards were complete and are kept" in capsys.readouterr().out
    prepare(options(source, tmp_path / "whole", **changes))
    assert files(output) == files(tmp_path / "whole")


def test_repair_mends_what_is_damaged_and_nothing_else(originals, whole, tmp_path, capsys):
    output = tmp_path / "data"
    shutil.copytree(whole, output)
    damaged = output / "train/part-00000.parquet"
    content = bytearray(damaged.read_bytes())
    content[300] ^= 1
    damaged.write_bytes(content)
    (output / "validation/part-00000.parquet").unlink()
    with pytest.raises(ValueError, match=r"part-00000\.parquet is missing.*--repair"):
        PreparedDataset(str(output)).verify()

    prepare(options(Unreliable(root=str(originals)), output, repair=True))

    assert "2 of 4 shards were complete" in capsys.readouterr().out
    assert files(output) == files(whole)


def test_captions_are_encoded_anew_without_touching_an_image(originals, whole, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(originals, copy)
    first = options(Unreliable(root=str(copy)), tmp_path / "first")
    prepare(first)
    for image in copy.rglob("*.jpg"):
        image.unlink()

    again = prepare(
        options(
            Unreliable(root=str(copy)),
            tmp_path / "second",
            transform="standardize",
            images_of=first.output,
        )
    )

    assert again.transform.kind == "standardize"
    for shard in again.shards:
        assert pq.read_table(tmp_path / "second" / shard.file).equals(
            pq.read_table(tmp_path / "first" / shard.file)
        )
        if shard.rejects_file:
            assert pq.read_table(tmp_path / "second" / shard.rejects_file).equals(
                pq.read_table(tmp_path / "first" / shard.rejects_file)
            )
    with pytest.raises(ValueError, match=r"has other images \(quality: 95 there, 80 here\)"):
        prepare(
            options(
                Unreliable(root=str(copy)),
                tmp_path / "third",
                quality=80,
                images_of=first.output,
            )
        )


def test_a_picture_that_occurs_twice_is_kept_once_and_in_validation(ray_session, tmp_path):
    write_coco(tmp_path, "train2017", {n: [f"picture {n}"] for n in range(1, 8)})
    write_coco(tmp_path, "val2017", {n: [f"held out {n}"] for n in (21, 22)})
    same = encoded(photo(seed=21))
    for name in ("train2017/000000000003.jpg", "train2017/000000000006.jpg"):
        (tmp_path / name).write_bytes(same)  # as the first of validation
    (tmp_path / "train2017/000000000007.jpg").write_bytes(encoded(photo(seed=1)))
    source = CocoSource(root=str(tmp_path))

    manifest = prepare(options(source, tmp_path / "out"))
    kept = prepare(options(source, tmp_path / "kept", duplicates="keep"))

    assert manifest.reasons == {"IMG_DUPLICATE": 3}
    assert (manifest.rows("train"), manifest.rows("validation")) == (4, 2)
    rejects = [
        row
        for shard in manifest.splits["train"]
        for row in pq.read_table(tmp_path / "out" / shard.rejects_file).to_pylist()
    ]
    assert [(row["location"], row["detail"]) for row in rejects] == [
        ("train2017/000000000003.jpg", "the same picture as val2017-000000000021"),
        ("train2017/000000000006.jpg", "the same picture as val2017-000000000021"),
        ("train2017/000000000007.jpg", "the same picture as train2017-000000000001"),
    ]
    ids = [example.caption for example in PreparedDataset(str(tmp_path / "out")).each("train")]
    assert ids == ["picture 1", "picture 2", "picture 4", "picture 5"]
    assert (kept.rejected, kept.rows("train")) == (0, 7)


def test_two_preparations_do_not_share_a_folder(originals, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.storage.lock.BEATS_TO_WATCH", 1000)  # no pause looks like an end
    config = options(Unreliable(root=str(originals)), tmp_path / "out")

    with Lock(Folder(config.output), "prepare", heartbeat_s=0.2):
        with pytest.raises(ValueError, match=r"is in use already, by .*prepare"):
            prepare(config)
        assert not (tmp_path / "out/progress").exists()
    prepare(config)

    assert PreparedDataset(config.output).manifest.written == 9


def test_too_many_rejects_end_the_preparation_with_the_reasons(originals, tmp_path):
    config = options(Unreliable(root=str(originals)), tmp_path / "out", max_rejects="4")

    with pytest.raises(
        ValueError,
        match=r"5 of 14 .*max_rejects=4 permits 4: IMG_TRUNCATED 5\.\n"
        r"The first IMG_TRUNCATED: train2017/\d+\.jpg: .*\n",
    ):
        prepare(config)
    assert list((tmp_path / "out/rejects").glob("train-*.parquet"))
    prepare(config.model_copy(update={"max_rejects": "5"}))

    assert (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize("value", ["", "5.5", "-1", "101%", "half"])
def test_a_budget_is_a_share_or_a_count(value, tmp_path):
    with pytest.raises(ValueError, match="is neither a share such as 5% nor a count such as 100"):
        options(CocoSource(), tmp_path, max_rejects=value)


def test_shards_are_as_large_as_asked_for(tmp_path):
    def rows(**changes) -> int:
        changes = {"rows_per_shard": None, "row_group_rows": 128} | changes
        return options(CocoSource(), tmp_path, **changes).shard_rows

    assert rows(image_size=64) == 1024, "at most so many"
    assert rows(image_size=512) == 256, "364 of 184 kB, in whole row groups"
    assert rows(image_size=1024) == 128, "one row group at least"
    assert rows(image_size=512, shard_mib=256) == 1024
    assert rows(rows_per_shard=50) == 50


def test_nothing_is_deleted_before_the_originals_are_listed(originals, whole, tmp_path):
    output = tmp_path / "data"
    shutil.copytree(whole, output)
    missing = Unreliable(root=str(tmp_path / "nowhere"))

    with pytest.raises(Exception, match=r"nowhere does not exist"):
        prepare(options(missing, output, overwrite=True))
    with pytest.raises(ValueError, match="does not exist, so there is no manifest"):
        prepare(
            options(
                Unreliable(root=str(originals)),
                output,
                overwrite=True,
                images_of=str(tmp_path / "x"),
            )
        )
    with pytest.raises(ValueError, match="images_of and output are both"):
        prepare(
            options(Unreliable(root=str(originals)), output, overwrite=True, images_of=str(output))
        )

    kept = {n: c for n, c in files(output).items() if not n.startswith("progress/")}
    assert kept == files(whole)


def test_a_folder_belongs_to_nobody_until_the_originals_are_found(originals, whole, tmp_path):
    output = tmp_path / "data"
    with pytest.raises(Exception, match=r"nowhere does not exist"):
        prepare(options(Unreliable(root=str(tmp_path / "nowhere")), output))

    prepare(options(Unreliable(root=str(originals)), output))

    assert files(output) == files(whole)


def test_a_file_is_no_folder(originals, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ValueError, match=r"file is a file\. Name a new or empty folder"):
        prepare(options(Unreliable(root=str(originals)), tmp_path / "file"))


def test_originals_that_change_between_two_attempts_leave_no_trace(
    ray_session, tmp_path, monkeypatch
):
    """Neither the rejects of what is gone, nor copies of pictures that are gone."""
    root = tmp_path / "originals"
    write_coco(root, "train2017", {n: [f"picture {n}"] for n in (1, 2, 3, 4, 5)}, bad={2})
    write_coco(root, "val2017", {n: [f"held out {n}"] for n in (21, 22)})
    folder = root / "train2017"
    (folder / "000000000003.jpg").write_bytes((folder / "000000000001.jpg").read_bytes())
    (folder / "000000000005.jpg").write_bytes((root / "val2017/000000000021.jpg").read_bytes())
    config = options(CocoSource(root=str(root)), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.preparation.prepare.fit_transform", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(config)
    for split, gone in (("train2017", 2), ("val2017", 21)):
        path = root / f"annotations/captions_{split}.json"
        content = json.loads(path.read_text())
        for name, key in (("images", "id"), ("annotations", "image_id")):
            content[name] = [entry for entry in content[name] if entry[key] != gone]
        path.write_text(json.dumps(content))

    manifest = prepare(config)
    prepare(options(CocoSource(root=str(root)), tmp_path / "anew"))

    assert manifest.reasons == {"IMG_DUPLICATE": 1}
    assert files(tmp_path / "out") == files(tmp_path / "anew")


def test_captions_that_go_by_the_name_of_an_image_are_counted_beside_it(ray_session, tmp_path):
    root = tmp_path / "originals"
    root.mkdir()
    for number in range(4):
        (root / f"{number}.jpg").write_bytes(encoded(photo(seed=number)))
        (root / f"{number}.txt").write_text(f"picture {number}")
    (root / "3.jpg").write_bytes((root / "0.jpg").read_bytes())
    for name in ("1.jpg.txt", "3.jpg.txt"):
        (root / name).write_text("an image by another convention")
    source = FolderSource(root=str(root), validation=0)

    manifest = prepare(options(source, tmp_path / "out"))
    again = prepare(options(source, tmp_path / "again", images_of=str(tmp_path / "out")))

    assert manifest.reasons == again.reasons == {"IMG_DUPLICATE": 1, "ORPHAN_CAPTION": 2}
    assert (manifest.seen, manifest.written, again.written) == (6, 3, 3)


def test_images_are_not_taken_from_a_damaged_dataset(originals, whole, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(whole, damaged)
    shard = damaged / "train/part-00000.parquet"
    content = bytearray(shard.read_bytes())
    middle = content.index(b"\xff\xd8\xff") + 300
    content[middle] ^= 1
    shard.write_bytes(content)

    with pytest.raises(Exception, match=r"images_of: .*part-00000\.parquet is damaged"):
        prepare(options(Unreliable(root=str(originals)), tmp_path / "out", images_of=str(damaged)))


def test_a_dataset_of_another_version_is_named_so(whole, tmp_path):
    output = tmp_path / "data"
    shutil.copytree(whole, output)
    (output / MANIFEST).write_text('{"schema_version": 1, "images": 3}')

    with pytest.raises(ValueError, match=r"has schema version 1, .* reads 2\. .*--overwrite"):
        PreparedDataset(str(output))


@pytest.mark.parametrize(
    ("text", "total", "allowed"), [("29%", 100, 29), ("5%", 59, 2), ("7", 9, 7)]
)
def test_a_share_allows_as_many_as_it_says(text, total, allowed):
    assert Budget.parse(text).allowed(total) == allowed
