"""Looking at a folder: its bounds, and what is known of what lies outside of them."""

from pathlib import Path

import pytest

from pipeline.preparation.sources import look
from pipeline.preparation.sources.look import Look, held_out_files, look_at
from pipeline.storage.folder import Folder
from tests.pipeline.preparation.sources.layouts import write


def seen(place: Path) -> Look:
    return look_at(str(place), Folder(str(place)))


def test_all_of_a_small_folder_is_seen_without_what_is_hidden(tmp_path):
    for name in ("a.txt", "b/c.txt", "b/.hidden", ".git/config", "__MACOSX/a.txt"):
        write(tmp_path / name, "")

    found = seen(tmp_path)

    assert (found.files, found.folders, found.whole) == (("a.txt", "b/c.txt"), ("b",), True)
    assert found.has("a.txt", "b")
    assert not found.has("b/.hidden")
    assert found.below("b").files == ("c.txt",)
    assert found.place("") == str(tmp_path)
    assert found.kinds() == "2 .txt in 2 folders"


def test_a_file_is_all_that_is_seen_of_its_folder(tmp_path):
    write(tmp_path / "rows.csv", "a")
    write(tmp_path / "images.txt", "b")

    found = seen(tmp_path / "rows.csv")

    assert (found.files, found.is_file, found.has("images.txt")) == (("rows.csv",), True, False)
    assert found.place("rows.csv") == str(tmp_path / "rows.csv")


@pytest.mark.parametrize("bound", ["MAX_FOLDERS", "MAX_OF_FOLDER", "KEPT", "MAX_BRANCHES"])
def test_each_bound_is_kept_and_what_lies_outside_is_asked_for(bound, tmp_path, monkeypatch):
    for folder in "abcdef":
        for number in range(6):
            write(tmp_path / f"{folder}/{number}.txt", "")
    monkeypatch.setattr(look, bound, 3)

    found = seen(tmp_path)

    assert len(found.files) < 36
    assert not found.whole
    assert found.has("f/5.txt", "a/0.txt")
    assert not found.has("f/6.txt")
    assert found.kinds().endswith(", and more")


def test_a_deep_tree_and_links_in_a_circle_end(tmp_path):
    write(tmp_path / "1/2/3/4/5/6/7/a.txt", "")
    (tmp_path / "1/again").symlink_to(tmp_path)

    found = seen(tmp_path)

    assert not found.whole
    assert max(name.count("/") for name in found.folders) == look.MAX_DEPTH


def test_a_name_that_leads_out_of_the_folder_is_not_there(tmp_path, monkeypatch):
    write(tmp_path / "outside.txt", "")
    write(tmp_path / "in/a.txt", "")
    write(tmp_path / "in/b.txt", "")
    monkeypatch.setattr(look, "KEPT", 1)

    found = seen(tmp_path / "in")

    assert not found.whole
    assert not found.has("../outside.txt")
    assert not found.has(str(tmp_path / "outside.txt"))


HELD = {
    ("train-0.csv", "train-1.csv", "val-0.csv", "val-1.csv"): "val*",
    ("data/train/a.tar", "data/test/a.tar"): "data/test*",
    ("train.csv", "validation.csv"): "validation*",
    ("train.csv", "val.csv", "test.csv"): None,  # no pattern means both
    ("val.csv",): None,
    ("trivial.csv", "latest.csv"): None,
}


@pytest.mark.parametrize("names", HELD)
def test_held_out_files_are_known_by_a_word_in_their_names(names):
    pattern = HELD[names]

    assert held_out_files(names) == ({"validation_files": pattern} if pattern else {})
