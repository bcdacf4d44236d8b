"""What every extractor of image features gives, and what every measure checks in it."""

from typing import NamedTuple, Protocol

from torch import Tensor


class TooFewImagesError(ValueError):
    """There are too few images for a measure."""


def check_finite(vectors: Tensor, what: str, first: int = 0) -> None:
    """Refuse vectors of which no measure can be taken.

    Args:
        vectors: One of each image or caption, [N, …].
        what: Set that they are of, for the message.
        first: Number of the first one in that set.

    Raises:
        ValueError: If a number is NaN or infinite.
    """
    wrong = (~vectors.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(wrong):
        raise ValueError(
            f"{what}: row {first + int(wrong[0]):,} holds numbers that are not finite, and so do "
            f"{len(wrong) - 1:,} others of {len(vectors):,}. Look at these images, and at the "
            "weights of the network that looked at them."
        )


class Features(NamedTuple):
    """What an extractor sees in N images.

    Attributes:
        vectors: [N, D].
        logits: Of the kinds it tells apart, [N, C]; None if it does not.
    """

    vectors: Tensor
    logits: Tensor | None = None


class Extractor(Protocol):
    """A frozen network that turns images into feature vectors.

    Attributes:
        name: Key of `EXTRACTORS`.
        sha256: Of its weights, so that numbers can be traced to them.
        dim: Size D of the vectors.
        has_logits: Whether an Inception Score can be taken from it.
        published: Whether the weights are those that its name is known by.
    """

    name: str
    sha256: str
    dim: int
    has_logits: bool
    published: bool

    def __call__(self, images: Tensor) -> Features:
        """Look at images.

        Args:
            images: Float, in [0, 255], any size, [N, 3, H, W].

        Returns:
            Features on the same device.
        """
        ...
