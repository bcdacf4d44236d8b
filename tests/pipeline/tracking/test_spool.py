"""What is kept before it is sent: order, ends, torn lines, full disks, buckets."""

import json
import resource
import subprocess
import sys

import fsspec
import pytest

from pipeline.common.redaction import redacted
from pipeline.storage.folder import Folder
from pipeline.tracking.spool import Spool, read
from tests.waiting import wait_until


def steps(folder: Folder, position=None) -> list[int]:
    return [entry.record["step"] for entry in read(folder, position or {})]


def test_records_come_back_in_the_order_in_which_their_writers_started(tmp_path):
    folder = Folder(str(tmp_path))
    first = Spool(folder)
    first.append({"kind": "points", "step": 1})
    second = Spool(folder)
    second.append({"kind": "points", "step": 3})
    first.append({"kind": "points", "step": 2})

    found = list(read(folder, {}))

    assert [entry.record["step"] for entry in found] == [1, 2, 3]
    after = {found[0].writer: list(found[0].end)}
    assert steps(folder, after) == [2, 3]
    assert steps(folder, {e.writer: list(e.end) for e in found}) == []


def test_what_a_desktop_leaves_among_the_writers_is_passed_over(tmp_path):
    folder = Folder(str(tmp_path))
    Spool(folder).append({"kind": "points", "step": 1})
    (tmp_path / ".DS_Store").touch()
    Spool(folder).append({"kind": "points", "step": 2})

    assert steps(folder) == [1, 2]


def test_a_record_of_a_killed_process_is_there_at_once(tmp_path):
    code = (
        "import os, sys; from pipeline.tracking.spool import Spool\n"
        "from pipeline.storage.folder import Folder\n"
        "spool = Spool(Folder(sys.argv[1])); spool.append({'kind': 'points', 'step': 7})\n"
        "os.kill(os.getpid(), 9)"
    )

    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=300)

    assert steps(Folder(str(tmp_path))) == [7]


def test_a_torn_line_is_left_and_a_damaged_one_is_handed_over_as_it_is(tmp_path):
    folder = Folder(str(tmp_path))
    spool = Spool(folder)
    spool.append({"kind": "points", "step": 1})
    (file,) = tmp_path.glob("*/*.jsonl")
    with file.open("ab") as stream:
        stream.write(b"[" * 100_000 + b"\n")
        stream.write(b'\x00\x00{"kind\n{"kind": "points", "step": 2}\n{"kind": "poi')

    records = [entry.record for entry in read(folder, {})]

    assert [record and record["step"] for record in records] == [1, None, None, 2]


def test_a_full_disk_delays_records_and_tears_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Spool, "_flush_soon", lambda self: None)  # only when it is told to
    folder = Folder(str(tmp_path))
    spool = Spool(folder)
    spool.append({"kind": "points", "step": 1})
    (file,) = tmp_path.glob("*/*.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 9, limits[1]))
    try:
        spool.append({"kind": "points", "step": 2})
        with pytest.raises(OSError, match=r"bytes were written|too large"):
            spool.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert steps(folder) == [1]
    assert "cannot be written to" in caplog.text

    spool.append({"kind": "points", "step": 3})

    assert steps(folder) == [1, 2, 3]


def test_no_password_is_kept(tmp_path):
    Spool(Folder(str(tmp_path))).append({"kind": "dataset", "location": "s3://me:hush@lake/x"})

    (file,) = tmp_path.glob("*/*.jsonl")
    assert json.loads(file.read_text())["location"] == "s3://lake/x"
    assert redacted("sqlite:////runs/mlflow.db") == "sqlite:////runs/mlflow.db"
    assert (
        redacted("at http://u:p@ss@host/a, http://host/b@c") == "at http://host/a, http://host/b@c"
    )


@pytest.mark.slow
def test_in_a_bucket_records_are_objects(s3_server, bucket, monkeypatch):
    # fsspec keeps file systems by their options, and an address in the environment is none.
    monkeypatch.setitem(fsspec.config.conf, "s3", s3_server.options)
    for name, value in bucket[0].items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    folder = Folder("s3://lake/runs/a/spool/records")
    spool = Spool(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "_flush_soon", lambda self: None)
        spool.append({"kind": "points", "step": 1})
        spool.append({"kind": "points", "step": 2})
    assert steps(folder) == [], "a step does not wait for a bucket"

    spool.flush()
    spool.append({"kind": "points", "step": 3})
    wait_until(lambda: len(steps(folder)) == 3, "the third record comes by itself")

    assert folder.names() == [spool.folder.location.rpartition("/")[2]]
    assert spool.folder.names() == ["00000000.jsonl", "00000001.jsonl"]
    found = list(read(folder, {}))
    assert [entry.record["step"] for entry in found] == [1, 2, 3]
    assert steps(folder, {found[1].writer: list(found[1].end)}) == [3]
