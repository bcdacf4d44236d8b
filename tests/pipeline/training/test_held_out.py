"""What D says of training images, of held-out ones and of drawn ones, again and again the same."""

import pytest
import torch

from pipeline.training.held_out import HeldOut
from ratgan.randomness import sample_noise
from ratgan.step import Gan
from tests.ratgan.networks import small_discriminator, small_generator

pytestmark = pytest.mark.slow


def test_both_kinds_of_real_images_are_judged_and_drawn_ones_of_the_held_out_captions(shapes):
    sizes = {"sentence_dim": shapes.transform.dim}
    gan = Gan.create(small_generator(**sizes), small_discriminator(**sizes))
    kinds = [shapes.spread(split, 64, 100) for split in ("train", "validation")]
    held_out = HeldOut(*kinds, image_size=32, seed=100, device=torch.device("cpu"))
    before = torch.get_rng_state()

    training, others, drawn = held_out.logits(gan)

    for examples, logits in zip(kinds, (training, others), strict=True):
        images = torch.stack([each.image for each in examples])[..., 4:36, 4:36].float()
        sentences = torch.stack([each.sentence for each in examples])
        (expected,) = gan.discriminator(images / 127.5 - 1, sentences)
        torch.testing.assert_close(logits, expected.detach().double(), rtol=1e-4, atol=1e-5)
    assert (len(training), len(others)) == (64, 30)  # 120 and 30 images are there
    noise = sample_noise(100, 30, gan.average.noise_dim)
    (expected,) = gan.discriminator(gan.average(noise, sentences), sentences)
    torch.testing.assert_close(drawn, expected.detach().double(), rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, held_out.logits(gan), (training, others, drawn)))
    assert torch.equal(torch.get_rng_state(), before)
    assert gan.discriminator.training
