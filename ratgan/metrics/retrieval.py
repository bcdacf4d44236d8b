"""Do images and captions find each other? R-precision, recall at k, and how near they are.

All of them see vectors that a trained pair of encoders gave (DAMSM, CLIP), so they compare only
for the same pair.

R-precision asks whether an image finds its own caption among many. The published measure (AttnGAN,
https://arxiv.org/abs/1711.10485) draws 99 captions that do not fit and counts how often the right
one is nearest. Here its mean over all such draws is computed, so it has no spread of its own and
no seed.

Dimensions in this file:
    N images with one caption each, D size of all vectors.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ratgan.metrics.features import check_finite


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
        ValueError: If the images do not differ in class (nothing is wrong then), or a number is not
            finite.
    """
    wrong = (classes[:, None] != classes).sum(1)  # [N]
    if candidates < 2 or not len(wrong) or not int(wrong.min()):
        raise ValueError(
            f"R-precision needs images of 2 classes or more, and 2 candidates; there are "
            f"{len(classes.unique())} classes and {candidates} candidates."
        )
    return precision_of(wrong, nearer_ones(images, captions, classes), candidates)


def precision_of(wrong: Tensor, nearer: Tensor, candidates: int = 100) -> RPrecision:
    """Measure retrieval of captions by images, from counts.

    Args:
        wrong: Wrong captions for each image, at least 1, [N].
        nearer: Those of them that are as near as its own, or nearer, [N].
        candidates: As for `r_precision`.
    """
    drawn = min(candidates - 1, int(wrong.min()))
    total = float(_no_nearer_drawn(wrong, nearer, drawn).sum())
    return RPrecision(total / len(wrong), drawn + 1, len(wrong))


def nearer_ones(queries: Tensor, answers: Tensor, classes: Tensor) -> Tensor:
    """Count, for each query, the wrong answers that are as near as its own one, or nearer.

    Args:
        queries: Vectors, such as of the images, [N, D].
        answers: Vectors of what each should find, such as of their captions, [N, D].
        classes: A number for the class of each, int64, [N]: an answer of the same class is
            not wrong.

    Returns:
        int64, [N]: 0 where the own answer is found first.

    Raises:
        ValueError: If a number is not finite.
    """
    check_finite(queries, "vectors of what is asked")
    check_finite(answers, "vectors of the answers")
    queries, answers = functional.normalize(queries, dim=1), functional.normalize(answers, dim=1)
    counts = []
    for rows in torch.arange(len(queries)).split(512):
        near = queries[rows] @ answers.T  # [n, N]
        own = near[torch.arange(len(rows)), rows]
        counts.append(((near >= own[:, None]) & (classes[rows, None] != classes)).sum(1))
    return torch.cat(counts)


def recall_at(queries: Tensor, answers: Tensor, classes: Tensor, within: int) -> float:
    """Return the share of queries whose own answer is among the nearest of all.

    Args:
        queries: Vectors, [N, D].
        answers: Vectors of what each should find, [N, D].
        classes: As for `nearer_ones`.
        within: How many answers a query may look at, such as 1, 5 or 10.
    """
    return float((nearer_ones(queries, answers, classes) < within).double().mean())


def mean_cosine(images: Tensor, captions: Tensor) -> float:
    """Return how near images are to their captions, in [-1, 1]; with CLIP called the CLIP score.

    Others print it times 100, or 2.5 times (https://arxiv.org/abs/2104.08718).

    Args:
        images: Vectors of the images, [N, D].
        captions: Vectors of their captions, [N, D].

    Raises:
        ValueError: If a number is not finite.
    """
    check_finite(images, "vectors of images")
    check_finite(captions, "vectors of captions")
    return float(functional.cosine_similarity(images.double(), captions.double(), dim=1).mean())


def _no_nearer_drawn(wrong: Tensor, nearer: Tensor, drawn: int) -> Tensor:
    """Return C(wrong − nearer, drawn) / C(wrong, drawn): no nearer caption is among those drawn."""
    all_, far = wrong.double(), (wrong - nearer).double()
    possible = far >= drawn

    def log_choices(count: Tensor) -> Tensor:
        return torch.lgamma(count + 1) - torch.lgamma(count.clamp_min(drawn) - drawn + 1)

    return torch.where(possible, (log_choices(far) - log_choices(all_)).exp(), 0.0)
