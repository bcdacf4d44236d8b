"""CUB-200-2011: both layouts, the split with and without file lists, boxes and captions."""

import re
from collections import Counter

import pytest

from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.cub import TEST_CLASSES, CubSource
from pipeline.preparation.sources.left_aside import counting
from ratgan.weights.restricted_pickle import load_foreign_pickle
from tests.conftest import REAL_DATA
from tests.corpus_pickles import bad_pickles
from tests.pipeline.preparation.sources.layouts import (
    BIRDS,
    jpeg,
    outcome,
    write,
    write_cub,
    write_pickles,
)

PUBLISHED = {name: "validation" if name[:3] in ("001", "004") else "train" for name in BIRDS}


def listed(root, **options):
    return {r.id: r for r in CubSource(root=str(root), **options).records()}


@pytest.mark.parametrize(
    ("base", "texts"),
    [
        ("CUB_200_2011", "text"),
        ("CUB_200_2011", "text_c10"),
        ("CUB_200_2011", "cvpr2016_cub/text_c10"),
        ("", "text_c10"),
        ("CUB_200_2011", "CUB_200_2011/text"),
    ],
)
def test_each_layout_gives_the_published_split_boxes_classes_and_captions(tmp_path, base, texts):
    write_cub(tmp_path, base, texts)

    records = listed(tmp_path)

    assert {name: r.split for name, r in records.items()} == PUBLISHED
    assert {name: r.box for name, r in records.items()} == BIRDS
    assert records["001.Albatross/Albatross_1"].label == "001.Albatross"
    source = CubSource(root=str(tmp_path))
    assert outcome(source, records["002.Laysan/Laysan_1"]) == ([b"a bird", b"bird 2"], jpeg(2))


@pytest.mark.parametrize("kind", [str, str.encode])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_file_lists_define_the_dataset(tmp_path, protocol, kind):
    write_cub(tmp_path)
    train, test = ["002.Laysan/Laysan_2", "001.Albatross/Albatross_1"], ["002.Laysan/Laysan_1"]
    write_pickles(tmp_path, [kind(n) for n in train], [kind(n) for n in test], protocol)

    with counting() as aside:
        records = listed(tmp_path)

    assert {n: r.split for n, r in records.items()} == {
        train[0]: "train",
        train[1]: "train",
        test[0]: "validation",
    }
    kinds = ("captions of images in neither filenames.pickle", "images in neither filenames.pickle")
    assert aside.as_plain() == {"files": dict.fromkeys(kinds, 1)}


def test_what_lists_name_and_is_not_there_stays_a_record(tmp_path, capsys):
    write_cub(tmp_path)
    write_pickles(tmp_path, ["002.Laysan/Gone", "../../etc/passwd"], [next(iter(BIRDS))])
    write(tmp_path / "text/009.New/Nobody_1.txt", "a caption of no image")
    source = CubSource(root=str(tmp_path))

    records = listed(tmp_path)

    with pytest.raises(FileNotFoundError):
        source.read_image(records["002.Laysan/Gone"])
    with pytest.raises(RejectedError, match="PATH_UNSAFE"):
        source.read_image(records["../../etc/passwd"])
    assert records["009.New/Nobody_1"].location == ""
    assert "2 images have no line in CUB_200_2011/bounding_boxes.txt" in capsys.readouterr().out


def test_an_image_without_captions_is_listed_without(tmp_path):
    write_cub(tmp_path)
    (tmp_path / "text/004.Ani/Ani_1.txt").unlink()

    record = listed(tmp_path)["004.Ani/Ani_1"]

    assert (record.captions, record.texts) == ((), ())


def test_a_text_file_too_large_for_captions_is_refused_unread(tmp_path):
    write_cub(tmp_path)
    write(tmp_path / "text/004.Ani/Ani_1.txt", "x" * 70_000)
    source = CubSource(root=str(tmp_path))

    with pytest.raises(RejectedError, match=r"CAP_TOO_LONG: text/004\.Ani/Ani_1\.txt has 70,000"):
        source.read_captions(listed(tmp_path)["004.Ani/Ani_1"])


def break_layout(root, case):
    home = root / "CUB_200_2011"
    if case == "no root":
        return root / "nowhere", "does not exist. Name the folder of your CUB-200-2011 copy"
    if case == "another folder":
        return root / "text", r"neither it nor CUB_200_2011 in it has images\.txt\. It holds 001\."
    if case == "no boxes":
        (home / "bounding_boxes.txt").unlink()
        return root, r"CUB_200_2011/ has no bounding_boxes\.txt: unpack all of"
    if case == "no captions":
        (root / "text").rename(root / "elsewhere")
        return root, r"/text does not exist, so there are no captions\. .* with --captions"
    if case == "a damaged box":
        write(home / "bounding_boxes.txt", "1 1.0 2.0 x 4.0\n")
        return root, r"bounding_boxes\.txt, line 1: could not convert .* for example"
    if case == "a cut line":
        write(home / "images.txt", "1 a/b.jpg\n2\n")
        return root, r"images\.txt, line 2 has 1 words, not 2"
    if case == "no images":
        write(home / "images.txt", "\n")
        return root, "lists no images"
    if case == "one list":
        write_pickles(root, [], [])
        (root / "test/filenames.pickle").unlink()
        return root, r"/test/filenames\.pickle does not exist, and train/filenames\.pickle does"
    if case == "an image in both lists":
        write_pickles(root, [*BIRDS], [next(iter(BIRDS))])
        return root, r"1 images are in both filenames\.pickle, for example '001.A"
    write_pickles(root, [3], [])
    return root, r"train/filenames\.pickle is not a list of file names"


@pytest.mark.parametrize(
    "case",
    [
        *("no root", "another folder", "no boxes", "no captions", "a damaged box", "a cut line"),
        *("no images", "one list", "an image in both lists", "numbers for names"),
    ],
)
def test_what_is_wrong_with_the_layout_is_said(case, tmp_path):
    write_cub(tmp_path)
    root, message = break_layout(tmp_path, case)

    with pytest.raises(ValueError, match=f"(?s){message}"):
        listed(root)


def test_a_malicious_file_list_is_refused_and_does_not_run(tmp_path):
    write_cub(tmp_path)
    write_pickles(tmp_path, [], [])
    marker = tmp_path / "executed"
    bad = bad_pickles(marker)
    for case in ("runs code, protocol 0", "runs code, protocol 5", "eval", "cut short"):
        write(tmp_path / "train/filenames.pickle", bad[case][0])
        with pytest.raises(ValueError, match=r"train/filenames\.pickle is refused: "):
            listed(tmp_path)

    assert not marker.exists()


REAL = pytest.mark.skipif(not (REAL_DATA / "cub").is_dir(), reason="the real images are not here")


@REAL
def test_the_real_sample_is_the_same_by_its_lists_and_by_class_numbers(tmp_path):
    root = REAL_DATA / "cub" / "birds"
    by_lists = listed(root)
    for name in ("CUB_200_2011", "text"):
        (tmp_path / name).symlink_to(root / name)

    by_classes = listed(tmp_path)

    assert by_classes == by_lists
    assert Counter(r.split for r in by_lists.values()) == {"train": 97, "validation": 101}
    source = CubSource(root=str(root))
    assert {len(source.read_captions(r)) for r in by_lists.values()} == {10}
    assert all(r.box and source.read_image(r) for r in by_lists.values())


@REAL
def test_class_numbers_give_the_real_lists_of_all_images():
    home = REAL_DATA / "metadata" / "birds"
    lines = (home / "CUB_200_2011" / "images.txt").read_text().splitlines()
    names = {line.split()[1].removesuffix(".jpg") for line in lines}
    lists = {
        split: load_foreign_pickle((home / split / "filenames.pickle").read_bytes(), split)
        for split in ("train", "test")
    }

    held_out = {name for name in names if int(re.split(r"\.", name)[0]) in TEST_CLASSES}

    assert held_out == set(lists["test"])
    assert names - held_out == set(lists["train"])
    assert (len(lists["train"]), len(lists["test"]), len(TEST_CLASSES)) == (8855, 2933, 50)
