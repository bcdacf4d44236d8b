"""Oxford-102: captions by class or flat, and each way to a split."""

import pickle
from collections import Counter

import pytest

from pipeline.preparation.sources.oxford102 import Oxford102Source
from ratgan.weights.restricted_pickle import load_foreign_pickle
from tests.conftest import REAL_DATA
from tests.pipeline.preparation.sources.layouts import jpeg, outcome, write, write_flowers


def listed(root, **options):
    return {r.id: r for r in Oxford102Source(root=str(root), **options).records()}


def held_out(records):
    return {r.label for r in records.values() if r.split == "validation"}


def test_classes_of_reeds_list_are_held_out(tmp_path, capsys):
    write_flowers(tmp_path)
    write(tmp_path / "testclasses.txt", "class_00002\nclass_00005\n")

    records = listed(tmp_path)

    assert held_out(records) == {"class_00002", "class_00005"}
    assert len(records) == 10
    assert "2 of 5 classes are held out, by Reed's lists" in capsys.readouterr().out
    source = Oxford102Source(root=str(tmp_path))
    read = outcome(source, records["image_00003"])
    assert read == ([b"flower 3", b"a flower"], jpeg(3))


def test_a_list_of_training_classes_alone_holds_out_the_others(tmp_path):
    write_flowers(tmp_path)
    write(tmp_path / "trainvalclasses.txt", "class_00001\nclass_00002\nclass_00003\nclass_00004\n")

    assert held_out(listed(tmp_path)) == {"class_00005"}


def test_without_lists_whole_classes_are_drawn_from_the_seed_and_it_is_said(tmp_path, capsys):
    write_flowers(tmp_path, classes=10)

    first, again, other = (listed(tmp_path, seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert len(held_out(first)) == len(held_out(other)) == 2
    assert held_out(first) != held_out(other)
    train = {r.label for r in first.values() if r.split == "train"}
    assert not train & held_out(first)
    said = capsys.readouterr().out
    assert "2 of 10 classes are held out, drawn from seed 0: not the published ones" in said


def test_as_published_each_image_is_in_both_splits(tmp_path):
    write_flowers(tmp_path, by_class=False)
    source = Oxford102Source(root=str(tmp_path), split="published-none")

    records = list(source.records())

    assert source.overlapping
    assert not Oxford102Source(root=str(tmp_path)).overlapping
    assert len({r.id for r in records}) == 20
    locations = [{r.location for r in records if r.split == s} for s in ("train", "validation")]
    assert locations[0] == locations[1]


def test_flat_captions_take_their_classes_from_the_published_pickle(tmp_path):
    write_flowers(tmp_path, by_class=False)
    names = [f"image_{i:05d}" for i in range(1, 11)]
    labels = [f"kind {i // 2}" for i in range(10)]
    pickled = pickle.dumps({"img": names, "cat": labels}, protocol=2)
    write(tmp_path / "flower_cat_dic.pkl", pickled)

    records = listed(tmp_path)

    assert records["image_00003"].label == "kind 1"
    assert len(held_out(records)) == 1


def test_an_image_or_a_caption_alone_is_listed_so_that_it_is_counted(tmp_path):
    write_flowers(tmp_path)
    (tmp_path / "text_c10/class_00001/image_00001.txt").unlink()
    (tmp_path / "jpg/image_00002.jpg").unlink()

    records = listed(tmp_path)

    assert records["image_00001"].texts == ()
    assert records["image_00002"].location == ""


def break_layout(root, case):
    if case == "no root":
        return root / "nowhere", r"does not exist\. Name the folder of your Oxford-102 copy"
    if case == "no jpg":
        (root / "jpg").rename(root / "images")
        return (
            root,
            r"/jpg does not exist: unpack 102flowers\.tgz there\. It holds images, text_c10",
        )
    if case == "no classes":
        (root / "text_c10").rename(root / "old")
        write(root / "text/image_00001.txt", "a flower")
        return root, r"has no classes of images.*--split published-none"
    if case == "lists that overlap":
        write(root / "testclasses.txt", "class_00001")
        write(root / "trainvalclasses.txt", "class_00001")
        return root, r"'class_00001' is in both trainvalclasses\.txt and testclasses\.txt"
    if case == "lists of other classes":
        write(root / "testclasses.txt", "rose")
        return root, "hold out no class of the images. They name classes such as 'rose'"
    if case == "an empty list":
        write(root / "testclasses.txt", "")
        return root, r"testclasses\.txt is empty"
    for file in (root / "jpg").iterdir():
        file.unlink()
    return root, "/jpg holds no image_00001.jpg"


@pytest.mark.parametrize(
    "case",
    [
        *("no root", "no jpg", "no classes", "lists that overlap", "lists of other classes"),
        *("an empty list", "no images"),
    ],
)
def test_what_is_wrong_with_the_layout_is_said(case, tmp_path):
    write_flowers(tmp_path)
    root, message = break_layout(tmp_path, case)

    with pytest.raises(ValueError, match=message):
        listed(root)


@pytest.mark.skipif(not (REAL_DATA / "flowers").is_dir(), reason="the real data are not here")
def test_the_real_list_of_flowers_gives_102_classes_of_which_20_are_held_out(tmp_path):
    content = (REAL_DATA / "flowers" / "flower_cat_dic.pkl").read_bytes()
    write(tmp_path / "flower_cat_dic.pkl", content)
    names = load_foreign_pickle(content, "it")["img"]
    for folder, ending in (("jpg", "jpg"), ("text", "txt")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.{ending}").touch()

    records = listed(tmp_path)

    assert len(records) == 8189
    assert len(held_out(records)) == 20
    assert len({r.label for r in records.values()}) == 102
    counts = Counter(r.split for r in records.values())
    assert counts["train"] > 4 * counts["validation"] > 0, counts
