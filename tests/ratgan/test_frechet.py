"""The Fréchet distance against closed forms, at any rank, and against two libraries."""

import numpy as np
import pytest
import torch

from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.statistics import FeatureStatistics
from tests.ratgan.metric_libraries import FeaturesAsImages


def features(count: int, dim: int = 24, seed: int = 0, steepness: float = 2.0) -> torch.Tensor:
    """Correlated features whose deviations fall off as those of real ones do."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    scale = torch.exp(-steepness * torch.linspace(0, 1, dim, dtype=torch.float64))
    drawn = torch.randn(count, dim, generator=draw, dtype=torch.float64)
    return drawn * scale * (1 + 0.05 * seed) @ torch.linalg.qr(mix).Q + 0.1 * seed


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return frechet_distance(FeatureStatistics.of(one), FeatureStatistics.of(other))


def exact(one: torch.Tensor, other: torch.Tensor) -> float:
    """From the features themselves: tr((S₁ S₂)^½) is the nuclear norm of one centred by other."""
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (one, other)]
    means = (one.mean(0) - other.mean(0)).square().sum()
    spread = sum(x.square().sum() for x in centred)
    triangles = [torch.linalg.qr(x, mode="r").R for x in centred]  # the same norm, and smaller
    return float(means + spread - 2 * torch.linalg.svdvals(triangles[0] @ triangles[1].T).sum())


def test_distance_of_a_set_from_itself_is_zero_and_of_a_shifted_one_the_shift():
    one = features(200)
    shift = torch.arange(24, dtype=torch.float64)

    assert distance(one, one) == pytest.approx(0, abs=1e-12)
    assert distance(one, one + shift) == pytest.approx(float(shift.square().sum()), rel=1e-12)


def test_distance_of_independent_features_is_that_of_their_deviations():
    axes = torch.eye(24, dtype=torch.float64)
    one, other = torch.cat([axes, -axes]), 3 * torch.cat([axes, -axes])
    variance = 2 / 47

    assert distance(one, other) == pytest.approx(24 * variance * (3 - 1) ** 2, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(300, 200), (300, 10), (10, 300), (12, 9), (2, 2)])
@pytest.mark.parametrize("steepness", [0.0, 6.0])
def test_distance_is_exact_at_any_rank_and_in_any_order(n, m, steepness):
    one = features(n, seed=1, steepness=steepness)
    other = features(m, seed=2, steepness=steepness)

    measured = distance(one, other)

    assert measured == pytest.approx(exact(one, other), rel=1e-9)
    assert distance(other, one) == pytest.approx(measured, rel=1e-9)


def test_images_that_are_all_the_same_have_a_distance_too():
    same = torch.ones(5, 24, dtype=torch.float64)
    other = features(100)

    expected = (same[0] - other.mean(0)).square().sum() + torch.cov(other.T).trace()
    assert distance(same, other) == pytest.approx(float(expected), rel=1e-12)


def test_torchmetrics_and_torch_fidelity_agree():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import FrechetInceptionDistance

    one, other = features(300, 48, seed=1), features(250, 48, seed=2)

    ours = distance(one, other)

    fidelity = fid_statistics_to_metric(
        fid_features_to_statistics(one), fid_features_to_statistics(other), verbose=False
    )["frechet_inception_distance"]
    metric = FrechetInceptionDistance(feature=FeaturesAsImages(48)).set_dtype(torch.float64)
    metric.update(one, real=True)
    metric.update(other, real=False)
    assert ours == pytest.approx(fidelity, rel=1e-6)
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_features_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="features of 24 and of 8 numbers cannot be compared"):
        distance(features(5), features(5, 8))


def test_float32_features_are_summed_in_float64():
    # Far from 0 with a small spread: sums of squares in float32 would lose it.
    one, other = features(4000, seed=1).float() + 100, features(4000, seed=2).float() + 100

    assert distance(one, other) == pytest.approx(exact(one.double(), other.double()), rel=1e-6)
    assert np.float32(100**2 * 4000) + np.float32(1) == np.float32(100**2 * 4000)
