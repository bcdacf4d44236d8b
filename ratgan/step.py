"""One training step: the discriminator, then the generator, then its moving average.

With a matcher, that one learns between the two.

Dimensions in this file:
    B batch, S sentence size, Z noise size, H W height and width.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ratgan.augmentation import Views
from ratgan.losses import (
    discriminator_hinge_loss,
    generator_hinge_loss,
    matching_aware_gradient_penalty,
)
from ratgan.matcher import Choice, Matcher
from ratgan.networks import TextDiscriminator, TextGenerator
from ratgan.ops.adam import Adam
from ratgan.update import Synchronize, alone, update_network

Update = Literal["fused", "separate"]
Values = dict[str, Tensor]  # scalars by the names of their metrics
SATURATED = 0.999  # of the range of an image


@dataclass
class Gan:
    """The networks in training, and their optimizers.

    Attributes:
        generator: G, being trained.
        average: Exponential moving average of G's weights, which draws the samples.
        discriminator: D.
        generator_optimizer: Updates G.
        discriminator_optimizer: Updates D.
        matcher: Finds captions of images, and pulls G; None if nothing does.
        matcher_optimizer: Updates it.
    """

    generator: TextGenerator
    average: TextGenerator
    discriminator: TextDiscriminator
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    matcher: Matcher | None = None
    matcher_optimizer: torch.optim.Optimizer | None = None

    @classmethod
    def create(
        cls,
        generator: TextGenerator,
        discriminator: TextDiscriminator,
        *,
        generator_lr: float = 1e-4,
        discriminator_lr: float = 4e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        matcher: Matcher | None = None,
        matcher_lr: float = 2e-3,
    ) -> "Gan":
        """Create the average and an Adam optimizer for each of the networks.

        Args:
            generator: G, on the device of the training.
            discriminator: D, on the same device.
            generator_lr: Learning rate of G; 1e-4 in the paper.
            discriminator_lr: Learning rate of D; 4e-4 in the paper.
            betas: Betas of the optimizers of G and D; (0.0, 0.9) in the paper's code.
            matcher: On the same device, if one is to pull G.
            matcher_lr: Its learning rate. Its betas are Adam's own: nothing works against it.
        """
        return cls(
            generator=generator,
            average=copy.deepcopy(generator).requires_grad_(False).eval(),
            discriminator=discriminator,
            generator_optimizer=Adam(generator.parameters(), lr=generator_lr, betas=betas),
            discriminator_optimizer=Adam(
                discriminator.parameters(), lr=discriminator_lr, betas=betas
            ),
            matcher=matcher,
            matcher_optimizer=Adam(matcher.parameters(), lr=matcher_lr) if matcher else None,
        )


def train_step(
    gan: Gan,
    *,
    images: Tensor,
    sentences: Tensor,
    mismatched: Tensor,
    noise: Tensor,
    mismatched_weights: Tensor | None = None,
    views: Views | None = None,
    choice: Choice | None = None,
    penalty_weight: float = 2.0,
    penalty_power: float = 6.0,
    average_decay: float = 0.999,
    update: Update = "fused",
    accumulate: int = 1,
    synchronize: Synchronize = alone,
) -> Values:
    """Update D on hinge loss and penalty, G once, and the average of G.

    May run under `torch.autocast`: the discriminator's score, the penalty's sum and all
    updates then stay in float32.

    All workers skip an update whose gradients or loss are not finite, and the later updates of the
    step: weights, moments and average do not change.

    Args:
        gan: Updated in place.
        images: Real images in [-1, 1], [B, 3, H, W].
        sentences: Their sentence vectors, [B, S].
        mismatched: Sentence vectors of other images, [B, S].
        noise: Standard normal, [B, Z].
        mismatched_weights: Weights of the mismatched pairs in their mean, [B]; all 1 if not given.
        views: What D sees of the images, real and drawn ones; the images themselves if not given.
        choice: Captions among which the images must find theirs; needs the matcher of `gan`.
        penalty_weight: Factor of the matching-aware gradient penalty.
        penalty_power: Its exponent.
        average_decay: Decay of the moving average, in [0, 1).
        update: ``"fused"`` updates D once, on the sum of hinge loss and penalty, as DF-GAN
            does. ``"separate"`` updates it on the hinge loss and then on the penalty of the
            updated D, as the published code of RAT-GAN does.
        accumulate: Number of parts of the batch, 1 to B. The gradients of the parts are summed to
            those of the whole, up to rounding, with the memory of one part.
        synchronize: Averages the gradients of the given parameters over workers;
            called before each update of a network.

    Returns:
        Scalars on the device, by the names of their metrics: of this worker's share losses, mean
        logits, the discriminator's accuracy, the share of generated values at the end of their
        range and, with views, the mean sign of the logits of real images; over all workers the norm
        of each network's last gradient and whether an update was skipped (1 or 0). Reading one
        waits for the device.

    Raises:
        ValueError: If `update` or `accumulate` is invalid, or one of matcher and choice is missing.
    """
    if (gan.matcher is None) != (choice is None):
        raise ValueError("a matcher in `gan` and `choice` need each other.")
    if update not in get_args(Update):
        raise ValueError(f'update={update!r} must be "fused" or "separate".')
    parts = _split(
        accumulate, images, sentences, mismatched, mismatched_weights, noise, views, choice
    )
    # A whole batch is drawn once, for both networks. Parts are drawn without a graph, and again for
    # the generator's update: 7 % more arithmetic, but keeping their graphs would need the memory
    # that the parts save.
    with torch.set_grad_enabled(accumulate == 1):
        for part in parts:
            part.drawn = gan.generator(part.noise, part.sentences)
    if accumulate > 1:
        torch.clear_autocast_cache()  # it holds weights without a graph
    penalize = partial(matching_aware_gradient_penalty, weight=penalty_weight, power=penalty_power)
    values: Values = {}

    def hinge(part: _Part) -> tuple[Tensor, Values]:
        _, seen = _judge(gan.discriminator, part)
        return seen["loss/discriminator"], seen

    def penalty(part: _Part) -> tuple[Tensor, Values]:
        (real,) = gan.discriminator(part.images, part.matching)
        loss = penalize(real, part.images, part.matching)
        return loss, {"loss/penalty": loss}

    def hinge_and_penalty(part: _Part) -> tuple[Tensor, Values]:
        real, seen = _judge(gan.discriminator, part)
        seen["loss/penalty"] = penalize(real, part.images, part.matching)
        return seen["loss/discriminator"] + seen["loss/penalty"], seen

    def deception(part: _Part) -> tuple[Tensor, Values]:
        drawn = part.drawn if len(parts) == 1 else gan.generator(part.noise, part.sentences)
        looked_at = part.view(drawn)
        (judged,) = gan.discriminator(looked_at, part.sentences)
        loss = generator_hinge_loss(judged)
        seen = {"loss/generator": loss}
        if choice is not None:
            seen["loss/matching"] = matching(part, looked_at)
            loss = loss + choice.weight * seen["loss/matching"]
        return loss, seen

    def matching(part: _Part, images: Tensor) -> Tensor:
        matcher, captions = gan.matcher, part.choice
        return matcher.loss(images, captions) if matcher and captions else images.new_zeros(())

    def search(part: _Part) -> tuple[Tensor, Values]:
        loss = matching(part, part.images.detach())
        return loss, {"loss/matcher": loss}

    skipped = None
    for objective in (hinge, penalty) if update == "separate" else (hinge_and_penalty,):
        values["gradient/discriminator"], skipped = update_network(
            gan.discriminator,
            gan.discriminator_optimizer,
            _weighed(parts, objective, values),
            synchronize=synchronize,
            skip=skipped,
        )
    if gan.matcher and gan.matcher_optimizer:
        _, skipped = update_network(
            gan.matcher,
            gan.matcher_optimizer,
            _weighed(parts, search, values),
            synchronize=synchronize,
            skip=skipped,
        )
    values["gradient/generator"], skipped = update_network(
        gan.generator,
        gan.generator_optimizer,
        _weighed(parts, deception, values),
        synchronize=synchronize,
        skip=skipped,
    )
    values["health/skipped"] = skipped

    moved = (1 - average_decay) * (1 - skipped.to(images.dtype))
    with torch.no_grad():
        for average, weight in zip(
            gan.average.parameters(), gan.generator.parameters(), strict=True
        ):
            average.lerp_(weight, moved)
    return values


@dataclass
class _Part:
    """A part of a batch, which the networks process at once.

    Attributes:
        share: Share of the batch, in (0, 1].
        images: What D sees of real images, requiring a gradient for the penalty.
        sentences: Their sentences.
        matching: The same, requiring a gradient for the penalty.
        mismatched: Sentences of other images.
        weights: Weights of the mismatched pairs in the mean over the batch; None if all are 1.
        noise: Noise of the images.
        views: What D sees of images; None if it sees them as they are.
        choice: Captions among which they must find theirs; None if they need not.
        drawn: Images drawn from noise and sentences.
    """

    share: float
    images: Tensor
    sentences: Tensor
    matching: Tensor
    mismatched: Tensor
    weights: Tensor | None
    noise: Tensor
    views: Views | None
    choice: Choice | None
    drawn: Tensor = field(init=False)

    def view(self, images: Tensor) -> Tensor:
        """Return what D sees of images [B, 3, H, W] of this part."""
        return images if self.views is None else self.views.of(images)


def _split(
    count: int,
    images: Tensor,
    sentences: Tensor,
    mismatched: Tensor,
    weights: Tensor | None,
    noise: Tensor,
    views: Views | None,
    choice: Choice | None,
) -> list[_Part]:
    """Split a batch into nearly equal parts."""
    size = len(images)
    if not 1 <= count <= size:
        raise ValueError(f"accumulate={count} must be from 1 to {size}, the images of the batch.")
    return [
        _Part(
            share=len(x) / size,
            images=(x if v is None else v.of(x)).detach().requires_grad_(),
            sentences=s,
            matching=s.detach().requires_grad_(),
            mismatched=o,
            weights=w,
            noise=z,
            views=v,
            choice=c,
        )
        for x, s, o, w, z, v, c in zip(
            images.tensor_split(count),
            sentences.tensor_split(count),
            mismatched.tensor_split(count),
            [None] * count if weights is None else weights.tensor_split(count),
            noise.tensor_split(count),
            [None] * count if views is None else views.split(count),
            [None] * count if choice is None else choice.split(count),
            strict=True,
        )
    ]


def _judge(discriminator: TextDiscriminator, part: _Part) -> tuple[Tensor, Values]:
    """Compute the logits of real images with their sentences, the hinge loss and its metrics."""
    real, mismatched = discriminator(part.images, part.matching, part.mismatched)
    (drawn,) = discriminator(part.view(part.drawn.detach()), part.sentences)
    loss = discriminator_hinge_loss(real, drawn, mismatched, part.weights)
    seen = {
        "loss/discriminator": loss,
        "logit/real": real.mean(),
        "logit/generated": drawn.mean(),
        "logit/mismatched": mismatched.mean(),
        # Where tanh ends, its gradient does too.
        "health/saturated_output": (part.drawn.detach().abs() > SATURATED).to(loss.dtype).mean(),
        "health/discriminator_accuracy": torch.cat([real > 0, drawn < 0]).to(loss.dtype).mean(),
    }
    if part.views is not None:
        seen["logit/real_sign"] = 2 * (real > 0).to(loss.dtype).mean() - 1
    return real, seen


def _weighed(
    parts: Sequence[_Part],
    objective: Callable[[_Part], tuple[Tensor, Values]],
    values: Values,
) -> Iterator[Tensor]:
    """Yield the loss of each part, weighted by its share of the batch, and sum its values."""
    for part in parts:
        loss, seen = objective(part)
        for name, value in seen.items():
            mean = value.detach() * part.share
            values[name] = values[name] + mean if name in values else mean
        yield loss * part.share
