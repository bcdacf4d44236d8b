"""Small networks for tests, with every path of the computation alive."""

import torch

from ratgan.discriminator import Discriminator
from ratgan.generator import Generator


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """Move residual scales and affine outputs off zero, where they hide what is behind them."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "residual_scale" in name:
                parameter.fill_(0.7)
            elif "output_weights" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def small_generator(image_size: int = 32, **changes) -> Generator:
    torch.manual_seed(1)
    sizes = {"base_channels": 2, "noise_dim": 7, "controller_dim": 6, "affine_dim": 5}
    return awake(Generator(image_size=image_size, **({"sentence_dim": 9} | sizes | changes)))


def small_discriminator(image_size: int = 32, **changes) -> Discriminator:
    torch.manual_seed(2)
    sizes = {"sentence_dim": 9, "base_channels": 2}
    return awake(Discriminator(image_size=image_size, **(sizes | changes)))
