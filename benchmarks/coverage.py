"""How often the 90 % intervals of an evaluation hold, on normal features whose answers are known.

    python -m benchmarks.coverage --repeats 400

A distance is asked for twice: where it lies at these counts (its mean over the repetitions), and,
moved by its bias, where it lies for any number of images (the closed form). What has no closed form
is compared with its mean over the repetitions.

Dimensions in this file:
    D size of a feature vector.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.common.console import print_line
from ratgan.metrics import intervals
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.intervals import PARTS, Spread
from ratgan.metrics.kernel import kernel_without
from ratgan.metrics.neighbours import neighbours
from ratgan.metrics.statistics import FeatureStatistics

# D, real and generated images, shift of the mean, factor of the deviation
CASES = (
    (8, 400, 400, 0.0, 1.0),
    (8, 400, 400, 0.2, 1.1),
    (8, 400, 800, 0.5, 1.3),
    (24, 800, 400, 0.5, 1.3),
    (60, 500, 500, 0.5, 1.3),
    (24, 400, 400, 0.0, 1.0),
    (24, 1000, 1000, 0.5, 0.9),
)
TURNS = (-1, *range(PARTS))  # the number itself, then without each part


def drawn(dim: int, real: int, fake: int, shift: float, scale: float, seed: int) -> list[Tensor]:
    """Draw features of both sets; only the first number is shifted."""
    some = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(n, dim, generator=some, dtype=torch.float64) for n in (real, fake))
    other = other * scale
    other[:, 0] += shift
    return [one, other]


def parts(count: int) -> Tensor:
    """Put independent images into parts."""
    return torch.arange(count) % PARTS


def distance_spread(one: Tensor, other: Tensor) -> tuple[float, Spread]:
    """Return the Fréchet distance and its interval."""
    whole = [FeatureStatistics.of(some) for some in (one, other)]
    left_out = [
        frechet_distance(
            *(
                sums.without(FeatureStatistics.of(some[parts(len(some)) == part]))
                for sums, some in zip(whole, (one, other), strict=True)
            )
        )
        for part in range(PARTS)
    ]
    value = frechet_distance(*whole)
    return value, intervals.of_number(value, left_out, "images", biased=True, least=-math.inf)


def kernel_spread(one: Tensor, other: Tensor) -> tuple[float, Spread]:
    """Return the kernel distance and its interval."""
    value, *left_out = kernel_without(one, other, parts(len(one)), parts(len(other)), TURNS)
    return value, intervals.of_number(value, left_out, "images", least=-math.inf)


def neighbour_spreads(one: Tensor, other: Tensor) -> Iterator[tuple[str, float, Spread]]:
    """Give precision, recall and coverage with their intervals."""
    whole = neighbours(one, other)
    blocks = [
        neighbours(one[parts(len(one)) == part], other[parts(len(other)) == part])
        for part in range(PARTS)
    ]
    for kind, value in whole._asdict().items():
        if kind != "density":
            left_out = intervals.from_blocks(value, [getattr(block, kind) for block in blocks])
            count = len(other) if kind == "precision" else len(one)
            yield kind, value, intervals.of_share(value, left_out, "images", count)


def kernel_truth(dim: int, shift: float, scale: float) -> float:
    """Return the kernel distance of the two distributions, from the moments of x · y."""

    def mean(a: float, s: float, b: float, t: float) -> float:
        """Return the mean kernel of N(a e₁, s² I) and N(b e₁, t² I)."""
        across, s, t = a * b, s * s, t * t
        second = dim * s * t + s * b * b + t * a * a + across**2
        third = across**3 + 3 * across * (t * a * a + s * b * b + s * t * (dim + 2))
        return 1 + 3 * across / dim + 3 * second / dim**2 + third / dim**3

    within = mean(0, 1, 0, 1) + mean(shift, scale, shift, scale)
    return within - 2 * mean(0, 1, shift, scale)


def covered(case: tuple[int, int, int, float, float], repeats: int) -> dict[str, float]:
    """Return the share of repetitions in which each interval holds.

    Args:
        case: Of `CASES`.
        repeats: Repetitions, each with other images.
    """
    dim, _, _, shift, scale = case
    found: dict[str, list[tuple[float, Spread]]] = defaultdict(list)
    for seed in range(repeats):
        one, other = drawn(*case, seed)
        found["distance"].append(distance_spread(one, other))
        found["kernel"].append(kernel_spread(one, other))
        for kind, value, each in neighbour_spreads(one, other):
            found[kind].append((value, each))
        # Half a number is above its median; means of single images.
        above = (other[:, 0] > shift).double()
        left = [float(above[parts(len(above)) != part].mean()) for part in range(PARTS)]
        share = float(above.mean())
        found["share"].append((share, intervals.of_share(share, left, "images", len(above))))
        mean = float(other[:, 0].mean())
        left = [float(other[parts(len(other)) != part, 0].mean()) for part in range(PARTS)]
        found["mean"].append((mean, intervals.of_number(mean, left, "images", least=-math.inf)))
    truths = {kind: sum(v for v, _ in each) / repeats for kind, each in found.items()}
    truths |= {"kernel": kernel_truth(dim, shift, scale), "share": 0.5, "mean": shift}
    held = {
        kind: sum(s.low <= truths[kind] <= s.high for _, s in each) / repeats
        for kind, each in found.items()
    }
    truth = shift**2 + dim * (scale - 1) ** 2
    unbiased = [(s.low - (s.bias or 0), s.high - (s.bias or 0)) for _, s in found["distance"]]
    held["distance of any number"] = sum(low <= truth <= high for low, high in unbiased) / repeats
    return held


def main() -> None:
    """Print the table of docs/evaluation.md."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for number, case in enumerate(CASES):
        held = covered(case, arguments.repeats)
        if not number:
            print_line(f"| D, real, generated, shift, factor | {' | '.join(held)} |")
            print_line("| --- " * (len(held) + 1) + "|")
        shares = " | ".join(f"{share:.0%}" for share in held.values())
        print_line(f"| {', '.join(f'{each:g}' for each in case)} | {shares} |")


if __name__ == "__main__":
    main()
