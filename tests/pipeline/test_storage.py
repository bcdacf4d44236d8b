"""Folders: writing is whole or not at all, and places mean the same everywhere."""

import hashlib
import os
import pickle

import pytest

from pipeline.storage import Folder, absolute


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
