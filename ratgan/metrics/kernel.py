"""Kernel distance between two sets of images: the squared maximum mean discrepancy (KID).

With the kernel (x·y / D + 1)³ of https://arxiv.org/abs/1801.01401 and its unbiased estimate, so
that unlike a Fréchet distance it does not depend on the number of images, but for its spread. It
may be slightly below 0 for sets that are alike. With Inception-v3 as published it is called KID.

Libraries estimate it as the mean over 100 random draws of 1,000 images of each set. Here its mean
over all such draws is computed, which is the estimate from all pairs at once, so it has no seed.

Dimensions in this file:
    N, M images of the two sets, D size of a feature vector, G parts of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ratgan.metrics.features import check_finite

ROWS_AT_ONCE = 1024


class Kernel(NamedTuple):
    """How alike two images are.

    Attributes:
        of_pairs: Of [N, D] and [M, D], of all their pairs, [N, M].
        of_itself: Of [N, D], of each with itself, [N], which an unbiased estimate leaves out; None
            for the biased estimate.
    """

    of_pairs: Callable[[Tensor, Tensor], Tensor]
    of_itself: Callable[[Tensor], Tensor] | None


CUBIC = Kernel(
    lambda one, other: (one @ other.T / one.shape[1] + 1).pow(3),
    lambda one: (one.square().sum(1) / one.shape[1] + 1) ** 3,
)


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
    nothing = [torch.zeros(len(some), dtype=torch.int64) for some in (one, other)]
    return kernel_without(one, other, nothing[0], nothing[1], (-1,))[0]


def kernel_without(
    one: Tensor,
    other: Tensor,
    one_parts: Tensor,
    other_parts: Tensor,
    without: Sequence[int],
    kernel: Kernel = CUBIC,
) -> list[float]:
    """Measure how far two sets are apart without each of some parts of both.

    Args:
        one: As for `kernel_distance`.
        other: As for `kernel_distance`.
        one_parts: Part that each image is in, int64, [N].
        other_parts: The same, [M].
        without: Parts that are left out in turn; -1 for none.
        kernel: KID's, if no other is given.
    """
    check_finite(one, "features of the first set of images")
    check_finite(other, "features of the second set of images")
    one, other = one.double(), other.double()
    parts = 1 + max(int(one_parts.max()), int(other_parts.max()))
    of_one, of_other = (
        functional.one_hot(some, parts).to(one) for some in (one_parts, other_parts)
    )  # [N, G], [M, G]
    pairs = (
        _sums(one, one, of_one, of_one, kernel),
        _sums(other, other, of_other, of_other, kernel),
        _sums(one, other, of_one, of_other, kernel),
    )
    unbiased = kernel.of_itself is not None
    with_itself = [
        kernel.of_itself(some) @ member if kernel.of_itself else member.new_zeros(parts)
        for some, member in ((one, of_one), (other, of_other))
    ]
    found = []
    for part in without:
        kept = torch.ones(parts, dtype=one.dtype, device=one.device)
        if part >= 0:
            kept[part] = 0
        n, m = float((of_one @ kept).sum()), float((of_other @ kept).sum())
        sums = [float(kept @ pair @ kept) for pair in pairs]
        alone = [float(some @ kept) for some in with_itself]
        within = (sums[0] - alone[0]) / (n * (n - unbiased))
        within += (sums[1] - alone[1]) / (m * (m - unbiased))
        found.append(within - 2 * sums[2] / (n * m))
    return found


def _sums(one: Tensor, other: Tensor, of_one: Tensor, of_other: Tensor, kernel: Kernel) -> Tensor:
    """Sum the kernel over all pairs of two sets by their parts, a block of rows at a time, [G, G].

    Args:
        one: Features, [N, D].
        other: Features, [M, D].
        of_one: 1 for the part that each image is in, else 0, [N, G].
        of_other: The same, [M, G].
        kernel: Compares two images.
    """
    total = of_one.new_zeros(of_one.shape[1], of_other.shape[1])
    for rows, member in zip(one.split(ROWS_AT_ONCE), of_one.split(ROWS_AT_ONCE), strict=True):
        total += member.T @ (kernel.of_pairs(rows, other) @ of_other)
    return total
