"""Fréchet distance between two sets of images, each taken for a normal distribution of features.

    ‖m₁ − m₂‖² + tr(S₁) + tr(S₂) − 2 tr((S₁ S₂)^½)

With Inception-v3 as published it is called FID (https://arxiv.org/abs/1706.08500); with any other
features it is not.

Dimensions in this file:
    D size of a feature vector, R rank of a covariance.
"""

import torch
from torch import Tensor

from ratgan.metrics.statistics import FeatureStatistics


def frechet_distance(one: FeatureStatistics, other: FeatureStatistics) -> float:
    """Measure how far two sets of images are apart; the order does not matter.

    Args:
        one: Of at least 2 images.
        other: Of at least 2 images, by the same features.

    Returns:
        The distance, 0 for equal means and covariances. It falls with the number of images, so
        only distances for equal numbers compare.

    Raises:
        ValueError: If the features are of different sizes, or a set has fewer than 2 images.
    """
    if one.dim != other.dim:
        raise ValueError(
            f"features of {one.dim} and of {other.dim} numbers cannot be compared: take both sets "
            "through the same extractor."
        )
    # The set of lower rank first: what is left out of it then is what it does not have.
    few, many = sorted((one, other), key=lambda statistics: statistics.count)
    covariances = few.unbiased_covariance(), many.unbiased_covariance()
    means = few.mean() - many.mean()
    spread = covariances[0].trace() + covariances[1].trace()
    # Rounding may leave a little less than 0 of equal sets.
    return float((means @ means + spread - 2 * trace_of_root(*covariances)).clamp_min(0))


def trace_of_root(few: Tensor, many: Tensor) -> Tensor:
    """Return tr((S₁ S₂)^½) by eigenvalues of symmetric matrices only, exact at any rank.

    (S₁ S₂)^½ has the eigenvalues of (S₁^½ S₂ S₁^½)^½. In the basis of S₁, and without the
    directions in which S₁ is 0, that is an [R, R] matrix. Left in, rounding would put about
    1e-16 of the largest eigenvalue into each of them, and 1e-8 of it into its root.

    Args:
        few: Covariance S₁, of the lower rank, [D, D].
        many: Covariance S₂, [D, D].
    """
    variances, directions = torch.linalg.eigh(few)  # ascending
    rounding = torch.finfo(variances.dtype).eps * len(variances) * variances[-1].clamp_min(0)
    real = variances > rounding
    if not bool(real.any()):
        return variances.new_zeros(())
    roots = variances[real].sqrt()
    basis = directions[:, real]  # [D, R]
    inner = (basis.T @ many @ basis) * roots * roots[:, None]
    return torch.linalg.eigvalsh(inner).clamp_min(0).sqrt().sum()
