"""Differentiable augmentation: the discriminator sees changed views of real and drawn images alike.

It learns few images by heart. Of their views there are many, and since drawn images are changed in
the same way, the generator still learns the unchanged ones. Captions must stay true of a view: a
shift moves what stands "at the top left", and colours are changed only if no caption names them.

Dimensions in this file:
    B batch, H W height and width.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from ratgan.options import Augmentation
from ratgan.randomness import VIEW, generator_for

# Sizes of DiffAugment (https://arxiv.org/abs/2006.10738).
SHIFT = 0.125  # of the side, at most
HOLE = 0.5  # side of the square that is cut out, of that of the image
# Of ADA (https://arxiv.org/abs/2006.06676).
TARGET = 0.6  # mean sign of the logits of real images
# Images in which the strength rises from 0 to 1 while D is sure of all real ones. ADA has 500,000;
# a small network on few images has learnt them long before.
RISE = 10_000
NUMBERS = len(get_args(Augmentation)) + 7  # a chance for each kind; two shifts, a hole, colours


@dataclass(frozen=True)
class Views:
    """One view of each image of a batch.

    Attributes:
        kinds: What may change an image.
        random: Uniform in [0, 1), [B, `NUMBERS`].
        strength: Share of the images that a kind changes, in [0, 1].

    Raises:
        ValueError: If a kind is unknown.
    """

    kinds: Collection[Augmentation]
    random: Tensor
    strength: Tensor | float = 1.0

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(get_args(Augmentation)):
            raise ValueError(
                f"augment={', '.join(sorted(unknown))!r} must be of "
                f"{', '.join(get_args(Augmentation))}."
            )

    def split(self, count: int) -> list["Views"]:
        """Split a batch into nearly equal parts, as `torch.tensor_split` does."""
        return [replace(self, random=part) for part in self.random.tensor_split(count)]

    def of(self, images: Tensor) -> Tensor:
        """Change images as DiffAugment does.

        Args:
            images: In [-1, 1], [B, 3, H, W].

        Returns:
            [B, 3, H, W]; what comes in from outside and what is cut out is 0, grey.
        """
        number = self.random[:, :, None, None, None].unbind(1)  # each [B, 1, 1, 1]
        chance = dict(zip(get_args(Augmentation), number[:3], strict=True))
        down, right, top, left, light, vividness, contrast = number[3:]
        side = images.shape[-1]
        if "colour" in self.kinds:
            changed = images + (light - 0.5).to(images.dtype)
            for factor, centre in ((2 * vividness, (1,)), (0.5 + contrast, (1, 2, 3))):
                mean = changed.mean(centre, keepdim=True)
                changed = mean + (changed - mean) * factor.to(images.dtype)
            images = torch.where(chance["colour"] < self.strength, changed, images)
        if "translation" in self.kinds:
            most = round(SHIFT * side)
            moved = chance["translation"] < self.strength
            shifts = [((2 * most + 1) * n).long().sub(most) * moved for n in (down, right)]
            images = _Shift.apply(images, *shifts)
        if "cutout" in self.kinds:
            size = round(HOLE * side)
            cut = chance["cutout"] < self.strength
            places = torch.arange(side, device=images.device)
            for n, shape in ((top, (side, 1)), (left, (1, side))):
                # The centre may be anywhere, so a part of the hole may lie outside.
                start = ((side + 1 - size % 2) * n).long() - size // 2
                cut = cut & (places.view(shape) >= start) & (places.view(shape) < start + size)
            images = images * ~cut
        return images


def draw_views(seed: int, step: int, batch_size: int) -> Tensor:
    """Draw the random numbers of the views of a step, for the batch over all workers."""
    return torch.rand(batch_size, NUMBERS, generator=generator_for(seed, step, VIEW))


def adapted(strength: Tensor, sign: Tensor, images: int, skipped: Tensor) -> Tensor:
    """Move the strength of the augmentation towards that at which D is as sure as it should be.

    It rises while the logits of real images are positive more often than `TARGET` says, and falls
    while they are so less often. ADA has steps of equal size; these are in proportion.

    Args:
        strength: So far, in [0, 1]; a scalar.
        sign: Mean sign of the logits of real images in the last step; a scalar.
        images: Images of that step.
        skipped: 1 if the step was skipped, otherwise 0.

    Returns:
        The strength of the next step; the same if this one was skipped.
    """
    change = (sign - TARGET) / (1 - TARGET) * images / RISE
    return (strength + change.where(skipped == 0, 0)).clamp(0, 1)


class _Shift(torch.autograd.Function):
    """Moves images by whole pixels; its gradient is moved back.

    Gradients of indexing are added up by scattering, in any order on a GPU. Here none are.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(down, right)
        return _moved(_moved(images, down, 2), right, 3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        down, right = ctx.saved_tensors
        return _Shift.apply(gradient, -down, -right), None, None


def _moved(images: Tensor, by: Tensor, dim: int) -> Tensor:
    """Move each image by its own number of pixels [B, 1, 1, 1] along a dimension."""
    side = images.shape[dim]
    source = torch.arange(side, device=images.device).view(-1, *[1] * (3 - dim)) - by
    inside = (source >= 0) & (source < side)
    return images.take_along_dim(source.clamp(0, side - 1), dim) * inside
