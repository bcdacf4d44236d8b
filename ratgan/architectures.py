"""The architectures that can be trained: two networks and a training step each.

Another text-to-image GAN is a package of its own beside these files, and one entry here.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ratgan.discriminator import Discriminator
from ratgan.generator import Generator
from ratgan.networks import TextDiscriminator, TextGenerator
from ratgan.step import Values, train_step


@dataclass(frozen=True)
class Architecture:
    """What training, saving and drawing need to know of a GAN.

    The keyword arguments of the networks are its options; both have `sentence_dim`.

    Attributes:
        title: Its name in texts.
        paper: Address of its paper.
        generator: Class of the generator.
        discriminator: Class of the discriminator.
        step: Updates both networks on a batch; takes and returns what `train_step` does.
    """

    title: str
    paper: str
    generator: type[TextGenerator]
    discriminator: type[TextDiscriminator]
    step: Callable[..., Values] = train_step

    def options(self) -> frozenset[str]:
        """Return the names of the options."""
        return _keywords(self.generator) | _keywords(self.discriminator)

    def build(
        self, options: Mapping[str, Any], sentence_dim: int
    ) -> tuple[TextGenerator, TextDiscriminator]:
        """Build both networks, the generator first, with weights from torch's global seed.

        Args:
            options: By name; those of other architectures are left out.
            sentence_dim: Size of the sentence vectors.
        """

        def of(network: type) -> dict[str, Any]:
            return {name: options[name] for name in _keywords(network)}

        return (
            self.generator(sentence_dim=sentence_dim, **of(self.generator)),
            self.discriminator(sentence_dim=sentence_dim, **of(self.discriminator)),
        )


ARCHITECTURES = {
    "rat-gan": Architecture(
        "RAT-GAN", "https://arxiv.org/abs/2204.10482", Generator, Discriminator
    ),
}


def architecture_of(network: TextGenerator | TextDiscriminator) -> str:
    """Return the name of the architecture that a network belongs to.

    Raises:
        ValueError: If it belongs to none.
    """
    for name, each in ARCHITECTURES.items():
        if type(network) in (each.generator, each.discriminator):
            return name
    raise ValueError(f"{type(network).__name__} belongs to no entry of ARCHITECTURES.")


def find_architecture(name: str) -> Architecture:
    """Return the architecture of a name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture={name!r} must be one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def _keywords(network: type) -> frozenset[str]:
    return frozenset(inspect.signature(network).parameters) - {"sentence_dim"}
