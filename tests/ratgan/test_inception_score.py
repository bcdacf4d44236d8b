"""The Inception Score where its value is known, from parts, and against two libraries."""

import pytest
import torch

from ratgan.metrics.inception_score import ScoreSums, inception_score
from tests.ratgan.metric_libraries import FeaturesAsImages


def logits(count: int, seed: int = 0, kinds: int = 12) -> torch.Tensor:
    return 3 * torch.randn(count, kinds, generator=torch.Generator().manual_seed(seed))


def test_clear_images_of_every_kind_score_the_number_of_kinds_and_blurred_ones_1():
    clear = ScoreSums.of(1000 * torch.eye(12).repeat(3, 1))
    blurred = ScoreSums.of(torch.zeros(36, 12))

    assert clear.score() == pytest.approx(12)
    assert blurred.score() == pytest.approx(1)
    assert ScoreSums.of(1000 * torch.eye(12)[:1].repeat(9, 1)).score() == pytest.approx(1)


def test_sums_of_parts_add_up_to_the_whole():
    whole = logits(50)

    added = ScoreSums.of(whole[:7]) + ScoreSums.of(whole[7:30]) + ScoreSums.of(whole[30:])

    assert added.count == 50
    assert added.score() == pytest.approx(ScoreSums.of(whole).score(), rel=1e-13)


def test_torchmetrics_and_torch_fidelity_agree():
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torchmetrics.image.inception import InceptionScore

    whole = logits(200)
    mean, deviation = inception_score([ScoreSums.of(part) for part in whole.split(20)])

    fidelity = isc_features_to_metric(whole, splits=10, shuffle=False)
    assert mean == pytest.approx(fidelity["inception_score_mean"], rel=1e-6)
    assert deviation == pytest.approx(fidelity["inception_score_std"], rel=1e-6)
    metric = InceptionScore(feature=FeaturesAsImages(12), splits=10).set_dtype(torch.float64)
    torch.manual_seed(3)
    order = torch.randperm(200)  # as it will draw it
    metric.update(whole.double())
    torch.manual_seed(3)
    theirs, spread = metric.compute()  # with n - 1 in the deviation
    mean, deviation = inception_score([ScoreSums.of(part) for part in whole[order].split(20)])
    assert mean == pytest.approx(float(theirs), rel=1e-6)
    assert deviation == pytest.approx(float(spread) * (9 / 10) ** 0.5, rel=1e-6)


def test_no_image_has_no_score():
    with pytest.raises(ValueError, match="of no image does not exist"):
        ScoreSums.of(logits(0)).score()
