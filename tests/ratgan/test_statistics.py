"""Sums over features: any split adds up, files bring them back, and closed forms."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from ratgan.metrics.statistics import FeatureStatistics

FEATURES = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
WHOLE = FeatureStatistics.of(FEATURES)


@given(st.lists(st.integers(0, 60), max_size=8), st.randoms())
# The same examples each time, and as long as a busy machine takes for them.
@settings(
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_statistics_of_parts_add_up_to_the_whole(cuts, random):
    edges = [0, *sorted(cuts), 60]
    parts = [FEATURES[a:b] for a, b in pairwise(edges)]
    random.shuffle(parts)

    added = sum((FeatureStatistics.of(part) for part in parts), FeatureStatistics.empty(5))

    assert isinstance(added, FeatureStatistics)
    assert added.count == 60
    torch.testing.assert_close(added.total, WHOLE.total, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(added.scatter, WHOLE.scatter, rtol=1e-13, atol=1e-13)


def test_covariance_is_that_of_numpy():
    expected = np.cov(FEATURES.double().numpy(), rowvar=False)

    assert WHOLE.unbiased_covariance().numpy() == pytest.approx(expected, rel=1e-12)
    assert WHOLE.mean().numpy() == pytest.approx(FEATURES.double().mean(0).numpy(), rel=1e-14)


def test_published_moments_become_sums_that_have_them():
    mean, covariance = WHOLE.mean(), WHOLE.unbiased_covariance()

    again = FeatureStatistics.of_moments(60, mean, covariance)

    torch.testing.assert_close(again.total, WHOLE.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(again.scatter, WHOLE.scatter, rtol=1e-12, atol=0)


def test_rank_is_what_so_many_images_can_span_and_mean_square_distance_is_over_pairs():
    few = FeatureStatistics.of(FEATURES[:4])
    pairs = torch.pdist(FEATURES[:4].double()).square().mean()

    assert (few.rank, WHOLE.rank) == (3, 5)
    assert few.mean_square_distance() == pytest.approx(float(pairs), rel=1e-12)
    with pytest.raises(ValueError, match="1 images have no covariance"):
        FeatureStatistics.of(FEATURES[:1]).unbiased_covariance()


def test_a_file_and_json_bring_back_every_bit():
    packed = FeatureStatistics.unpack(WHOLE.pack(), "here")
    told = FeatureStatistics.from_json(WHOLE.to_json(), "here")

    for again in (packed, told):
        assert again.count == 60
        assert torch.equal(again.total, WHOLE.total)
        assert torch.equal(again.scatter, WHOLE.scatter)


def test_files_with_sums_of_products_are_still_read():
    """Earlier versions wrote Σ x xᵀ."""
    wide = FEATURES.double()
    raw = {"count": torch.tensor(60), "total": wide.sum(0), "products": wide.T @ wide}
    text = json.dumps({name: each.tolist() for name, each in raw.items()})

    found = FeatureStatistics.unpack(save(raw), "here"), FeatureStatistics.from_json(text, "here")

    for again in found:
        assert again.count == 60
        assert torch.equal(again.total, raw["total"])
        torch.testing.assert_close(again.scatter, WHOLE.scatter, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("content", [b"", b"\0" * 40, FeatureStatistics.empty(3).pack()[:-9]])
def test_another_file_is_refused(content):
    with pytest.raises(ValueError, match=r"stats\.bin does not hold feature statistics"):
        FeatureStatistics.unpack(content, "stats.bin")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"count": 1}', '{"count": 1, "total": [0, 0], "products": [[0]]}']
)
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match=r"stats\.json does not hold feature statistics"):
        FeatureStatistics.from_json(text, "stats.json")
