"""CMMD: a kernel distance by CLIP, https://arxiv.org/abs/2401.09603.

As its code computes it: vectors of length 1, a Gaussian kernel of deviation 10, biased estimates,
times 1,000. Published values are by CLIP ViT-L/14 of 336 px; those by another CLIP do not compare.

Dimensions in this file:
    N, M images of the two sets, D size of CLIP's vectors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ratgan.metrics.kernel import Kernel, kernel_without

DEVIATION, SCALE = 10, 1000
GAUSSIAN = Kernel(
    # By products: of vectors of length 1, the squared distance is 2 less twice the product.
    lambda one, other: torch.exp((one @ other.T - 1) / DEVIATION**2),
    None,
)


def cmmd_without(
    one: Tensor, other: Tensor, one_parts: Tensor, other_parts: Tensor, without: Sequence[int]
) -> list[float]:
    """Measure how far two sets are apart without each of some parts of both.

    Args:
        one: CLIP's vectors of images, [N, D].
        other: The same of the other set, [M, D].
        one_parts: Part that each image is in, int64, [N].
        other_parts: The same, [M].
        without: Parts that are left out in turn; -1 for none.

    Raises:
        ValueError: If a number is not finite.
    """
    one, other = normalize(one.double()), normalize(other.double())
    found = kernel_without(one, other, one_parts, other_parts, without, GAUSSIAN)
    return [SCALE * value for value in found]
