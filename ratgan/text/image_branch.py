"""The image side of DAMSM: vectors of an image's regions, and one of the whole.

Dimensions in this file:
    B images, H W height and width, R regions, C channels, D size of all vectors.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.efficientnet import DIM, REGIONS, SIZE, EfficientNetLite0
from ratgan.weights.strict import batch_counts, load_strictly
from ratgan.weights.weight_file import read_weights

INCEPTION_SIZE = 299  # pixels


class SmallBranch(nn.Module):
    """A small convolutional network for small, simple images, trained from scratch.

    Args:
        dim: Size D of the vectors.
        channels: Width of the first layer.
    """

    def __init__(self, dim: int = 256, channels: int = 32) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        # Two more planes say where a pixel is, or no region could know that it is the top left one.
        layers: list[nn.Module] = []
        for inputs, width in zip((5, *widths), widths, strict=False):
            # Group norm: each image by itself, so the result does not depend on its company.
            layers += [
                nn.Conv2d(inputs, width, 3, padding=1, bias=False),
                nn.GroupNorm(8, width),
                nn.ReLU(),
            ]
            layers += [nn.MaxPool2d(2)] if width != widths[-1] else []
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(8))
        self.to_regions = nn.Conv2d(widths[-1], dim, 1, bias=False)
        self.to_whole = nn.Sequential(
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(widths[-1] * 16, dim), nn.ReLU(),
            nn.Linear(dim, dim),
        )  # fmt: skip

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at images.

        Args:
            images: In [-1, 1], at least 32 px, [B, 3, H, W].

        Returns:
            Vectors of 8 × 8 regions, [B, 64, D], and of the whole, [B, D].
        """
        batch, _, height, width = images.shape
        y = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
        x = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
        where = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(batch, -1, -1, -1)
        features = self.trunk(torch.cat([images, where], dim=1))  # [B, C, 8, 8]
        return self.to_regions(features).flatten(2).transpose(1, 2), self.to_whole(features)


class InceptionBranch(nn.Module):
    """Inception-v3, frozen, with a learned projection of regions and whole; as in AttnGAN.

    Args:
        trunk: State dict of torchvision's Inception-v3; see `read_inception`.
        dim: Size D of the vectors.

    Raises:
        ValueError: If the tensors are not those of Inception-v3.
    """

    def __init__(self, trunk: dict[str, Tensor], dim: int = 256) -> None:
        super().__init__()
        network = _inception()
        network.fc = nn.Identity()
        unused = ("fc.", "AuxLogits.")
        kept = {name: t for name, t in trunk.items() if not name.startswith(unused)}
        load_strictly(network, batch_counts(network) | kept, "the Inception-v3 weights")
        parts = dict(network.named_children())
        last = list(parts).index("Mixed_6e") + 1
        names = [name for name in parts if name not in ("AuxLogits", "avgpool", "dropout", "fc")]
        self.until_regions = nn.Sequential(*(parts[name] for name in names[:last]))
        self.until_whole = nn.Sequential(*(parts[name] for name in names[last:]))
        self.until_regions.requires_grad_(False)
        self.until_whole.requires_grad_(False)
        self.to_regions = nn.Conv2d(768, dim, 1, bias=False)
        self.to_whole = nn.Linear(2048, dim)

    def train(self, mode: bool = True) -> "InceptionBranch":
        """Train the projections only: the trunk keeps the batch statistics it came with."""
        super().train(mode)
        self.until_regions.eval()
        self.until_whole.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at images.

        Args:
            images: In [-1, 1], any size, [B, 3, H, W].

        Returns:
            Vectors of 17 × 17 regions, [B, 289, D], and of the whole, [B, D].
        """
        images = functional.interpolate(
            images, (INCEPTION_SIZE, INCEPTION_SIZE), mode="bilinear", align_corners=False
        )
        with torch.no_grad():
            features = self.until_regions(images)  # [B, 768, 17, 17]
            whole = self.until_whole(features).mean((2, 3))  # [B, 2048]
        return self.to_regions(features).flatten(2).transpose(1, 2), self.to_whole(whole)


class EfficientNetBranch(nn.Module):
    """EfficientNet-Lite0, frozen, with a learned projection of regions and whole.

    Args:
        trunk: State dict of the network; see `read_efficientnet`.
        dim: Size D of the vectors.

    Raises:
        ValueError: If the tensors are not those of EfficientNet-Lite0.
    """

    def __init__(self, trunk: dict[str, Tensor], dim: int = 256) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0(trunk)
        self.to_regions = nn.Conv2d(REGIONS, dim, 1, bias=False)
        self.to_whole = nn.Linear(DIM, dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at images.

        Args:
            images: In [-1, 1], any size, [B, 3, H, W].

        Returns:
            Vectors of 14 × 14 regions, [B, 196, D], and of the whole, [B, D].
        """
        images = functional.interpolate(
            images, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True
        )
        with torch.no_grad():
            features, whole = self.trunk(127.5 * (images + 1))  # [B, 112, 14, 14], [B, 1280]
        return self.to_regions(features).flatten(2).transpose(1, 2), self.to_whole(whole)


ImageBranch = SmallBranch | InceptionBranch | EfficientNetBranch


def read_inception(location: str | Path | None) -> dict[str, Tensor]:
    """Read the weights of torchvision's Inception-v3.

    Args:
        location: Safetensors or torchvision's own file; without one, torchvision downloads
            its ImageNet weights.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it holds anything but tensors.
    """
    if location is None:
        from torchvision.models import Inception_V3_Weights

        tensors: dict[str, Tensor] = Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(
            check_hash=True
        )
        return tensors
    return read_weights(location, "the Inception-v3 weights").tensors


def untrained_inception() -> dict[str, Tensor]:
    """Return weights of the right shapes that know nothing, to try a step with."""
    return dict(_inception().state_dict())


def _inception() -> nn.Module:
    from torchvision.models import inception_v3  # takes seconds, and few need it

    # transform_input stays off: images in [-1, 1] are what the network was trained on.
    network: nn.Module = inception_v3(
        weights=None, aux_logits=False, transform_input=False, init_weights=False
    )
    return network
