"""A small network that finds an image's caption among those of its batch, and pulls G to be found.

It learns from real images beside the discriminator. That one meets one wrong caption of an image at
a time; this one chooses among hundreds, some of which are wrong in one word only, so it soon tells
apart what the discriminator learns last. As DAMSM (https://arxiv.org/abs/1711.10485), in one
direction and with the stored sentence vectors: each image's loss needs no other image, so a batch
can be shared between workers and taken in parts.

Dimensions in this file:
    B images, C captions to choose from, S sentence size, H W height and width, D vector size.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.ops.precision import full_precision

CHANNELS = 16  # at full size
WIDEST = 8  # times that
DIM = 64
MEMORY = 256  # captions of earlier batches
SMALLEST = 4  # pixels; places are kept, since captions speak of them
SHARPNESS = 10.0  # of the choice, as in DAMSM
LEAK = 0.2


@dataclass(frozen=True)
class Choice:
    """The captions that the images of a batch, or of a part of it, are to choose from.

    Attributes:
        weight: Of the generator's loss.
        sentences: Of the whole batch and of earlier ones, [C, S].
        own: Index of each image's own caption, int64, [B].
        alike: Where another caption may fit an image as well, and is no choice, bool, [B, C].
    """

    weight: float
    sentences: Tensor
    own: Tensor
    alike: Tensor

    def split(self, count: int) -> list["Choice"]:
        """Split into nearly equal parts of the images."""
        parts = zip(self.own.tensor_split(count), self.alike.tensor_split(count), strict=True)
        return [Choice(self.weight, self.sentences, *part) for part in parts]


class Matcher(nn.Module):
    """Puts images and sentence vectors into one space.

    Args:
        image_size: Height and width of the images in pixels, a power of 2, at least 8.
        sentence_dim: Size S of a sentence vector.
    """

    sentences: Tensor
    classes: Tensor
    empty: Tensor

    def __init__(self, image_size: int, sentence_dim: int) -> None:
        super().__init__()
        halvings = int(math.log2(image_size // SMALLEST))
        widths = [CHANNELS, *(min(2**n, WIDEST) * CHANNELS for n in range(halvings))]
        layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1), nn.LeakyReLU(LEAK)]
        for before, width in pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        self.of_images = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(widths[-1] * SMALLEST**2, DIM)
        )
        self.of_sentences = nn.Sequential(
            nn.Linear(sentence_dim, DIM), nn.LeakyReLU(LEAK), nn.Linear(DIM, DIM)
        )
        self.register_buffer("sentences", torch.zeros(MEMORY, sentence_dim))
        self.register_buffer("classes", torch.zeros(MEMORY, dtype=torch.int64))
        self.register_buffer("empty", torch.ones(MEMORY, dtype=torch.bool))

    def choice(self, weight: float, sentences: Tensor, classes: Tensor, own: Tensor) -> Choice:
        """Let images choose among the captions of a batch and those remembered of earlier ones.

        The captions of the batch are then remembered in place of the oldest, but for those that are
        not finite: their step is skipped, and the steps after it need not be.

        Args:
            weight: Of the generator's loss.
            sentences: Of the whole batch, [N, S].
            classes: A number for the class of each; others of a class may fit as well, int64, [N].
            own: Which of them belong to the images, int64, [B].
        """
        offered = torch.cat([sentences, self.sentences])
        kinds = torch.cat([classes, self.classes])
        empty = torch.cat([~sentences.isfinite().all(1), self.empty])
        places = torch.arange(len(offered), device=own.device)
        alike = (classes[own][:, None] == kinds) | empty
        for memory, latest in (
            (self.sentences, offered.masked_fill(empty[:, None], 0.0)),
            (self.classes, kinds),
            (self.empty, empty),
        ):
            memory.copy_(latest[:MEMORY])
        return Choice(weight, offered, own, alike & (own[:, None] != places))

    def forward(self, images: Tensor, sentences: Tensor) -> Tensor:
        """Compare images [B, 3, H, W] with sentences [C, S]: cosines, [B, C]."""
        vectors, others = self.of_images(images), self.of_sentences(sentences)
        with full_precision(vectors):
            widest = torch.promote_types(vectors.dtype, torch.float32)
            one, other = (functional.normalize(each.to(widest)) for each in (vectors, others))
            return one @ other.T

    def loss(self, images: Tensor, choice: Choice) -> Tensor:
        """Return the mean cross entropy of the choice of a caption for images [B, 3, H, W]."""
        cosines = self(images, choice.sentences)
        with full_precision(cosines):
            scores = (SHARPNESS * cosines).masked_fill(choice.alike, -torch.inf)
            return functional.cross_entropy(scores, choice.own)
