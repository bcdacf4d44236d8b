"""What a set of images is, as far as a Fréchet distance sees it: count, Σ x and Σ x xᵀ.

Parts of a set, whoever holds them, add up to the whole; nothing is approximated on the way.

Dimensions in this file:
    N images, D size of a feature vector.
"""

import json
from dataclasses import dataclass
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ratgan.vector_sums import VectorSums


@dataclass(frozen=True)
class FeatureStatistics(VectorSums):
    """Sums over the feature vectors of images, in float64."""

    @classmethod
    def empty(cls, dim: int) -> Self:
        """Return the statistics of no image, to which others are added."""
        wide = torch.float64
        return cls(0, torch.zeros(dim, dtype=wide), torch.zeros(dim, dim, dtype=wide))

    @classmethod
    def of_moments(cls, count: int, mean: Tensor, covariance: Tensor) -> Self:
        """Return the statistics that have this mean and covariance, as others publish them.

        Args:
            count: Images N they were taken from, at least 2.
            mean: [D].
            covariance: Unbiased, [D, D].
        """
        mean, covariance = mean.double(), covariance.double()
        products = covariance * (count - 1) + count * torch.outer(mean, mean)
        return cls(count, count * mean, products)

    @property
    def dim(self) -> int:
        """Size D of the feature vectors."""
        return len(self.total)

    @property
    def rank(self) -> int:
        """Directions at most in which the images are known to differ.

        N images differ in N − 1 directions at most; in the others their covariance is 0.
        """
        return min(self.dim, self.count - 1)

    def unbiased_covariance(self) -> Tensor:
        """Return the covariance with N − 1 in the denominator, as all published FIDs take it.

        Raises:
            ValueError: If there are fewer than 2 images.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} images have no covariance; at least 2 are needed.")
        mean = self.mean()
        return (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)

    def mean_square_distance(self) -> float:
        """Return the mean squared distance of two different images: twice the total variance."""
        return 2 * float(self.unbiased_covariance().trace())

    def pack(self) -> bytes:
        """Make a file of safetensors."""
        tensors = {
            "count": torch.tensor(self.count),
            "total": self.total.contiguous(),
            "products": self.products.contiguous(),
        }
        content: bytes = save_tensors(tensors)
        return content

    @classmethod
    def unpack(cls, content: bytes, where: str) -> Self:
        """Read a file of `pack`.

        Args:
            content: Of the file.
            where: Its name, for messages.

        Raises:
            ValueError: If it is another file.
        """
        try:
            tensors = load_tensors(content)
            return cls._checked(int(tensors["count"]), tensors["total"], tensors["products"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{where} does not hold feature statistics: {error!r}") from error

    def to_json(self) -> str:
        """Write them as JSON; every number comes back as it was."""
        return json.dumps(
            {"count": self.count, "total": self.total.tolist(), "products": self.products.tolist()}
        )

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Read what `to_json` wrote.

        Args:
            text: JSON.
            where: What it comes from, for messages.

        Raises:
            ValueError: If it is something else.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            total, products = (
                torch.tensor(record[name], dtype=torch.float64) for name in ("total", "products")
            )
            return cls._checked(int(record["count"]), total, products)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where} does not hold feature statistics: {error!r}") from error

    @classmethod
    def _checked(cls, count: int, total: Tensor, products: Tensor) -> Self:
        shapes = list(total.shape), list(products.shape)
        if total.dim() != 1 or shapes[1] != shapes[0] * 2:
            raise ValueError(f"sums of shapes {shapes[0]} and {shapes[1]} do not belong together")
        return cls(count, total, products)
