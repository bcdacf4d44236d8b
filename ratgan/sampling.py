"""From sentences to images: draw samples, and interpolate sentences and noise.

Dimensions in this file:
    N images, S sentence size, Z noise size, H W height and width.
"""

import torch
from torch import Tensor

from ratgan.networks import TextGenerator


@torch.inference_mode()
def sample(
    generator: TextGenerator,
    sentences: Tensor,
    noise: Tensor,
    batch_size: int = 32,
    *,
    fill: bool = False,
) -> Tensor:
    """Draw images.

    Args:
        generator: On any device.
        sentences: Transformed sentence vectors, [N, S].
        noise: Standard normal, [N, Z].
        batch_size: Images drawn at once.
        fill: Draw batches of exactly this size, the last one filled up with copies: then an image
            does not depend on the others, not even in its last bit.

    Returns:
        uint8 on the CPU, [N, 3, H, W].
    """
    device, count = next(generator.parameters()).device, len(noise)
    if fill:
        rows = torch.arange(-(-count // batch_size) * batch_size).clamp(max=count - 1)
        sentences, noise = sentences[rows], noise[rows]
    parts = [
        to_uint8(generator.draw(z.to(device), s.to(device))).cpu()
        for z, s in zip(noise.split(batch_size), sentences.split(batch_size), strict=True)
    ]
    return torch.cat(parts)[:count]


def to_uint8(images: Tensor) -> Tensor:
    """Round images in [-1, 1] to the nearest of 0 … 255."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def interpolate_sentences(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Interpolate linearly between sentence vectors [S]: share 0 is the start, 1 the end."""
    return torch.lerp(start, end, share)


def interpolate_noise(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Interpolate between noise vectors [Z] along a great circle.

    A straight line would pass through vectors that are much shorter than those
    of the training.

    Args:
        share: 0 is the start, 1 the end.
    """
    angle = torch.acos(torch.cosine_similarity(start, end, dim=0).clamp(-1, 1))
    if angle < 1e-4:  # the same direction: the circle is not defined
        return torch.lerp(start, end, share)
    return (torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end) / torch.sin(
        angle
    )
