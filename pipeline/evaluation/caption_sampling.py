"""Choose the caption and the noise of each image of an evaluation.

Both are functions of the seed and the number of the image alone: so neither a restart nor the
number of processes changes an image.

Dimensions in this file:
    n images, Z noise size.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.protocols import per_pass
from ratgan.randomness import noise_of

# Streams of one seed, apart from those of training.
IMAGES, DIVERSITY, CHOICE, ROWS, PARTS = range(200, 205)


@dataclass(frozen=True)
class CaptionPlan:
    """What is drawn.

    Attributes:
        rows: Images whose captions may be drawn.
        count: Images to draw.
        seed: Decides everything.
        captions: Which caption of an image: one at random, or its first.
        drop_last: Batch of which the last, incomplete one is left out of each pass.
        repeat: Images in a row for one caption.
        stream: `IMAGES` or `DIVERSITY`.
    """

    rows: int
    count: int
    seed: int
    captions: Literal["random", "first"] = "random"
    drop_last: int = 0
    repeat: int = 1
    stream: int = IMAGES

    def row_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return, for images [n], the rows whose caption they are drawn for.

        Within a pass they ascend, so that neighbours are read together. A pass that is not whole
        takes rows at random: datasets are stored class by class.
        """
        pass_rows = per_pass(self.rows, self.drop_last)
        turns, places = np.divmod(numbers // self.repeat, pass_rows)
        wanted = -(-self.count // self.repeat)
        rows = np.empty_like(numbers)
        for turn in np.unique(turns):
            here = turns == turn
            left = min(pass_rows, wanted - int(turn) * pass_rows)
            rng = np.random.default_rng([self.seed, int(turn), ROWS, self.stream])
            rows[here] = np.sort(rng.permutation(self.rows)[:left])[places[here]]
        return rows

    def caption_of(self, number: int, captions: int) -> int:
        """Return which of the captions of its row an image is drawn for."""
        if self.captions == "first":
            return 0
        rng = np.random.default_rng([self.seed, number // self.repeat, CHOICE, self.stream])
        return int(rng.integers(captions))

    def noise(self, numbers: NDArray[np.int64], size: int, truncation: float | None) -> Tensor:
        """Draw the noise of images.

        Args:
            numbers: Of the images, [n].
            size: Z.
            truncation: Factor of a normal cut at two deviations; None for a whole one.

        Returns:
            [n, Z].
        """
        return torch.stack(
            [noise_of(self.seed, n, size, truncation, self.stream) for n in numbers.tolist()]
        )


def part_of(count: int, parts: int, seed: int) -> NDArray[np.int64]:
    """Put each of so many images into one of equal parts, at random, [count]."""
    order = np.random.default_rng([seed, PARTS]).permutation(count)
    return order * parts // count


def evenly(count: int, most: int) -> NDArray[np.bool_]:
    """Choose at most so many of `count` images, evenly, [count]."""
    if count <= most:
        return np.ones(count, dtype=bool)
    number = np.arange(count + 1, dtype=np.int64) * most // count
    return np.diff(number) > 0
