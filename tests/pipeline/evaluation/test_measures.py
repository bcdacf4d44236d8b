"""From features to numbers, without a model: which are taken, and what is said of them."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.measures import Sums, measure
from pipeline.evaluation.protocols import PROTOCOLS
from pipeline.evaluation.report import meaning_of, spread_of, table, told_apart, warning
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
    assert found.values.keys() == found.spread_missing.keys()
    assert "fewer than 20 captions" in found.spread_missing["distance"]


def test_clip_gives_cmmd_with_its_interval_or_the_reason_for_none():
    vectors, parts = [normal(seed, 400, 6) for seed in (0, 1)], torch.arange(400) % 20
    real, generated = (
        Sums(FeatureStatistics.of(some), np.arange(400), some, parts) for some in vectors
    )
    varied = normal(5, 20, 4, 6)

    found = measure(generated, real, real.statistics, varied, PROTOCOLS["clip"])
    alone = measure(generated, None, real.statistics, varied, PROTOCOLS["clip"])
    other = measure(generated, real, real.statistics, varied, PROTOCOLS["builtin"])

    assert found.spread["cmmd"].low < found.values["cmmd"] < found.spread["cmmd"].high
    assert PROTOCOLS["clip"].measure("cmmd", published=False) == "cmmd_clip"
    assert meaning_of("cmmd")
    assert "statistics alone" in alone.missing["cmmd"]
    assert not {"cmmd"} & (other.values.keys() | other.missing.keys())


def test_every_number_has_an_interval_around_it_or_a_reason_for_none():
    count, parts = 400, torch.arange(400) % 20

    def many(seed: int, **more) -> Sums:
        vectors = normal(seed, count, 6)
        sums = FeatureStatistics.of(vectors)
        return Sums(sums, np.arange(count), vectors, parts, **more)

    captions = normal(4, count, 4)
    generated = many(
        1,
        scores=tuple(ScoreSums.of(normal(10 + n, COUNT, 3)) for n in range(10)),
        pair_images=captions + normal(3, count, 4),
        pair_captions=captions,
        classes=torch.arange(count),
    )
    real = many(0)

    found = measure(generated, real, real.statistics, normal(5, 20, 4, 6), PROTOCOLS["builtin"])

    assert found.values.keys() == found.spread.keys() | found.spread_missing.keys()
    without = {"density", "inception_score_deviation", "r_precision_candidates"}
    assert without <= found.spread_missing.keys()
    sure = ("distance", "kernel", "precision", "recall", "coverage", "inception_score", "diversity")
    assert {*sure, "diversity_share", "nearness", "r_precision"} <= found.spread.keys()
    for kind, each in found.spread.items():
        assert each.low < found.values[kind] < each.high, kind
    # Both sets are of one distribution: the whole distance is for want of images.
    assert found.spread["distance"].bias == pytest.approx(found.values["distance"], rel=0.5)


def test_statistics_of_others_are_taken_as_exact():
    one, parts = normal(1, 400, 6), torch.arange(400) % 20
    generated = Sums(FeatureStatistics.of(one), np.arange(400), one, parts)
    others = FeatureStatistics.of(normal(0, 9000, 6) + 1)

    found = measure(generated, None, others, normal(5, 20, 4, 6), PROTOCOLS["builtin"])

    assert found.spread["distance"].method.endswith("parts of the captions")
    assert found.spread["distance"].low < found.values["distance"] < found.spread["distance"].high


def test_two_reports_say_which_numbers_differ_by_more_than_chance():
    def report(name: str, shift: float) -> dict:
        return {
            "name": name,
            "model": {"step": 0},
            "pair": None,
            "protocol": PROTOCOLS["builtin"].model_dump(mode="json"),
            "numbers": {"fd_builtin": 5 + shift, "diversity_builtin": 2.0},
            "kinds": {"fd_builtin": "distance", "diversity_builtin": "diversity"},
            "spread": {
                "fd_builtin": {"low": 4 + shift, "high": 6 + shift, "level": 0.9, "method": "x"}
            },
        }

    one, near, far, old = report("a", 0), report("b", 0.5), report("c", 9), report("old", 0)
    del old["spread"]

    assert "[4.5, 5.5]" not in table([one, near])
    assert "[4, 6]" in table([one, near])
    assert "about 16,000 images would be needed" in table([one, near])  # 2,000 · 2 / 0.5²
    assert "a is better" in table([one, far])
    assert "is better" not in table([old, far])
    assert "distinguishable" not in table([old, one])


def test_published_statistics_alone_give_a_distance_and_the_rest_says_why_it_is_missing():
    found = measure(sums(1), None, sums(0).statistics, normal(5, 3, 4, 6), PROTOCOLS["builtin"])

    assert found.values["distance"] > 0
    assert "statistics alone" in found.missing["kernel"]
    assert "does not tell kinds of images apart" in found.missing["inception_score"]
    assert "no pair of encoders" in found.missing["r_precision"]


def test_copies_are_warned_of_and_an_earlier_report_has_none():
    copies = {"near": 0.4, "far": 0.01, "flagged": True}

    assert warning({"memorised": copies}).startswith("40% of the drawn images are less than half")
    assert warning({"memorised": copies | {"flagged": False}}) == ""
    assert warning({}) == ""


@pytest.mark.parametrize("end", ["low", "high", "level"])
@pytest.mark.parametrize("value", [None, True, [], {}, "x", 1e999, 10**400, float("nan")])
def test_an_interval_that_cannot_be_read_is_none(end, value):
    read = {"low": 1.0, "high": 2.0, "level": 0.9, "method": "jackknife"}

    assert spread_of({"spread": {"n": read}}, "n") is not None
    assert spread_of({"spread": {"n": read | {end: value}}}, "n") is None


@pytest.mark.parametrize("value", [None, {}, "x", -1, [1e308, -1e308], [1.0, None], [[]]])
def test_parts_that_cannot_be_read_decide_nothing(value):
    def report(number, left_out):
        odd = {"low": 1.0, "high": 2.0, "method": value, "left_out": left_out}
        records = {"numbers": {"n": number}, "spread": {"n": odd}}
        return records | {"kinds": value, "protocol": value}

    backwards = value[::-1] if isinstance(value, list) else value

    told = told_apart([report(1.5, value), report(1.6, backwards)], "n", ("a", "b"))

    assert told in ("not distinguishable at these counts", "")


def test_numbers_as_far_apart_as_numbers_go_decide_nothing():
    def report(value):
        return {"numbers": {"n": value}, "spread": {"n": {"low": -1e308, "high": 1e308}}}

    assert told_apart([report(1e308), report(-1e308)], "n", ("a", "b")) == ""
