"""The networks and the batch that reference and ours are both run on.

Dimensions in this file:
    B batch, S sentence size, Z noise size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reference import ReferenceStep
from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.step import Gan, Update, train_step

Step = Callable[[], dict[str, Tensor]]


class Workload:
    """Both sides, with equal weights, and one batch of random data.

    Args:
        base_channels: Width of the networks; 64 in the published model.
        batch_size: Images B in a step.
        image_size: Pixels.
        device: Where it runs.
        dtype: Of weights and data.
        seed: Of weights and data.
    """

    def __init__(
        self,
        base_channels: int,
        batch_size: int,
        *,
        image_size: int = 256,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        with torch.device("meta" if device == "meta" else "cpu"):
            torch.manual_seed(seed)
            generator = Generator(image_size=image_size, base_channels=base_channels)
            # The published code trains without attention.
            discriminator = Discriminator(
                image_size=image_size, base_channels=base_channels, attention="none"
            )
            if device != "meta":
                awake(generator)
                awake(discriminator)
            sentences = torch.randn(batch_size, generator.sentence_dim, dtype=dtype)
            batch = {
                "images": torch.rand(batch_size, 3, image_size, image_size, dtype=dtype) * 2 - 1,
                "sentences": sentences,
                "mismatched": sentences.roll(1, 0),
                "noise": torch.randn(batch_size, generator.noise_dim, dtype=dtype),
            }
        self.batch_size = batch_size
        self.batch = {name: tensor.to(device) for name, tensor in batch.items()}
        self.generator = generator.to(device, dtype)
        self.discriminator = discriminator.to(device, dtype)

    def reference(self) -> ReferenceStep:
        """Make the reference from the weights as they are now."""
        return ReferenceStep(self.generator, self.discriminator)

    def reference_step(self, reference: ReferenceStep) -> Step:
        """Bind the reference to the batch."""
        return lambda: reference(**self.batch)

    def ours(self) -> Gan:
        """Put our optimizers and average beside the networks."""
        return Gan.create(self.generator, self.discriminator)

    def our_step(self, gan: Gan, update: Update = "separate") -> Step:
        """Bind our step, with two updates as published unless told otherwise, to the batch."""
        batch: dict[str, Any] = self.batch
        return lambda: train_step(gan, **batch, update=update)


def awake(network: nn.Module) -> None:
    """Move what starts at zero, and would hide the paths behind it, to random values."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "residual_scale" in name:
                parameter.uniform_(0.2, 0.4)
            elif "output_weights" in name:
                parameter.normal_(std=0.05)
