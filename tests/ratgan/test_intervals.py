"""Intervals of numbers: how often they hold on normal features, and where they are known."""

import pytest
import torch

from benchmarks.coverage import covered
from ratgan.metrics import intervals
from ratgan.metrics.statistics import FeatureStatistics

REPEATS = 100


@pytest.mark.rest
@pytest.mark.slow
def test_nine_of_ten_intervals_hold_on_normal_features_whose_answers_are_known():
    held = covered((4, 500, 400, 0.5, 1.3), REPEATS)

    assert set(held) == {
        *("distance", "distance of any number", "kernel", "precision", "recall", "coverage"),
        *("share", "mean"),
    }
    assert {kind: share for kind, share in held.items() if not 0.85 <= share <= 0.95} == {}


def test_the_jackknife_of_a_mean_is_its_textbook_interval():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left_out = [float((values.sum() - value) / 19) for value in values]

    found = intervals.of_number(float(values.mean()), left_out, "images", biased=True, least=-9)

    reach = 1.7291 * float(values.std()) / 20**0.5  # Student's 95 % of 19 degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=1e-3)
    assert found.bias == pytest.approx(0, abs=1e-12)


def test_a_share_of_none_or_all_is_not_sure():
    none, all_ = intervals.of_count(0.0, 100), intervals.of_share(1.0, [1.0] * 20, "images", 100)

    assert (none.low, all_.high) == (0, 1)
    assert none.high == pytest.approx(0.0263, abs=1e-4)  # 1.645² / (100 + 1.645²)
    assert 0.96 < all_.low < 0.98
    assert intervals.of_share(1.0, [0.99] * 10 + [1.0] * 10, "images", 100).low < 1


def test_what_two_numbers_have_in_common_is_no_difference():
    shaken = [0.1 * (-1) ** part for part in range(20)]

    one = intervals.of_number(1.0, [1 + each for each in shaken], "images", least=0)
    other = intervals.of_number(1.1, [1.1 + each for each in shaken], "images", least=0)
    alone = intervals.Spread(other.low, other.high, "another way")

    assert intervals.difference(one, other) == pytest.approx(0, abs=1e-9)
    assert intervals.difference(one, alone) == pytest.approx((one.high - one.low) / 2**0.5)


def test_statistics_without_a_part_are_those_of_the_rest():
    vectors = 1000 + torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()

    rest = FeatureStatistics.of(vectors).without(FeatureStatistics.of(vectors[:20]))

    expected = FeatureStatistics.of(vectors[20:])
    assert rest.count == 30
    assert torch.allclose(rest.total, expected.total, rtol=1e-12)
    assert torch.allclose(rest.scatter, expected.scatter, rtol=1e-9)
