"""From features to numbers, without a model: which are taken, and what is said of them."""

import numpy as np
import torch

from pipeline.evaluation.measures import Sums, measure
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.report import meaning_of
from ratgan.metrics.inception_score import ScoreSums
from ratgan.metrics.statistics import FeatureStatistics

COUNT = 40


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sums(seed: int, **parts) -> Sums:
    vectors = normal(seed, COUNT, 6)
    return Sums(FeatureStatistics.of(vectors), np.arange(COUNT), vectors, **parts)


def test_every_number_that_can_be_taken_is_and_the_report_says_what_it_is():
    real = sums(0)
    generated = sums(
        1,
        scores=(ScoreSums.of(normal(2, COUNT, 3)),),
        pair_images=normal(3, COUNT, 4),
        pair_captions=normal(4, COUNT, 4),
        classes=torch.arange(COUNT),
    )

    found = measure(generated, real, real.statistics, normal(5, 3, 4, 6), PROTOCOLS["builtin"])

    assert not found.missing
    assert len(found.values) >= 19
    assert [kind for kind in found.values if not meaning_of(kind)] == []


def test_published_statistics_alone_give_a_distance_and_the_rest_says_why_it_is_missing():
    found = measure(sums(1), None, sums(0).statistics, normal(5, 3, 4, 6), PROTOCOLS["builtin"])

    assert found.values["distance"] > 0
    assert "statistics alone" in found.missing["kernel"]
    assert "does not tell kinds of images apart" in found.missing["inception_score"]
    assert "no pair of encoders" in found.missing["r_precision"]
