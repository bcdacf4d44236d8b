"""Images in folders with captions beside them."""

import json
import os
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.left_aside import counting
from pipeline.preparation.sources.look import look_at
from pipeline.storage.folder import Folder
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


def test_files_are_images_by_their_content_whatever_their_ending(tmp_path):
    endings = ("", ".jpe", ".jpg_large", ".heif", ".ppm", ".xyz", ".jpg ", ".jpg.webp")
    for number, ending in enumerate(endings):
        write(tmp_path / f"{number}{ending}", jpeg(number))
        write(tmp_path / f"{number}.txt", f"picture {number}")
    write(tmp_path / "alone.xyz", jpeg())
    write(tmp_path / "said.raw", b"of a camera")
    write(tmp_path / "said.txt", "a picture")

    read = captions(tmp_path)

    assert read.pop("alone.xyz") == []
    assert read.pop("said.raw") == [b"a picture"]  # and decoding says what it is
    assert read == {f"{n}{e}": [f"picture {n}".encode()] for n, e in enumerate(endings)}


def test_what_lies_beside_an_image_of_the_same_name_is_left_aside_and_counted(tmp_path):
    for name in ("a.jpg", "a.jpg.bak", "a.psd", "notes.md", ".DS_Store", "00000_stats.json"):
        write(tmp_path / name, jpeg())
    write(tmp_path / "a.npy", "features")
    write(tmp_path / "a.txt", "a picture")
    os.rename(tmp_path / "a.jpg.bak", tmp_path / "a.bak")

    with counting() as aside:
        assert captions(tmp_path) == {"a.jpg": [b"a picture"]}

    kinds = (".bak", ".json", ".md", ".npy", ".psd", "hidden")
    assert aside.as_plain() == {"files": dict.fromkeys(kinds, 1)}


def test_names_in_composed_and_decomposed_unicode_are_the_same(tmp_path):
    write(tmp_path / f"{unicodedata.normalize('NFD', 'café')}.jpg", jpeg())
    write(tmp_path / f"{unicodedata.normalize('NFC', 'café')}.txt", "coffee")

    assert list(captions(tmp_path).values()) == [[b"coffee"]]


def test_captions_may_be_named_after_the_whole_name_of_their_image(tmp_path):
    write(tmp_path / "a.jpg", jpeg())
    write(tmp_path / "a.jpg.txt", "a picture")

    assert captions(tmp_path) == {"a.jpg": [b"a picture"]}


def test_a_table_of_captions_among_the_images_is_said_with_its_command(tmp_path, capsys):
    write(tmp_path / "my data/a.jpg", jpeg())
    write(tmp_path / "my data/metadata.jsonl", "{}")

    listed(tmp_path / "my data")

    command = f"jobs/prepare.py huggingface --root '{tmp_path}/my data'\n"
    assert command in capsys.readouterr().out


PARTS = st.sampled_from(["train", "val", "pics", "text", ".git", "a", "b"])
NAMES = st.builds(
    "{}{}".format,
    st.sampled_from(["a", "b", "é", "x.jpg"]),
    st.sampled_from(["", ".jpg", ".PNG", ".gif", ".txt", ".json", ".md", ".xyz", ".npy", ".raw"]),
)
CONTENT = st.sampled_from([b"\xff\xd8\xff", b"", b"text", b"GIF89a"])
TREES = st.dictionaries(
    st.builds(lambda parts, name: "/".join([*parts, name]), st.lists(PARTS, max_size=3), NAMES),
    CONTENT,
    min_size=1,
    max_size=12,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(TREES, st.sampled_from([("", None), ("pics", "text"), ("text/a", "text"), ("", "text")]))
@example({"text/a": b"\xff\xd8\xff"}, ("text/a", "text"))
@example({"pics/a.jpg": b"", "text/a.txt": b"x", "LICENSE": b"y"}, ("pics", "text"))
def test_every_file_is_listed_once_or_said_to_be_left_aside(tree, places):
    images, texts = places
    # What is a folder in the tree, or a place, is no file.
    folders = (*tree, f"{images}/", f"{texts}/")
    files = {name for name in tree if not any(each.startswith(f"{name}/") for each in folders)}
    with tempfile.TemporaryDirectory() as root, counting() as aside:
        for name in files:
            write(Path(root) / name, tree[name])
        for place in (images, texts or images):
            (Path(root) / place).mkdir(parents=True, exist_ok=True)
        below = [f"{p}/" if p else "" for p in (images, texts or images)]
        files = {n for n in files if n.startswith(tuple(below))}
        try:
            records = list(source_at(root, images=images, captions=texts).records())
        except ValueError as error:
            if "holds no images" not in str(error):
                raise
            return

    used = [r.location for r in records if r.location]
    used += sorted({text for r in records for text in r.texts})
    assert len(used) == len(set(used))
    assert set(used) <= files
    assert len(files) == len(used) + aside.counts.get("files", Counter()).total()


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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["one\ntwo\n", "一只鸟\r\n小鸟", "é"])
def test_a_text_in_utf_16_is_refused_as_a_whole(tmp_path, encoding, text):
    write(tmp_path / "a.jpg", jpeg())
    write(tmp_path / "a.txt", text.encode(encoding))

    if (encoding, text) in {("utf-16-le", "é"), ("utf-16-be", "é")}:  # could be anything
        assert captions(tmp_path) == {"a.jpg": [text.encode(encoding)]}
        return
    with pytest.raises(RejectedError, match=r"CAP_ENCODING: a\.txt is UTF-16: save it as UTF-8"):
        captions(tmp_path)


def test_json_may_hold_nulls_and_keys_of_records_in_a_list(tmp_path):
    values = {
        "a": {"caption": None, "captions": ["one", None]},
        "b": {"meta": {"said": [{"raw": "x"}, {"raw": "y"}]}},
        "c": {"caption": None},
    }
    for name, value in values.items():
        write(tmp_path / f"{name}.jpg", jpeg())
        write(tmp_path / f"{name}.json", json.dumps(value))
    source = source_at(tmp_path)
    deep = source_at(tmp_path, caption_key="meta.said.raw")

    records = {r.id: r for r in source.records()}

    assert source.read_captions(records["a.jpg"]) == ["one"]
    assert source.read_captions(records["c.jpg"]) == []
    assert deep.read_captions(records["b.jpg"]) == ["x", "y"]


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
def test_folders_at_the_top_are_the_split(tmp_path, name):
    for place in ("train/cats", "train", name, "extra"):
        write(tmp_path / place / "a.jpg", jpeg())
    write(tmp_path / name / "a.txt", "held out")

    with counting() as aside:
        records = listed(tmp_path, label="folder")

    assert {r.id: (r.split, r.label) for r in records.values()} == {
        "train/a.jpg": ("train", None),
        "train/cats/a.jpg": ("train", "cats"),
        f"{name}/a.jpg": ("validation", None),
    }
    kind = f"images and captions in neither train nor {name}"
    assert aside.as_plain() == {"files": {kind: 1}}


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


PLACES = {
    "beside": ("a/1.jpg", "a/1.txt", {}),
    "two endings": ("a/1.jpg", "a/1.jpg.txt", {}),
    "parallel": ("images/a/1.jpg", "text/a/1.txt", {"images": "images", "captions": "text"}),
    "deeper": ("x/images/1.jpg", "y/text/1.txt", {"images": "x/images", "captions": "y/text"}),
    "below the images": ("a/1.jpg", "text/a/1.txt", {"captions": "text"}),
    "JSON with a key": ("1.jpg", "1.json", {"caption_key": "meta.caption"}),
}


@pytest.mark.parametrize("case", PLACES)
def test_places_of_captions_are_recognised(case, tmp_path):
    image, text, options = PLACES[case]
    content = '{"width": 3, "meta": {"caption": "a cat"}}' if text.endswith(".json") else "a cat"
    for number in "12":
        write(tmp_path / image.replace("1", number), jpeg(int(number)))
        write(tmp_path / text.replace("1", number), content)

    (fit,) = FolderSource.recognise(look_at(str(tmp_path), Folder(str(tmp_path))))

    source = FolderSource(root=str(tmp_path), **fit.options)
    read = [caption for record in source.records() for caption in source.read_captions(record)]
    assert fit.options == options
    assert [each if isinstance(each, str) else each.decode() for each in read] == ["a cat"] * 2
    assert fit.reason.startswith("2 of 2 images")
