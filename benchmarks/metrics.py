"""Our metrics against torchmetrics and torch-fidelity on the same features.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --images 10000 --size 2048    as Inception-v3 has them

The features are normal numbers from a seed: what is compared are the formulas, not the networks.
The last line is JSON: the largest relative difference of each metric.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.inception_score import ScoreSums, inception_score
from ratgan.metrics.kernel import kernel_distance
from ratgan.metrics.neighbours import neighbours
from ratgan.metrics.statistics import FeatureStatistics

Value = Callable[[], float]
CLASSES = 1000


class FeaturesAsImages(nn.Module):
    """A feature network for torchmetrics that passes its input on."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, features: Tensor) -> Tensor:
        """Return features [N, size] as they are."""
        return features


def rows(images: int, size: int) -> dict[str, dict[str, Value]]:
    """Return what computes each metric, by metric and library."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import poly_mmd

    random = torch.Generator().manual_seed(0)
    real = torch.randn(images, size, generator=random, dtype=torch.float64)
    drawn = torch.randn(images, size, generator=random, dtype=torch.float64) * 1.1 + 0.05
    logits = torch.randn(images, CLASSES, generator=random, dtype=torch.float64) * 2
    few = min(images, 1000)
    near, nearby = real[:few, :16], drawn[:few, :16]  # all are far apart in more dimensions

    def of_torchmetrics() -> float:
        metric = FrechetInceptionDistance(feature=FeaturesAsImages(size)).set_dtype(torch.float64)
        metric.update(real, real=True)
        metric.update(drawn, real=False)
        return float(metric.compute())

    def score_of_torchmetrics() -> float:
        metric = InceptionScore(feature=FeaturesAsImages(CLASSES), splits=1)
        metric.set_dtype(torch.float64).update(logits)
        return float(metric.compute()[0])

    one_draw = {"kid_subsets": 1, "kid_subset_size": few, "kid_kernel": "poly", "verbose": False}
    return {
        "Fréchet distance": {
            "ours": lambda: frechet_distance(
                FeatureStatistics.of(real), FeatureStatistics.of(drawn)
            ),
            "torchmetrics": of_torchmetrics,
            "torch-fidelity": lambda: fid_statistics_to_metric(
                fid_features_to_statistics(real), fid_features_to_statistics(drawn), verbose=False
            )["frechet_inception_distance"],
        },
        "kernel distance": {
            "ours": lambda: kernel_distance(real[:few], drawn[:few]),
            "torchmetrics": lambda: float(poly_mmd(real[:few], drawn[:few])),
            "torch-fidelity": lambda: kid_features_to_metric(real[:few], drawn[:few], **one_draw)[
                "kernel_inception_distance_mean"
            ],
        },
        "Inception Score, 1 split": {
            "ours": lambda: inception_score([ScoreSums.of(logits)])[0],
            "torchmetrics": score_of_torchmetrics,
            "torch-fidelity": lambda: isc_features_to_metric(logits, splits=1, shuffle=False)[
                "inception_score_mean"
            ],
        },
        "precision": {
            "ours": lambda: neighbours(near, nearby).precision,
            "torch-fidelity": lambda: float(
                calculate_precision_recall_full(nearby, near, neighborhood=3)[0]
            ),
        },
        "recall": {
            "ours": lambda: neighbours(near, nearby).recall,
            "torch-fidelity": lambda: float(
                calculate_precision_recall_full(nearby, near, neighborhood=3)[1]
            ),
        },
    }


def main() -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512, help="numbers of a feature")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # of the libraries
    print("| metric | library | value | relative difference | seconds |\n|---|---|---|---|---|")
    largest: dict[str, float] = {}
    for metric, ways in rows(options.images, options.size).items():
        values = {}
        for library, compute in ways.items():
            started = time.perf_counter()
            values[library] = compute()
            seconds = time.perf_counter() - started
            difference = abs(values[library] - values["ours"]) / abs(values["ours"])
            largest[metric] = max(largest.get(metric, 0.0), difference)
            print(
                f"| {metric} | {library} | {values[library]:.10g} | {difference:.1e} | "
                f"{seconds:.2f} |",
                flush=True,
            )
    print(json.dumps(largest, ensure_ascii=False))


if __name__ == "__main__":
    main()
