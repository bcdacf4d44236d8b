"""From sentences to images: draw samples, and interpolate sentences and noise.

Dimensions in this file:
    N images, S sentence size, Z noise size, H W height and width.
"""

import torch
from torch import Tensor

from ratgan.networks import TextGenerator


@torch.inference_mode()
def sample(
    generator: TextGenerator, sentences: Tensor, noise: Tensor, batch_size: int = 32
) -> Tensor:
    """Draw images.

    Args:
        generator: On any device.
        sentences: Transformed sentence vectors, [N, S].
        noise: Standard normal, [N, Z].
        batch_size: Images drawn at once.

    Returns:
        uint8 on the CPU, [N, 3, H, W].
    """
    device = next(generator.parameters()).device
    parts = [
        to_uint8(generator.draw(z.to(device), s.to(device))).cpu()
        for z, s in zip(noise.split(batch_size), sentences.split(batch_size), strict=True)
    ]
    return torch.cat(parts)


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to the nearest of 0 … 255."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def interpolate_sentences(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Interpolate linearly between sentence vectors [S]: [steps, S], both ends included."""
    return torch.lerp(start, end, torch.linspace(0, 1, steps)[:, None])


def interpolate_noise(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Interpolate between noise vectors [Z] along a great circle: [steps, Z].

    A straight line would pass through vectors that are much shorter than those
    of the training.
    """
    share = torch.linspace(0, 1, steps)[:, None]
    angle = torch.acos(torch.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    if angle < 1e-4:  # the same direction: the circle is not defined
        return torch.lerp(start, end, share)
    return (torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end) / torch.sin(
        angle
    )
