"""How images come to the size an extractor takes: the rules that published numbers differ by.

Which one is used moves a FID by more than many papers' improvements
(https://arxiv.org/abs/2104.11222), so it is part of a protocol.

Dimensions in this file:
    N images, H W height and width in pixels.
"""

from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ratgan.options import Resize

RESIZES: tuple[Resize, ...] = get_args(Resize)


def resize(images: Tensor, size: int, rule: Resize) -> Tensor:
    """Resize images to a square; whatever their aspect was, it is not kept.

    Args:
        images: Float, in [0, 255], [N, 3, H, W].
        size: Height and width wanted, in pixels.
        rule: ``tensorflow``: bilinear as TensorFlow 1 does it, without half a pixel of offset and
            without smoothing (the first FIDs, torch-fidelity). ``bilinear``: without smoothing
            (pytorch-fid, DF-GAN when it was published). ``antialias``: with smoothing (torchmetrics
            1.9). ``pillow``: Pillow's bilinear of 8 bit (StackGAN's Inception Score).
            ``bicubic``: with smoothing, in float (clean-fid).

    Returns:
        Float, in [0, 255] but for what a bicubic overshoots, [N, 3, size, size].
    """
    if rule == "tensorflow":
        return _as_tensorflow(_as_tensorflow(images, size, 3), size, 2)
    if rule == "pillow":
        return torch.stack([_by_pillow(image, size) for image in images]).to(images.device)
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(
        images,
        (size, size),
        mode="bicubic" if rule == "bicubic" else "bilinear",
        align_corners=False,
        antialias=rule != "bilinear",
    )


def _as_tensorflow(images: Tensor, size: int, axis: int) -> Tensor:
    length = images.shape[axis]
    # In float32, as there: where it rounds decides which two pixels are mixed.
    scale = torch.tensor(length / size, dtype=torch.float32)
    place = torch.arange(size, dtype=torch.float32) * scale
    low = place.long()
    share = (place - low).view(-1, *[1] * (3 - axis)).to(images)
    low, high = (n.to(images.device) for n in (low, (low + 1).clamp_max(length - 1)))
    start = images.index_select(axis, low)
    return start + (images.index_select(axis, high) - start) * share


def _by_pillow(image: Tensor, size: int) -> Tensor:
    """Resize one image of whole numbers, [3, H, W]."""
    pixels = image.round().to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy()
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
