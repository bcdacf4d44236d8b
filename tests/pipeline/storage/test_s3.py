"""Buckets of servers with words and listings of their own: each does what a Backend must."""

import fsspec
import pytest

from pipeline.storage import s3_retries
from pipeline.storage.folder import Folder
from tests.chaos.proxy import ChaosProxy
from tests.services import Moto

ADDRESS = "s3://lake/runs/small"


@pytest.fixture(scope="module")
def moto():
    server = Moto()
    yield server
    server.kill()


@pytest.fixture(params=["s3_server", "moto"])
def proxy(request, monkeypatch):
    """The way to an empty bucket of a server."""
    server = request.getfixturevalue(request.param)
    server.empty_bucket("lake")
    monkeypatch.setattr(s3_retries, "PAUSE_S", 0.01)
    with ChaosProxy(*server.address) as way:
        monkeypatch.setitem(fsspec.config.conf, "s3", server.options | {"endpoint_url": way.url})
        yield way


@pytest.fixture
def folder(proxy):
    return Folder(ADDRESS)


def test_a_file_is_created_once(folder):
    assert folder.create("only", b"first")
    assert not folder.create("only", b"second")

    assert folder.read("only") == b"first"


@pytest.mark.parametrize("wording", ["412", "409"])
def test_a_refusal_to_create_is_no_error_however_it_is_worded(folder, proxy, wording):
    folder.create("only", b"first")
    proxy.inject(wording, when=lambda request: request.method == "PUT")

    assert not folder.create("only", b"second")

    assert folder.read("only") == b"first"


def test_a_server_without_conditional_writes_is_named_as_that(folder, proxy):
    proxy.inject("501", 100, when=lambda request: "if-none-match" in request.headers)

    with pytest.raises(OSError, match=r"creating a probe failed .*conditional writes") as caught:
        folder.check_writable("output", 60)

    assert "--output" in str(caught.value)
    assert folder.names() == []


def test_a_server_that_ignores_conditions_is_warned_of(folder, caplog, monkeypatch):
    folder.check_writable("output", 60)
    assert "only once" not in caplog.text
    put = folder.backend.fs.pipe_file
    monkeypatch.setattr(
        folder.backend.fs, "pipe_file", lambda path, content, mode="", **how: put(path, content)
    )

    folder.check_writable("output", 60)

    assert "overwrites a file that should be created only once" in caplog.text


def test_what_was_removed_is_gone_at_once_from_every_look(folder):
    for name in ("a/x", "a/deep/y", "b/z", "file"):
        folder.write(name, name.encode())

    (folder / "a").remove()

    assert folder.names() == ["b", "file"]
    assert not folder.exists("a")
    assert not (folder / "a").exists()
    assert (folder / "a").names() == []
    assert dict(folder.walk()) == {"b/z": 3, "file": 4}
    (folder / "a").remove()  # and again, as who tidies up twice does
    folder.remove()
    assert not folder.exists()
    assert Folder("s3://lake/runs").names() == []
    folder.write("a/x", b"new")
    assert folder.names() == ["a"]


def test_a_folder_with_the_name_of_a_pattern_is_removed_alone(folder):
    names = ["a?", "[ab]", "my%20runs", "#1", "ab", "a", "my runs"]
    for name in names:
        (folder / name).write("deep/x", name.encode())

    for name in names[:4]:
        assert (folder / name).read("deep/x") == name.encode()
        (folder / name).remove()
        assert not (folder / name).exists()

    assert folder.names() == ["a", "ab", "my runs"]


def test_a_folder_whose_last_file_was_deleted_is_gone_too(folder):
    folder.write("a/x", b"1")

    folder.delete("a/x")

    assert folder.names() == []
    assert not folder.exists("a")


def test_a_renamed_folder_is_whole_and_the_old_one_gone(folder):
    for name in ("x", "deep/y"):
        (folder / "old").write(name, name.encode())

    (folder / "old").rename(folder / "new")

    assert dict((folder / "new").walk()) == {"x": 1, "deep/y": 6}
    assert folder.names() == ["new"]


def test_a_file_and_a_folder_may_have_one_name(folder):
    folder.write("a", b"file")
    folder.write("a/b", b"below")

    assert (folder.read("a"), folder.read("a/b")) == (b"file", b"below")
    assert folder.names() == ["a"]
    assert folder.exists("a")


def test_empty_files_and_ranges_past_the_end_are_as_on_a_disk(folder):
    folder.write("empty", b"")
    folder.write("x", b"0123456789")

    assert (folder.read("empty"), folder.size("empty")) == (b"", 0)
    assert folder.read("x", 8, 100) == b"89"
    assert folder.read("x", 10, 20) == b""
