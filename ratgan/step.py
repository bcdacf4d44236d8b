"""One training step: the discriminator, then the generator, then its moving average.

Dimensions in this file:
    B batch, S sentence size, Z noise size, H W height and width.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.losses import (
    discriminator_hinge_loss,
    generator_hinge_loss,
    matching_aware_gradient_penalty,
)
from ratgan.precision import full_precision

Update = Literal["fused", "separate"]
Synchronize = Callable[[Iterable[nn.Parameter]], None]


def alone(parameters: Iterable[nn.Parameter]) -> None:
    """Synchronize nothing: what a single worker does with its gradients."""


@dataclass
class Gan:
    """The networks in training and what updates them.

    Attributes:
        generator: G, being trained.
        average: Exponential moving average of G's weights; what samples are drawn from.
        discriminator: D.
        generator_optimizer: Updates G.
        discriminator_optimizer: Updates D.
    """

    generator: Generator
    average: Generator
    discriminator: Discriminator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer

    @classmethod
    def create(
        cls,
        generator: Generator,
        discriminator: Discriminator,
        *,
        generator_lr: float = 1e-4,
        discriminator_lr: float = 4e-4,
        betas: tuple[float, float] = (0.0, 0.9),
    ) -> "Gan":
        """Put an average and two Adam optimizers beside the networks.

        Args:
            generator: On the device it trains on.
            discriminator: On the same device.
            generator_lr: Learning rate of G; 1e-4 in the paper.
            discriminator_lr: Learning rate of D; 4e-4 in the paper.
            betas: Of both Adams; (0.0, 0.9) in the paper's code.
        """
        return cls(
            generator=generator,
            average=copy.deepcopy(generator).requires_grad_(False).eval(),
            discriminator=discriminator,
            generator_optimizer=torch.optim.Adam(
                generator.parameters(), lr=generator_lr, betas=betas, fused=True
            ),
            discriminator_optimizer=torch.optim.Adam(
                discriminator.parameters(), lr=discriminator_lr, betas=betas, fused=True
            ),
        )


def train_step(
    gan: Gan,
    *,
    images: Tensor,
    sentences: Tensor,
    mismatched: Tensor,
    noise: Tensor,
    mismatched_weights: Tensor | None = None,
    penalty_weight: float = 2.0,
    penalty_power: float = 6.0,
    average_decay: float = 0.999,
    update: Update = "fused",
    synchronize: Synchronize = alone,
) -> dict[str, Tensor]:
    """Update D on hinge loss and penalty, G once, and the average of G.

    May run under `torch.autocast`: the discriminator's score, the penalty's sum and all
    updates then stay in float32.

    Args:
        gan: Updated in place.
        images: Real images in [-1, 1], [B, 3, H, W].
        sentences: Their sentence vectors, [B, S].
        mismatched: Sentence vectors of other images, [B, S].
        noise: Standard normal, [B, Z].
        mismatched_weights: Of the mismatched pairs in their mean, [B]; all 1 if not given.
        penalty_weight: Factor of the matching-aware gradient penalty.
        penalty_power: Its exponent.
        average_decay: Share of the moving average that stays, in [0, 1).
        update: ``"fused"`` updates D once, on the sum of hinge loss and penalty, as DF-GAN
            does. ``"separate"`` updates it on the hinge loss and then on the penalty of the
            updated D, as the published code of RAT-GAN does.
        synchronize: Averages the gradients of the given parameters over workers;
            called before each update of a network.

    Returns:
        Losses and mean logits of this worker's share, as scalars on the device and
        under the names they are logged by. Reading one waits for the device.

    Raises:
        ValueError: If `update` is not one of those.
    """
    if update not in get_args(Update):
        raise ValueError(f'update={update!r} must be "fused" or "separate".')
    generated = gan.generator(noise, sentences)

    images = images.detach().requires_grad_()
    matching = sentences.detach().requires_grad_()
    real_logits, mismatched_logits = gan.discriminator(images, matching, mismatched)
    (generated_logits,) = gan.discriminator(generated.detach(), sentences)
    hinge = discriminator_hinge_loss(
        real_logits, generated_logits, mismatched_logits, mismatched_weights
    )
    penalized_logits = real_logits
    if update == "separate":
        _update(gan.discriminator, gan.discriminator_optimizer, hinge, synchronize)
        (penalized_logits,) = gan.discriminator(images, matching)
    penalty = matching_aware_gradient_penalty(
        penalized_logits, images, matching, weight=penalty_weight, power=penalty_power
    )
    loss = penalty if update == "separate" else hinge + penalty
    _update(gan.discriminator, gan.discriminator_optimizer, loss, synchronize)

    (judged,) = gan.discriminator(generated, sentences)
    generator_loss = generator_hinge_loss(judged)
    _update(gan.generator, gan.generator_optimizer, generator_loss, synchronize)

    with torch.no_grad():
        torch._foreach_lerp_(
            list(gan.average.parameters()), list(gan.generator.parameters()), 1 - average_decay
        )
    return {
        "loss/discriminator": hinge.detach(),
        "loss/penalty": penalty.detach(),
        "loss/generator": generator_loss.detach(),
        "logit/real": real_logits.detach().mean(),
        "logit/generated": generated_logits.detach().mean(),
        "logit/mismatched": mismatched_logits.detach().mean(),
    }


def _update(
    network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, synchronize: Synchronize
) -> None:
    optimizer.zero_grad(set_to_none=True)
    parameters = list(network.parameters())
    with full_precision(loss):
        # No other gradients: D's would be thrown away in the generator's turn, so D is as
        # good as frozen there, and those of the real images in its own.
        loss.backward(inputs=parameters)
    for parameter in parameters:
        if parameter.grad is None:
            # The penalty does not depend on biases without an activation after them. Its
            # gradient there is zero, and Adam must see it to forget their second moment.
            parameter.grad = torch.zeros_like(parameter)
    synchronize(parameters)
    optimizer.step()
    torch.clear_autocast_cache()  # it holds the weights from before the update
