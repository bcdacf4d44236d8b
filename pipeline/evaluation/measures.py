"""From features to measures: sets are summed chunk by chunk in order, then compared.

Dimensions in this file:
    N images, n of them that are held in memory, D features, P size of the pair's vectors.
"""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.caption_sampling import evenly, part_of
from pipeline.evaluation.features import (
    CLASSES,
    LOGITS,
    PAIR_CAPTIONS,
    PAIR_IMAGES,
    SECONDS,
    VECTORS,
    FeatureSet,
)
from pipeline.evaluation.protocols import Protocol
from ratgan.metrics.diversity import diversity, mean_distance
from ratgan.metrics.features import check_finite
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.inception_score import ScoreSums, inception_score
from ratgan.metrics.kernel import kernel_distance
from ratgan.metrics.neighbours import neighbours
from ratgan.metrics.retrieval import mean_cosine, nearer_ones, r_precision
from ratgan.metrics.statistics import FeatureStatistics

RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Sums:
    """What is kept of a set in memory.

    Attributes:
        statistics: Of all images.
        chosen: Numbers of an even choice of them, [n].
        sample: Their features, float32, [n, D].
        scores: Sums for the Inception Score of each part; none without logits.
        pair_images: Their vectors by a pair of encoders, [n, P]; None without one.
        pair_captions: Vectors of their captions, [n, P]; None without one.
        classes: Int64, [n]; None without a pair.
        seconds: That drawing or reading took, and that features took, over all processes.
    """

    statistics: FeatureStatistics
    chosen: NDArray[np.int64]
    sample: Tensor
    scores: tuple[ScoreSums, ...] = ()
    pair_images: Tensor | None = None
    pair_captions: Tensor | None = None
    classes: Tensor | None = None
    seconds: tuple[float, float] = (0.0, 0.0)


@dataclass
class Measured:
    """Numbers by the kind of measure, and why others are missing.

    Attributes:
        values: ``distance``, ``kernel``, ``precision`` …
        missing: Kinds of measures that could not be taken, with the reason.
        seconds: That each took.
        ranks: For each image held in memory, how many wrong captions were nearer than its own;
            None without a pair.
        nearness: For each of them, its cosine with its caption; None without a pair.
    """

    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ranks: Tensor | None = None
    nearness: Tensor | None = None


def summed(features: FeatureSet, protocol: Protocol) -> Sums:
    """Sum a set, chunk after chunk in their order.

    Raises:
        ValueError: If a feature is not finite.
    """
    chosen = evenly(features.count, protocol.kernel_images)
    parts = min(protocol.score_parts, features.count)
    part = part_of(features.count, parts, protocol.seed)
    statistics: FeatureStatistics | None = None
    scores: list[ScoreSums | None] = [None] * parts
    kept: dict[str, list[Tensor]] = {}
    seconds = torch.zeros(2, dtype=torch.float64)
    start = 0
    for tensors in features.each():
        vectors = tensors[VECTORS]
        stop = start + len(vectors)
        for name in tensors.keys() - {SECONDS, CLASSES}:
            check_finite(tensors[name], f"{name} of {features.folder}", start)
        some = torch.from_numpy(chosen[start:stop])
        sums = FeatureStatistics.of(vectors)
        statistics = sums if statistics is None else statistics + sums
        kept.setdefault("sample", []).append(vectors[some])
        for name in (PAIR_IMAGES, PAIR_CAPTIONS, CLASSES):
            if name in tensors:
                kept.setdefault(name, []).append(tensors[name][some])
        if LOGITS in tensors:
            for number in np.unique(part[start:stop]).tolist():
                mine = torch.from_numpy(part[start:stop] == number)
                added, before = ScoreSums.of(tensors[LOGITS][mine]), scores[number]
                scores[number] = added if before is None else before + added
        seconds += tensors[SECONDS]
        start = stop
    if statistics is None:
        raise ValueError(f"{features.folder} is of no image.")
    joined = {name: torch.cat(some) for name, some in kept.items()}
    return Sums(
        statistics=statistics,
        chosen=np.flatnonzero(chosen),
        sample=joined["sample"],
        scores=tuple(score for score in scores if score is not None),
        pair_images=joined.get(PAIR_IMAGES),
        pair_captions=joined.get(PAIR_CAPTIONS),
        classes=joined.get(CLASSES),
        seconds=(float(seconds[0]), float(seconds[1])),
    )


def measure(
    generated: Sums,
    real: Sums | None,
    statistics: FeatureStatistics,
    varied: Tensor,
    protocol: Protocol,
) -> Measured:
    """Take all measures that these sets allow.

    Args:
        generated: Drawn images.
        real: Real images; None where others took their statistics.
        statistics: Of the real images.
        varied: Features of several images of some captions, [captions, images, D].
        protocol: Says how many images some measures take.
    """
    found = Measured()

    def timed(name: str, started: float) -> None:
        found.seconds[name] = time.perf_counter() - started

    started = time.perf_counter()
    found.values["distance"] = frechet_distance(statistics, generated.statistics)
    timed("distance", started)

    started = time.perf_counter()
    few = protocol.neighbour_images
    if real is None:
        reason = "the reference is statistics alone, without the features of its images"
        found.missing |= dict.fromkeys(("kernel", "precision and recall"), reason)
    else:
        found.values["kernel"] = kernel_distance(real.sample, generated.sample)
        timed("kernel", started)
        started = time.perf_counter()
        try:
            places = neighbours(*(_fewer(sums.sample, few) for sums in (real, generated)))
            found.values |= places._asdict()
        except ValueError as error:  # a handful of images, as in a first try
            found.missing["precision and recall"] = str(error)
        timed("neighbours", started)

    if generated.scores:
        mean, deviation = inception_score(generated.scores)
        found.values |= {"inception_score": mean, "inception_score_deviation": deviation}
    else:
        found.missing["inception_score"] = (
            f"{protocol.extractor} does not tell kinds of images apart"
        )

    found.values["diversity"] = diversity(varied)
    if len(varied) > 1:
        # Against the distance of images of different captions: the first of each.
        found.values["diversity_share"] = found.values["diversity"] / mean_distance(varied[:, 0])

    started = time.perf_counter()
    _retrieval(generated, found)
    timed("retrieval", started)
    return found


def _retrieval(generated: Sums, found: Measured) -> None:
    images, captions, classes = (
        generated.pair_images,
        generated.pair_captions,
        generated.classes,
    )
    if images is None or captions is None or classes is None:
        reason = "no pair of encoders was named (--pair)"
        found.missing |= dict.fromkeys(("r_precision", "recall", "nearness"), reason)
        return
    found.nearness = torch.nn.functional.cosine_similarity(images, captions, dim=1)
    found.values["nearness"] = mean_cosine(images, captions)
    if len(classes.unique()) < 2:
        reason = "all captions are of one class: none is wrong for any image"
        found.missing |= dict.fromkeys(("r_precision", "recall"), reason)
        return
    precision = r_precision(images, captions, classes)
    found.values["r_precision"] = precision.share
    found.values["r_precision_candidates"] = precision.candidates
    found.ranks = nearer_ones(images, captions, classes)
    backwards = nearer_ones(captions, images, classes)
    for within in RECALLS:
        for name, ranks in (("caption", found.ranks), ("image", backwards)):
            share = float((ranks < within).double().mean())
            found.values[f"{name}_recall_{within}"] = share


def _fewer(features: Tensor, most: int) -> Tensor:
    return features[torch.from_numpy(evenly(len(features), most))]
