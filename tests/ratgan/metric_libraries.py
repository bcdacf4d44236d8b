"""What the metric libraries need to be given features in place of images."""

import torch
from torch import nn


class FeaturesAsImages(nn.Module):
    """A feature network for torchmetrics that passes its input on."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features
