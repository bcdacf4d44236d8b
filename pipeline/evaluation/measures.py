"""From features to measures: sets are summed chunk by chunk in order, then compared.

Dimensions in this file:
    N images, n of them that are held in memory, D features, P size of the pair's vectors, G parts
    that are left out in turn to find how sure a number is.
"""

import math
import time
from collections.abc import Sequence
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
from pipeline.evaluation.image_sets import DrawnImages
from pipeline.evaluation.protocols import Protocol
from ratgan.metrics import intervals
from ratgan.metrics.cmmd import cmmd_without
from ratgan.metrics.diversity import diversity, mean_distance
from ratgan.metrics.features import TooFewImagesError, check_finite
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.inception_score import ScoreSums, inception_score
from ratgan.metrics.intervals import PARTS, Spread
from ratgan.metrics.kernel import kernel_without
from ratgan.metrics.neighbours import Neighbours, neighbours
from ratgan.metrics.retrieval import mean_cosine, nearer_ones, precision_of
from ratgan.metrics.statistics import FeatureStatistics

RECALLS = (1, 5, 10)
NO_SPREAD = "fewer than 20 captions or real images: no parts of them can be left out"
NO_METHOD = "no way to find the interval of this measure is known here"
NO_DENSITY = "a few real images have many neighbours, and decide it: no interval held in trials"
CAPTIONS = "captions"
BOTH = "captions and real images"
SURE = 5  # parts at least that an interval is found from
BLOCK = 20  # images of a part, for the neighbours in it
TURNS = (-1, *range(PARTS))  # all images, then without each part


@dataclass(frozen=True)
class Sums:
    """What is kept of a set in memory.

    Attributes:
        statistics: Of all images.
        chosen: Numbers of an even choice of them, [n].
        sample: Their features, float32, [n, D].
        parts: Part that each is in, all images for a caption in one, int64, [n]; None if there are
            too few.
        scores: Sums for the Inception Score of each part; none without logits.
        pair_images: Their vectors by a pair of encoders, [n, P]; None without one.
        pair_captions: Vectors of their captions, [n, P]; None without one.
        classes: Int64, [n]; None without a pair.
        seconds: That drawing or reading took, and that features took, over all processes.
    """

    statistics: FeatureStatistics
    chosen: NDArray[np.int64]
    sample: Tensor
    parts: Tensor | None = None
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
        spread: By kind, where the number would lie with other images.
        spread_missing: Kinds without such an interval, with the reason.
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
    spread: dict[str, Spread] = field(default_factory=dict)
    spread_missing: dict[str, str] = field(default_factory=dict)


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
        parts=_parts(features, np.flatnonzero(chosen), protocol.seed),
        scores=tuple(score for score in scores if score is not None),
        pair_images=joined.get(PAIR_IMAGES),
        pair_captions=joined.get(PAIR_CAPTIONS),
        classes=joined.get(CLASSES),
        seconds=(float(seconds[0]), float(seconds[1])),
    )


def _parts(features: FeatureSet, numbers: NDArray[np.int64], seed: int) -> Tensor | None:
    """Put images into equal parts at random; those drawn for one caption differ less."""
    images = features.images
    rows = images.plan.row_of(numbers) if isinstance(images, DrawnImages) else numbers
    different, place = np.unique(rows, return_inverse=True)
    if len(different) < PARTS:
        return None
    return torch.from_numpy(part_of(len(different), PARTS, seed)[place])


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
    parts = generated.parts if real is None or real.parts is not None else None
    clip = ("cmmd",) if protocol.extractor == "clip" else ()
    if real is None:
        reason = "the reference is statistics alone, without the features of its images"
        found.missing |= dict.fromkeys(("kernel", "precision and recall", *clip), reason)
    else:
        turns = TURNS if parts is not None else TURNS[:1]
        value, *left_out = kernel_without(
            real.sample, generated.sample, _or_none(real), _or_none(generated), turns
        )
        found.values["kernel"] = value
        if left_out:
            found.spread["kernel"] = intervals.of_number(value, left_out, BOTH, least=-math.inf)
        if clip:
            value, *left_out = cmmd_without(
                real.sample, generated.sample, _or_none(real), _or_none(generated), turns
            )
            found.values["cmmd"] = value
            if left_out:
                found.spread["cmmd"] = intervals.of_number(value, left_out, BOTH, least=0)
        timed("kernel", started)
        started = time.perf_counter()
        try:
            _neighbours(real, generated, protocol.neighbour_images, found)
        except TooFewImagesError as error:  # a handful of images, as in a first try
            found.missing["precision and recall"] = str(error)
        timed("neighbours", started)

    if generated.scores:
        mean, deviation = inception_score(generated.scores)
        found.values |= {"inception_score": mean, "inception_score_deviation": deviation}
        found.spread_missing["inception_score_deviation"] = "it is a deviation itself"
        _number(found, "inception_score", [part.score() for part in generated.scores], "images", 0)
    else:
        found.missing["inception_score"] = (
            f"{protocol.extractor} does not tell kinds of images apart as Inception-v3 does"
        )

    found.values["diversity"] = diversity(varied)
    if len(varied) > 1:
        # Against the distance of images of different captions: the first of each.
        found.values["diversity_share"] = found.values["diversity"] / mean_distance(varied[:, 0])
    _diversity_spread(varied, found)

    started = time.perf_counter()
    _retrieval(generated, found)
    timed("retrieval", started)
    started = time.perf_counter()
    if parts is not None:
        _distance_spread(generated, real, statistics, found)
    timed("spread of the distance", started)
    for kind in found.values.keys() - found.spread.keys() - found.spread_missing.keys():
        found.spread_missing[kind] = NO_SPREAD if parts is None else NO_METHOD
    return found


def _or_none(sums: Sums) -> Tensor:
    """Return the parts of images, all in one if there are too few."""
    return torch.zeros(len(sums.sample), dtype=torch.int64) if sums.parts is None else sums.parts


def _distance_spread(
    generated: Sums, real: Sums | None, statistics: FeatureStatistics, found: Measured
) -> None:
    """Find how sure the Fréchet distance is, from the images held in memory."""
    sets = [sums for sums in (real, generated) if sums is not None]
    whole = [FeatureStatistics.of(sums.sample) for sums in sets]
    left_out = []
    for part in TURNS:
        rest = [
            sums.without(FeatureStatistics.of(each.sample[each.parts == part]))
            for sums, each in zip(whole, sets, strict=True)
        ]
        left_out.append(frechet_distance(*rest if real else (statistics, *rest)))
    held, *left_out = left_out
    # Where not all are held, what all of them vary is less by the root of their number.
    shares = [len(each.sample) / each.statistics.count for each in sets]
    value, shrink = found.values["distance"], math.sqrt(max(shares))
    left_out = [value + (each - held) * shrink for each in left_out]
    found.spread["distance"] = intervals.of_number(
        value, left_out, BOTH if real else CAPTIONS, biased=min(shares) == 1, least=0
    )


def _neighbours(real: Sums, generated: Sums, most: int, found: Measured) -> None:
    """Measure by neighbours, and find how sure that is, from the same in each part alone."""
    sets = [_fewer(sums.sample, most) for sums in (real, generated)]
    found.values |= neighbours(*sets)._asdict()
    if real.parts is None or generated.parts is None:
        return
    parts = [_fewer(sums.parts, most) for sums in (real, generated) if sums.parts is not None]
    smallest = min(int(part.bincount(minlength=PARTS).min()) for part in parts)
    if smallest < BLOCK:
        reason = f"{PARTS} parts of {BLOCK} images of each set are needed; there are {smallest}"
        found.spread_missing |= dict.fromkeys(Neighbours._fields, reason)
        return
    blocks = [
        neighbours(*(s[p == part] for s, p in zip(sets, parts, strict=True)))
        for part in range(PARTS)
    ]
    for kind in Neighbours._fields:
        if kind == "density":
            found.spread_missing[kind] = NO_DENSITY
            continue
        value = found.values[kind]
        left_out = intervals.from_blocks(value, [getattr(block, kind) for block in blocks])
        count = len(sets[kind == "precision"])
        found.spread[kind] = intervals.of_share(value, left_out, BOTH, count)


def _number(found: Measured, kind: str, values: Sequence[float], what: str, least: float) -> None:
    """Find how sure a mean of a few numbers is, from the mean without each of them."""
    if len(values) < SURE:
        found.spread_missing[kind] = f"{len(values)} parts are too few; {SURE} are needed"
        return
    left_out = [(sum(values) - value) / (len(values) - 1) for value in values]
    found.spread[kind] = intervals.of_number(found.values[kind], left_out, what, least=least)


def _diversity_spread(varied: Tensor, found: Measured) -> None:
    """Find how sure diversity is, from the captions [captions, images, D]."""
    each = [mean_distance(images) for images in varied]
    _number(found, "diversity", each, CAPTIONS, 0)
    if "diversity_share" not in found.values:
        return
    if len(each) < SURE:
        found.spread_missing["diversity_share"] = found.spread_missing["diversity"]
        return
    left_out = []
    for number in range(len(each)):
        others = torch.cat([varied[:number, 0], varied[number + 1 :, 0]])
        mean = (sum(each) - each[number]) / (len(each) - 1)
        left_out.append(mean / mean_distance(others))
    value = found.values["diversity_share"]
    found.spread["diversity_share"] = intervals.of_number(value, left_out, CAPTIONS, least=0)


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
    turns = [] if generated.parts is None else [generated.parts != part for part in range(PARTS)]
    if turns:
        left_out = [mean_cosine(images[kept], captions[kept]) for kept in turns]
        found.spread["nearness"] = intervals.of_number(
            found.values["nearness"], left_out, CAPTIONS, least=-1
        )
    if len(classes.unique()) < 2:
        reason = "all captions are of one class: none is wrong for any image"
        found.missing |= dict.fromkeys(("r_precision", "recall"), reason)
        return
    wrong = (classes[:, None] != classes).sum(1)
    found.ranks = nearer_ones(images, captions, classes)
    backwards = nearer_ones(captions, images, classes)
    precision = precision_of(wrong, found.ranks)
    found.values["r_precision"] = precision.share
    found.values["r_precision_candidates"] = precision.candidates
    found.spread_missing["r_precision_candidates"] = "it is a count"
    hits = {
        f"{name}_recall_{within}": (ranks < within).double()
        for within in RECALLS
        for name, ranks in (("caption", found.ranks), ("image", backwards))
    }
    found.values |= {kind: float(hit.mean()) for kind, hit in hits.items()}
    if not turns:
        return
    without = {kind: [float(hit[kept].mean()) for kept in turns] for kind, hit in hits.items()}
    without["r_precision"] = [
        precision_of(wrong[kept], found.ranks[kept], precision.candidates).share for kept in turns
    ]
    for kind, left_out in without.items():
        value = found.values[kind]
        found.spread[kind] = intervals.of_share(value, left_out, CAPTIONS, len(images))


def _fewer(features: Tensor, most: int) -> Tensor:
    return features[torch.from_numpy(evenly(len(features), most))]
