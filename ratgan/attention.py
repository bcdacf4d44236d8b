"""Spatial attention: where in the image the sentence is, by soft threshold or as published.

Dimensions in this file:
    B batch, C feature channels, S sentence size, H W height and width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.ops.convolution import Conv2d


def soft_threshold(scores: Tensor) -> Tensor:
    """Turn scores into weights: a sigmoid normalised by its sum over positions.

    ``α_{w,h} = σ(x_{w,h}) / Σ σ(x_{w',h'})`` (https://arxiv.org/abs/2204.10482).
    Unlike a softmax it drives no weight to 0 when one score grows, so every
    position has a gradient.

    Args:
        scores: One score per position, [B, 1, H, W].

    Returns:
        Positive weights that add up to 1 over positions, [B, 1, H, W].
    """
    # In logarithms, because the sum of sigmoids underflows if all scores are very low.
    return torch.softmax(functional.logsigmoid(scores).flatten(2), dim=2).view_as(scores)


def spread(sentence: Tensor, features: Tensor) -> Tensor:
    """Repeat sentences [B, S] at each position of features [B, C, H, W]: [B, S, H, W]."""
    return sentence[:, :, None, None].expand(-1, -1, *features.shape[2:])


class SpatialAttention(nn.Module):
    """Weights a sentence over the positions of an image.

    ``x_{w,h} = MLP(P_{w,h}, s)``, one MLP shared by all positions.

    Args:
        feature_channels: Channels C of the image features.
        sentence_dim: Size S of the sentence.
        hidden_channels: Hidden size of the MLP.
    """

    def __init__(self, feature_channels: int, sentence_dim: int, hidden_channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Conv2d(feature_channels + sentence_dim, hidden_channels, 1),
            nn.LeakyReLU(0.2),
            Conv2d(hidden_channels, 1, 1),
        )

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Compute the attention of each sentence.

        Args:
            features: Image features P, [B, C, H, W].
            sentence: [B, S].

        Returns:
            Weights α over positions, [B, 1, H, W].
        """
        return soft_threshold(self.mlp(torch.cat([features, spread(sentence, features)], dim=1)))


class PublishedAttention(nn.Module):
    """The attention of an earlier version of the published code: softmax of a sigmoid.

    Its MLP uses 3 × 3 positions and has no biases. Since the sigmoid is bounded,
    no weight can be more than e = 2.718 times another: the attention stays nearly flat.

    Args:
        feature_channels: Channels C of the image features.
        sentence_dim: Size S of the sentence.
        hidden_channels: Hidden size of the MLP.
    """

    def __init__(self, feature_channels: int, sentence_dim: int, hidden_channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Conv2d(feature_channels + sentence_dim, hidden_channels, 3, padding=1, bias=False),
            nn.LeakyReLU(0.2),
            Conv2d(hidden_channels, 1, 1, bias=False),
        )

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        """Map features [B, C, H, W] and sentences [B, S] to weights over positions [B, 1, H, W]."""
        scores = self.mlp(torch.cat([features, spread(sentence, features)], dim=1))
        return torch.softmax(scores.sigmoid().flatten(2), dim=2).view_as(scores)


ATTENTIONS = {"soft_threshold": SpatialAttention, "softmax": PublishedAttention}
