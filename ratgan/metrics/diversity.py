"""How much images of one caption differ: the mean distance of two of them, by their features.

Dimensions in this file:
    K images of one caption, D size of a feature vector.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ratgan.metrics.features import check_finite


def mean_distance(features: Tensor) -> float:
    """Return the mean distance of two of some images, given their features [K, D].

    Raises:
        ValueError: If there are fewer than 2, or a feature is not finite.
    """
    if len(features) < 2:
        raise ValueError(f"{len(features)} images have no distance; at least 2 are needed.")
    check_finite(features, "features of images")
    return float(torch.pdist(features.double()).mean())


def diversity(captions: Iterable[Tensor]) -> float:
    """Return the mean distance of two images of the same caption, over captions.

    Args:
        captions: For each caption the features of its images, [K, D].

    Raises:
        ValueError: If there is no caption, or one with fewer than 2 images, or a
            feature is not finite.
    """
    distances = [mean_distance(features) for features in captions]
    if not distances:
        raise ValueError("diversity needs the images of 1 caption or more.")
    return sum(distances) / len(distances)
