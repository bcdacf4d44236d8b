"""Do distances grow with damage? Crops of photographs against damaged ones, by both extractors.

    python -m benchmarks.damage FOLDER

Half of the photographs (all .jpg in the folder) give the real crops, the other half the crops that
are damaged, so that those without damage are as far away as other photographs are. The strengths
were chosen before anything was measured. A Fréchet distance is left out where there are no more
crops than features; the kernel distance does not depend on their number.

Dimensions in this file:
    N crops.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from pipeline.common.console import print_line
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.features import Extractor
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.kernel import kernel_distance
from ratgan.metrics.statistics import FeatureStatistics

SIZE = 256  # pixels of a crop
AT_ONCE = 16


def crops(files: list[Path], each: int, rng: np.random.Generator) -> Tensor:
    """Cut squares of 60 to 100 % of the shorter side at random, uint8, [N, 3, 256, 256]."""
    found = []
    for file in files:
        image = Image.open(file).convert("RGB")
        for _ in range(each):
            side = round(min(image.size) * rng.uniform(0.6, 1))
            left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
            box = (left, top, left + side, top + side)
            found.append(np.array(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def blurred(images: Tensor, deviation: float, _: torch.Generator) -> Tensor:
    """Blur by a normal of so many pixels."""
    blur: Tensor = gaussian_blur(images, [2 * round(3 * deviation) + 1] * 2, [deviation] * 2)
    return blur


def noised(images: Tensor, deviation: float, draw: torch.Generator) -> Tensor:
    """Add normal noise of so many of 255 levels."""
    return images + deviation * torch.randn(images.shape, generator=draw)


def shuffled(images: Tensor, grid: float, draw: torch.Generator) -> Tensor:
    """Shuffle the tiles of a grid of so many a side."""
    count, side = int(grid), SIZE // int(grid)
    tiles = images.unflatten(3, (count, side)).unflatten(2, (count, side))
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [N, tiles, 3, side, side]
    order = torch.rand(tiles.shape[:2], generator=draw).argsort(1)
    tiles = tiles[torch.arange(len(tiles))[:, None], order].unflatten(1, (count, count))
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def posterised(images: Tensor, levels: float, _: torch.Generator) -> Tensor:
    """Leave so many levels of each colour."""
    step = 255 / (levels - 1)
    return (images / step).round() * step


Damage = Callable[[Tensor, float, torch.Generator], Tensor]
DAMAGES: dict[str, tuple[Damage, tuple[float, float, float]]] = {
    "blurred, deviation in pixels": (blurred, (1, 2, 4)),
    "noised, deviation of 255 levels": (noised, (8, 24, 64)),
    "shuffled, tiles a side": (shuffled, (2, 4, 8)),
    "posterised, levels": (posterised, (16, 4, 2)),
}


def features(extractor: Extractor, images: Tensor, damage: Damage, strength: float) -> Tensor:
    """Look at damaged images."""
    draw = torch.Generator().manual_seed(0)
    seen = [
        extractor(damage(some.float(), strength, draw).round().clamp(0, 255)).vectors
        for some in images.split(AT_ONCE)
    ]
    return torch.cat(seen)


def rows(extractor: Extractor, real: Tensor, others: Tensor) -> Iterator[str]:
    """Give the rows of the table."""

    def distances(damage: Damage, strength: float) -> dict[str, float]:
        seen = features(extractor, others, damage, strength)
        found = {"kd": kernel_distance(expected, seen)}
        if min(len(expected), len(seen)) > extractor.dim:
            found["fd"] = frechet_distance(*map(FeatureStatistics.of, (expected, seen)))
        return found

    def nothing(images: Tensor, _: float, __: torch.Generator) -> Tensor:
        return images

    expected = features(extractor, real, nothing, 0)
    whole = distances(nothing, 0)
    for name, (damage, strengths) in DAMAGES.items():
        measured = [whole, *(distances(damage, strength) for strength in strengths)]
        for kind in whole:
            values = [each[kind] for each in measured]
            grows = all(a < b for a, b in pairwise(values))
            numbers = " | ".join(f"{value:.3g}" for value in values)
            yield (
                f"| {name}: {', '.join(map(str, strengths))} | {kind}[{extractor.name}] | "
                f"{numbers} | {'yes' if grows else '**no**'} |"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crops", type=int, default=1, help="of each photograph")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the last digit depends on it
    rng = np.random.default_rng(0)
    files = [sorted(options.folder.rglob("*.jpg"))[start::2] for start in (0, 1)]
    real, others = (crops(half, options.crops, rng) for half in files)
    print_line(
        f"{len(real):,} crops of {len(files[0])} photographs, "
        f"and {len(others):,} of {len(files[1])}\n"
        "| damage, three strengths | distance | none | 1 | 2 | 3 | grows |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in ("efficientnet-lite0", "builtin"):
        for row in rows(load_extractor(name), real, others):
            print_line(row)


if __name__ == "__main__":
    main()
