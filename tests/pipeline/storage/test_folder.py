"""Folders: writing is whole or not at all, and places mean the same everywhere."""

import errno
import hashlib
import os
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.storage.folder import Folder, absolute
from pipeline.storage.local_disk import remove_abandoned


def test_what_is_written_is_read_and_hashed(tmp_path):
    folder = Folder(str(tmp_path)) / "a" / "b"

    sha256 = folder.write("deep/file.bin", b"content")

    assert folder.read("deep/file.bin") == b"content"
    assert sha256 == hashlib.sha256(b"content").hexdigest()
    assert folder.names() == ["deep"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    folder.write("file", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        folder.write("file", b"new")

    assert folder.read("file") == b"old"
    assert folder.names() == ["file"]


def test_equal_values_give_equal_json_bytes(tmp_path):
    folder = Folder(str(tmp_path))

    first = folder.write_json("one.json", {"a": 1, "b": [2.5, None]})
    second = folder.write_json("two.json", {"b": [2.5, None], "a": 1})

    assert first == second
    assert folder.read_json("one.json") == {"a": 1, "b": [2.5, None]}


def test_broken_json_is_named(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("x.json", b"{")

    with pytest.raises(ValueError, match=r"x\.json is not valid JSON"):
        folder.read_json("x.json")


def test_a_folder_crosses_processes_as_its_place(tmp_path):
    folder = Folder(str(tmp_path))

    assert pickle.loads(pickle.dumps(folder)).location == folder.location


def test_names_of_a_missing_folder_are_none(tmp_path):
    assert Folder(str(tmp_path / "nowhere")).names() == []
    assert not Folder(str(tmp_path / "nowhere")).exists()


def test_relative_paths_become_absolute_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert absolute("runs") == str(tmp_path / "runs")
    assert absolute("s3://bucket/runs/") == "s3://bucket/runs"


def test_a_relative_path_in_a_submitted_job_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)

    with pytest.raises(ValueError, match=r"'outputs' is a relative path.*s3://my-bucket/outputs"):
        absolute("outputs")


def test_a_range_of_a_file_is_read(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("x", b"0123456789")

    assert folder.read("x", 2, 5) == b"234"
    assert folder.read("x", 8, 20) == b"89"
    assert folder.read("x", start=7) == b"789"
    assert folder.read("x", end=2) == b"01"
    assert folder.read("x", 3, 3) == b""
    assert folder.read("x", 20) == b""
    with pytest.raises(ValueError, match="bytes 5 to 2 of x are no range"):
        folder.read("x", 5, 2)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_walk_finds_every_file_below(tmp_path, place):
    folder = Folder(str(tmp_path / "a") if place == "local" else f"memory://{tmp_path.name}")
    files = {"top": 3, "b/one": 0, "b/c/d/two": 7}
    for name, size in files.items():
        folder.write(name, bytes(size))

    assert dict(folder.walk()) == files
    assert list((folder / "nowhere").walk()) == []


def test_a_walk_stays_off_linked_folders_and_survives_strange_entries(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("real/file", b"12345")
    os.symlink(tmp_path, tmp_path / "real" / "circle")
    os.symlink("file", tmp_path / "real" / "link")
    os.symlink("nowhere", tmp_path / "real" / "broken")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"1")

    found = dict(folder.walk())

    assert found == {"real/file": 5, "real/link": 5, "real/broken": 0, "caf\udce9.jpg": 1}
    assert folder.read("caf\udce9.jpg") == b"1"


def test_a_full_disk_is_said_with_what_is_needed_and_what_is_free(tmp_path):
    # A limit on the size of files fails in the middle of a write, as a full disk does.
    code = f"""
import resource
from pipeline.storage.folder import Folder
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Folder({str(tmp_path)!r}).write("model.bin", bytes(5000))
except OSError as error:
    print(error.errno, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )

    assert re.search(
        r"writing .*/model\.bin needs 5,000 bytes, and [\d,]+ bytes are free.*ulimit", done.stdout
    ), done.stdout + done.stderr
    assert Folder(str(tmp_path)).names() == []


def test_a_file_is_created_once_however_many_try(tmp_path):
    folder = Folder(str(tmp_path))
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: folder.create("only", b"%d" % n), range(64)))

    assert won.count(True) == 1
    assert folder.read("only") == b"%d" % won.index(True)
    assert folder.names() == ["only"]


def test_a_disk_without_links_still_creates_once(tmp_path, monkeypatch):
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = Folder(str(tmp_path))

    assert folder.create("only", b"first")
    assert not folder.create("only", b"second")
    assert folder.read("only") == b"first"
    assert folder.names() == ["only"]


def test_the_preflight_passes_where_one_can_write_and_leaves_nothing(tmp_path):
    folder = Folder(str(tmp_path / "new"))

    folder.check_writable("output")

    assert folder.names() == []


def test_the_preflight_says_why_not(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OSError, match=r"output: nothing can be kept in .*/file/runs: writing a "):
        Folder(str(tmp_path / "file" / "runs")).check_writable("output")


def test_the_preflight_gives_up_on_a_dead_mount(tmp_path, monkeypatch):
    folder, mounted_again = Folder(str(tmp_path)), threading.Event()
    monkeypatch.setattr(Folder, "write", lambda *args: mounted_again.wait())

    with pytest.raises(OSError, match=r"writing a probe failed \(no end of it within 0 s"):
        folder.check_writable("output", limit_s=0.1)

    mounted_again.set()


def test_deleting_what_is_not_there_is_no_error(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("x", b"1")

    folder.delete("x")
    folder.delete("x")

    assert folder.names() == []


def test_an_open_file_is_read_here_and_there(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write("x", b"0123456789")

    with folder.open("x") as stream:
        stream.seek(-3, os.SEEK_END)
        assert stream.read() == b"789"


@pytest.mark.parametrize(
    "address",
    [
        "sftp://me:hush@host/a",
        "ftp://me:hu@sh@host:21/a",
        "s3://AKIAEXAMPLE:hush@lake/runs",
        "s3://AKIAEXAMPLE:hu/sh@lake/runs",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(address):
    with pytest.raises(ValueError, match=r"output: .*://… came with a password in") as refusal:
        absolute(address, "output")

    assert "hu" not in str(refusal.value)
    with pytest.raises(ValueError, match="password"):
        Folder(address)


def test_an_address_without_a_password_is_none():
    addresses = [
        "s3://lake/a@b:c",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/runs",
        "ftp://host:21/a",
        "sftp://me@host/a",
    ]

    assert [absolute(address) for address in addresses] == addresses


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    left = ["a.json.0123abcd.tmp", "deep/x/b.png.ffffffff.tmp", ".probe-0123abcd"]
    kept = ["a.json", "notes.tmp", "deep/x/b.0123abcd.tmp.json", ".lock-00000001"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    remove_abandoned(str(tmp_path))

    assert sorted(name for name, _ in Folder(str(tmp_path)).walk()) == sorted(kept)
