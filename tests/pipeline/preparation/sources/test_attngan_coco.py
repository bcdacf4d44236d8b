"""COCO as AttnGAN and DF-GAN lay it out: their split, images and texts in each usual place."""

import pytest

from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.left_aside import counting
from tests.conftest import write_coco
from tests.pipeline.preparation.sources.layouts import (
    jpeg,
    write,
    write_attngan_coco,
    write_pickles,
)


@pytest.mark.parametrize("texts", ["text", "{split}"])
@pytest.mark.parametrize("images", ["images", "images/{year}", "{year}", "{split}"])
def test_images_and_captions_are_found_in_each_usual_place(images, texts, tmp_path):
    write_attngan_coco(tmp_path, images, texts)
    source = CocoSource(root=str(tmp_path))

    records = list(source.records())

    assert [(r.id, r.split) for r in records] == [
        ("COCO_train2014_000000000004", "train"),
        ("COCO_train2014_000000000007", "train"),
        ("COCO_val2014_000000000009", "validation"),
    ]
    assert source.read_captions(records[2]) == [b"photo 2", b"a photo"]
    assert [source.read_image(record) for record in records] == [jpeg(n) for n in range(3)]


def test_another_image_folder_is_an_option_inside_of_the_root(tmp_path):
    write_attngan_coco(tmp_path, "my {{x}} pictures/{year}")

    with pytest.raises(ValueError, match=r"Name the folder of the images, below root, with --im"):
        list(CocoSource(root=str(tmp_path)).records())
    with pytest.raises(ValueError, match=r"holds '\.\.'"):
        list(CocoSource(root=str(tmp_path), images="../other").records())
    assert len(list(CocoSource(root=str(tmp_path), images="my {x} pictures").records())) == 3


def test_a_missing_image_is_listed_and_a_text_of_no_image_is_counted(tmp_path, capsys):
    write_attngan_coco(tmp_path)
    (tmp_path / "images/COCO_train2014_000000000004.jpg").unlink()
    write(tmp_path / "text/COCO_train2014_000000000099.txt", "in no list")
    source = CocoSource(root=str(tmp_path))

    with counting() as aside:
        records = list(source.records())

    assert len(records) == 3
    with pytest.raises(FileNotFoundError):
        source.read_image(records[0])
    said = capsys.readouterr().out
    assert "2 training and 1 validation images, by train and test/filenames.pickle" in said
    assert aside.as_plain() == {"files": {".txt": 1}}


def test_a_layout_without_texts_or_names_is_refused(tmp_path):
    write_attngan_coco(tmp_path, texts="elsewhere")

    with pytest.raises(ValueError, match=r"no captions of these images, such as text/COCO_train20"):
        list(CocoSource(root=str(tmp_path)).records())
    write_pickles(tmp_path, [], [])
    with pytest.raises(ValueError, match=r"both filenames\.pickle list no images"):
        list(CocoSource(root=str(tmp_path)).records())
    (tmp_path / "test/filenames.pickle").unlink()
    with pytest.raises(ValueError, match="A split needs both: add it, or remove the other"):
        list(CocoSource(root=str(tmp_path)).records())


def test_names_of_a_list_lead_nowhere_but_below_the_root(tmp_path):
    write(tmp_path / "secret.jpg", jpeg())
    root = tmp_path / "coco"
    write_attngan_coco(root)
    write_pickles(root, ["../../secret", "COCO_train2014_000000000004"], [])
    source = CocoSource(root=str(root))

    (outside,) = [record for record in source.records() if "secret" in record.id]

    with pytest.raises(Exception, match="PATH_UNSAFE"):
        source.read_image(outside)


def test_captions_as_downloaded_come_before_the_lists(tmp_path):
    write_attngan_coco(tmp_path)
    for name in ("train2017", "val2017"):
        write_coco(tmp_path, name, {1: ["one"]})

    assert [r.captions for r in CocoSource(root=str(tmp_path)).records()] == [("one",)] * 2
