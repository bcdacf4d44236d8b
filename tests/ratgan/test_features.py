"""Features far from zero measure as those near it do; what is not finite is refused by all."""

import pytest
import torch

from ratgan.metrics.diversity import mean_distance
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.inception_score import ScoreSums
from ratgan.metrics.kernel import kernel_distance
from ratgan.metrics.neighbours import neighbours
from ratgan.metrics.retrieval import mean_cosine, nearer_ones, r_precision
from ratgan.metrics.statistics import FeatureStatistics

COUNT = 200
MEASURES = {
    "distance": lambda one, other: frechet_distance(
        FeatureStatistics.of(one[:70]) + FeatureStatistics.of(one[70:]),
        FeatureStatistics.of(other),
    ),
    "distance to itself": lambda one, other: frechet_distance(
        FeatureStatistics.of(other[:70]) + FeatureStatistics.of(other[70:]),
        FeatureStatistics.of(other),
    ),
    "neighbours": lambda one, other: list(neighbours(one, other)),
    "diversity": lambda one, other: mean_distance(other),
}
TAKEN = MEASURES | {
    "kernel": kernel_distance,
    "score": lambda one, other: ScoreSums.of(other),
    "cosine": mean_cosine,
    "ranks": lambda one, other: nearer_ones(one, other, torch.arange(COUNT)),
    "retrieval": lambda one, other: r_precision(one, other, torch.arange(COUNT)),
    "moments": lambda one, other: FeatureStatistics.of_moments(9, other[7], torch.eye(16)),
}


def features(seed: int, shift: float = 0.0) -> torch.Tensor:
    """Draw features whose sum with a shift float64 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    whole = (2**12 * torch.randn(COUNT, 16, generator=generator)).round().double()
    return whole / 2**12 * (1 + 0.25 * seed) + shift


@pytest.mark.parametrize("shift", [1e3, -1e3, 1e8])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_shift_of_all_features_changes_nothing(measure, shift):
    take = MEASURES[measure]

    near, far = (take(features(0, by), features(1, by)) for by in (0.0, shift))

    # The mean of numbers near 1e8 has a last digit of 1e-8.
    assert far == pytest.approx(near, rel=1e-9, abs=1e-9 if abs(shift) < 1e8 else 1e-7)


def test_neighbours_of_float32_features_are_those_of_float64():
    one, other = features(0, 1000.0), features(1, 1000.0)

    assert neighbours(one.float(), other.float()) == neighbours(one, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("measure", TAKEN)
def test_what_is_not_finite_is_refused_with_set_and_row(measure, value):
    wrong = features(1)
    wrong[7, 3] = value

    with pytest.raises(ValueError, match=r" of .*: row [07] holds numbers that are not finite"):
        TAKEN[measure](features(0), wrong)
