"""Karpathy's split files: their splits, their images, and files of another shape."""

import json

import pytest

from pipeline.preparation.decoding.images import RejectedError
from pipeline.preparation.sources.karpathy import KarpathySource
from pipeline.preparation.sources.left_aside import counting
from tests.pipeline.preparation.sources.layouts import jpeg, write, write_karpathy


@pytest.mark.parametrize("flat", [False, True])
def test_splits_and_sentences_are_those_of_the_file(flat, tmp_path):
    write_karpathy(tmp_path / "dataset_coco.json", tmp_path / "pictures", flat=flat)
    source = KarpathySource(
        root=str(tmp_path / "dataset_coco.json"), images=str(tmp_path / "pictures")
    )

    records = list(source.records())

    assert [(r.id, r.split) for r in records] == [
        ("train2014/COCO_0.jpg", "train"),
        ("val2014/COCO_1.jpg", "train"),
        ("val2014/COCO_2.jpg", "validation"),
        ("val2014/COCO_3.jpg", "validation"),
    ]
    assert records[1].captions == ("photo 1, 0", "photo 1, 1")
    assert [source.read_image(record) for record in records] == [jpeg(n) for n in range(4)]


def test_splits_that_are_not_chosen_are_counted_and_left_out(tmp_path):
    write_karpathy(tmp_path / "dataset_coco.json", tmp_path)
    chosen = {"train_values": ("train",), "validation_values": ("test",)}

    with counting() as aside:
        records = list(KarpathySource(root=str(tmp_path / "dataset_coco.json"), **chosen).records())

    assert [r.id for r in records] == ["train2014/COCO_0.jpg", "val2014/COCO_3.jpg"]
    assert aside.as_plain() == {"images": {"of split 'restval'": 1, "of split 'val'": 1}}
    with pytest.raises(
        ValueError, match="split 'val' is in --train-values and --validation-values"
    ):
        list(KarpathySource(root=str(tmp_path), train_values=("val",)).records())


def test_images_of_a_file_without_folders_lie_beside_it(tmp_path):
    content = write_karpathy(tmp_path / "dataset_flickr8k.json", tmp_path, flat=True)
    for image in content["images"]:
        del image["filepath"]
    write(tmp_path / "dataset_flickr8k.json", json.dumps(content))
    source = KarpathySource(root=str(tmp_path / "dataset_flickr8k.json"))

    records = list(source.records())

    assert records[0].id == "COCO_0.jpg"
    assert source.read_image(records[0]) == jpeg(0)


def test_a_name_in_the_file_leads_nowhere_but_below_the_images(tmp_path):
    content = write_karpathy(tmp_path / "a/dataset.json", tmp_path / "a")
    content["images"][0] |= {"filepath": "", "filename": "../secret.jpg"}
    write(tmp_path / "a/dataset.json", json.dumps(content))
    write(tmp_path / "secret.jpg", jpeg())
    source = KarpathySource(root=str(tmp_path / "a/dataset.json"))

    (outside,) = [record for record in source.records() if "secret" in record.id]

    with pytest.raises(RejectedError, match="PATH_UNSAFE"):
        source.read_image(outside)


BROKEN = {
    "not JSON": ("{", "is not valid JSON"),
    "a list": ("[]", "has no 'images'"),
    "of COCO": ('{"images": [{"file_name": "a.jpg"}]}', "image 1 has no 'filename'"),
    "a name that is a number": ('{"images": [{"filename": 7}]}', "image 1 has '7', not a text"),
    "zip": ("PK\x03\x04...", "is a zip archive"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_of_another_shape_is_refused(case, tmp_path):
    content, message = BROKEN[case]
    write(tmp_path / "dataset.json", content)

    with pytest.raises(ValueError, match=message):
        list(KarpathySource(root=str(tmp_path / "dataset.json")).records())
