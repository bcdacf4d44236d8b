"""Images in folders with captions beside them."""

import json
import os
from collections import Counter

import pytest

from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.folder import FolderSource
from tests.conftest import REAL_DATA
from tests.pipeline.preparation.sources.layouts import jpeg, outcome, write


def source_at(root, **options):
    return FolderSource(root=str(root), **options)


def listed(root, **options):
    return {r.id: r for r in source_at(root, **options).records()}


def captions(root, **options):
    source = source_at(root, **options)
    return {r.id: list(source.read_captions(r)) for r in source.records()}


def test_captions_come_from_files_of_the_same_name(tmp_path):
    for name in ("a.jpg", "deep/er/B.JPEG", "c.png", "d.webp", "e.jpg", "f.jpg", "g.JPG"):
        write(tmp_path / name, jpeg())
    write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\r\n two\n   \n")
    write(tmp_path / "deep/er/B.TXT", "deep")
    write(tmp_path / "c.caption", b"caf\xe9\nfine")
    write(tmp_path / "d.json", json.dumps("a text"))
    write(tmp_path / "e.json", json.dumps(["a", "list"]))
    write(tmp_path / "f.json", json.dumps({"width": 3, "text": ["of", "an object"]}))

    assert captions(tmp_path) == {
        "a.jpg": [b"one", b" two"],
        "deep/er/B.JPEG": [b"deep"],
        "c.png": [b"caf\xe9", b"fine"],  # what is no UTF-8 is refused with its row, as bytes
        "d.webp": ["a text"],
        "e.jpg": ["a", "list"],
        "f.jpg": ["of", "an object"],
        "g.JPG": [],
    }
    assert outcome(source_at(tmp_path), listed(tmp_path)["a.jpg"])[1] == jpeg()


def test_json_beside_a_text_file_is_not_read(tmp_path):
    write(tmp_path / "a.jpg", jpeg())
    write(tmp_path / "a.txt", "the caption")
    write(tmp_path / "a.json", json.dumps({"url": "http://x"}))

    assert captions(tmp_path) == {"a.jpg": [b"the caption"]}


def test_images_of_one_stem_are_both_kept_and_share_captions_and_split(tmp_path):
    for name in ("a.png", "a.jpg", "b.jpg"):
        write(tmp_path / name, jpeg())
    write(tmp_path / "a.txt", "both")

    records = listed(tmp_path, validation=0.5)

    assert list(records) == ["a.jpg", "a.png", "b.jpg"]
    assert records["a.jpg"].texts == records["a.png"].texts == ("a.txt",)
    assert records["a.jpg"].split == records["a.png"].split


def test_what_cannot_be_used_is_listed_so_that_it_is_counted(tmp_path):
    write(tmp_path / "a.jpg", jpeg())
    for name in ("anim.gif", "x.bmp", "x.tif", "x.avif"):
        write(tmp_path / name, "")
    write(tmp_path / "alone.txt", "of no image")
    for hidden in (".DS_Store", "._a.jpg", "__MACOSX/a.jpg", ".thumbs/a.jpg", "notes.md"):
        write(tmp_path / hidden, "")
    os.symlink(tmp_path / "a.jpg", os.fsencode(tmp_path) + b"/bad\xff.jpg")

    records = listed(tmp_path)

    assert set(records) == {
        *("a.jpg", "alone", "anim.gif", "x.bmp", "x.tif", "x.avif", "bad\\udcff.jpg")
    }
    assert records["alone"].location == ""
    assert records["anim.gif"].captions == records["anim.gif"].texts == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "CAP_FORMAT: a.json is not valid JSON"),
        ('{"title": "x"}', "CAP_FORMAT: a.json has no 'caption' or 'captions' or 'text' or 'texts"),
        ("[1]", "CAP_FORMAT: a.json holds '.1.', not a text or a list of texts"),
        (b'"caf\xe9"', "CAP_ENCODING: a.json"),
        ("[" * 100_000, "CAP_TOO_LONG: a.json has 100,000 bytes"),
        ("[" * 50_000, "CAP_FORMAT: a.json is not valid JSON"),
        ("", "CAP_FORMAT: a.json is not valid JSON"),
    ],
)
def test_a_damaged_caption_file_costs_its_own_row(tmp_path, content, message):
    write(tmp_path / "a.jpg", jpeg())
    write(tmp_path / "a.json", content)

    with pytest.raises(RejectedError, match=message):
        captions(tmp_path)


def test_the_key_of_the_captions_can_be_named(tmp_path):
    write(tmp_path / "a.jpg", jpeg())
    write(tmp_path / "a.json", json.dumps({"text": "no", "prompt": "yes"}))

    assert captions(tmp_path, caption_key="prompt") == {"a.jpg": ["yes"]}


def test_captions_may_lie_in_a_tree_of_their_own(tmp_path):
    write(tmp_path / "images/cats/a.png", jpeg())
    write(tmp_path / "text/cats/a.txt", "a cat")
    write(tmp_path / "LICENSE.txt", "not a caption")

    records = listed(tmp_path, images="images", captions="text/", label="folder")

    assert captions(tmp_path, images="images", captions="text") == {"cats/a.png": [b"a cat"]}
    assert [r.label for r in records.values()] == ["cats"]


def test_held_out_images_stay_held_out_when_others_come(tmp_path):
    for i in range(300):
        write(tmp_path / f"{i}.jpg", "")
    before = {r.id: r.split for r in listed(tmp_path, validation=0.2).values()}
    for i in range(300, 400):
        write(tmp_path / f"{i}.jpg", "")

    after = {r.id: r.split for r in listed(tmp_path, validation=0.2).values()}

    assert before.items() <= after.items()
    assert 0.12 < Counter(after.values())["validation"] / 400 < 0.28
    assert "validation" not in {r.split for r in listed(tmp_path, validation=0).values()}


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_folders_at_the_top_are_the_split(tmp_path, name, capsys):
    for place in ("train/cats", "train", name, "extra"):
        write(tmp_path / place / "a.jpg", jpeg())
    write(tmp_path / name / "a.txt", "held out")

    records = listed(tmp_path, label="folder")

    assert {r.id: (r.split, r.label) for r in records.values()} == {
        "train/a.jpg": ("train", None),
        "train/cats/a.jpg": ("train", "cats"),
        f"{name}/a.jpg": ("validation", None),
    }
    assert f"1 images and captions are in neither train nor {name}" in capsys.readouterr().out


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist\. Name the folder of your"):
        listed(tmp_path / "nowhere")
    write(tmp_path / "pics/notes.md", "")
    with pytest.raises(ValueError, match=r"holds no images \(\.jpg.* It holds pics\."):
        listed(tmp_path)
    with pytest.raises(ValueError, match=r"/text does not exist: --captions names a folder in"):
        listed(tmp_path, images="pics", captions="text")
    with pytest.raises(ValueError, match=r"holds '\.\.'"):
        listed(tmp_path, images="../pics")


@pytest.mark.skipif(not (REAL_DATA / "emoji").is_dir(), reason="the real images are not here")
def test_real_emoji_are_listed_whole():
    options = {"images": "images", "captions": "text"}

    records = listed(REAL_DATA / "emoji", **options)

    assert Counter(r.split for r in records.values()) == {"train": 326, "validation": 34}
    assert {len(texts) for texts in captions(REAL_DATA / "emoji", **options).values()} == {2}
