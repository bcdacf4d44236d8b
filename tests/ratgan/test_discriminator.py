"""The discriminator: one trunk, many sentences, and no parameter without use."""

import pytest
import torch
from torch.nn import functional

from ratgan.discriminator import Discriminator, DownBlock
from ratgan.generator import IMAGE_SIZES
from tests.ratgan.networks import small_discriminator


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_every_size_gives_one_logit_per_image(size):
    discriminator = small_discriminator(size)

    (logits,) = discriminator(torch.randn(2, 3, size, size), torch.randn(2, 9))

    assert logits.shape == (2,)


def test_scoring_two_batches_of_sentences_equals_scoring_each():
    discriminator = small_discriminator().double()
    images = torch.randn(3, 3, 32, 32).double()
    first, second = torch.randn(3, 9).double(), torch.randn(3, 9).double()

    together = discriminator(images, first, second)

    for logits, sentences in zip(together, (first, second), strict=True):
        torch.testing.assert_close(logits, discriminator(images, sentences)[0], rtol=0, atol=1e-12)
    assert not torch.allclose(*together)


def test_logits_alone_equal_logits_in_a_batch():
    discriminator = small_discriminator().double()
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


def test_without_attention_the_sentence_is_seen_by_the_score_alone():
    discriminator = small_discriminator(attention="none")
    images, sentences = torch.randn(2, 3, 32, 32), torch.randn(2, 9)

    (logits,) = discriminator(images, sentences)

    head = discriminator.head
    features = head.down(discriminator.features(images))
    repeated = sentences[:, :, None, None].expand(-1, -1, 4, 4)
    expected = head.score(torch.cat([features, repeated], dim=1)).flatten()
    torch.testing.assert_close(logits, expected)
    with pytest.raises(ValueError, match='attention="none": there are no weights'):
        discriminator.attention_maps(images, sentences)


def test_without_attention_it_has_the_parameters_that_the_published_model_uses():
    with torch.device("meta"):
        discriminator = Discriminator(attention="none")

    assert sum(p.numel() for p in discriminator.parameters()) == 78_280_326


def test_attention_maps_are_weights_over_eight_by_eight_positions():
    discriminator = small_discriminator(64)

    maps = discriminator.attention_maps(torch.randn(2, 3, 64, 64), torch.randn(2, 9))

    assert maps.shape == (2, 1, 8, 8)
    torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones(2))


def test_impossible_size_is_refused():
    with pytest.raises(ValueError, match="image_size=48 must be one of"):
        Discriminator(image_size=48)
    with pytest.raises(ValueError, match="attention='much' must be"):
        Discriminator(attention="much")
