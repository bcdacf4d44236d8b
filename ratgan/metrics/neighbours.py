"""Precision, recall, density and coverage: who lies among the nearest neighbours of whom?

* precision: share of generated images that lie where real ones do,
* recall: share of real images that lie where generated ones do,
  both https://arxiv.org/abs/1904.06991, with the 3 nearest neighbours;
* density: how many real images' neighbourhoods a generated image lies in, over k, 1 on average for
  real images, and robust against single outliers,
* coverage: share of real images with a generated one in their neighbourhood,
  both https://arxiv.org/abs/2002.09797, with the 5 nearest.

All four depend on the numbers of images.

Dimensions in this file:
    N real and M generated images, D size of a feature vector.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ratgan.metrics.features import TooFewImagesError, check_finite

ROWS_AT_ONCE = 1024


class Neighbours(NamedTuple):
    """The four measures; all but density are in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(
    real: Tensor, generated: Tensor, *, nearest: int = 3, nearest_for_density: int = 5
) -> Neighbours:
    """Measure who lies among whose neighbours.

    Args:
        real: Features, [N, D].
        generated: Features by the same extractor, [M, D].
        nearest: Neighbours k that span the place of an image, for precision and recall.
        nearest_for_density: The same for density and coverage.

    Raises:
        TooFewImagesError: If a set has no more images than neighbours are asked for.
        ValueError: If a feature is not finite.
    """
    check_finite(real, "features of real images")
    check_finite(generated, "features of generated images")
    most = max(nearest, nearest_for_density)
    if min(len(real), len(generated)) <= most:
        raise TooFewImagesError(
            f"the {most} nearest neighbours need more than {most} images of each set; there are "
            f"{len(real)} and {len(generated)}."
        )
    # Far from zero, a distance by products of float32 vectors would be rounding.
    centre = real.double().mean(0)
    real, generated = real.double() - centre, generated.double() - centre
    around_real = _radii(real, (nearest, nearest_for_density))  # [2, N]
    around_generated = _radii(generated, (nearest,))[0]  # [M]
    inside = torch.zeros(len(generated), dtype=torch.int64, device=real.device)
    precise = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    recalled, covered = 0, 0
    for rows in torch.arange(len(real), device=real.device).split(ROWS_AT_ONCE):
        distances = torch.cdist(real[rows], generated)  # [n, M]
        precise |= (distances <= around_real[0, rows, None]).any(0)
        near = distances <= around_real[1, rows, None]
        inside += near.sum(0)
        covered += int(near.any(1).sum())
        recalled += int((distances <= around_generated).any(1).sum())
    return Neighbours(
        precision=float(precise.double().mean()),
        recall=recalled / len(real),
        density=float(inside.double().mean()) / nearest_for_density,
        coverage=covered / len(real),
    )


def _radii(features: Tensor, nearest: tuple[int, ...]) -> Tensor:
    """Return the distance of each image from its k-th nearest other one, for each k, [k, N]."""
    found = []
    for rows in features.split(ROWS_AT_ONCE):
        # The nearest of all is the image itself.
        near = torch.cdist(rows, features).topk(max(nearest) + 1, largest=False).values
        found.append(near[:, list(nearest)])
    return torch.cat(found).T
