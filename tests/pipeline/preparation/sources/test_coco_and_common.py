"""Sources: shapes that mean what they say, and COCO as it is found."""

import io
import json
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.shapes import (
    COLOURS,
    PLACES,
    Colour,
    ShapesSource,
    describe,
    render,
)
from tests.conftest import REAL_DATA, write_coco
from tests.pipeline.preparation.sources.layouts import write


def test_coco_finds_image_folders_one_level_deeper_and_where_an_option_says(tmp_path):
    for name in ("train2017", "val2017"):
        write_coco(tmp_path / "deep", name, {1: ["one"]})
        write_coco(tmp_path / "other", name, {1: ["one"]})
        deep, other = tmp_path / "deep" / name, tmp_path / "other" / name
        deep.rename(tmp_path / "aside")
        deep.mkdir()
        (tmp_path / "aside").rename(deep / name)
        (tmp_path / "other/images").mkdir(exist_ok=True)
        other.rename(tmp_path / "other/images" / name)

    with pytest.raises(ValueError, match=r"It is in images: add --images images\."):
        list(CocoSource(root=str(tmp_path / "other")).records())
    with pytest.raises(ValueError, match=r"holds '\.\.'"):
        list(CocoSource(root=str(tmp_path / "other"), images="../deep").records())
    for source in (
        CocoSource(root=str(tmp_path / "deep")),
        CocoSource(root=str(tmp_path / "other"), images="images"),
    ):
        records = list(source.records())
        assert len(records) == 2
        assert all(source.read_image(record) for record in records)


def test_shapes_are_a_function_of_their_seed():
    first, again, other = (list(ShapesSource(count=20, seed=s).records()) for s in (3, 3, 4))
    source = ShapesSource(count=20, seed=3)

    assert first == again
    assert [r.captions for r in first] != [r.captions for r in other]
    assert source.read_image(first[7]) == source.read_image(again[7])


def test_more_shapes_do_not_change_the_first_ones():
    few, many = list(ShapesSource(count=10).records()), list(ShapesSource(count=50).records())

    assert [r.captions for r in few] == [r.captions for r in many[:10]]


def test_shapes_have_the_colours_that_are_named():
    some = ShapesSource(count=40, colours=("white", "red"))
    every = ShapesSource(count=40, colours=get_args(Colour))

    said = {t["colour"] for r in some.records() for t in (r.meaning or {})["objects"]}

    assert said == {"white", "red"}
    assert list(every.records()) == list(ShapesSource(count=40).records())
    with pytest.raises(ValueError, match="pink"):
        ShapesSource(count=40, colours=("pink",))


def test_captions_say_the_meaning_beside_them():
    for record in ShapesSource(count=200, pairs=0.5).records():
        assert record.meaning is not None
        for caption in record.captions:
            for thing in record.meaning["objects"]:
                assert f"{thing['colour']} {thing['shape']}" in caption
        assert len(record.meaning["objects"]) == (2 if "relation" in record.meaning else 1)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("colour", COLOURS)
def test_drawn_shape_has_its_colour_at_its_place(place, colour):
    meaning = {"objects": [{"colour": colour, "shape": "square", "size": "large", "place": place}]}

    image = np.asarray(render(meaning, 64, np.random.default_rng(0))).astype(int)

    x, y = (int(64 * share) for share in PLACES[place][1])
    assert np.abs(image[y, x] - COLOURS[colour]).max() <= 20
    elsewhere = image[63 - y, 63 - x] if place != "centre" else image[2, 2]
    assert np.abs(elsewhere - COLOURS[colour]).max() > 40


def test_large_shapes_cover_more_than_small_ones():
    def covered(size: str) -> int:
        thing = {"colour": "yellow", "shape": "circle", "size": size, "place": "centre"}
        image = np.asarray(render({"objects": [thing]}, 64, np.random.default_rng(1))).astype(int)
        return int((np.abs(image - COLOURS["yellow"]).max(2) < 40).sum())

    assert covered("large") > 2.5 * covered("small") > 0


def test_relation_is_said_and_drawn_the_same_way():
    def thing(colour: str) -> dict[str, str]:
        return {"colour": colour, "shape": "square", "size": "large"}

    meaning = {"objects": [thing("red"), thing("blue")], "relation": "left of"}

    image = np.asarray(render(meaning, 64, np.random.default_rng(0))).astype(int)

    assert "red square" in describe(meaning, np.random.default_rng(0)).split(" left of ")[0]
    assert image[32, 17, 0] > image[32, 17, 2] + 50, "red on the left"
    assert image[32, 46, 2] > image[32, 46, 0] + 50, "blue on the right"


def test_coco_lists_images_by_id_with_captions_by_theirs(tmp_path):
    content = write_coco(tmp_path, "train2017", {9: ["nine b", "nine a"], 2: ["two"]})
    write_coco(tmp_path, "val2017", {5: ["five"]})
    content["annotations"].reverse()
    (tmp_path / "annotations/captions_train2017.json").write_text(json.dumps(content))

    records = list(CocoSource(root=str(tmp_path)).records())

    assert [(r.id, r.split, r.captions) for r in records] == [
        ("train2017-000000000002", "train", ("two",)),
        ("train2017-000000000009", "train", ("nine b", "nine a")),
        ("val2017-000000000005", "validation", ("five",)),
    ]
    image = CocoSource(root=str(tmp_path)).read_image(records[0])
    assert Image.open(io.BytesIO(image)).size == (60, 40)


def test_coco_captions_without_an_image_are_listed_so_that_they_are_counted(tmp_path):
    content = write_coco(tmp_path, "train2017", {1: ["one"]})
    content["annotations"].append({"id": 77, "image_id": 404, "caption": "nowhere"})
    (tmp_path / "annotations/captions_train2017.json").write_text(json.dumps(content))
    write_coco(tmp_path, "val2017", {5: ["five"]})
    source = CocoSource(root=str(tmp_path))

    orphan = [record for record in source.records() if record.id.endswith("404")]

    assert len(orphan) == 1
    assert orphan[0].location == ""
    assert orphan[0].captions == ("nowhere",)


def test_coco_ids_may_be_texts_or_floats_and_the_file_may_start_with_a_mark(tmp_path):
    content = write_coco(tmp_path, "train2017", {7: ["one", "two"]})
    write_coco(tmp_path, "val2017", {5: ["five"]})
    content["images"] += [{**content["images"][0], "id": "7"}]  # listed twice
    content["annotations"][0] |= {"image_id": "7", "id": "1"}
    content["annotations"][1] |= {"image_id": 7.0, "id": 2.0}
    text = json.dumps(content).encode("utf-8-sig")
    write(tmp_path / "annotations/captions_train2017.json", text)

    records = list(CocoSource(root=str(tmp_path)).records())

    assert records[0].id == "train2017-000000000007"
    assert records[0].captions == ("one", "two")
    assert len(records) == 2


BROKEN = {
    "not json": ("{", "is not valid JSON, after its start:"),
    "a list": ("[]", "is not a COCO captions file"),
    "without annotations": ('{"images": [{"id": 1, "file_name": "a.jpg"}]}', "and 0 'annotations'"),
    "instances": (
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1}]}',
        "no 'caption'",
    ),
    "caption is a number": (
        '{"images": [{"id": 1, "file_name": "a.jpg"}],'
        ' "annotations": [{"id": 1, "image_id": 1, "caption": 3}]}',
        r"\(annotations\[0\]: caption 1 is int, not text\)",
    ),
    "id is a text": ('{"images": [{"id": "x", "file_name": "a.jpg"}]}', "id 'x' is not a whole"),
    "name is a number": ('{"images": [{"id": 1, "file_name": 7}]}', "file_name 7 is not text"),
    "an id twice": (
        '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}',
        r"json, images\[1\]: .* names two images, 'train2017/a.jpg' and 'train2017/b.jpg'",
    ),
    "cut short": (
        '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"i',
        r"is not valid JSON, after images\[1\]:",
    ),
    "no images": ('{"images": [], "annotations": []}', "lists 0 'images'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_captions_file_of_another_shape_is_refused(case, tmp_path):
    write_coco(tmp_path, "train2017", {1: ["one"]})
    content, message = BROKEN[case]
    (tmp_path / "annotations/captions_train2017.json").write_text(content)

    with pytest.raises(ValueError, match=message):
        list(CocoSource(root=str(tmp_path)).records())


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"does not exist\. Name the folder of your COCO copy"):
        list(CocoSource(root=str(tmp_path / "nowhere")).records())
    write_coco(tmp_path, "train2014", {1: ["one"]})
    with pytest.raises(ValueError, match=r"Caption files there: captions_train2014\.json"):
        list(CocoSource(root=str(tmp_path)).records())


@pytest.mark.skipif(not (REAL_DATA / "coco").is_dir(), reason="the real images are not here")
def test_real_coco_sample_is_listed_whole():
    records = list(CocoSource(root=str(REAL_DATA / "coco")).records())

    assert [sum(r.split == split for r in records) for split in ("train", "validation")] == [39, 69]
    assert {len(record.captions) for record in records} == {5}
