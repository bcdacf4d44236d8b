"""Small datasets in the layouts of the sources, three images or so each."""

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.cub import CubSource
from pipeline.preparation.sources.folder import FolderSource
from pipeline.preparation.sources.huggingface import HuggingFaceSource
from pipeline.preparation.sources.oxford102 import Oxford102Source
from pipeline.preparation.sources.source import Record, Source
from pipeline.preparation.sources.table import TableSource
from pipeline.preparation.sources.webdataset import WebDatasetSource
from tests.conftest import encoded, photo, write_coco

BIRDS = {  # name → box; classes 1 and 4 are held out in the published split
    "001.Albatross/Albatross_1": (60.0, 27.0, 325.0, 304.0),
    "002.Laysan/Laysan_1": (1.0, 2.0, 3.0, 4.0),
    "002.Laysan/Laysan_2": (5.0, 6.0, 7.0, 8.0),
    "004.Ani/Ani_1": (9.0, 1.0, 2.0, 3.0),
}


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jpeg(seed: int = 0) -> bytes:
    return encoded(photo(seed=seed))


def outcome(source: Source, record: Record) -> tuple[list[str | bytes], bytes]:
    """What reading a record gives."""
    return list(source.read_captions(record)), source.read_image(record)


def write_cub(root: Path, base: str = "CUB_200_2011", texts: str = "text") -> None:
    home = root / base
    for number, (name, _) in enumerate(BIRDS.items(), 1):
        write(home / "images" / f"{name}.jpg", jpeg(number))
        write(root / texts / f"{name}.txt", f"a bird\n\nbird {number}\n")
    lines = enumerate(BIRDS, 1)
    write(home / "images.txt", "".join(f"{i} {name}.jpg\n" for i, name in lines))
    boxes = enumerate(BIRDS.values(), 1)
    write(home / "bounding_boxes.txt", "".join(f"{i} {' '.join(map(str, b))}\n" for i, b in boxes))


def write_pickles(root: Path, train: list, test: list, protocol: int = 2) -> None:
    for split, names in (("train", train), ("test", test)):
        write(root / split / "filenames.pickle", pickle.dumps(names, protocol=protocol))


def write_flowers(root: Path, by_class: bool = True, classes: int = 5) -> None:
    for number in range(1, 2 * classes + 1):
        name, label = f"image_{number:05d}", f"class_{(number + 1) // 2:05d}"
        write(root / "jpg" / f"{name}.jpg", jpeg(number))
        place = root / "text_c10" / label if by_class else root / "text"
        write(place / f"{name}.txt", f"flower {number}\na flower\n")


def write_table(path: Path, rows: list[dict]) -> Path:
    """Write rows as the ending of the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as stream:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(stream, rows[0].keys(), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_tar(path: Path, members: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def write_huggingface(root: Path) -> None:
    """Write the layouts of Hugging Face; test_huggingface.py has those of its own package."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for first, split in ((0, "train"), (3, "test")):
        numbers = range(first, first + 3)
        for n in numbers:
            write(root / f"images-of-hf/{split}/{n}.jpg", jpeg(n))
        rows = [{"file_name": f"{n}.jpg", "text": f"image {n}"} for n in numbers]
        write_table(root / f"images-of-hf/{split}/metadata.jsonl", rows)
        cells = pa.array([{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in numbers], kind)
        table = pa.table({"image": cells, "text": [f"row {n}" for n in numbers]})
        place = write(root / f"parquet-of-hf/data/{split}-00000-of-00001.parquet", "")
        pq.write_table(table, place)
        file = write(root / f"disk-of-hf/{split}/data-00000-of-00001.arrow", "")
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
        write(file.parent / "state.json", json.dumps({"_data_files": [{"filename": file.name}]}))
        write(file.parent / "dataset_info.json", "{}")
    write(root / "disk-of-hf/dataset_dict.json", json.dumps({"splits": ["train", "test"]}))


def every_source(root: Path) -> dict[str, Source]:
    """Lay out a dataset for each source; the sources read from `root`."""
    write_coco(root / "coco", "train2017", {1: ["one", "eins"], 2: ["two"]})
    write_coco(root / "coco", "val2017", {5: ["five"]})
    write_cub(root / "cub")
    write_pickles(root / "pickled", [*BIRDS][1:3], [*BIRDS][:1])
    write_cub(root / "pickled")
    write_flowers(root / "flowers")
    for i in range(3):
        write(root / f"folder/{i % 2}/é {i}.jpg", jpeg(i))
        write(root / f"folder/{i % 2}/é {i}.txt", f"picture {i}\nbild {i}\n")
        write(root / f"table/images/{i}.jpg", jpeg(i))
    paths = [{"image": f"images/{i}.jpg", "caption": f"picture {i}"} for i in range(3)]
    write_table(root / "table/rows.csv", [*paths, paths[0] | {"caption": "again"}])
    write_table(root / "table/rows.jsonl", paths)
    cells = [{"image": {"bytes": jpeg(i), "path": None}, "caption": f"cell {i}"} for i in range(5)]
    write_table(root / "cells/a.parquet", cells)
    write_huggingface(root)
    for tar in "ab":
        samples: dict[str, bytes | str] = {}
        for i in (1, 2):
            samples |= {f"{i}.jpg": jpeg(i), f"{i}.txt": f"sample {i}"}
        write_tar(root / f"tars/{tar}.tar", samples)
    return sources_at(str(root))


def sources_at(root: str) -> dict[str, Source]:
    return {
        "coco": CocoSource(root=f"{root}/coco"),
        "cub": CubSource(root=f"{root}/cub"),
        "cub with pickles": CubSource(root=f"{root}/pickled"),
        "oxford102": Oxford102Source(root=f"{root}/flowers"),
        "oxford102 as published": Oxford102Source(root=f"{root}/flowers", split="published-none"),
        "folder": FolderSource(root=f"{root}/folder"),
        "table, csv": TableSource(root=f"{root}/table/rows.csv"),
        "table, jsonl": TableSource(root=f"{root}/table/*.jsonl"),
        "table, parquet": TableSource(root=f"{root}/cells"),
        "huggingface, image folder": HuggingFaceSource(root=f"{root}/images-of-hf"),
        "huggingface, parquet": HuggingFaceSource(root=f"{root}/parquet-of-hf"),
        "huggingface, save_to_disk": HuggingFaceSource(root=f"{root}/disk-of-hf"),
        "webdataset": WebDatasetSource(root=f"{root}/tars/{{a,b}}.tar"),
    }
