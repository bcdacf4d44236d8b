"""Copies of training images are found, and images of the same kind are none."""

import pytest
import torch

from ratgan.metrics.features import TooFewImagesError
from ratgan.metrics.memorised import memorised


def real(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed)) + 100


TRAIN, HELD_OUT = real(64, 0), real(64, 1)


def test_copies_with_a_little_noise_are_flagged_and_their_original_is_found():
    which = torch.arange(200) % 64

    found = memorised(TRAIN[which] + 0.1 * (real(200, 2) - 100), TRAIN, HELD_OUT)

    assert found.flagged
    assert found.ratio < 0.2
    assert torch.equal(found.nearest, which)


@pytest.mark.parametrize("kind", ["like the real ones", "all the same", "too smooth", "far away"])
def test_images_that_copy_nothing_are_not_flagged(kind):
    drawn = {
        "like the real ones": real(500, 3),
        "all the same": real(1, 3).expand(500, -1),
        "too smooth": 100 + 0.05 * (real(500, 3) - 100),
        "far away": real(500, 3) + 50,
    }[kind]

    found = memorised(drawn, TRAIN, HELD_OUT)

    assert not found.flagged
    assert found.ratio == pytest.approx(1, abs=0.3)


def test_copies_are_flagged_where_only_some_of_many_training_images_are_compared():
    train = real(640, 0)

    found = memorised(train + 0.01, train, HELD_OUT)

    assert found.ratio > 0.7, "nine of ten originals are not compared"
    assert (found.near, found.far) == (pytest.approx(0.1), 0)
    assert found.flagged


def test_copies_of_held_out_images_are_not_of_training_images():
    found = memorised(HELD_OUT + 0.01, TRAIN, HELD_OUT)

    assert (found.near, found.far, found.flagged) == (0, 1, False)


def test_too_few_images_are_refused():
    with pytest.raises(TooFewImagesError, match="3 held-out images are too few; 10 are needed"):
        memorised(TRAIN, TRAIN, HELD_OUT[:3])


def test_features_that_are_no_numbers_are_an_error_and_no_want_of_images():
    broken = TRAIN.clone()
    broken[5, 3] = float("nan")

    with pytest.raises(ValueError, match="features of training images: row 5") as caught:
        memorised(TRAIN, broken, HELD_OUT)

    assert not isinstance(caught.value, TooFewImagesError)
