"""One step of DAMSM pretraining: captions and images learn to find each other.

Dimensions in this file:
    B batch over all workers, b this worker's share, L words of the longest caption,
    E size of a word's embedding, D size of all vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ratgan.ops.adam import Adam
from ratgan.randomness import generator_for
from ratgan.text.damsm import CaptionNetwork
from ratgan.text.image_branch import ImageBranch
from ratgan.text.matching import (
    SHARPNESS,
    WORD_FOCUS,
    WORD_POOLING,
    matching_loss,
    sentence_matches,
    word_matches,
)
from ratgan.update import Synchronize, alone

DROPOUT_STREAM = 100  # keeps these draws apart from those of `randomness.py`
Gather = Callable[[Tensor], Tensor]


@dataclass
class Pair:
    """The two sides in training and what updates them.

    Attributes:
        captions: The text encoder.
        images: The image branch.
        optimizer: Updates both.
    """

    captions: CaptionNetwork
    images: ImageBranch
    optimizer: torch.optim.Optimizer

    @classmethod
    def create(
        cls,
        captions: CaptionNetwork,
        images: ImageBranch,
        *,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> "Pair":
        """Put Adam beside the networks; the learning rate is the step's.

        Args:
            captions: On the device it trains on.
            images: On the same device.
            betas: Of Adam; (0.5, 0.999) in AttnGAN.
        """
        both = (*captions.parameters(), *images.parameters())
        trained = [parameter for parameter in both if parameter.requires_grad]
        return cls(captions, images, Adam(trained, betas=betas))

    def trained(self) -> dict[str, nn.Parameter]:
        """Name the parameters that are trained; a frozen trunk is not."""
        return {
            f"{side}.{name}": parameter
            for side, network in (("captions", self.captions), ("images", self.images))
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }


def learning_rate(
    epoch: int, *, start: float = 2e-3, decay: float = 0.98, floor: float = 0.1
) -> float:
    """Return the rate of an epoch: ``start · decay^epoch``, at least ``start · floor``."""
    return float(start * max(decay**epoch, floor))


def word_dropout(seed: int, step: int, shape: tuple[int, int, int], rate: float = 0.5) -> Tensor:
    """Draw the factors of the embedded words of a step, [B, L, E].

    Args:
        seed: Of the run.
        step: Of the run.
        shape: B, L and E, over all workers.
        rate: Share of the numbers that are dropped; 0.5 in AttnGAN.
    """
    kept = torch.rand(shape, generator=generator_for(seed, step, DROPOUT_STREAM)) >= rate
    return kept / (1 - rate)


def pretrain_step(
    pair: Pair,
    *,
    images: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    classes: Tensor,
    dropout: Tensor,
    lr: float,
    focus: float = WORD_FOCUS,
    pooling: float = WORD_POOLING,
    sharpness: float = SHARPNESS,
    clip: float = 0.25,
    gather: Gather = lambda share: share,
    synchronize: Synchronize = alone,
) -> dict[str, Tensor]:
    """Update both sides once.

    Args:
        pair: Updated in place.
        images: In [-1, 1], [b, 3, H, W].
        tokens: Word numbers of one caption of each image, int64, [b, L].
        lengths: Words of each caption, int64, [b].
        classes: A number for the class of each image of the whole batch, int64, [B].
        dropout: Factors of the embedded words, [b, L, E].
        lr: Learning rate.
        focus: γ1; 4 in AttnGAN's trainings.
        pooling: γ2; 5 in AttnGAN.
        sharpness: γ3; 10 in AttnGAN.
        clip: Longest gradient of the text encoder; 0.25 in AttnGAN.
        gather: Puts the shares of all workers together; the gradient flows into one's own.
        synchronize: Sums the gradients of the given parameters over workers.

    Returns:
        Losses of the whole batch, as scalars on the device and under the names they
        are logged by.
    """
    words, sentences = pair.captions(tokens, lengths, dropout)
    regions, wholes = pair.images(images)
    mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    word_scores = word_matches(
        gather(regions), gather(words), gather(mask), focus=focus, pooling=pooling
    )
    sentence_scores = sentence_matches(gather(wholes), gather(sentences))
    losses = [
        *matching_loss(word_scores, classes, sharpness=sharpness),
        *matching_loss(sentence_scores, classes, sharpness=sharpness),
    ]
    total = torch.stack(losses).sum()

    pair.optimizer.zero_grad(set_to_none=True)
    total.backward()
    synchronize(pair.trained().values())
    nn.utils.clip_grad_norm_(pair.captions.parameters(), clip)
    for group in pair.optimizer.param_groups:
        group["lr"] = lr
    pair.optimizer.step()
    names = ("words_to_caption", "words_to_image", "sentence_to_caption", "sentence_to_image")
    return {
        "loss/total": total.detach(),
        **{f"loss/{name}": loss.detach() for name, loss in zip(names, losses, strict=True)},
    }
