"""Sums that add up, and transforms that do what their names say."""

import pytest
import torch

from ratgan.text.transform import SentenceTransform
from ratgan.vector_sums import VectorSums


def vectors(count: int = 400, dim: int = 12) -> torch.Tensor:
    """Vectors with a large mean and unequal variances, as sentence encoders give."""
    torch.manual_seed(0)
    mix = torch.randn(dim, dim) * torch.logspace(0, -1, dim)
    return torch.randn(count, dim) @ mix + 5


def test_sums_of_parts_add_up_to_the_whole():
    whole = vectors()

    added = VectorSums.of(whole[:150]) + VectorSums.of(whole[150:])

    direct = VectorSums.of(whole)
    assert added.count == direct.count == 400
    torch.testing.assert_close(added.mean(), whole.double().mean(0))
    torch.testing.assert_close(added.covariance(), torch.cov(whole.double().T, correction=0))


def test_whitened_vectors_have_mean_zero_and_unit_covariance():
    raw = vectors()

    white = SentenceTransform.fit("whiten", VectorSums.of(raw), dim=5)(raw)

    assert white.shape == (400, 5)
    torch.testing.assert_close(white.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(5), atol=1e-3, rtol=0)


def test_whitening_keeps_the_directions_of_largest_variance():
    raw = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.1])

    projection = SentenceTransform.fit("whiten", VectorSums.of(raw), dim=1).projection

    assert projection.abs().argmax() == 1


def test_whitening_leaves_out_directions_in_which_nothing_varies():
    raw = torch.randn(100, 4)
    raw[:, 2:] = 3.0

    transform = SentenceTransform.fit("whiten", VectorSums.of(raw), dim=4)

    assert transform.dim == 2
    assert transform(raw).isfinite().all()


def test_standardized_vectors_have_mean_zero_and_unit_variance():
    raw = vectors()
    raw[:, 3] = 2.0  # never varies

    standard = SentenceTransform.fit("standardize", VectorSums.of(raw), dim=99)(raw)

    torch.testing.assert_close(standard.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    expected = torch.ones(12)
    expected[3] = 0
    torch.testing.assert_close(standard.var(0, correction=0), expected, atol=1e-3, rtol=0)


def test_identity_changes_nothing():
    raw = vectors()

    assert torch.equal(SentenceTransform.fit("identity", VectorSums.of(raw), dim=3)(raw), raw)


def test_one_caption_cannot_be_whitened_and_the_error_says_so():
    with pytest.raises(ValueError, match="there are 1: at least 2"):
        SentenceTransform.fit("whiten", VectorSums.of(vectors(1)), dim=3)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="transform 'pca' is not known; choose one of: identity"):
        SentenceTransform.fit("pca", VectorSums.of(vectors()), dim=3)
