"""Random numbers that depend on their use (seed, step, purpose), never on earlier draws.

Noise and pairing of a step follow from (seed, step) for the whole batch, so a
resumed run, and a run on another number of workers, draws the same ones.
"""

import numpy as np
import torch
from torch import Tensor

NOISE, PAIRING, SAMPLE, VIEW = range(4)  # separate streams of one seed
CUT = 2.0  # deviations at which truncated noise ends


def generator_for(*keys: int) -> torch.Generator:
    """Return a CPU generator that depends on all keys, each at least 0."""
    state = np.random.SeedSequence(keys).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def step_noise(seed: int, step: int, batch_size: int, noise_dim: int) -> Tensor:
    """Draw the noise of a training step for the batch over all workers, [B, Z]."""
    return torch.randn(batch_size, noise_dim, generator=generator_for(seed, step, NOISE))


def sample_noise(seed: int, count: int, noise_dim: int) -> Tensor:
    """Draw noise for samples, [N, Z]; row n does not depend on N."""
    return torch.stack([noise_of(seed, row, noise_dim) for row in range(count)])


def noise_of(
    seed: int, row: int, noise_dim: int, truncation: float | None = None, stream: int = SAMPLE
) -> Tensor:
    """Draw the noise of one sample, [Z].

    Args:
        truncation: Factor of a normal cut at two deviations; None for a whole one.
    """
    draw = generator_for(seed, row, stream)
    if truncation is None:
        return torch.randn(noise_dim, generator=draw)
    below = torch.special.ndtr(torch.tensor(-CUT, dtype=torch.float64))
    share = torch.rand(noise_dim, generator=draw, dtype=torch.float64)
    return truncation * torch.special.ndtri(below + share * (1 - 2 * below)).float()


def mismatched_partners(seed: int, step: int, images: Tensor, classes: Tensor) -> Tensor:
    """Choose, for each image of a batch, another one whose sentence does not match it.

    The partner has another class. If the batch has no other class, it is another
    image, and if the batch has only one image, any other index.

    Args:
        images: A number for each image, int64, [B].
        classes: A number for the class of each image, int64, [B]; that of the
            image if classes are unknown.

    Returns:
        Indices into the batch, [B].
    """
    size = len(images)
    order = torch.randperm(size, generator=generator_for(seed, step, PAIRING))
    # Row p: the others in the order after position p of a random circle.
    others = order[(torch.arange(size)[:, None] + torch.arange(1, size)) % size]  # [B, B-1]
    fit = 2 * (classes[others] != classes[order][:, None]).long()
    fit += images[others] != images[order][:, None]
    first_best = (fit * size - torch.arange(size - 1)).argmax(1, keepdim=True)
    partners = torch.empty_like(order)
    partners[order] = others.gather(1, first_best)[:, 0]
    return partners


def published_partners(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Choose mismatched sentences as the published code does: the next in a sorted batch.

    That code sorts a batch by the length of its captions, longest first, and pairs
    images 0 … B − 2 with sentences 1 … B − 1. The last image has no partner, and a
    partner may have the same class.

    Args:
        lengths: Words of each caption, [B].

    Returns:
        Indices into the batch, [B], and the weight of each pair in the mean, [B]: 0 for
        the image without a partner, B / (B − 1) for the others.
    """
    size = len(lengths)
    order = torch.argsort(lengths, descending=True, stable=True)
    partners = torch.empty_like(order)
    partners[order] = order.roll(-1)
    weights = torch.full((size,), size / (size - 1))
    weights[order[-1]] = 0
    return partners, weights
