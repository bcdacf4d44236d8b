"""The kernel distance against its definition, over draws, and against two libraries."""

import itertools

import numpy as np
import pytest
import torch

from ratgan.metrics.kernel import kernel_distance


def features(count: int, seed: int, dim: int = 8, shift: float = 0.3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=draw, dtype=torch.float64) + shift * seed


def test_distance_is_the_mean_over_all_pairs_of_different_images():
    one, other = features(5, 1), features(4, 2)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / 8 + 1) ** 3)

    def within(x: torch.Tensor) -> float:
        return float(np.mean([kernel(a, b) for a, b in itertools.permutations(x, 2)]))

    across = np.mean([kernel(a, b) for a in one for b in other])
    expected = within(one) + within(other) - 2 * across
    assert kernel_distance(one, other) == pytest.approx(expected, rel=1e-12)


def test_distance_is_the_mean_over_all_draws_that_libraries_take_some_of():
    one, other = features(5, 1), features(5, 2)
    draws = list(itertools.combinations(range(5), 3))

    over_draws = np.mean(
        [kernel_distance(one[list(a)], other[list(b)]) for a in draws for b in draws]
    )

    assert kernel_distance(one, other) == pytest.approx(over_draws, rel=1e-12)


def test_sets_of_one_kind_are_about_zero_apart_whatever_their_number():
    alike = [
        kernel_distance(features(n, 1, shift=0), features(n, 2, shift=0)) for n in (200, 400, 2000)
    ]

    assert alike == pytest.approx([0, 0, 0], abs=0.02)
    assert kernel_distance(features(200, 1), features(200, 2)) > 0.1


def test_blocks_of_rows_change_nothing(monkeypatch):
    one, other = features(50, 1), features(30, 2)
    at_once = kernel_distance(one, other)

    monkeypatch.setattr("ratgan.metrics.kernel.ROWS_AT_ONCE", 7)

    assert kernel_distance(one, other) == pytest.approx(at_once, rel=1e-12)


def test_torchmetrics_and_torch_fidelity_agree():
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    one, other = features(120, 1, 32), features(120, 2, 32)

    ours = kernel_distance(one, other)

    # All images in one draw: then theirs has no chance in it.
    options = {"kid_subsets": 1, "kid_subset_size": 120, "kid_kernel": "poly", "verbose": False}
    fidelity = kid_features_to_metric(one, other, **options)["kernel_inception_distance_mean"]
    assert ours == pytest.approx(fidelity, rel=1e-6)
    assert ours == pytest.approx(float(poly_mmd(one, other)), rel=1e-6)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="there are 1 and 5"):
        kernel_distance(features(1, 1), features(5, 1))
    with pytest.raises(ValueError, match="features of 8 and of 4 numbers"):
        kernel_distance(features(5, 1), features(5, 1, 4))
