"""Inception-v3 as image metrics take it, in the three forms in which published numbers exist.

They have the same tensors and differ in how they pool, scale and classify:

    inception-2015         the network of TensorFlow's graph inception-2015-12-05, behind the first
                           FIDs; as in torch-fidelity, pytorch-fid and clean-fid
    inception-torchvision  torchvision's, with ImageNet weights; behind DF-GAN's and GALIP's numbers
    inception-slim         TensorFlow-slim's, of which StackGAN fine-tuned one on birds and one on
                           flowers; behind the Inception Scores on CUB and Oxford-102

Dimensions in this file:
    N images, C kinds that are told apart, H W height and width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.metrics.features import Features
from ratgan.weights.strict import batch_counts, load_strictly

SIZE = 299  # pixels
DIM = 2048


@dataclass(frozen=True)
class Form:
    """What tells a form of Inception-v3 from the others.

    Attributes:
        pads_count: Whether the padding counts in the averages of the blocks.
        last_pool_is_max: Whether the last block takes maxima in its pooling branch.
        shift: Subtracted from pixels in [0, 255], which are then divided by `scale`.
        scale: See `shift`.
        with_bias: Whether the logits of the Inception Score have their bias.
        first_kind: Kinds before this one are no kinds of images.
        published: How the sha256 of the published files begin.
        known_as: Names of these files, for who looks for one.
    """

    pads_count: bool
    last_pool_is_max: bool
    shift: float
    scale: float
    with_bias: bool
    first_kind: int
    published: tuple[str, ...]
    known_as: str


FORMS = {
    "inception-2015": Form(
        pads_count=False,
        last_pool_is_max=True,
        shift=128,
        scale=128,
        with_bias=False,  # as in the code of the paper, and torch-fidelity's
        first_kind=0,
        published=("6726825d",),
        known_as="pt_inception-2015-12-05-6726825d.pth of pytorch-fid, or "
        "weights-inception-2015-12-05-6726825d.pth of torch-fidelity",
    ),
    "inception-torchvision": Form(
        pads_count=True,
        last_pool_is_max=False,
        shift=127.5,
        scale=127.5,
        with_bias=True,
        first_kind=0,
        published=("0cc3c7bd", "1a9a5a14"),  # of newer and older torchvision
        known_as="inception_v3_google-0cc3c7bd.pth of torchvision",
    ),
    "inception-slim": Form(
        pads_count=False,
        last_pool_is_max=False,
        shift=127.5,
        scale=127.5,
        with_bias=True,
        first_kind=1,  # StackGAN's networks keep kind 0 for a background that there is none of
        published=(),
        known_as="StackGAN's birds_valid299 or flowers_valid299, its averaged weights converted to "
        "the names of torchvision's inception_v3",
    ),
}


class Inception(nn.Module):
    """Inception-v3 in one of its forms, frozen.

    Args:
        form: Key of `FORMS`.
        tensors: State dict with torchvision's names; auxiliary heads are left out.

    Raises:
        ValueError: If the tensors are not those of Inception-v3.
    """

    def __init__(self, form: str, tensors: dict[str, Tensor]) -> None:
        from torchvision.models import inception_v3  # takes seconds, and few need it

        super().__init__()
        self.form = FORMS[form]
        kept = {name: t for name, t in tensors.items() if not name.startswith("AuxLogits.")}
        kinds = len(kept["fc.bias"]) if "fc.bias" in kept else 1000
        with torch.device("meta"):  # no time for weights that are replaced at once
            network = inception_v3(
                weights=None,
                num_classes=kinds,
                aux_logits=False,
                transform_input=False,
                init_weights=False,
            )
        self.network = network.to_empty(device="cpu")
        load_strictly(self.network, batch_counts(self.network) | kept, f"the weights for {form}")
        self.requires_grad_(False).eval()
        self.kinds = kinds - self.form.first_kind

    def forward(self, images: Tensor) -> Features:
        """Look at images of 299 px.

        Args:
            images: Float, in [0, 255], [N, 3, 299, 299].

        Returns:
            The averages of the last block, [N, 2048], and logits [N, C].
        """
        form, net = self.form, self.network
        average = partial(
            functional.avg_pool2d,
            kernel_size=3,
            stride=1,
            padding=1,
            count_include_pad=form.pads_count,
        )
        maximum = partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
        x = (images - form.shift) / form.scale
        x = net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, kernel_size=3, stride=2)
        x = net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, kernel_size=3, stride=2)  # [N, 192, 35, 35]
        for block in (net.Mixed_5b, net.Mixed_5c, net.Mixed_5d):
            x = _small(block, x, average)
        x = net.Mixed_6a(x)  # [N, 768, 17, 17]
        for block in (net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e):
            x = _long(block, x, average)
        x = net.Mixed_7a(x)  # [N, 1280, 8, 8]
        x = _wide(net.Mixed_7b, x, average)
        x = _wide(net.Mixed_7c, x, maximum if form.last_pool_is_max else average)
        vectors = x.mean((2, 3))  # [N, 2048]
        bias = net.fc.bias if form.with_bias else None
        logits = functional.linear(vectors, net.fc.weight, bias)
        return Features(vectors, logits[:, form.first_kind :])


def _small(block: Any, x: Tensor, pool: Any) -> Tensor:
    """Run a block of 1 × 1, 5 × 5 and twice 3 × 3 branches."""
    branches = [
        block.branch1x1(x),
        block.branch5x5_2(block.branch5x5_1(x)),
        block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(x))),
        block.branch_pool(pool(x)),
    ]
    return torch.cat(branches, 1)


def _long(block: Any, x: Tensor, pool: Any) -> Tensor:
    """Run a block whose branches go along rows and along columns."""
    twice = block.branch7x7dbl_3(block.branch7x7dbl_2(block.branch7x7dbl_1(x)))
    branches = [
        block.branch1x1(x),
        block.branch7x7_3(block.branch7x7_2(block.branch7x7_1(x))),
        block.branch7x7dbl_5(block.branch7x7dbl_4(twice)),
        block.branch_pool(pool(x)),
    ]
    return torch.cat(branches, 1)


def _wide(block: Any, x: Tensor, pool: Any) -> Tensor:
    """Run a block whose branches part into rows and columns."""
    once, twice = block.branch3x3_1(x), block.branch3x3dbl_2(block.branch3x3dbl_1(x))
    branches = [
        block.branch1x1(x),
        block.branch3x3_2a(once),
        block.branch3x3_2b(once),
        block.branch3x3dbl_3a(twice),
        block.branch3x3dbl_3b(twice),
        block.branch_pool(pool(x)),
    ]
    return torch.cat(branches, 1)
