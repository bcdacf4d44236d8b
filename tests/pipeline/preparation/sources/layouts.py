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
from pipeline.preparation.sources.img2dataset import Img2datasetSource
from pipeline.preparation.sources.karpathy import KarpathySource
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


def write_attngan_coco(root: Path, images: str = "images", texts: str = "text") -> None:
    """Two training images and one of the other split, as AttnGAN lays COCO out."""
    names = [f"COCO_{part}2014_{n:012d}" for n, part in ((4, "train"), (7, "train"), (9, "val"))]
    for number, name in enumerate(names):
        year, split = name.split("_")[1], "train" if "train" in name else "test"
        write(root / images.format(year=year, split=split) / f"{name}.jpg", jpeg(number))
        write(root / texts.format(split=split) / f"{name}.txt", f"photo {number}\n\na photo\n")
    write_pickles(root, names[:2], names[2:], protocol=0)


def write_karpathy(path: Path, images: Path | None = None, flat: bool = False) -> dict:
    """Write one image of each split of Karpathy's, and the images, if their folder is given."""
    found = []
    for number, split in enumerate(("train", "restval", "val", "test")):
        place, file = "train2014" if split == "train" else "val2014", f"COCO_{number}.jpg"
        sentences = [{"raw": f"photo {number}, {k}", "tokens": ["photo"]} for k in (0, 1)]
        about = {"filepath": place, "filename": file, "split": split, "sentences": sentences}
        found.append(about | {"imgid": number})
        if images is not None:
            write(images / ("" if flat else place) / file, jpeg(number))
    content = {"images": found, "dataset": "coco"}
    write(path, json.dumps(content))
    return content


STATUSES = ("success", "failed_to_download", "success", "failed_to_resize", "success")


def write_img2dataset(root: Path, form: str, shards: int = 2, encoding: str = "jpg") -> None:
    """Write rows of which some failed, as img2dataset's writers do in one of its formats.

    Args:
        form: Its --output_format: files, webdataset or parquet.
        encoding: Its --encode_format.
    """
    for shard in range(shards):
        rows, samples = [], {}
        for number, status in enumerate(STATUSES):
            made, key = status == "success", f"{shard:05d}{number:04d}"
            row = {
                "caption": f"photo {key},\nby me",
                "url": f"https://example.com/{key}",
                "key": key,
                "status": status,
                "error_message": None if made else "404",
                "width": 96 if made else None,
                "exif": "{}",
            }
            content = jpeg(10 * shard + number) if made else None
            rows.append(row | ({encoding: content} if form == "parquet" else {}))
            if content is not None:
                samples[f"{key}.{encoding}"] = content
                samples[f"{key}.txt"] = row["caption"].encode()
                samples[f"{key}.json"] = json.dumps(row, indent=4).encode()
        if form == "webdataset":
            write_tar(root / f"{shard:05d}.tar", samples)
        elif form == "files":
            for name, content in samples.items():
                write(root / f"{shard:05d}" / name, content)
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), root / f"{shard:05d}.parquet")
        stats = {"count": 5, "successes": 3, "failed_to_download": 1, "failed_to_resize": 1}
        write(root / f"{shard:05d}_stats.json", json.dumps(stats, indent=4))


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
    write_attngan_coco(root / "attngan")
    write_karpathy(root / "karpathy/dataset_coco.json", root / "karpathy")
    for form in ("files", "webdataset", "parquet"):
        write_img2dataset(root / f"i2d-{form}", form)
    for tar in "ab":
        samples: dict[str, bytes | str] = {}
        for i in (1, 2):
            samples |= {f"{i}.jpg": jpeg(i), f"{i}.txt": f"sample {i}"}
        write_tar(root / f"tars/{tar}.tar", samples)
    return sources_at(str(root))


def sources_at(root: str) -> dict[str, Source]:
    return {
        "coco": CocoSource(root=f"{root}/coco"),
        "coco as AttnGAN has it": CocoSource(root=f"{root}/attngan"),
        "cub": CubSource(root=f"{root}/cub"),
        "cub with pickles": CubSource(root=f"{root}/pickled"),
        "oxford102": Oxford102Source(root=f"{root}/flowers"),
        "oxford102 as published": Oxford102Source(root=f"{root}/flowers", split="published-none"),
        "karpathy": KarpathySource(root=f"{root}/karpathy/dataset_coco.json"),
        "folder": FolderSource(root=f"{root}/folder"),
        **{
            f"img2dataset, {form}": Img2datasetSource(root=f"{root}/i2d-{form}")
            for form in ("files", "webdataset", "parquet")
        },
        "table, csv": TableSource(root=f"{root}/table/rows.csv"),
        "table, jsonl": TableSource(root=f"{root}/table/*.jsonl"),
        "table, parquet": TableSource(root=f"{root}/cells"),
        "huggingface, image folder": HuggingFaceSource(root=f"{root}/images-of-hf"),
        "huggingface, parquet": HuggingFaceSource(root=f"{root}/parquet-of-hf"),
        "huggingface, save_to_disk": HuggingFaceSource(root=f"{root}/disk-of-hf"),
        "webdataset": WebDatasetSource(root=f"{root}/tars/{{a,b}}.tar"),
    }
