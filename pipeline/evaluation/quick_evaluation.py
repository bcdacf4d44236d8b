"""Measure quality while a run trains: fixed captions, fixed noise, few images.

Worker 0 does it alone, between two steps, and the others wait for it so long; how long is logged.
Nothing is drawn from a generator of random numbers that training uses, so a run trains the same
with and without it.
"""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from pipeline.checkpoint.store import Score
from pipeline.data.dataset import PreparedDataset
from pipeline.evaluation.shapes_classifier import ShapesReader, unreadable
from ratgan.metrics.builtin import DIM, BuiltIn
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.statistics import FeatureStatistics
from ratgan.networks import TextGenerator
from ratgan.randomness import sample_noise
from ratgan.sampling import sample

BestBy = Literal["fd_builtin", "agreement"]
DISTANCE, AGREEMENT, SECONDS = "eval/fd_builtin", "eval/agreement", "speed/evaluation_s"
REAL_IMAGES = 2000  # that drawn ones are compared with, at most
AT_ONCE = 64


class QuickEvaluation:
    """Measures a generator again and again by the same captions, noise and real images.

    Args:
        dataset: Whose captions are drawn: of the validation split, or of the training split if
            there is none.
        count: Images to draw each time.
        image_size: Of the generator in pixels.
        seed: Of the noise.
        device: To look at images on.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        count: int,
        image_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.seed, self.device, self.image_size = seed, device, image_size
        self.extractor = BuiltIn().to(device)
        captions_of = _split(dataset, 1)
        readable = not unreadable(dataset.manifest, image_size)
        self.reader = ShapesReader(dataset, count) if readable else None
        sentences = [each.sentence for each in islice(dataset.each(captions_of), count)]
        # Fewer captions than images are drawn again, from other noise.
        self.captions = [number % len(sentences) for number in range(count)]
        self.sentences = torch.stack(sentences)[self.captions]  # [count, S]
        self.real = FeatureStatistics.empty(DIM)
        # So few that they do not span the features are not all there is to compare with.
        real = (each.image for each in dataset.each(_split(dataset, DIM + 1)))
        for images in _batches(islice(real, REAL_IMAGES)):
            self.real = self.real + self._statistics(middle(images, image_size))

    def measure(self, generator: TextGenerator) -> dict[str, float]:
        """Draw and measure.

        Returns:
            Distance, agreement where captions have a known meaning, and the seconds it took, under
            the names they are logged by.
        """
        started = time.monotonic()
        noise = sample_noise(self.seed, len(self.sentences), generator.noise_dim)
        images = sample(generator, self.sentences, noise)
        drawn = FeatureStatistics.empty(DIM)
        for some in images.split(AT_ONCE):
            drawn = drawn + self._statistics(some)
        values = {DISTANCE: frechet_distance(self.real, drawn)}
        if self.reader is not None:
            agreed = self.reader.agreement_with(images, self.captions)
            values |= {f"{AGREEMENT}_{name}": share for name, share in agreed.items()}
            values[AGREEMENT] = sum(agreed.values()) / len(agreed)
        return values | {SECONDS: time.monotonic() - started}

    def _statistics(self, images: Tensor) -> FeatureStatistics:
        vectors = self.extractor(images.to(self.device).float()).vectors
        return FeatureStatistics.of(vectors.cpu())


def score(values: dict[str, float], by: BestBy) -> Score | None:
    """Return by what the best checkpoint is found; None if that was not measured."""
    name = {"fd_builtin": DISTANCE, "agreement": AGREEMENT}[by]
    if name not in values:
        return None
    return Score(name, values[name], higher_is_better=by == "agreement")


def said(values: dict[str, float]) -> str:
    """Say what was measured, at the end of a line; nothing if nothing was."""
    if DISTANCE not in values:
        return ""
    agreed = f"  agreement {values[AGREEMENT]:.0%}" if AGREEMENT in values else ""
    return f"  fd[builtin] {values[DISTANCE]:.3f}{agreed} in {values[SECONDS]:.1f} s"


def refuse_unmeasurable(dataset: PreparedDataset, image_size: int, by: BestBy) -> None:
    """Refuse to look for the best by what cannot be measured.

    Raises:
        ValueError: If agreement is asked for and captions have no known meaning.
    """
    reason = unreadable(dataset.manifest, image_size)
    if by == "agreement" and reason:
        raise ValueError(
            f"best_by=agreement cannot be measured on {dataset.folder}: {reason}. Use --best-by "
            "fd_builtin."
        )


def _split(dataset: PreparedDataset, least: int) -> str:
    """Return validation if it has so many images, else train."""
    return "validation" if dataset.manifest.rows("validation") >= least else "train"


def middle(images: Tensor, size: int) -> Tensor:
    """Cut a square of so many pixels from the middle of images [B, 3, H, W]."""
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]


def _batches(images: Iterator[Tensor]) -> Iterator[Tensor]:
    while some := list(islice(images, AT_ONCE)):
        yield torch.stack(some)
