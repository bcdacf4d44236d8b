"""Precision, recall, density and coverage where they are known; diversity; and two libraries."""

import pytest
import torch

from ratgan.metrics.diversity import diversity, mean_distance
from ratgan.metrics.neighbours import neighbours


def blob(count: int, seed: int, centre: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + centre


def test_the_same_images_are_precise_and_complete_and_others_are_neither():
    real = blob(100, 0)

    alike, apart = neighbours(real, real), neighbours(real, blob(100, 1, centre=50))

    assert (alike.precision, alike.recall, alike.coverage) == (1, 1, 1)
    assert alike.density > 1  # each lies in its own neighbourhood too
    assert apart == (0, 0, 0, 0)


def test_images_of_one_of_two_kinds_are_precise_and_miss_the_other():
    real = torch.cat([blob(100, 0), blob(100, 1, centre=50)])

    measured = neighbours(real, blob(100, 2))

    assert measured.precision > 0.7
    assert measured.recall == pytest.approx(0.4, abs=0.15)
    assert measured.coverage < 0.51


def test_density_is_about_1_for_real_images_and_coverage_as_expected():
    measured = neighbours(blob(2000, 0), blob(2000, 1))

    assert measured.density == pytest.approx(1, abs=0.05)
    assert measured.coverage == pytest.approx(1 - 0.5**5, abs=0.02)  # 1 − 2⁻ᵏ for equal numbers


def test_torch_fidelity_agrees_on_precision_and_recall():
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, generated = blob(300, 0), blob(250, 1, centre=0.5)

    ours = neighbours(real, generated)

    precision, recall = calculate_precision_recall_full(generated, real, neighborhood=3)
    assert (ours.precision, ours.recall) == pytest.approx((precision, recall), rel=1e-6)
    assert 0.2 < ours.precision < 0.95


def test_blocks_of_rows_change_nothing(monkeypatch):
    real, generated = blob(60, 0).double(), blob(50, 1, centre=0.5).double()
    at_once = neighbours(real, generated)

    monkeypatch.setattr("ratgan.metrics.neighbours.ROWS_AT_ONCE", 32)

    assert neighbours(real, generated) == pytest.approx(at_once)


def test_too_few_images_have_no_neighbours():
    with pytest.raises(ValueError, match="need more than 5 images of each set; there are 5 and 9"):
        neighbours(blob(5, 0), blob(9, 1))


def test_diversity_is_the_mean_distance_within_captions():
    line = torch.tensor([[0.0], [1.0], [3.0]])

    assert mean_distance(line) == pytest.approx(2)
    assert diversity([line, 2 * line]) == pytest.approx(3)
    assert diversity([line[:1].repeat(4, 1)]) == 0
    with pytest.raises(ValueError, match="1 images have no distance"):
        mean_distance(line[:1])
    with pytest.raises(ValueError, match="1 caption or more"):
        diversity([])
