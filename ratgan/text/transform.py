"""How raw sentence vectors become the generator's input: identity, standardize or whiten.

Sentence vectors of a general encoder share a large mean (MiniLM: cosine 0.64
between any two captions of the shapes dataset). Fed as they are, the generator
sees almost the same input for every caption and never learns the text.

Dimensions in this file:
    N vectors, R raw size, S size after the transform.
"""

import torch
from torch import Tensor, nn

from ratgan.vector_sums import VectorSums

KINDS = ("identity", "standardize", "whiten")


class SentenceTransform(nn.Module):
    """Affine map ``(x − mean) · projection``, fitted once on the training captions.

    Args:
        mean: [R].
        projection: [R, S].
        kind: Name for records, one of `KINDS`.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, mean: Tensor, projection: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", mean.float())
        self.register_buffer("projection", projection.float())

    @property
    def dim(self) -> int:
        """Size S of what comes out."""
        return self.projection.shape[1]

    @classmethod
    def identity(cls, dim: int) -> "SentenceTransform":
        """Leave vectors of size R as they are: what the paper's own encoder needs."""
        return cls(torch.zeros(dim), torch.eye(dim), "identity")

    @classmethod
    def fit(cls, kind: str, sums: VectorSums, dim: int) -> "SentenceTransform":
        """Fit a transform to the sums of the training vectors.

        Args:
            kind: `standardize` gives each number mean 0 and variance 1; `whiten`
                keeps the directions of largest variance, each scaled to variance 1;
                `identity` keeps the vectors.
            sums: Of the training vectors.
            dim: Size S to whiten to. Directions in which the captions do not vary
                are left out, so fewer may remain.

        Raises:
            ValueError: If the kind is not known or there is nothing to fit to.
        """
        if kind == "identity":
            return cls.identity(len(sums.total))
        if kind not in KINDS:
            raise ValueError(f"transform {kind!r} is not known; choose one of: {', '.join(KINDS)}.")
        if sums.count < 2:
            raise ValueError(
                f"{kind} is fitted to the training captions, and there are {sums.count}: at least "
                "2 are needed. Use --transform identity for so small a set."
            )
        covariance = sums.covariance()
        if kind == "standardize":
            deviation = covariance.diagonal().clamp_min(0).sqrt()
            scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0)
            return cls(sums.mean(), torch.diag(scale), kind)
        variances, directions = torch.linalg.eigh(covariance)  # ascending
        keep = variances.flip(0)[:dim] > 1e-6 * variances[-1]
        variances, directions = variances.flip(0)[:dim][keep], directions.flip(1)[:, :dim][:, keep]
        # An eigenvector has no sign of its own: fix it, so that equal data give equal bytes.
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        return cls(sums.mean(), directions * largest.sign() / variances.sqrt(), kind)

    def forward(self, vectors: Tensor) -> Tensor:
        """Transform vectors [N, R] to [N, S]."""
        return (vectors - self.mean) @ self.projection
