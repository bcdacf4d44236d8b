"""Measure quality while a run trains: fixed captions, fixed noise, few images.

Worker 0 does it alone, between two steps, and the others wait for it so long; how long is logged.
Nothing is drawn from a generator of random numbers that training uses, so a run trains the same
with and without it.
"""

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from pipeline.checkpoint.store import Score
from pipeline.data.dataset import PreparedDataset
from pipeline.evaluation.shapes_classifier import ATTRIBUTES, ShapesReader, unreadable
from ratgan.metrics.builtin import DIM, BuiltIn
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.features import Extractor
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.kernel import kernel_distance
from ratgan.metrics.neighbours import neighbours
from ratgan.metrics.statistics import FeatureStatistics
from ratgan.networks import TextGenerator
from ratgan.randomness import sample_noise
from ratgan.sampling import sample

BestBy = Literal["fd_builtin", "kd_efficientnet-lite0", "agreement"]
DISTANCE, AGREEMENT, SECONDS = "eval/fd_builtin", "eval/agreement", "speed/evaluation_s"
KERNEL = "eval/kd_efficientnet-lite0"
REAL_IMAGES = 2000  # that drawn ones are compared with, at most
AT_ONCE = 64
NEIGHBOURS = 5  # images that `neighbours` needs more than


class QuickEvaluation:
    """Measures a generator again and again by the same captions, noise and real images.

    Args:
        dataset: Whose captions are drawn: of the validation split, or of the training split if
            there is none.
        count: Images to draw each time.
        image_size: Of the generator in pixels.
        seed: Of the noise.
        device: To look at images on.
        extractor: Looks at them beside the built-in one, if it is another; key of `EXTRACTORS`.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        count: int,
        image_size: int,
        seed: int,
        device: torch.device,
        extractor: str = "builtin",
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
        for images in self._real(dataset, DIM):
            self.real = self.real + self._statistics(images)
        self.perceptual: Extractor | None = None
        if extractor != BuiltIn.name:
            self.perceptual = load_extractor(extractor, device=device)
            real = self._real(dataset, self.perceptual.dim)
            self.perceived = self._perceive(self.perceptual, real)

    def measure(self, generator: TextGenerator) -> dict[str, float]:
        """Draw and measure.

        Returns:
            Distances, agreement where captions have a known meaning, and the seconds it took, under
            the names they are logged by.
        """
        started = time.monotonic()
        noise = sample_noise(self.seed, len(self.sentences), generator.noise_dim)
        images = sample(generator, self.sentences, noise)
        drawn = FeatureStatistics.empty(DIM)
        for some in images.split(AT_ONCE):
            drawn = drawn + self._statistics(some)
        values = {DISTANCE: frechet_distance(self.real, drawn)}
        if self.perceptual is not None:
            values |= self._compare(self.perceptual, images)
        if self.reader is not None:
            agreed = self.reader.agreement_with(images, self.captions)
            values |= {f"{AGREEMENT}_{name}": share for name, share in agreed.items()}
            values[AGREEMENT] = sum(agreed.values()) / len(agreed)
        return values | {SECONDS: time.monotonic() - started}

    def _real(self, dataset: PreparedDataset, dim: int) -> Iterator[Tensor]:
        """Give real images; so few that they do not span the features are not all there is."""
        real = (each.image for each in dataset.each(_split(dataset, dim + 1)))
        for images in _batches(islice(real, REAL_IMAGES)):
            yield middle(images, self.image_size)

    def _perceive(self, extractor: Extractor, batches: Iterable[Tensor]) -> Tensor:
        """Return the features of images, [N, D]."""
        seen = [extractor(images.to(self.device).float()).vectors.cpu() for images in batches]
        return torch.cat(seen)

    def _compare(self, extractor: Extractor, images: Tensor) -> dict[str, float]:
        """Compare drawn images with the real ones by what these numbers of them allow."""
        real, drawn = self.perceived, self._perceive(extractor, images.split(AT_ONCE))
        fewest = min(len(real), len(drawn))
        values = {"kd": kernel_distance(real, drawn)}
        if fewest > extractor.dim:
            values["fd"] = frechet_distance(*map(FeatureStatistics.of, (real, drawn)))
        if fewest > NEIGHBOURS:
            near = neighbours(real, drawn)
            values |= {"precision": near.precision, "recall": near.recall}
        return {f"eval/{kind}_{extractor.name}": value for kind, value in values.items()}

    def _statistics(self, images: Tensor) -> FeatureStatistics:
        vectors = self.extractor(images.to(self.device).float()).vectors
        return FeatureStatistics.of(vectors.cpu())


def measured_names(dataset: PreparedDataset, image_size: int, extractor: str) -> list[str]:
    """Return the names of what `QuickEvaluation.measure` returns, if there are enough images."""
    names = [DISTANCE]
    if extractor != BuiltIn.name:
        names += [f"eval/{kind}_{extractor}" for kind in ("kd", "fd", "precision", "recall")]
    if not unreadable(dataset.manifest, image_size):
        names += [AGREEMENT, *(f"{AGREEMENT}_{attribute}" for attribute in ATTRIBUTES)]
    return names


def score(values: dict[str, float], by: BestBy) -> Score | None:
    """Return by what the best checkpoint is found; None if that was not measured."""
    name = f"eval/{by}"
    if name not in values:
        return None
    return Score(name, values[name], higher_is_better=by == "agreement")


def said(values: dict[str, float]) -> str:
    """Say what was measured, at the end of a line; nothing if nothing was."""
    if DISTANCE not in values:
        return ""
    agreed = f"  agreement {values[AGREEMENT]:.0%}" if AGREEMENT in values else ""
    kernel = f"  kd[efficientnet-lite0] {values[KERNEL]:.4f}" if KERNEL in values else ""
    return f"  fd[builtin] {values[DISTANCE]:.3f}{kernel}{agreed} in {values[SECONDS]:.1f} s"


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
