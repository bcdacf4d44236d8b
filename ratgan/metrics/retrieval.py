"""R-precision: does an image find its own caption among many?

The published measure (AttnGAN, https://arxiv.org/abs/1711.10485) draws 99 captions that do not
fit and counts how often the right one is nearest. Here its mean over all such draws is
computed, so it has no spread of its own and no seed.

Dimensions in this file:
    N images with one caption each, D size of all vectors.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class RPrecision(NamedTuple):
    """What came out, with what it must be compared with.

    Attributes:
        share: Of the images whose own caption is nearest, in [0, 1].
        candidates: Captions an image had to choose from, its own included.
        images: Number that were asked.
    """

    share: float
    candidates: int
    images: int

    @property
    def chance(self) -> float:
        """Share that blind choice would reach."""
        return 1 / self.candidates


def r_precision(
    images: Tensor, captions: Tensor, classes: Tensor, candidates: int = 100
) -> RPrecision:
    """Measure retrieval of captions by images.

    A caption of another image of the same class is not wrong, and is not drawn. Where fewer than
    99 wrong captions are there for an image, all images choose among fewer. A wrong caption that
    is exactly as near as the right one counts as nearer.

    Args:
        images: Vectors of the images, [N, D].
        captions: Vectors of their captions, [N, D].
        classes: A number for the class of each, int64, [N]; where classes are not known,
            that of the image.
        candidates: Captions to choose from, at least 2.

    Raises:
        ValueError: If the images do not differ in class: nothing is wrong then.
    """
    wrong = (classes[:, None] != classes).sum(1)  # [N]
    drawn = min(candidates - 1, int(wrong.min()) if len(wrong) else 0)
    if drawn < 1:
        raise ValueError(
            f"R-precision needs images of 2 classes or more, and 2 candidates; there are "
            f"{len(classes.unique())} classes and {candidates} candidates."
        )
    images, captions = functional.normalize(images, dim=1), functional.normalize(captions, dim=1)
    total = 0.0
    for rows in torch.arange(len(images)).split(512):
        near = images[rows] @ captions.T  # [n, N]
        own = near[torch.arange(len(rows)), rows]
        nearer = ((near >= own[:, None]) & (classes[rows, None] != classes)).sum(1)
        total += float(_no_nearer_drawn(wrong[rows], nearer, drawn).sum())
    return RPrecision(total / len(images), drawn + 1, len(images))


def _no_nearer_drawn(wrong: Tensor, nearer: Tensor, drawn: int) -> Tensor:
    """Return C(wrong − nearer, drawn) / C(wrong, drawn): no nearer caption is among those drawn."""
    all_, far = wrong.double(), (wrong - nearer).double()
    possible = far >= drawn

    def log_choices(count: Tensor) -> Tensor:
        return torch.lgamma(count + 1) - torch.lgamma(count.clamp_min(drawn) - drawn + 1)

    return torch.where(possible, (log_choices(far) - log_choices(all_)).exp(), 0.0)
