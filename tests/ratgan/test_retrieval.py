"""R-precision against drawing candidates by hand, and where its value is known."""

import itertools

import pytest
import torch

from ratgan.metrics.retrieval import r_precision


def test_the_measure_is_the_mean_over_every_possible_draw():
    torch.manual_seed(0)
    images, captions = torch.randn(7, 3), torch.randn(7, 3)
    classes = torch.tensor([0, 0, 1, 2, 3, 3, 4])

    measured = r_precision(images, captions, classes, candidates=4)

    near = torch.nn.functional.cosine_similarity(images[:, None], captions[None], dim=2)
    hits = []
    for i in range(7):
        wrong = [j for j in range(7) if classes[j] != classes[i]]
        draws = list(itertools.combinations(wrong, 3))
        found = [all(near[i, j] < near[i, i] for j in draw) for draw in draws]
        hits.append(sum(found) / len(draws))
    assert measured.share == pytest.approx(sum(hits) / 7, rel=1e-6)
    assert (measured.candidates, measured.images, measured.chance) == (4, 7, 0.25)


def test_perfect_and_opposite_vectors_are_found_always_and_never():
    vectors = torch.eye(200)
    classes = torch.arange(200)

    assert r_precision(vectors, vectors, classes).share == pytest.approx(1)
    assert r_precision(vectors, -vectors, classes).share == 0


def test_blind_vectors_are_at_chance_and_constant_ones_below():
    torch.manual_seed(0)
    classes = torch.arange(2000)

    blind = r_precision(torch.randn(2000, 8), torch.randn(2000, 8), classes)

    assert blind.share == pytest.approx(blind.chance, abs=0.004)
    constant = torch.ones(2000, 8)
    assert r_precision(constant, constant, classes).share == 0


def test_captions_of_the_same_class_are_not_wrong():
    images = torch.eye(4)
    exchanged = torch.eye(4)[[1, 0, 2, 3]] + 0.1  # the first two are nearer to each other's

    apart = r_precision(images, exchanged, torch.tensor([0, 1, 2, 3]))
    alike = r_precision(images, exchanged + torch.eye(4) * 0.1, torch.tensor([0, 0, 2, 3]))

    assert (apart.share, apart.candidates) == (pytest.approx(0.5), 4)
    assert (alike.share, alike.candidates) == (pytest.approx(1), 3)


def test_images_of_one_class_cannot_be_measured():
    with pytest.raises(ValueError, match="there are 1 classes and 100 candidates"):
        r_precision(torch.eye(3), torch.eye(3), torch.zeros(3, dtype=torch.int64))
