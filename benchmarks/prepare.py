"""What preparation costs: images per second, share of plain Pillow per core, and memory.

Shapes are written out as originals (JPEG, COCO's layout), and prepared by the real job. Beside it,
in the same run, one process decodes and resizes the same files with Pillow and does nothing else.
Rates per core count CPU seconds of all processes, Ray's too: others on the machine do not matter.

python benchmarks/prepare.py                            # 1k, 10k, 50k images; last line JSON
python benchmarks/prepare.py --sizes 500 --width 160    # quick
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.processes import cpu_seconds, peak_memory
from pipeline.common.console import duration
from pipeline.common.machine import usable_cpus
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.listing import list_originals
from pipeline.preparation.prepare import prepare
from pipeline.preparation.shards import MakeShard, Recipe
from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.preparation.text_encoders import EncoderRef
from pipeline.ray_cluster.connection import connect
from pipeline.ray_cluster.parallel_map import on_each
from pipeline.storage.folder import Folder

DRAWN = 64  # pixels; what is larger is enlarged from that, or drawing would take longest
SAMPLE = 400  # files that Pillow decodes at a time, before and after


@dataclass(frozen=True)
class NoText(EncoderRef):
    """Stands in for a text encoder where only the work on images is measured."""

    name: str = "none"

    def loaded(self) -> Any:
        """Return itself."""
        return self

    def vocabulary(self) -> None:
        """Take every word."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        """Return one number for each text, [N, 1]."""
        return torch.zeros(len(texts), 1)


def main() -> None:
    """Run and print the table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--width", type=int, default=640, help="of the originals, in pixels")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument(
        "--folder", help="for originals and output; deleted afterwards if not given"
    )
    options = parser.parse_args()
    cpus = usable_cpus()
    connect(cpus=1)
    with tempfile.TemporaryDirectory(prefix="ratgan-prepare-") as temporary:
        root = Path(options.folder or temporary)
        rows = []
        for size in options.sizes:
            rows.append(_measure(root, size, options.width, options.image_size))
            print(json.dumps(rows[-1]), flush=True)  # a long run that is stopped has said something
    print(
        f"{'images':>8}{'images/s':>10}{'without text':>14}{'of Pillow per core':>20}"
        f"{'peak MiB':>10}"
    )
    for row in rows:
        print(
            f"{row['images']:>8,}{row['images_per_s']:>10.1f}{row['images_per_s_without_text']:>14.1f}"
            f"{row['vs_pillow_per_core']:>20.2f}{row['peak_rss_mib']:>10,.0f}"
        )
    last = rows[-1]
    print(
        json.dumps(
            {
                "images_per_s": last["images_per_s"],
                "vs_pillow_per_core": last["vs_pillow_per_core"],
                "peak_rss_mib": {str(row["images"]): row["peak_rss_mib"] for row in rows},
                "cpus": cpus,
                "sizes": rows,
            }
        )
    )


def _measure(root: Path, count: int, width: int, image_size: int) -> dict[str, Any]:
    originals = root / f"originals-{count}"
    started = time.monotonic()
    write_originals(originals, count, width)
    print(f"{count:,} originals written in {duration(time.monotonic() - started)}", flush=True)
    config = PrepareConfig(
        source=CocoSource(root=str(originals)),
        output=str(root / f"prepared-{count}"),
        image_size=image_size,
        overwrite=True,
    )
    files = sorted((originals / "train2017").iterdir())[:SAMPLE]
    before = plain_pillow(files, config.cache_size)
    started = time.monotonic()
    cpu = cpu_seconds()
    with peak_memory() as peak:
        prepare(config)
    whole = count / (time.monotonic() - started)
    whole_per_core = count / (cpu_seconds() - cpu)
    without_text, per_core = _images_only(config, root / f"images-{count}", count)
    pillow = statistics.mean([before, plain_pillow(files, config.cache_size)])
    return {
        "images": count,
        "images_per_s": round(whole, 1),
        "images_per_s_without_text": round(without_text, 1),
        "images_per_cpu_s_without_text": round(per_core, 1),
        "pillow_images_per_cpu_s": round(pillow, 1),
        "vs_pillow_per_core": round(per_core / pillow, 3),
        "vs_pillow_per_core_with_text": round(whole_per_core / pillow, 3),
        "peak_rss_mib": round(peak[0]),
        "peak_rss_mib_of_one_process": round(peak[1]),
    }


def _images_only(config: PrepareConfig, output: Path, count: int) -> tuple[float, float]:
    """Return images per second, and per second of CPU, of the same shards without captions."""
    folder = Folder(str(output))
    listing = list_originals(config.source, config.shard_rows, None, folder)
    recipe = Recipe(
        source=config.source,
        folder=folder,
        encoder=NoText(),
        cache_size=config.cache_size,
        quality=config.quality,
        row_group_rows=config.row_group_rows,
        digest="benchmark",
        fingerprint=listing.fingerprint,
    )
    started, cpu = time.monotonic(), cpu_seconds()
    for _ in on_each(MakeShard(recipe), [asdict(part) for part in listing.parts]):
        pass
    return count / (time.monotonic() - started), count / (cpu_seconds() - cpu)


def plain_pillow(files: list[Path], size: int) -> float:
    """Decode and resize files in one process with Pillow alone; return images per CPU second."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(_decode_and_resize, files, size).result()


def _decode_and_resize(files: list[Path], size: int) -> float:
    started = time.process_time()
    for file in files:
        image = Image.open(file).convert("RGB")
        ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return len(files) / (time.process_time() - started)


def write_originals(root: Path, count: int, width: int) -> None:
    """Write shapes as JPEG files of 4:3 with a COCO captions file per split, once."""
    if (root / "annotations/captions_val2017.json").exists():
        return
    source = ShapesSource(count=count, size=DRAWN)
    contents: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for split in ("train2017", "val2017"):
        (root / split).mkdir(parents=True, exist_ok=True)
        contents[split] = {"images": [], "annotations": []}
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number, record in enumerate(source.records(), start=1):
        split = "train2017" if record.split == "train" else "val2017"
        image = Image.open(io.BytesIO(source.read_image(record)))
        large = image.resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
        # Grain of its own, as a photograph has: a smooth picture is decoded too easily.
        grain = rng.normal(0, 6, (width * 3 // 4, width, 1))
        pixels = np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8)
        name = f"{number:012d}.jpg"
        Image.fromarray(pixels).save(root / split / name, "JPEG", quality=90)
        content = contents[split]
        content["images"].append({"id": number, "file_name": name})
        for text in record.captions:
            key = len(content["annotations"]) + 1
            content["annotations"].append({"id": key, "image_id": number, "caption": text})
    for split, content in contents.items():
        (root / f"annotations/captions_{split}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
