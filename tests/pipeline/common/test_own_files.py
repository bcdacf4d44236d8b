"""Only what is this user's own, and closed to others, is opened."""

import os
import stat
from pathlib import Path

import pytest

from pipeline.common.own_files import OTHERS_ENTER, own_folder, read_own_file

NOBODY = 65534
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to another user")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    made.mkdir(mode=0o700)
    (made / "file").write_text("said")
    (made / "file").chmod(0o600)
    return made


def said_in(folder: Path, closed_to: int = OTHERS_ENTER) -> str:
    with own_folder(folder, closed_to=closed_to, remedy="Go away.") as opened:
        return read_own_file(folder / "file", opened, remedy="Go away.")


def test_a_file_of_ones_own_is_read(folder):
    assert said_in(folder) == "said"


def test_a_file_is_read_in_the_folder_that_was_looked_at_whatever_comes_to_lie_there(folder):
    with own_folder(folder, remedy="") as opened:
        folder.rename(folder.with_name("moved"))
        folder.mkdir()
        (folder / "file").write_text("of a stranger")

        assert read_own_file(folder / "file", opened, remedy="") == "said"


def test_what_is_missing_is_missing(folder):
    (folder / "file").unlink()
    with pytest.raises(FileNotFoundError):
        said_in(folder)
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        said_in(folder)


def test_a_folder_may_be_open_to_reading_where_that_is_asked_for(folder):
    folder.chmod(0o755)

    with pytest.raises(ValueError, match=r"folder is open to others \(mode 755\).*Go away\.$"):
        said_in(folder)
    assert said_in(folder, closed_to=stat.S_IWGRP | stat.S_IWOTH) == "said"


def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused_at_once(folder):
    (folder / "file").unlink()
    os.mkfifo(folder / "file", 0o600)
    with pytest.raises(ValueError, match=r"file is no file, so it is not used.*touched\. Go away"):
        said_in(folder)
    (folder / "file").unlink()
    (folder / "file").mkdir(mode=0o700)
    with pytest.raises(ValueError, match=r"file is no file, so it is not used.*touched\. Go away"):
        said_in(folder)


@only_root
@pytest.mark.parametrize("name", [".", "file"])
def test_what_belongs_to_somebody_else_is_refused(name, folder):
    os.chown(folder / name, NOBODY, NOBODY)

    with pytest.raises(ValueError, match=r"belongs to somebody else \(user 65534\).*Go away"):
        said_in(folder)
