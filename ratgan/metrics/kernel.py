"""Kernel distance between two sets of images: the squared maximum mean discrepancy (KID).

With the kernel (x·y / D + 1)³ of https://arxiv.org/abs/1801.01401 and its unbiased estimate, so
that unlike a Fréchet distance it does not depend on the number of images, but for its spread. It
may be slightly below 0 for sets that are alike. With Inception-v3 as published it is called KID.

Libraries estimate it as the mean over 100 random draws of 1,000 images of each set. Here its mean
over all such draws is computed, which is the estimate from all pairs at once, so it has no seed.

Dimensions in this file:
    N, M images of the two sets, D size of a feature vector.
"""

import torch
from torch import Tensor

from ratgan.metrics.features import check_finite

ROWS_AT_ONCE = 1024


def kernel_distance(one: Tensor, other: Tensor) -> float:
    """Measure how far two sets of images are apart.

    Args:
        one: Features of at least 2 images, [N, D].
        other: Features of at least 2 images, by the same extractor, [M, D].

    Raises:
        ValueError: If a set has fewer than 2 images, the features are of different sizes, or one
            is not finite.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"a kernel distance needs 2 images of each set; there are {len(one)} and {len(other)}."
        )
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"features of {one.shape[1]} and of {other.shape[1]} numbers cannot be compared."
        )
    check_finite(one, "features of the first set of images")
    check_finite(other, "features of the second set of images")
    one, other = one.double(), other.double()
    within = _mean_of_pairs(one) + _mean_of_pairs(other)
    return within - 2 * _kernel_sum(one, other) / (len(one) * len(other))


def _mean_of_pairs(features: Tensor) -> float:
    """Return the mean of the kernel over all pairs of different images."""
    with_itself = float(((features.square().sum(1) / features.shape[1] + 1) ** 3).sum())
    count = len(features)
    return (_kernel_sum(features, features) - with_itself) / (count * (count - 1))


def _kernel_sum(one: Tensor, other: Tensor) -> float:
    """Sum the kernel over all pairs of two sets, a block of rows at a time."""
    total = torch.zeros((), dtype=one.dtype, device=one.device)
    for rows in one.split(ROWS_AT_ONCE):
        total += (rows @ other.T / one.shape[1] + 1).pow(3).sum()
    return float(total)
