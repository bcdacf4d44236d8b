"""What holds for every source: order, ids, places, and what foreign names may do."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import get_args

import fsspec
import pytest

from pipeline.cli.main import parse
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources import AnySource
from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.huggingface import HuggingFaceSource
from pipeline.preparation.sources.source import SPLITS
from pipeline.preparation.sources.table import TableSource
from tests.conftest import write_coco
from tests.corpus_paths import BAD_PATHS, FILES, MISSING, lay_traps
from tests.pipeline.preparation.sources.layouts import (
    every_source,
    jpeg,
    outcome,
    sources_at,
    write,
    write_table,
)


@pytest.fixture(scope="module")
def places(s3_server, tmp_path_factory):
    """The same datasets in a local folder and in a bucket of a real S3 server."""
    root = tmp_path_factory.mktemp("originals")
    local = every_source(root)
    endpoint = s3_server.options
    with pytest.MonkeyPatch.context() as patch:
        # fsspec keeps file systems by their options, and an address in the environment is none.
        patch.setitem(fsspec.config.conf, "s3", endpoint)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        filesystem = fsspec.filesystem("s3")
        bucket = f"originals-{uuid.uuid4().hex[:8]}"  # of no other test on that server
        filesystem.mkdir(bucket)
        filesystem.put(f"{root}/", f"{bucket}/", recursive=True)
        yield local, sources_at(f"s3://{bucket}")


def test_every_source_lists_the_same_in_the_same_order_each_time(tmp_path):
    sources = every_source(tmp_path)

    assert {source.name for source in sources.values()} | {"shapes"} == {
        get_args(kind)[0].name for kind in get_args(AnySource)
    }
    for name, source in sources.items():
        records = list(source.records())
        assert records == list(source.records()), name
        assert len({record.id for record in records}) == len(records) >= 3, name
        assert all(record.location and record.split in SPLITS for record in records), name
        assert all(outcome(source, record) for record in records), name


def test_every_source_shows_a_command_that_parses():
    kinds = [get_args(kind)[0] for kind in get_args(AnySource)]

    for kind in kinds:
        (command,) = re.findall(r"python jobs/prepare\.py .*", kind.__doc__)
        config = parse(PrepareConfig, shlex.split(command)[2:])
        assert type(config.source) is kind
        assert config.source.name == command.split()[2]
    assert len(kinds) == 10


def test_what_is_in_a_bucket_is_listed_and_read_as_from_a_disk(places):
    local, remote = places

    for name, source in local.items():
        here, there = list(source.records()), list(remote[name].records())
        assert [replace(r, size=None) for r in here] == [replace(r, size=None) for r in there], name
        for record, twin in zip(here, there, strict=True):
            assert outcome(source, record) == outcome(remote[name], twin), f"{name} {record.id}"


@pytest.mark.parametrize(
    ("kind", "bad"),
    [(kind, bad) for kind in ("coco", "table", "huggingface") for bad in BAD_PATHS]
    + [("folder", bad) for bad in FILES],
)
def test_a_foreign_name_leads_nowhere_but_below_the_root(kind, bad, tmp_path):
    root = tmp_path / "a" / "b"
    if kind == "coco":
        content = write_coco(root, "train2017", {1: ["one"]})
        write_coco(root, "val2017", {1: ["one"]})
        content["images"][0]["file_name"] = bad
        write(root / "annotations/captions_train2017.json", json.dumps(content))
        lay_traps(root / "train2017", jpeg())
        source = CocoSource(root=str(root))
    elif kind == "table":
        write_table(root / "rows.csv", [{"image": bad, "caption": "one"}])
        lay_traps(root, jpeg())
        source = TableSource(root=str(root / "rows.csv"), validation=0)
    elif kind == "huggingface":
        write_table(root / "metadata.jsonl", [{"file_name": bad, "text": "one"}])
        lay_traps(root, jpeg())
        source = HuggingFaceSource(root=str(root), validation=0)
    else:
        root.mkdir(parents=True)
        lay_traps(root, jpeg())
        source = FolderSource(root=str(root), validation=0)
        if "\\" in bad:
            write(root / bad, jpeg())

    records = [r for r in source.records() if r.split == "train" and r.id != "good.jpg"]

    if kind == "huggingface":
        records = [r for r in records if r.captions]  # without the traps that no row names
    if kind == "folder":
        records = [r for r in records if r.id == bad]
        if not records:  # the listing of the folder left it out, which is as good
            return
    assert len(records) == 1
    if BAD_PATHS[bad] is None:
        assert source.read_image(records[0]) == jpeg()
    elif BAD_PATHS[bad] == MISSING:
        with pytest.raises(FileNotFoundError):
            source.read_image(records[0])
    else:
        with pytest.raises(RejectedError, match=BAD_PATHS[bad]):
            source.read_image(records[0])


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_links_in_the_root_are_the_users_own_and_are_followed(kind, tmp_path):
    plain = every_source(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "disk")
    for number, file in enumerate(sorted(p for p in (tmp_path / "disk").rglob("*") if p.is_file())):
        if kind == "folders":
            break
        stored = tmp_path / "store" / f"{number:x}"  # without the ending, as caches name files
        stored.parent.mkdir(exist_ok=True)
        file.rename(stored)
        file.symlink_to(stored)
    (tmp_path / "linked").mkdir()
    for folder in (tmp_path / "disk").iterdir():
        if kind == "files":
            folder.rename(tmp_path / "linked" / folder.name)
            continue
        (tmp_path / "linked" / folder.name).mkdir()
        for each in folder.iterdir():
            (tmp_path / "linked" / folder.name / each.name).symlink_to(each)

    for name, source in sources_at(str(tmp_path / "linked")).items():
        records = list(source.records())
        assert records == list(plain[name].records()), name
        for record in records:
            assert outcome(source, record) == outcome(plain[name], record), name


def test_links_that_go_in_a_circle_end_with_one_line(tmp_path, capsys):
    for folder in ("cats", "birds"):
        write(tmp_path / f"data/{folder}/1.jpg", jpeg())
        write(tmp_path / f"data/{folder}/1.txt", folder)
    (tmp_path / "data/cats/again").symlink_to("..")
    (tmp_path / "data/cats/nowhere").symlink_to("nowhere")

    records = list(FolderSource(root=str(tmp_path / "data")).records())

    assert [r.id for r in records] == ["birds/1.jpg", "cats/1.jpg"]
    said = [line for line in capsys.readouterr().out.splitlines() if "not followed" in line]
    assert said == [f"{tmp_path}/data/cats/again leads back to a folder around it: not followed"]


MEASURE = """
from pipeline.preparation.sources.join_on_disk import Catalogue
# Not of resource.getrusage, which begins with the peak of the process that started this one.
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
with Catalogue("here") as catalogue:
    for i in range(200_000):
        if i % 5 == 0:
            catalogue.image(f"{(i * 7919) % 200_000:012d}", f"{i}.jpg", split="train")
        key = f"{(i - i % 5) * 7919 % 200_000:012d}"
        catalogue.caption(key, "a bird on a branch " * 5, number=i)
    records = captions = 0
    last = ""
    for record in catalogue.records():
        assert last < record.id
        last, records, captions = record.id, records + 1, captions + len(record.captions)
print(records, captions, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is read from /proc")
def test_a_listing_of_many_captions_stays_small_in_memory():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
    )
    records, captions, grown = map(float, done.stdout.split())

    assert (records, captions) == (40_000, 200_000)
    assert grown < 24, "MiB; the captions alone have 18, as Python's texts and lists over 60"
