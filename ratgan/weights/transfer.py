"""Transfer weights to a network that may differ in image size and in its sentence vectors.

The blocks of a generator are counted from the image: whatever their size, generators of one width
end with the same blocks, and a larger one has more before them. A discriminator begins with the
image, so its tensors fit by their names.

Dimensions in this file:
    S size of the sentence vectors here, T their size in the other network.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ratgan.affine import AffineBlocks
from ratgan.networks import TextDiscriminator, TextGenerator

Network = TextGenerator | TextDiscriminator
Sentences = Tensor | Literal["same", "other"]
BLOCKS = "blocks."


@dataclass
class Account:
    """What became of every tensor, of both networks.

    Attributes:
        taken: Names of tensors that were taken as they are.
        in_part: Names of those that were taken in part, or changed, and how.
        anew: Names of those that keep their initial values, and why.
        left_out: Names of those of the other network that have no use here, and why.
    """

    taken: list[str] = field(default_factory=list)
    in_part: dict[str, str] = field(default_factory=dict)
    anew: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = {"taken": self.taken, "in part": self.in_part, "anew": self.anew}
        counts = {**kinds, "left out": self.left_out}
        return ", ".join(f"{len(names)} {kind}" for kind, names in counts.items())


@torch.no_grad()
def transfer(network: Network, source: Network, sentences: Sentences = "same") -> Account:
    """Give a network the weights of another one, as far as they fit.

    Args:
        network: Changed in place.
        source: Of the same architecture and widths.
        sentences: Whether the sentence vectors are the `same`; or the matrix [S, T] by which those
            here become the other's; or `other`: what reads sentences keeps its initial values.
    """
    account, given = Account(), dict(_counted_from_image(network, source))
    own: dict[str, Tensor] = network.state_dict()
    readers = {} if isinstance(sentences, str) and sentences == "same" else _readers(network)
    leveled = tuple(f"{n}." for n, m in network.named_modules() if isinstance(m, AffineBlocks))
    for name, tensor in own.items():
        if name not in given:
            account.anew[name] = "the other network has none"
            continue
        original, found = given.pop(name)
        said = []
        if name.startswith(leveled) and len(found) != len(tensor):
            rows = min(len(found), len(tensor))  # of the levels that both have: the last ones
            said.append(f"the last {rows} rows of {len(found)} to the last of {len(tensor)}")
            tensor, found = tensor[-rows:], found[-rows:]
        if name in readers:
            axis = readers[name]
            if axis is None:
                account.anew[name] = account.left_out[original] = "how it reads sentences is open"
                continue
            read = source.arguments["sentence_dim"]
            found, words = found.split([found.shape[axis] - read, read], axis)
            if isinstance(sentences, Tensor):
                said.append("refit to other sentence vectors")
                words = torch.tensordot(words.double().movedim(axis, -1), sentences.double().T, 1)
                found = torch.cat([found, words.movedim(-1, axis).to(found.dtype)], axis)
            elif found.shape[axis]:
                said.append("all but what reads the sentence")
                tensor = tensor.narrow(
                    axis, 0, tensor.shape[axis] - network.arguments["sentence_dim"]
                )
        if found.shape != tensor.shape or not found.numel():
            why = (
                f"is {list(found.shape)} there and {list(tensor.shape)} here"
                if found.numel()
                else "reads other sentence vectors"
            )
            account.anew[name] = account.left_out[original] = why
            continue
        tensor.copy_(found)
        if said:
            account.in_part[name] = ", ".join(said)
        else:
            account.taken.append(name)
    account.left_out |= {original: "this network has none" for original, _ in given.values()}
    return account


def _counted_from_image(
    network: Network, source: Network
) -> Iterator[tuple[str, tuple[str, Tensor]]]:
    """Yield each tensor of the source by its name here, with its own name."""
    more = 0
    if isinstance(network, TextGenerator) and isinstance(source, TextGenerator):
        more = len(network.blocks) - len(source.blocks)
    for name, tensor in source.state_dict().items():
        here = name
        if more and name.startswith(BLOCKS):
            number, _, rest = name.removeprefix(BLOCKS).partition(".")
            here = f"{BLOCKS}{int(number) + more}.{rest}"  # below 0 there is none
        yield here, (name, tensor)


def _readers(network: Network) -> dict[str, int | None]:
    """Return the tensors that grow with the sentence vectors, and the axis along which they do.

    Sentences are the last that they read along it. None where that is not so plain.
    """
    readers: dict[str, int | None] = {}
    own, size = network.state_dict(), network.arguments["sentence_dim"]
    for more in (1, 2):  # at one of them a shortcut may be missing: as many channels in as out
        with torch.device("meta"):
            larger = type(network)(**network.arguments | {"sentence_dim": size + more})
        for name, grown in larger.state_dict().items():
            if name in own and own[name].shape != grown.shape:
                axes = [axis for axis, s in enumerate(grown.shape) if s != own[name].shape[axis]]
                least, plain = own[name].shape[axes[0]], len(axes) == 1
                plain = plain and grown.shape[axes[0]] == least + more and least >= size
                readers[name] = axes[0] if plain else None
    return readers
