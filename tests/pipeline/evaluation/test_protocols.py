"""Protocols: complete, told apart, and what their numbers are called."""

from typing import get_args

import pytest

from pipeline.evaluation.protocols import (
    PROTOCOLS,
    ExtractorName,
    Protocol,
    ProtocolName,
    differences,
)
from pipeline.evaluation.report import shown_name
from ratgan.metrics.extractors import EXTRACTORS


def test_every_protocol_says_what_a_reader_must_know():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.quirks, name
        assert (protocol.passes is None) != (protocol.count is None), name
        assert all(quirk.endswith(".") for quirk in protocol.quirks)
    assert len(PROTOCOLS) == len(get_args(ProtocolName)) == 8
    assert set(get_args(ExtractorName)) == set(EXTRACTORS)


def test_the_paper_on_cub_draws_29280_images_and_on_coco_243024():
    cub = PROTOCOLS["paper-cub"].resolved(2933)
    coco = PROTOCOLS["paper-coco"].resolved(40_504)

    assert (cub.count, coco.count) == (29_280, 243_024)
    assert (cub.rounding, cub.weights, cub.truncation) == ("truncate", "training", None)
    with pytest.raises(ValueError, match="a pass over 20 captions in batches of 24 leaves none"):
        PROTOCOLS["paper-cub"].resolved(20)


def test_a_change_is_in_the_name_and_in_the_difference():
    clean = PROTOCOLS["clean"]

    changed = clean.changed(count=200, seed=0)

    assert (changed.name, changed.count) == ("clean-changed", 200)
    assert differences(clean, changed) == ["count: 30000 → 200"]
    assert changed.changed(seed=7).name == "clean-changed"
    assert clean.changed(count=30_000) is clean
    assert PROTOCOLS["builtin"].changed(count=99).name == "builtin"
    assert PROTOCOLS["efficientnet-lite0"].changed(count=99).name == "efficientnet-lite0"
    # Numbers by another extractor are not those of the built-in one.
    assert PROTOCOLS["builtin"].changed(extractor="dinov2").name == "builtin-changed"
    assert PROTOCOLS["paper-cub"].changed(count=99).passes is None
    assert not differences(clean, Protocol(**clean.model_dump() | {"name": "x", "quirks": ()}))


def test_any_two_protocols_differ_in_more_than_their_name():
    pairs = [(a, b) for a in PROTOCOLS.values() for b in PROTOCOLS.values() if a is not b]

    assert len(pairs) == 56
    assert all(differences(a, b) for a, b in pairs)


def test_unlike_protocols_have_unlike_labels_and_like_ones_the_same():
    clean = PROTOCOLS["clean"]

    assert clean.label() == Protocol(**clean.model_dump() | {"quirks": ()}).label()
    assert (
        clean.label() != clean.resolved(5, image_size=64).label() != clean.changed(seed=1).label()
    )
    assert clean.label().startswith("clean-")


def test_only_a_published_inception_measures_a_fid():
    clean, builtin = PROTOCOLS["clean"], PROTOCOLS["builtin"]

    assert clean.measure("distance", published=True) == "fid_clean"
    assert clean.measure("kernel", published=True) == "kid_clean"
    assert clean.measure("distance", published=False) == "fd_clean"
    assert builtin.measure("distance", published=True) == "fd_builtin"
    assert builtin.measure("kernel", published=True) == "kd_builtin"
    assert builtin.measure("recall", published=True) == "recall_builtin"
    perceptual = PROTOCOLS["efficientnet-lite0"]
    assert shown_name(perceptual.measure("distance", published=True)) == "fd[efficientnet-lite0]"
    assert shown_name(perceptual.measure("kernel", published=True)) == "kd[efficientnet-lite0]"


def test_a_protocol_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="truncation=2"):
        PROTOCOLS["clean"].changed(truncation=2)
