"""Which columns are the images and captions: by names, types and rows, in each format."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.preparation.sources.look import Fit, look_at
from pipeline.preparation.sources.table import TableSource
from pipeline.preparation.sources.table_guess import recognise_tables
from pipeline.storage.folder import Folder
from tests.pipeline.preparation.sources.layouts import jpeg, write, write_table


def found(place: Path) -> list[Fit | str]:
    return list(recognise_tables(look_at(str(place), Folder(str(place)))))


def options(place: Path) -> dict[str, str]:
    """The options of the only table."""
    (fit,) = found(place)
    assert isinstance(fit, Fit), fit
    return fit.options


PATHS = ("1.jpg", "a cat")
CELL = {"bytes": jpeg(), "path": None}
ROWS = {
    "named as usual": ({"image": "1.jpg", "caption": "a cat"}, ("image", "caption")),
    "of hugging face": ({"text": "a cat", "file_name": "1.jpg"}, ("file_name", "text")),
    "upper case": ({"Image_Path": "1.jpg", "TEXT": "a cat", "width": 3}, ("Image_Path", "TEXT")),
    "of flickr": ({"filename": "1.jpg", "raw": '["a cat"]', "sentids": 1}, ("filename", "raw")),
    "two candidates": ({"text": "x", "caption": "a", "img": "1.jpg"}, ("img", "caption")),
}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("case", ROWS)
def test_columns_are_known_by_their_names(case, ending, tmp_path):
    row, (image, caption) = ROWS[case]
    write(tmp_path / "1.jpg", jpeg())
    table = write_table(tmp_path / f"rows.{ending}", [row])

    assert options(tmp_path) == {"root": str(table), "image": image, "caption": caption}
    assert options(table) == {"root": str(table), "image": image, "caption": caption}


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_other_delimiters_are_those_that_give_the_columns(delimiter, tmp_path):
    write(tmp_path / "1.jpg", jpeg())
    rows = delimiter.join(("image", "caption")), delimiter.join(("1.jpg", "a cat, and a dog"))
    table = write(tmp_path / "rows.csv", "\n".join(rows))

    chosen = options(tmp_path)

    assert [record.captions for record in TableSource(**chosen).records()] == [
        ("a cat, and a dog",)
    ]
    assert chosen["root"] == str(table)


PARQUET = {
    "bytes of any name": ({"content": jpeg(), "caption": "a"}, ("content", "caption")),
    "struct": ({"image": CELL, "texts": ["a", "b"]}, ("image", "texts")),
    "records": ({"image": CELL, "sentences": [{"raw": "a", "id": 1}]}, ("image", "sentences.raw")),
    "one record": ({"image": CELL, "text": {"id": 1, "caption": "a"}}, ("image", "text.caption")),
}


@pytest.mark.parametrize("case", PARQUET)
def test_columns_of_parquet_are_known_by_their_types(case, tmp_path):
    row, (image, caption) = PARQUET[case]
    write_table(tmp_path / "rows.parquet", [row])

    chosen = options(tmp_path)

    assert (chosen["image"], chosen["caption"]) == (image, caption)
    (record,) = TableSource(**chosen).records()
    assert record.captions[0] == "a"
    assert TableSource(**chosen).read_image(record) == jpeg()


def test_json_is_a_table_if_it_is_a_list_of_records(tmp_path):
    write(tmp_path / "1.jpg", jpeg())
    records = [{"image": "1.jpg", "sentences": [{"raw": "a cat"}], "split": "val"}] * 20_000
    write(tmp_path / "rows.json", json.dumps({"images": records}))  # longer than what is looked at
    write(tmp_path / "other.json", json.dumps({"1f600": {"name": "grinning face"}}))
    write(tmp_path / "broken.json", "{")

    assert options(tmp_path) == {
        "root": str(tmp_path / "rows.json"),
        "image": "image",
        "caption": "sentences.raw",
        "split": "split",
    }


def test_images_in_another_folder_get_an_option(tmp_path):
    write(tmp_path / "pictures/big/1.jpg", jpeg())
    write_table(tmp_path / "lists/rows.csv", [{"image": "big\\1.jpg", "caption": "a cat"}])

    assert options(tmp_path)["images"] == str(tmp_path / "pictures")


def test_tables_with_the_same_columns_are_prepared_together_and_others_alone(tmp_path):
    for name in ("train-1", "train-2", "val-1"):
        write_table(tmp_path / f"same/{name}.parquet", [{"image": jpeg(), "caption": "a"}])
        write_table(tmp_path / f"other/{name}.parquet", [{"image": jpeg(), name: "a", "text": "b"}])

    together = options(tmp_path / "same")
    alone = [fit.options["root"] for fit in found(tmp_path / "other")]

    assert together["root"] == str(tmp_path / "same")
    assert together["validation_files"] == "val*"
    assert [r.split for r in TableSource(**together).records()] == ["train", "train", "validation"]
    assert alone == [str(tmp_path / f"other/{n}.parquet") for n in ("train-1", "train-2", "val-1")]


def test_a_table_of_gzip_is_read_if_there_is_no_other(tmp_path):
    write(tmp_path / "1.jpg", jpeg())
    write(tmp_path / "rows.csv.gz", gzip.compress(b"image,caption\n1.jpg,a cat\n"))

    assert options(tmp_path)["root"] == str(tmp_path / "rows.csv.gz")


def test_what_is_no_table_of_images_is_said(tmp_path):
    pixels = pa.table({"image": pa.array([[1, 2]], pa.list_(pa.uint8())), "caption": ["a"]})
    pq.write_table(pixels, tmp_path / "pixels.parquet")
    write(tmp_path / "a.parquet", b"PAR1 and no more")
    write(tmp_path / "headless.tsv", "a cat\t1.jpg\n")
    write(tmp_path / "empty.csv", "image,caption\n")
    write_table(tmp_path / "records.parquet", [{"image": jpeg(), "text": {"id": 1}}])

    said = "\n".join(str(each) for each in found(tmp_path))

    assert "pixels.parquet: column 'image' is list<element: uint8>" in said
    assert "a.parquet is not parquet or Arrow that can be read" in said
    assert "headless.tsv has no column of images: 'a cat', '1.jpg'" in said
    assert "empty.csv holds no rows" in said
    assert "records.parquet: column 'text' has records without a caption: id" in said
