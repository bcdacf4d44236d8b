"""Names from foreign data stay inside their folder."""

import cProfile
import os
import pickle
import pstats
from pathlib import Path

import pytest

from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

UNSAFE = [
    "",
    ".",
    "..",
    "./a.jpg",
    "a//b.jpg",
    "a/",
    "../../etc/passwd",
    "a/../../b",
    "/etc/passwd",
    "//host/share",
    "..\\..\\x",
    "a\\b.jpg",
    "C:\\x",
    "c:x",
    "a\0.jpg",
    "%2e%2e/x",
    "a/%2E%2e/x",
    "%252e%252e%252fx",
    "%2fetc/passwd",
    "a%00.jpg",
    "a%5c..%5cb",
    "http://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "https://user:pw@h/x",
    "a\n.jpg",
    "a\x1b[31m.jpg",
    "a\x7f.jpg",
    "a\u202egpj.exe",
    "a\u2066b",
    "a\udcff.jpg",
    "x" * 256,
    "ä" * 128,
    "/".join(["x" * 100] * 11),
]
SAFE = [
    "a.jpg",
    "train2014/COCO_train2014_000000000009.jpg",
    "..a/b..jpg",
    "50%.jpg",
    "a%20b.jpg",
    "Ä/猫.jpg",
    "family 👩‍👩‍👧.png",
    "x" * 255,
    "ä" * 127,
    "~/a.jpg",
    ".hidden/a",
    "12:30.jpg",
]


# What takes far longer than a look at a folder.
COSTLY = ("open", "listdir", "scandir", "read ", "sleep", "connect")


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_unsafe_names_are_refused_and_safe_ones_come_back(tmp_path, place):
    folder = Folder(str(tmp_path) if place == "local" else "memory://data")

    for name in UNSAFE:
        with pytest.raises(ValueError, match=r"^PATH_UNSAFE: ") as caught:
            inside(folder, name)
        assert str(caught.value).split(str(folder))[0].isascii(), name
        assert len(str(caught.value)) < 600
    for name in SAFE:
        assert inside(folder, name) == name


def test_links_may_lead_about_in_the_folder_but_not_out_of_it(tmp_path):
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "data2").mkdir()
    (data / "images" / "a.jpg").write_text("a")
    os.symlink(data / "images", data / "pictures")
    os.symlink(tmp_path, data / "up")
    os.symlink("../../secret.txt", data / "images" / "b.jpg")
    os.symlink(tmp_path / "data2", data / "beside")
    folder = Folder(str(data))

    assert inside(folder, "pictures/a.jpg") == "pictures/a.jpg"
    for name in ("up/secret.txt", "images/b.jpg", "beside/x"):
        with pytest.raises(ValueError, match=r"^PATH_UNSAFE.*leads out of the folder by a link"):
            inside(folder, name)


def test_a_folder_that_is_itself_a_link_is_inside_itself(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.jpg").write_text("a")
    os.symlink(tmp_path / "disk", tmp_path / "data")
    folder = Folder(str(tmp_path))
    folder.path = str(tmp_path / "data")  # whatever made it, `absolute` would resolve it

    assert inside(folder, "a.jpg") == "a.jpg"


def test_it_is_cheap_enough_for_every_image(tmp_path):
    folder, calls = Folder(str(tmp_path)), cProfile.Profile()

    for number in range(2000):
        calls.runcall(inside, folder, f"train2014/COCO_train2014_{number:012d}.jpg")

    counted = pstats.Stats(calls)
    # Some for each folder on the way to it, which are looked at one by one.
    assert counted.total_calls / 2000 < 30 + 30 * len(Path(folder.path).parts)
    called = {function for _, _, function in counted.stats}
    assert "<built-in method posix.lstat>" in called
    assert not [name for name in called if any(each in name for each in COSTLY)]


@pytest.fixture
def closed(tmp_path):
    """A closed folder with links into it and out of it, and what lies outside."""
    outside, folder = tmp_path / "outside", tmp_path / "run"
    (outside / "kept").mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "file").write_bytes(b"inside")
    (folder / "inner").symlink_to("real")
    (folder / "out").symlink_to(outside)
    (folder / "secret").symlink_to(outside / "secret")
    (folder / "real" / "up").symlink_to("../..")
    return Folder(str(folder)).closed()


WAYS = {
    "read": lambda folder: folder.read("out/secret"),
    "read a link": lambda folder: folder.read("secret"),
    "read above": lambda folder: folder.read("../outside/secret"),
    "look": lambda folder: folder.exists("out/secret"),
    "size": lambda folder: folder.size("out/secret"),
    "open": lambda folder: folder.open("out/secret"),
    "write": lambda folder: folder.write("out/new", b"x"),
    "write above": lambda folder: folder.write("../outside/new", b"x"),
    "create": lambda folder: folder.create("out/new", b"x"),
    "delete": lambda folder: folder.delete("out/secret"),
    "remove": lambda folder: (folder / "out").remove(),
    "remove below": lambda folder: (folder / "real" / "up" / "outside").remove(),
    "list": lambda folder: (folder / "out").names(),
    "walk": lambda folder: list((folder / "out").walk()),
    "go up": lambda folder: (folder / "..").names(),
    "in another process": lambda folder: pickle.loads(pickle.dumps(folder / "real")).read("up/x"),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_leads_out_of_a_closed_folder(way, closed, tmp_path):
    with pytest.raises(ValueError, match=r"^PATH_UNSAFE: "):
        WAYS[way](closed)

    assert sorted(each.name for each in (tmp_path / "outside").iterdir()) == ["kept", "secret"]


def test_links_inside_of_a_closed_folder_are_followed_and_so_is_one_that_leads_to_it(tmp_path):
    (tmp_path / "disk" / "a").mkdir(parents=True)
    (tmp_path / "disk" / "a" / "file").write_bytes(b"x")
    (tmp_path / "disk" / "b").symlink_to("a")
    (tmp_path / "run").symlink_to(tmp_path / "disk")

    run = (Folder(str(tmp_path)) / "run").closed()

    assert (run / "b").read("file") == run.read("b/file") == b"x"
    (run / "b" / "c").write("new", b"y")
    assert run.read("a/c/new") == b"y"
