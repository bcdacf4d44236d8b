"""The soft threshold against its formula, and at its limits."""

import torch

from ratgan.attention import SpatialAttention, soft_threshold


def test_soft_threshold_is_a_sigmoid_normalised_by_its_sum():
    scores = torch.randn(3, 1, 4, 5, dtype=torch.float64)

    weights = soft_threshold(scores)

    expected = scores.sigmoid() / scores.sigmoid().sum((2, 3), keepdim=True)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(weights.sum((2, 3)), torch.ones(3, 1).double())


def test_soft_threshold_stays_finite_where_every_sigmoid_vanishes():
    scores = torch.full((1, 1, 2, 2), -500.0, requires_grad=True)

    weights = soft_threshold(scores)
    weights[0, 0, 0, 0].backward()

    assert torch.equal(weights, torch.full((1, 1, 2, 2), 0.25))
    assert scores.grad.isfinite().all()


def test_one_high_score_starves_no_other_position():
    scores = torch.zeros(1, 1, 1, 4)
    scores[..., 0] = 50

    weights = soft_threshold(scores)

    # A softmax would leave about e^-50 to the others.
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.4, 0.2, 0.2, 0.2]))


def test_each_position_is_scored_by_itself():
    torch.manual_seed(0)
    attention = SpatialAttention(feature_channels=3, sentence_dim=2, hidden_channels=4)
    features, sentence = torch.randn(1, 3, 4, 4), torch.randn(1, 2)
    order = torch.randperm(16)

    weights = attention(features, sentence).flatten()

    shuffled = features.flatten(2)[:, :, order].unflatten(2, (4, 4))
    torch.testing.assert_close(attention(shuffled, sentence).flatten(), weights[order])
