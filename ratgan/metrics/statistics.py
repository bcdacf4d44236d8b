"""What a set of images is, as far as a Fréchet distance sees it: count, mean and covariance.

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

from ratgan.metrics.features import check_finite
from ratgan.vector_sums import VectorSums


@dataclass(frozen=True)
class FeatureStatistics(VectorSums):
    """Sums over the feature vectors of images, in float64."""

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Sum feature vectors [N, D].

        Raises:
            ValueError: If a number is not finite.
        """
        check_finite(vectors, "features of images")
        return super().of(vectors)

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

        Raises:
            ValueError: If a number is not finite.
        """
        check_finite(mean[None], "mean of features")
        check_finite(covariance, "covariance of features")
        return cls(count, count * mean.double(), covariance.double() * (count - 1))

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
        return self.scatter / (self.count - 1)

    def mean_square_distance(self) -> float:
        """Return the mean squared distance of two different images: twice the total variance."""
        return 2 * float(self.unbiased_covariance().trace())

    def pack(self) -> bytes:
        """Make a file of safetensors."""
        tensors = {
            "count": torch.tensor(self.count),
            "total": self.total.contiguous(),
            "scatter": self.scatter.contiguous(),
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
            return cls._checked(load_tensors(content))
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{where} does not hold feature statistics: {error!r}") from error

    def to_json(self) -> str:
        """Write them as JSON; every number comes back as it was."""
        return json.dumps(
            {"count": self.count, "total": self.total.tolist(), "scatter": self.scatter.tolist()}
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
            return cls._checked(
                {name: torch.tensor(each, dtype=torch.float64) for name, each in record.items()}
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} does not hold feature statistics: {error!r}") from error

    @classmethod
    def _checked(cls, tensors: dict[str, Tensor]) -> Self:
        count, total = int(tensors["count"]), tensors["total"]
        # Σ x xᵀ in files of earlier versions
        square = tensors["scatter" if "scatter" in tensors else "products"]
        shapes = list(total.shape), list(square.shape)
        if total.dim() != 1 or shapes[1] != shapes[0] * 2:
            raise ValueError(f"sums of shapes {shapes[0]} and {shapes[1]} do not belong together")
        if "scatter" not in tensors:
            square = square - torch.outer(total, total) / max(count, 1)
        check_finite(total[None], "sums")
        check_finite(square, "sums of products")
        return cls(count, total, square)
