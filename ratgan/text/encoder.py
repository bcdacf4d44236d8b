"""What every text encoder offers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Words(NamedTuple):
    """Vectors of the words of N captions; L is the length of the longest.

    Attributes:
        vectors: Float32, zero where there is no word, [N, L, word_dim].
        mask: True where there is a word, [N, L].
    """

    vectors: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, count: int, dim: int, batches: Iterable[tuple[list[int], Tensor, Tensor]]
    ) -> "Words":
        """Put batches of captions together.

        Args:
            count: Captions N.
            dim: Size of the vectors.
            batches: Places of n captions, their vectors [n, l, dim] and mask [n, l].
        """
        held = list(batches)
        longest = max((mask.shape[1] for _, _, mask in held), default=0)
        words = cls(torch.zeros(count, longest, dim), torch.zeros(count, longest, dtype=torch.bool))
        for rows, vectors, mask in held:
            words.vectors[rows, : mask.shape[1]] = vectors.float() * mask[:, :, None]
            words.mask[rows, : mask.shape[1]] = mask
        return words


class TextEncoder(Protocol):
    """A frozen text encoder: captions in, a vector for each and for each of its words out.

    Attributes:
        name: Name that `load_encoder` knows.
        sha256: Hash of the weights, so that vectors can be traced to them.
        dim: Size of the sentence vectors before any transform.
        word_dim: Size of the word vectors.
    """

    name: str
    sha256: str
    dim: int
    word_dim: int

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode captions.

        Args:
            captions: N texts, none empty.

        Returns:
            Sentence vectors, float32 on the CPU, [N, dim].

        Raises:
            ValueError: If the encoder can make nothing of a caption.
        """
        ...

    def encode_words(self, captions: Sequence[str]) -> Words:
        """Encode the words of captions; what a word is, is the encoder's affair.

        Args:
            captions: N texts, none empty.

        Raises:
            ValueError: If the encoder can make nothing of a caption.
        """
        ...
