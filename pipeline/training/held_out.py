"""What the discriminator says of images that it trains on, of held-out ones, and of drawn ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.data.dataset import Example
from pipeline.evaluation.quick_evaluation import middle
from ratgan.randomness import sample_noise
from ratgan.step import Gan

IMAGES = 64  # of each kind: two training steps' work, and an error of an eighth of their deviation
AT_ONCE = 16


class HeldOut:
    """Judges the same real images again and again, each with its own sentence.

    Args:
        training: Images that the networks train on.
        held_out: Images that they do not train on.
        image_size: Of the networks in pixels.
        seed: Of the noise.
        device: Of the networks.
    """

    def __init__(
        self,
        training: Sequence[Example],
        held_out: Sequence[Example],
        *,
        image_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.seed, self.device = seed, device
        self.real: list[tuple[Tensor, Tensor]] = []
        for examples in (training, held_out):
            images = middle(torch.stack([each.image for each in examples]), image_size)
            self.real.append((images, torch.stack([each.sentence for each in examples])))

    @torch.no_grad()
    def logits(self, gan: Gan) -> tuple[Tensor, Tensor, Tensor]:
        """Judge training images, held-out ones, and what the average draws for the held-out ones.

        Returns:
            Their logits in float64 on the CPU, each [N].
        """
        sentences = self.real[1][1]
        noise = sample_noise(self.seed, len(sentences), gan.average.noise_dim)
        training, held_out = (
            torch.cat(
                [
                    self._judge(gan, x.to(self.device).float() / 127.5 - 1, s)
                    for x, s in zip(images.split(AT_ONCE), texts.split(AT_ONCE), strict=True)
                ]
            )
            for images, texts in self.real
        )
        drawn = [
            self._judge(gan, gan.average(z.to(self.device), s.to(self.device)), s)
            for z, s in zip(noise.split(AT_ONCE), sentences.split(AT_ONCE), strict=True)
        ]
        return training, held_out, torch.cat(drawn)

    def _judge(self, gan: Gan, images: Tensor, sentences: Tensor) -> Tensor:
        gan.discriminator.eval()  # one with buffers or dropout learns nothing from this look
        (logits,) = gan.discriminator(images, sentences.to(self.device))
        gan.discriminator.train()
        return logits.cpu().double()
