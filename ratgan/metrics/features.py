"""What every extractor of image features gives."""

from typing import NamedTuple, Protocol

from torch import Tensor


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
