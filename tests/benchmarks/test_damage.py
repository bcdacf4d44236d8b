"""Damage to photographs does what it is named for, and a network that knows them sees it."""

import importlib.util

import numpy as np
import pytest
import torch

from benchmarks.damage import SIZE, blurred, crops, features, noised, posterised, shuffled
from ratgan import efficientnet
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.kernel import kernel_distance
from tests.conftest import REAL_DATA, photo

DRAW = torch.Generator()


def test_shuffled_tiles_are_the_same_tiles_in_another_order():
    images = torch.arange(2 * 3 * SIZE * SIZE).float().view(2, 3, SIZE, SIZE)

    damaged = shuffled(images, 4, DRAW.manual_seed(0))

    side = SIZE // 4
    tiles = [
        {tuple(tile.flatten()[:3].tolist()) for tile in image.unfold(1, side, side).unfold(
            2, side, side
        ).permute(1, 2, 0, 3, 4).flatten(0, 1)}
        for image in (images[0], damaged[0])
    ]  # fmt: skip
    assert tiles[0] == tiles[1]
    assert len(tiles[0]) == 16
    assert not torch.equal(damaged, images)
    assert torch.equal(shuffled(images, 1, DRAW), images)


def test_other_damage_blurs_adds_noise_and_leaves_few_levels():
    images = torch.rand(1, 3, SIZE, SIZE, generator=DRAW.manual_seed(0)) * 255

    assert posterised(images, 4, DRAW).unique().tolist() == [0, 85, 170, 255]
    assert (noised(images, 8, DRAW) - images).std() == pytest.approx(8, rel=0.02)
    assert blurred(images, 2, DRAW).std() < images.std() / 4


def test_crops_are_squares_of_each_photograph(tmp_path):
    photo(40, 30, 0).save(tmp_path / "a.jpg")

    found = crops([tmp_path / "a.jpg"], 3, np.random.default_rng(0))

    assert (found.shape, found.dtype) == ((3, 3, SIZE, SIZE), torch.uint8)


@pytest.mark.slow
@pytest.mark.rest
@pytest.mark.skipif(not (REAL_DATA / "coco").is_dir(), reason="the real images are not here")
@pytest.mark.skipif(
    importlib.util.find_spec(efficientnet.WHEEL_PACKAGE) is None,
    reason="the extra perceptual is not installed",
)
def test_the_published_weights_see_photographs_go_to_pieces():
    files = sorted((REAL_DATA / "coco").rglob("*.jpg"))
    halves = [crops(files[start::2], 1, np.random.default_rng(0)) for start in (0, 1)]
    look = load_extractor("efficientnet-lite0")

    real = features(look, halves[0], shuffled, 1)
    distances = [
        kernel_distance(real, features(look, halves[1], shuffled, tiles)) for tiles in (1, 2, 4, 8)
    ]

    assert distances == sorted(distances)
    assert distances[-1] > 10 * abs(distances[0])
