"""A small extractor without any file: fixed filters drawn from a seed.

Distances by it fall as generated images come to look like real ones, in colours, edges, textures
and rough layout; it knows nothing of what images show. It is for curves and for comparing runs
where no published network is at hand. What it measures is called `fd[builtin]`, never FID.

Dimensions in this file:
    N images, D features, C channels, H W height and width.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.metrics.features import Features
from ratgan.metrics.resizing import resize

SIZE = 64  # pixels
WIDTHS, KERNELS = (16, 24, 32), (5, 3, 3)
GRID, GRID_CHANNELS = 2, 8  # the rough layout
DIM = 2 * (3 + sum(WIDTHS)) + GRID_CHANNELS * GRID**2


class BuiltIn(nn.Module):
    """Three layers of fixed filters, each with rectifier; the same everywhere and for ever."""

    name = "builtin"
    dim = DIM
    has_logits = False
    published = True

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        channels = 3
        digest = hashlib.sha256()
        for layer, (width, kernel) in enumerate(zip(WIDTHS, KERNELS, strict=True)):
            filters = rng.standard_normal((width, channels, kernel, kernel))
            if layer < 2:
                # Without the mean of what they look at: or how bright an image is would be most of
                # what there is to see.
                filters -= filters.mean((2, 3), keepdims=True)
            filters *= np.sqrt(2 / (filters**2).sum((1, 2, 3), keepdims=True))
            weights = torch.from_numpy(filters).float()
            digest.update(weights.numpy().tobytes())
            self.register_buffer(f"filters_{layer}", weights)
            channels = width
        self.sha256 = digest.hexdigest()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        """Look at images in [0, 255], [N, 3, H, W]: means, deviations and a coarse map."""
        x = resize(images.float(), SIZE, "antialias") / 127.5 - 1
        found = [x.mean((2, 3)), x.std((2, 3))]
        for layer in range(len(WIDTHS)):
            filters = self.get_buffer(f"filters_{layer}")
            around = [filters.shape[-1] // 2] * 4
            x = functional.pad(x, around, mode="reflect")
            x = functional.conv2d(x, filters, stride=2 if layer == 0 else 1).relu()  # [N, C, H, W]
            found += [x.mean((2, 3)), x.std((2, 3))]
            if layer < len(WIDTHS) - 1:
                x = functional.max_pool2d(x, 2)
        layout = functional.adaptive_avg_pool2d(x[:, :GRID_CHANNELS], GRID)
        return Features(torch.cat([*found, layout.flatten(1) / GRID], dim=1))  # [N, D]
