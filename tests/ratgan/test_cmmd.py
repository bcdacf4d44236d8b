"""CMMD against its definition, and its bias."""

import numpy as np
import pytest
import torch

from ratgan.metrics.cmmd import cmmd_without


def vectors(count: int, seed: int, shift: float = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=draw) + shift


def cmmd(one: torch.Tensor, other: torch.Tensor) -> float:
    parts = [torch.zeros(len(some), dtype=torch.int64) for some in (one, other)]
    return cmmd_without(one, other, *parts, (-1,))[0]


def test_cmmd_is_the_mean_over_all_pairs_of_vectors_of_length_one():
    one, other = vectors(5, 1), vectors(4, 2, 0.5)
    a, b = (some.double().numpy() for some in (one, other))
    a, b = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (a, b))

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        pairs = [np.exp(-((v - w) ** 2).sum() / (2 * 10**2)) for v in x for w in y]
        return float(np.mean(pairs))

    expected = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert cmmd(one, other) == pytest.approx(expected, rel=1e-9)
    assert cmmd(7 * one, other) == pytest.approx(expected, rel=1e-6)
    assert cmmd(one, one) == pytest.approx(0, abs=1e-9)


def test_a_part_left_out_is_as_if_it_had_not_been_there():
    one, other = vectors(6, 1), vectors(6, 2, 0.5)
    parts = torch.arange(6) % 2

    whole, without = cmmd_without(one, other, parts, parts, (-1, 0))

    assert whole == pytest.approx(cmmd(one, other), rel=1e-12)
    assert without == pytest.approx(cmmd(one[1::2], other[1::2]), rel=1e-12)


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="first set of images: row 1 holds numbers that are not"):
        cmmd(torch.tensor([[1.0, 2], [float("nan"), 1]]), vectors(3, 1)[:, :2])
