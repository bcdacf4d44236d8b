"""Are drawn images copies of training images? Compared with images that training never saw.

A drawn image is near if its nearest training image is less than half as far as its nearest held-out
image, and far the other way round. With as many training as held-out images, a model that copies
nothing has about as many near as far ones: both kinds are of one source. Images that are all alike
count as if each were drawn by itself, so there chance can decide.

Dimensions in this file:
    N drawn, M training and K held-out images, D size of a feature vector.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ratgan.metrics.features import TooFewImagesError, check_finite

ROWS_AT_ONCE = 1024
LEAST = 10  # images of each kind
# Copies at one in twenty are worth a look. By chance alone near and far ones differ by so much
# only if images are few, so three standard deviations are asked for too.
TOO_MANY = 0.05


@dataclass(frozen=True)
class Memorised:
    """What came out.

    Attributes:
        ratio: Median distance to the nearest training image over that to the nearest held-out one,
            about 1 if nothing is copied.
        near: Share of near images.
        far: Share of far images.
        flagged: Whether near ones are too many to be chance.
        distances: From the nearest of all training images, [N].
        nearest: Number of that training image, int64, [N].
    """

    ratio: float
    near: float
    far: float
    flagged: bool
    distances: Tensor
    nearest: Tensor


def memorised(drawn: Tensor, train: Tensor, held_out: Tensor) -> Memorised:
    """Look for copies.

    Args:
        drawn: Features, [N, D].
        train: Features of training images by the same extractor, [M, D]; where there are more
            than held-out ones, an even choice of them is compared, and all are looked at for the
            nearest.
        held_out: Features of images that training never saw, [K, D].

    Raises:
        TooFewImagesError: If there are fewer than 10 images of a kind.
        ValueError: If a feature is not finite.
    """
    for what, some in {"drawn": drawn, "training": train, "held-out": held_out}.items():
        check_finite(some, f"features of {what} images")
        if len(some) < LEAST:
            raise TooFewImagesError(f"{len(some)} {what} images are too few; {LEAST} are needed")
    count = min(len(train), len(held_out))
    distances, nearest = _nearest(drawn, train)
    to_train, to_held_out = (_nearest(drawn, _evenly(some, count))[0] for some in (train, held_out))
    near = float((to_train < to_held_out / 2).double().mean())
    far = float((to_held_out < to_train / 2).double().mean())
    chance = 3 * ((near + far) / len(drawn)) ** 0.5
    middle = float(to_held_out.median())
    return Memorised(
        ratio=float(to_train.median()) / middle if middle else 1.0,
        near=near,
        far=far,
        flagged=near - far > max(TOO_MANY, chance),
        distances=distances,
        nearest=nearest,
    )


def _evenly(features: Tensor, count: int) -> Tensor:
    return features[torch.arange(count) * len(features) // count]


def _nearest(features: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance of each image from the nearest other one, and its number."""
    centre = others.double().mean(0)
    others = others.double() - centre
    found = [
        torch.cdist(rows.double() - centre, others).min(1) for rows in features.split(ROWS_AT_ONCE)
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
