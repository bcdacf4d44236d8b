"""Additive sums over vectors: the sums of parts give those of the whole.

Dimensions in this file:
    N vectors, D size.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class VectorSums:
    """Sums from which mean and covariance follow.

    Attributes:
        total: Σ x, float64, [D].
        products: Σ x xᵀ, float64, [D, D].
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Sum vectors [N, D]."""
        wide = vectors.double()
        return cls(len(wide), wide.sum(0), wide.T @ wide)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    def mean(self) -> Tensor:
        """Return the mean, [D]."""
        return self.total / self.count

    def covariance(self) -> Tensor:
        """Return the covariance over the N vectors, [D, D]."""
        mean = self.mean()
        return self.products / self.count - torch.outer(mean, mean)
