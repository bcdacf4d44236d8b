"""The discriminator: one trunk, many sentences, and no parameter without use."""

from typing import get_args

import pytest
import torch
from torch.nn import functional

from ratgan.discriminator import Discriminator, DownBlock
from ratgan.generator import IMAGE_SIZES
from ratgan.options import AttentionKind
from tests.ratgan.networks import small_discriminator

ATTENTIONS = get_args(AttentionKind)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_every_size_gives_one_logit_per_image(size, attention):
    discriminator = small_discriminator(size, attention=attention)

    (logits,) = discriminator(torch.randn(2, 3, size, size), torch.randn(2, 9))

    assert logits.shape == (2,)


@pytest.mark.parametrize(
    ("attention", "published"), [("none", 78_280_326), ("softmax", 85_261_062)]
)
def test_full_size_has_the_parameters_that_the_published_model_uses(attention, published):
    with torch.device("meta"):
        discriminator = Discriminator(attention=attention)

    assert sum(p.numel() for p in discriminator.parameters()) == published


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_scoring_two_batches_of_sentences_equals_scoring_each(attention):
    discriminator = small_discriminator(attention=attention).double()
    images = torch.randn(3, 3, 32, 32).double()
    first, second = torch.randn(3, 9).double(), torch.randn(3, 9).double()

    together = discriminator(images, first, second)

    for logits, sentences in zip(together, (first, second), strict=True):
        torch.testing.assert_close(logits, discriminator(images, sentences)[0], rtol=0, atol=1e-12)
    assert not torch.allclose(*together)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_logits_alone_equal_logits_in_a_batch(attention):
    discriminator = small_discriminator(attention=attention).double()
    images, sentences = torch.randn(4, 3, 32, 32).double(), torch.randn(4, 9).double()

    (together,) = discriminator(images, sentences)

    alone = [discriminator(images[i : i + 1], sentences[i : i + 1])[0] for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


def test_block_equals_the_papers_order_with_pooling_last():
    block = DownBlock(3, 5).double()
    block.residual_scale.data.fill_(0.7)
    features = torch.randn(2, 3, 8, 8).double()

    halved = block(features)

    shortcut = functional.avg_pool2d(block.shortcut(features), 2)
    expected = shortcut + 0.7 * block.residual(features)
    torch.testing.assert_close(halved, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [32, 64])
def test_features_equal_the_papers_order_with_colours_first(size):
    discriminator = small_discriminator(size).double()
    images = torch.randn(2, 3, size, size).double()

    features = discriminator.features(images)

    expected = discriminator.trunk(discriminator.from_rgb(images))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["soft_threshold", "softmax"])
def test_attention_maps_are_weights_over_eight_by_eight_positions(attention):
    discriminator = small_discriminator(64, attention=attention)

    maps = discriminator.attention_maps(torch.randn(2, 3, 64, 64), torch.randn(2, 9))

    assert maps.shape == (2, 1, 8, 8)
    torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones(2))


def test_without_attention_there_are_no_maps():
    discriminator = small_discriminator(attention="none")

    assert discriminator.attention_maps(torch.randn(1, 3, 32, 32), torch.randn(1, 9)) is None


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("size", [(64, 64), (32, 64), (31, 32)])
def test_images_of_another_size_are_refused(size, attention):
    discriminator = small_discriminator(attention=attention)

    with pytest.raises(ValueError, match=f"{size[0]} × {size[1]} pixels.*is for 32 × 32.*resize"):
        discriminator(torch.zeros(2, 3, *size), torch.zeros(2, 9))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_residual_scales_start_where_they_are_told_and_other_weights_where_they_did(attention):
    torch.manual_seed(0)
    published = Discriminator(32, 9, 2, attention).state_dict()
    torch.manual_seed(0)
    changed = Discriminator(32, 9, 2, attention, residual_start=0.5).state_dict()

    scales = {name for name in published if name.endswith("residual_scale")}
    assert len(scales) == 3
    for name, weight in published.items():
        expected = torch.tensor([0.5]) if name in scales else weight
        assert torch.equal(changed[name], expected)


def test_impossible_architectures_are_refused():
    with pytest.raises(ValueError, match="image_size=48 must be one of"):
        Discriminator(image_size=48)
    with pytest.raises(ValueError, match="'hard' must be one of soft_threshold, softmax, none"):
        Discriminator(attention="hard")
