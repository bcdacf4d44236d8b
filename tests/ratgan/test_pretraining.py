"""A pretraining step: its parameters, its schedule, its randomness, and that it learns."""

import pytest
import torch

from ratgan.text.damsm import CaptionNetwork
from ratgan.text.image_branch import SmallBranch
from ratgan.text.pretraining import Pair, learning_rate, pretrain_step, word_dropout


def small_pair() -> Pair:
    """Both sides, small, in float64."""
    torch.manual_seed(0)
    captions = CaptionNetwork(9, embedding_dim=6, dim=8).double()
    return Pair.create(captions, SmallBranch(dim=8, channels=8).double())


def small_batch(size: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    lengths = torch.tensor([4, 1, 3, 2, 4, 2])[:size]
    tokens = torch.randint(1, 9, (size, 4)) * (torch.arange(4) < lengths[:, None])
    return {
        "images": torch.rand(size, 3, 32, 32, dtype=torch.float64) * 2 - 1,
        "tokens": tokens,
        "lengths": lengths,
        "dropout": word_dropout(5, 3, (size, 4, 6)).double(),
    }


def test_no_parameter_is_left_out_of_a_step():
    pair = small_pair()
    before = {name: p.detach().clone() for name, p in pair.trained().items()}

    pretrain_step(pair, **small_batch(6), classes=torch.arange(6), lr=1e-2)

    # Of the embedding only the words of the batch; 0 stands behind the ends.
    for name, parameter in pair.trained().items():
        assert not torch.equal(parameter, before[name]), name


def test_steps_make_captions_and_images_find_each_other():
    pair = small_pair()
    batch = small_batch(6) | {"dropout": torch.ones(6, 4, 6, dtype=torch.float64)}

    losses = [
        float(pretrain_step(pair, **batch, classes=torch.arange(6), lr=3e-3)["loss/total"])
        for _ in range(200)
    ]

    assert losses[-1] < 0.2 * losses[0]


def test_the_gradient_of_the_text_encoder_is_clipped():
    pair = small_pair()

    pretrain_step(pair, **small_batch(6), classes=torch.arange(6), lr=1e-3, clip=0.01)

    norms = [p.grad.norm() for p in pair.captions.parameters()]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.01, rel=1e-3)
    assert any(p.grad.norm() > 0.01 for p in pair.images.parameters())


def test_the_learning_rate_falls_by_epochs_to_a_tenth():
    assert learning_rate(0) == 2e-3
    assert learning_rate(1) == pytest.approx(1.96e-3)
    assert learning_rate(113) == pytest.approx(2e-3 * 0.98**113)
    assert learning_rate(114) == learning_rate(599) == 2e-4


def test_dropout_is_a_function_of_seed_and_step_and_keeps_the_mean():
    factors = word_dropout(1, 2, (40, 18, 30), rate=0.5)

    assert torch.equal(factors, word_dropout(1, 2, (40, 18, 30), rate=0.5))
    assert not torch.equal(factors, word_dropout(1, 3, (40, 18, 30), rate=0.5))
    assert set(factors.unique().tolist()) == {0.0, 2.0}
    assert float(factors.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(word_dropout(1, 2, (2, 3, 4), rate=0), torch.ones(2, 3, 4))
