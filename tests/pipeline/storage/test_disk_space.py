"""A disk without room: said before writing, said plainly, and nothing torn is left."""

import errno
import os
import resource
import shutil
import subprocess

import pytest

from pipeline.checkpoint.store import commit, newest_checkpoint
from pipeline.storage.disk_space import DiskFullError, check_room, disk_full, free_bytes
from pipeline.storage.folder import Folder

STATE = {"run": "test"}


def leftovers(root: Folder) -> list[str]:
    return [name for _, _, files in os.walk(root.path) for name in files if name.endswith(".tmp")]


def test_a_checkpoint_larger_than_the_disk_is_refused_before_a_byte_is_written(tmp_path):
    root = Folder(str(tmp_path / "checkpoints"))
    commit(root, [], step=1, state=STATE, keep=2)

    def never():
        raise AssertionError("was asked for")
        yield

    with pytest.raises(DiskFullError, match=r"of step 2: need 1e\+03 TiB, have .*iB at /"):
        commit(root, never(), step=2, state=STATE, keep=2, size=1000 * 2**40)

    assert root.names() == ["step-00000001"]


def test_room_is_asked_for_where_there_is_a_disk_only(tmp_path):
    assert free_bytes(Folder("memory://somewhere")) is None
    check_room(Folder("memory://somewhere"), 2**60, "it")

    deep = Folder(str(tmp_path / "not" / "yet" / "there"))
    before = shutil.disk_usage(tmp_path).free
    free = free_bytes(deep)
    after = shutil.disk_usage(tmp_path).free

    assert 0.9 * min(before, after) <= free <= 1.1 * max(before, after), "others write meanwhile"
    check_room(deep, 1, "it")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_running_out_of_room_in_mid_write_leaves_the_old_one_and_nothing_torn(
    tmp_path, monkeypatch, number, call
):
    root = Folder(str(tmp_path))
    commit(root, [("weights", b"old")], step=1, state=STATE, keep=2)

    def files():
        yield "first", b"fits"
        if call == "write":
            raise OSError(number, os.strerror(number))

        def fail(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        yield "second", b"does not"

    with pytest.raises(DiskFullError, match=rf"need 4 KiB, .* at /.*{os.strerror(number)}") as full:
        commit(root, files(), step=2, state=STATE, keep=2, size=4096)

    assert full.value.errno == number
    assert root.names() == ["step-00000001"]
    assert leftovers(root) == []
    assert newest_checkpoint(root)[0].read("weights") == b"old"


def test_a_limit_on_file_sizes_is_an_error_that_names_it(tmp_path):
    root = Folder(str(tmp_path))
    commit(root, [("weights", b"old")], step=1, state=STATE, keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"no file may be larger than 97\.7 KiB.*ulimit -f"):
            commit(root, [("weights", bytes(200_000))], step=2, state=STATE, keep=2, size=200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert root.names() == ["step-00000001"]
    assert leftovers(root) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("estimate", [0, 600_000], ids=["in mid-write", "before"])
def test_a_disk_that_is_really_full_keeps_the_checkpoint_it_has(small_disk, estimate):
    root = Folder(str(small_disk))
    commit(root, [("weights", bytes(600_000))], step=1, state=STATE, keep=2)

    with pytest.raises(DiskFullError, match=r"no room for .* step 2.*have 4\d\d KiB"):
        commit(root, [("w", bytes(600_000))], step=2, state=STATE, keep=2, size=estimate)

    assert root.names() == ["step-00000001"]
    assert leftovers(root) == []
    assert newest_checkpoint(root)[1]["step"] == 1


def test_amounts_are_readable():
    folder = Folder("memory://somewhere")

    assert "need 1.21 GiB, how much is left is not known at memory://somewhere" in str(
        disk_full(folder, 1_300_000_000, "it", errno.EDQUOT)
    )
    assert "need 1 B," in str(disk_full(folder, 1, "it", errno.ENOSPC))
