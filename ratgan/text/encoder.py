"""What every text encoder offers, and the one place that knows them by name."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class TextEncoder(Protocol):
    """A frozen text encoder: captions in, one sentence vector each out.

    Attributes:
        name: Name that `load_encoder` knows.
        sha256: Hash of the weights, so that vectors can be traced to them.
        dim: Size of the sentence vectors before any transform.
    """

    name: str
    sha256: str
    dim: int

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode captions.

        Args:
            captions: N texts, none empty.

        Returns:
            Sentence vectors, float32 on the CPU, [N, dim].
        """
        ...


ENCODERS = ("minilm",)


def load_encoder(name: str) -> TextEncoder:
    """Load a text encoder by name.

    Args:
        name: One of `ENCODERS`.

    Raises:
        ValueError: If there is no encoder of that name.
        FileNotFoundError: If its weights are not installed.
    """
    if name == "minilm":
        from ratgan.text.minilm import MiniLM

        return MiniLM()
    raise ValueError(f"text encoder {name!r} is not known; choose one of: {', '.join(ENCODERS)}.")
