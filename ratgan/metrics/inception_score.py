"""Inception Score, https://arxiv.org/abs/1606.03498: are images clear, and of many kinds?

    exp(mean over images of KL(p(kind | image) ‖ p(kind)))

which follows from sums over images alone: of p and of Σ p log p. So parts add up. As published it
is the mean over 10 parts of the images, each scored by itself.

Dimensions in this file:
    N images, C kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ratgan.metrics.features import check_finite


@dataclass(frozen=True)
class ScoreSums:
    """Sums over images that add up.

    Attributes:
        count: Number of images.
        shares: Σ p(kind | image), float64, [C].
        information: Σ over images and kinds of p log p, at most 0.
    """

    count: int
    shares: Tensor
    information: float

    @classmethod
    def of(cls, logits: Tensor) -> "ScoreSums":
        """Sum over images, given the classifier's logits [N, C].

        Raises:
            ValueError: If a logit is not finite.
        """
        check_finite(logits, "logits of images")
        log_shares = logits.double().log_softmax(1)
        shares = log_shares.exp()
        return cls(len(logits), shares.sum(0), float((shares * log_shares).sum()))

    def __add__(self, other: "ScoreSums") -> "ScoreSums":
        return ScoreSums(
            self.count + other.count,
            self.shares + other.shares,
            self.information + other.information,
        )

    def score(self) -> float:
        """Return the score of these images as one part, from 1 to C.

        Raises:
            ValueError: If there is no image.
        """
        if not self.count:
            raise ValueError("the Inception Score of no image does not exist.")
        mean = self.shares / self.count
        # A share that is 0 in each image adds nothing.
        marginal = float(torch.special.xlogy(mean, mean).sum())
        return float(torch.tensor(self.information / self.count - marginal).exp())


def inception_score(parts: Sequence[ScoreSums]) -> tuple[float, float]:
    """Return mean and standard deviation (over n, as published) of the scores of the parts."""
    scores = torch.tensor([part.score() for part in parts], dtype=torch.float64)
    return float(scores.mean()), float(scores.std(correction=0))
