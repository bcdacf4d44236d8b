"""The adversarial losses and the matching-aware gradient penalty.

Dimensions in this file:
    B batch, S sentence size, H W height and width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ratgan.ops.precision import full_precision


def discriminator_hinge_loss(
    real: Tensor, generated: Tensor, mismatched: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute ``E[1 − D(x, s)]₊ + ½ E[1 + D(x̂, s)]₊ + ½ E[1 + D(x, ŝ)]₊``.

    Source: https://arxiv.org/abs/2204.10482.

    Args:
        real: Logits of real images with their sentences, [B].
        generated: Logits of generated images with their sentences, [B].
        mismatched: Logits of real images with sentences of other images, [B].
        weights: Weights of the mismatched pairs, [B], 1 on average; all 1 if not given.

    Returns:
        A scalar, at least 0.
    """
    of_mismatched = functional.relu(1 + mismatched)
    if weights is not None:
        of_mismatched = of_mismatched * weights
    return (
        functional.relu(1 - real).mean()
        + 0.5 * functional.relu(1 + generated).mean()
        + 0.5 * of_mismatched.mean()
    )


def generator_hinge_loss(generated: Tensor) -> Tensor:
    """Compute ``−E[D(x̂, s)]`` from logits [B]."""
    return -generated.mean()


def matching_aware_gradient_penalty(
    logits: Tensor, images: Tensor, sentences: Tensor, *, weight: float = 2.0, power: float = 6.0
) -> Tensor:
    """Compute ``k · E[ ‖∇_{x,s} D(x, s)‖^p ]`` on real images with their own sentences.

    The norm is taken over image and sentence together, in float32 or wider, as
    ``(Σ g²)^(p/2)``: that has no square root, whose gradient is NaN where g = 0.

    Args:
        logits: D(x, s), [B], computed from `images` and `sentences`.
        images: Real images that require a gradient, [B, 3, H, W].
        sentences: Their sentences, requiring a gradient, [B, S].
        weight: Factor k; 2 in DF-GAN (https://arxiv.org/abs/2008.05865).
        power: Exponent p; 6 in DF-GAN.

    Returns:
        A scalar, at least 0, through which the discriminator's weights get a gradient.
    """
    with full_precision(logits):
        gradients = torch.autograd.grad(logits.sum(), (images, sentences), create_graph=True)
        widest = torch.promote_types(logits.dtype, torch.float32)
        squared_norm = sum(g.to(widest).square().flatten(1).sum(1) for g in gradients)  # [B]
        return weight * (squared_norm ** (power / 2)).mean()
