"""A user without a home folder or a name gets both; one who has them keeps them."""

import getpass
import os
import pwd
import stat
from pathlib import Path

import pytest

from pipeline.common import own_home
from pipeline.common.own_home import ensure_home

NOBODY = 65534


@pytest.fixture
def unknown(monkeypatch, tmp_path):
    """A user whom the system does not know, with this process's number."""

    def no_entry(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(own_home, "note", "")
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return tmp_path


def test_who_has_neither_gets_a_private_folder_and_a_name(unknown):
    ensure_home()

    home = Path.home()
    assert home == unknown / f"ratgan-home-{os.getuid()}"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert f"no home folder: {home} is used. Set HOME" in own_home.note


def test_the_same_folder_is_used_again(unknown, monkeypatch):
    ensure_home()
    first = Path.home()
    monkeypatch.delenv("HOME")

    ensure_home()

    assert Path.home() == first


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to another user")
@pytest.mark.parametrize("taken", ["by another user", "by a link", "by a file"])
def test_a_place_that_a_stranger_has_taken_is_not_used(taken, unknown):
    place = unknown / f"ratgan-home-{os.getuid()}"
    if taken == "by a link":
        place.symlink_to(unknown)
    elif taken == "by a file":
        place.touch()
    else:
        place.mkdir()
        os.chown(place, NOBODY, NOBODY)

    ensure_home()

    home = Path.home()
    assert home != place
    assert home.parent == unknown
    assert (home.stat().st_uid, stat.S_IMODE(home.stat().st_mode)) == (os.getuid(), 0o700)


def test_who_has_a_home_and_a_name_keeps_them(unknown, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("USER", "me")

    ensure_home()

    assert (os.environ["HOME"], os.environ["USER"], own_home.note) == ("/nowhere", "me", "")
    assert list(unknown.iterdir()) == []


def test_without_any_place_to_write_to_libraries_can_be_imported_all_the_same(unknown, monkeypatch):
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)

    ensure_home()

    assert Path.home() == Path("/")
