"""`prepare.py auto`: which source fits, why, and a command that prepares it."""

import gzip
import json
import os
import shlex
import uuid
from pathlib import Path

import fsspec
import pytest

from pipeline.cli.main import parse
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.recognise import SOURCES, AutoConfig, recognise
from pipeline.preparation.sources import look
from pipeline.storage.folder import Folder
from tests.conftest import write_coco
from tests.pipeline.preparation.sources.layouts import (
    every_source,
    jpeg,
    write,
    write_cub,
    write_flowers,
    write_img2dataset,
    write_karpathy,
    write_pickles,
    write_table,
    write_tar,
)

ODD = "my data [v2]; $(x) 'ü' {a,b}"


def shown(root: Path | str, capsys, **options) -> list[tuple[str, str, list[str]]]:
    """What is printed of a place: names of sources, reasons, and commands as words."""
    capsys.readouterr()
    recognise(AutoConfig(root=str(root), **options))
    lines = capsys.readouterr().out.splitlines()
    commands = [n for n, line in enumerate(lines) if line.startswith("    python")]
    return [(*lines[n - 1].split(": ", 1), shlex.split(lines[n])) for n in commands]


def prepared(words: list[str]) -> PrepareConfig:
    assert words[:2] == ["python", "jobs/prepare.py"]
    return parse(PrepareConfig, words[2:])


def test_every_layout_is_recognised_and_its_command_lists_the_same_records(tmp_path, capsys):
    sources = every_source(tmp_path / ODD)
    by_options = {"oxford102 as published", "table, jsonl"}  # of the user

    for name, source in sources.items():
        if name in by_options:
            continue
        place = Path(source.root.split("{")[0] if name == "webdataset" else source.root)
        place = Path(sources["webdataset"].root).parent if name == "webdataset" else place
        found = shown(place, capsys, image_size=64)

        first, _, words = found[0]
        config = prepared(words)
        assert first == source.name == config.source.name, name
        assert words[-4:-1] == ["--image-size", "64", "--output"], name
        listed = [(r.id, r.captions) for r in config.source.records()]
        assert listed == [(r.id, r.captions) for r in source.records()], name


def test_what_is_in_a_bucket_gets_the_commands_of_a_disk(s3_server, tmp_path, capsys):
    every_source(tmp_path)
    endpoint = s3_server.options
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "s3", endpoint)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        filesystem = fsspec.filesystem("s3")
        bucket = f"recognised-{uuid.uuid4().hex[:8]}"
        filesystem.mkdir(bucket)
        filesystem.put(f"{tmp_path}/", f"{bucket}/", recursive=True)
        for folder in sorted(tmp_path.iterdir()):
            there = shown(f"s3://{bucket}/{folder.name}", capsys)
            here = shown(folder, capsys)
            assert json.dumps(there).replace(f"s3://{bucket}", str(tmp_path)) == json.dumps(here)
        everything = {name for name, _, _ in shown(f"s3://{bucket}", capsys)}

    assert everything >= {"coco", "cub", "oxford102", "karpathy", "img2dataset", "folder", "table"}


def test_several_layouts_are_listed_the_most_specific_one_first(tmp_path, capsys):
    write_img2dataset(tmp_path / "files", "files")
    for i in range(3):
        write(tmp_path / f"mixed/{i}.jpg", jpeg(i))
        write(tmp_path / f"mixed/{i}.txt", "a cat")
    write_table(tmp_path / "mixed/rows.csv", [{"image": "0.jpg", "caption": "a cat"}])
    write_tar(tmp_path / "mixed/a.tar", {"0.jpg": jpeg(), "0.txt": "a cat"})

    assert [name for name, _, _ in shown(tmp_path / "files", capsys)] == ["img2dataset", "folder"]
    names = [name for name, _, _ in shown(tmp_path / "mixed", capsys)]
    assert names == ["folder", "table", "webdataset"]


def test_layouts_in_folders_of_the_root_are_found_and_prepared_datasets_left_aside(
    tmp_path, capsys
):
    for name in ("train2014", "val2014"):
        write_coco(tmp_path / "downloads/coco", name, {1: ["one"]})
    write_cub(tmp_path / "birds")
    write_table(tmp_path / "coco-256/train/part-00000.parquet", [{"image": b"", "caption": "x"}])
    write(tmp_path / "coco-256/manifest.json", '{"schema_version": 4}')

    found = shown(tmp_path, capsys)
    recognise(AutoConfig(root=str(tmp_path)))

    roots = {name: prepared(words).source.root for name, _, words in found}
    assert roots["cub"] == str(tmp_path / "birds")
    assert roots["coco"] == str(tmp_path / "downloads/coco")
    assert "table" not in roots
    assert f"{tmp_path}/coco-256/ is a prepared dataset: left aside" in capsys.readouterr().out


def test_layouts_behind_links_are_recognised(tmp_path, capsys):
    write_img2dataset(tmp_path / "disk/a", "files")
    write_cub(tmp_path / "disk/b")
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "disk" / name)

    found = {name: prepared(words).source for name, _, words in shown(tmp_path / "data", capsys)}

    assert len(list(found["img2dataset"].records())) == 6
    assert len(list(found["cub"].records())) == 4


HUGGING_FACE = {
    "data/train-00000-of-00002.parquet": b"",
    "plain_text/test/0000.parquet": b"",
    "metadata.jsonl": b'{"file_name": "1.jpg", "text": "a cat"}\n',
    "train/metadata.csv": b"file_name,text\n",
    "dataset_dict.json": b'{"splits": ["train"]}',
    "train/state.json": b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}',
    "README.md": b"---\nlicense: mit\ndataset_info:\n  features: []\n---\n# Cats\n",
}


@pytest.mark.parametrize("file", HUGGING_FACE)
def test_what_hugging_face_writes_is_recognised_by_its_files(file, tmp_path, capsys):
    if file.endswith(".parquet"):
        write_table(tmp_path / file, [{"picture": {"bytes": jpeg(), "path": None}, "words": "a"}])
    else:
        write(tmp_path / file, HUGGING_FACE[file])

    name, reason, words = shown(tmp_path, capsys)[0]

    assert name == "huggingface"
    assert reason.startswith(f"{file}, ")
    assert words[2:5] == ["huggingface", "--root", str(tmp_path)]


def test_a_cache_of_the_hub_is_recognised_by_its_folders(tmp_path, capsys):
    write(tmp_path / "blobs/0a1b", b"PAR1")
    (tmp_path / "snapshots/0123").mkdir(parents=True)

    assert [name for name, _, _ in shown(tmp_path, capsys)] == ["huggingface"]


def lay_almost(root: Path, case: str) -> str:
    """Lay out something that lacks a part; returns what is said of it."""
    if case == "coco":
        write_coco(root, "train2017", {1: ["one"]})
        for file in (root / "train2017").iterdir():
            file.unlink()
        (root / "train2017").rmdir()
        write(root / "annotations/captions_val2017.json", "{}")
        return "coco: .* are there, and folders train2017 and val2017 with the images are not"
    if case == "annotations":
        write(root / "captions_train2017.json", "{}")
        return "coco: captions of COCO: name the folder above"
    if case == "attngan":
        write_pickles(root, ["COCO_train2014_000000000004"], ["COCO_val2014_000000000005"])
        return (
            r"coco: train/filenames\.pickle and .* are there, and images of COCO and texts are not"
        )
    if case == "cub":
        write_cub(root, texts="elsewhere")
        for file in (root / "elsewhere").rglob("*.txt"):
            file.unlink()
        return "cub: .* are there, and no captions"
    if case == "oxford102":
        write_flowers(root)
        for file in (root / "text_c10").rglob("*.txt"):
            file.unlink()
        (root / "text_c10").rename(root / "other")
        return r"oxford102: jpg/image_00001\.jpg is there, and text or text_c10 is not"
    if case == "labels":
        write(root / "imagelabels.mat", b"MATLAB")
        return r"oxford102: .*imagelabels\.mat is there, and jpg/image_00001\.jpg is not"
    if case == "karpathy":
        content = write_karpathy(root / "dataset_coco.json")
        content["images"][0]["filename"] = "../outside.jpg"
        write(root / "dataset_coco.json", json.dumps(content))
        write(root.parent / "outside.jpg", jpeg())
        return r"karpathy: dataset_coco\.json is .*, and its images are elsewhere: --root .* --im"
    if case == "img2dataset":
        write(root / "00000_stats.json", "{}")
        return "img2dataset: .* has no images of img2dataset"
    if case == "tar":
        write_tar(root / "a.tar", {"1.cls": "3", "1.jpg": jpeg()})
        return r"webdataset: a\.tar has no captions: its members are "
    if case == "tar.gz":
        write(root / "a.tar.gz", b"\x1f\x8b")
        return r"webdataset: a\.tar\.gz is compressed: unpack it"
    if case == "images":
        write(root / "1.jpg", jpeg())
        return "folder: 1 images were seen, and no captions of the same names"
    if case == "columns":
        write_table(root / "rows.csv", [{"image": "1.jpg", "width": 3}])
        return r"table: rows\.csv has no column of captions: 'image', 'width'"
    if case == "addresses":
        write_table(root / "rows.csv", [{"image": "https://x/1.jpg", "caption": "a cat"}])
        return r"table: rows\.csv names images by their addresses: download them first"
    write(root.parent / "outside.jpg", jpeg())
    bad = str(root.parent / "outside.jpg") if case == "absolute" else "../outside.jpg"
    write_table(root / "rows.csv", [{"image": bad, "caption": "a cat"}])
    return r"table: rows\.csv .*: its images, such as .*outside\.jpg.*, are not there"


ALMOST = [
    *("coco", "annotations", "attngan", "cub", "oxford102", "labels", "karpathy", "img2dataset"),
    *("tar", "tar.gz", "images", "columns", "addresses", "absolute", "above"),
]


@pytest.mark.parametrize("case", ALMOST)
def test_what_is_almost_a_layout_is_refused_with_what_is_missing(case, tmp_path):
    root = tmp_path / "originals"
    root.mkdir()
    message = lay_almost(root, case)

    with pytest.raises(ValueError, match=message) as refused:
        recognise(AutoConfig(root=str(root)))

    said = str(refused.value)
    assert said.startswith(f"no layout fits {root}. It holds ")
    for source in SOURCES:
        assert f"\n  {source.name}: {source.__doc__.splitlines()[0]}" in said


def test_parquet_without_images_is_none_of_hugging_face(tmp_path):
    write_table(tmp_path / "data/train-00000-of-00001.parquet", [{"text": "a", "label": 1}])

    with pytest.raises(ValueError, match="has no column of images: 'text', 'label'"):
        recognise(AutoConfig(root=str(tmp_path)))


def test_a_name_that_starts_with_a_dash_is_no_option(tmp_path, capsys):
    write(tmp_path / "1.jpg", jpeg())
    write_tar(tmp_path / "tars/a.tar", {"1.jpg": jpeg(), "1.txt": "a cat"})

    ((_, _, words),) = shown(tmp_path / "tars", capsys, output="-odd")

    assert prepared(words).output == "-odd"


def test_damaged_files_and_what_is_no_file_end_with_a_message(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    write(tmp_path / "field.csv", b"a" * 2**18)
    write(tmp_path / "deep.json", b"[" * 2**20)
    write(tmp_path / "cut.jsonl.gz", gzip.compress(os.urandom(2**12))[:-99])
    write(tmp_path / "a.tar", b"no tar")
    write(tmp_path / "b/00000_stats.json", b"\xff")
    write(tmp_path / "c/dataset_dict.json", b"\xff")
    write(tmp_path / "README.md", b"---\n" * 1000)
    (tmp_path / "nowhere.csv").symlink_to("nowhere")

    with pytest.raises(ValueError, match=r"no layout fits .* It holds 3 \.json, ") as refused:
        recognise(AutoConfig(root=str(tmp_path)))

    assert "webdataset: a.tar is not a tar file that can be read" in str(refused.value)
    assert "table: field.csv has a first line of over 65,536 characters" in str(refused.value)


def test_an_empty_folder_and_no_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="It holds no files in 1 folders"):
        recognise(AutoConfig(root=str(tmp_path)))
    with pytest.raises(ValueError, match=r"does not exist\. Name the folder of your originals"):
        recognise(AutoConfig(root=str(tmp_path / "nowhere")))


def test_what_this_project_wrote_is_named_with_its_next_command(tmp_path):
    write(tmp_path / "data/manifest.json", '{"schema_version": 4}')
    write(tmp_path / "half/progress/train-00000-records.parquet", b"")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/model").mkdir()
    expected = {
        "data": "is a prepared dataset, with manifest.json: .*--data.path",
        "half": "is a prepared dataset that is not finished",
        "run": "is the folder of a run: .* jobs/generate.py",
    }

    for name, message in expected.items():
        with pytest.raises(ValueError, match=message):
            recognise(AutoConfig(root=str(tmp_path / name)))


def test_looking_changes_nothing_and_opens_a_bounded_number_of_files(tmp_path, capsys, monkeypatch):
    for number in range(1500):
        write(tmp_path / f"rows/{number:04d}.csv", "image,caption\n1.jpg,a cat\n")
    for name in ("train2017", "val2017"):
        write_coco(tmp_path / "coco", name, {1: ["one"]})
    before = sorted(tmp_path.rglob("*"))
    opened: list[str] = []
    for name in ("open", "read"):
        method = getattr(Folder, name)

        def count(self, file, *rest, method=method):
            opened.append(file)
            return method(self, file, *rest)

        monkeypatch.setattr(Folder, name, count)

    found = shown(tmp_path, capsys)

    assert [name for name, _, _ in found] == ["coco"]
    assert 0 < len(opened) < 200
    assert sorted(tmp_path.rglob("*")) == before


def test_what_lies_between_very_many_files_is_found(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(look, "MAX_OF_FOLDER", 300)
    content = jpeg()
    for number in range(400):
        write(tmp_path / f"many/train/{number:04d}.jpg", content)
        write(tmp_path / f"pairs/{number:04d}.jpg", content)
        write(tmp_path / f"pairs/{number:04d}.txt", "a cat")
    write(tmp_path / "many/train/metadata.jsonl", '{"file_name": "0001.jpg", "text": "a cat"}')

    assert [name for name, _, _ in shown(tmp_path / "many", capsys)] == ["huggingface", "table"]
    ((name, reason, _),) = shown(tmp_path / "pairs", capsys)
    assert name == "folder"
    assert int(reason.split()[0]) > 10
