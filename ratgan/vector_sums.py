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
        scatter: Σ (x − mean)(x − mean)ᵀ, float64, [D, D]: about the mean of these vectors, since
            products of vectors far from zero would round away how they differ.
    """

    count: int
    total: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Sum vectors [N, D]."""
        wide = vectors.double()
        centred = wide - wide.mean(0) if len(wide) else wide
        return cls(len(wide), wide.sum(0), centred.T @ centred)

    def __add__(self, other: Self) -> Self:
        count = self.count + other.count
        scatter = self.scatter + other.scatter
        if self.count and other.count:
            apart = self.mean() - other.mean()
            scatter = scatter + torch.outer(apart, apart) * (self.count * other.count / count)
        return type(self)(count, self.total + other.total, scatter)

    def without(self, part: Self) -> Self:
        """Return the sums of the other vectors, given those of a part."""
        count, total = self.count - part.count, self.total - part.total
        scatter = self.scatter - part.scatter
        if count and part.count:
            apart = total / count - part.mean()
            scatter = scatter - torch.outer(apart, apart) * (count * part.count / self.count)
        return type(self)(count, total, scatter)

    def mean(self) -> Tensor:
        """Return the mean, [D]."""
        return self.total / self.count

    def covariance(self) -> Tensor:
        """Return the covariance over the N vectors, [D, D]."""
        return self.scatter / self.count
