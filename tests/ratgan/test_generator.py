"""The generator: shapes, the published size, and that a batch is only a batch."""

import pytest
import torch
from torch.nn import functional

from ratgan.affine import Affine
from ratgan.generator import IMAGE_SIZES, Generator, GeneratorBlock
from tests.ratgan.networks import small_generator


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_every_size_draws_images_in_range(size):
    generator = small_generator(size)

    images = generator(torch.randn(2, 7), torch.randn(2, 9))

    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1


def test_full_size_has_the_parameters_of_the_published_model():
    with torch.device("meta"):
        generator = Generator()

    # 32,057,098 that the published model uses; torch's LSTM holds its bias as a sum of two.
    assert sum(p.numel() for p in generator.parameters()) == 32_057_098 + 1024
    assert generator.num_steps == 28


@pytest.mark.parametrize("recurrent", [True, False])
def test_images_alone_equal_images_in_a_batch(recurrent):
    generator = small_generator(recurrent=recurrent).double()
    noise, sentences = torch.randn(4, 7).double(), torch.randn(4, 9).double()

    together = generator(noise, sentences)

    alone = torch.cat([generator(noise[i : i + 1], sentences[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_block_equals_the_papers_order_with_upsampling_first():
    torch.manual_seed(0)
    block = GeneratorBlock(6, 4, upsample=True).double()
    block.residual_scale.data.fill_(0.7)
    features = torch.randn(2, 6, 5, 5).double()
    affines = [Affine(torch.randn(2, c).double(), torch.randn(2, c).double()) for c in (6, 6, 4, 4)]

    drawn = block(features, affines)

    large = functional.interpolate(features, scale_factor=2)
    residual = large
    for affine in affines[:2]:
        residual = functional.leaky_relu(affine(residual), 0.2)
    residual = block.conv1(residual)
    for affine in affines[2:]:
        residual = functional.leaky_relu(affine(residual), 0.2)
    expected = block.shortcut(large) + 0.7 * block.conv2(residual)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("recurrent", [True, False])
def test_text_and_noise_both_change_the_image(recurrent):
    generator = small_generator(recurrent=recurrent)
    noise, sentence = torch.randn(1, 7), torch.randn(1, 9)

    image = generator(noise, sentence)

    assert not torch.allclose(image, generator(noise, -sentence))
    assert not torch.allclose(image, generator(-noise, sentence))


def test_any_even_number_of_affines_per_block_works():
    generator = small_generator(affines_per_block=6)

    assert generator.num_steps == 4 * 6
    assert generator(torch.randn(1, 7), torch.randn(1, 9)).shape == (1, 3, 32, 32)


def test_without_the_controller_every_affine_block_sees_noise_and_sentence():
    generator = small_generator(recurrent=False)
    noise, sentence = torch.randn(2, 7), torch.randn(2, 9)

    conditions = generator.controller(noise, sentence, 3)

    assert conditions.shape == (2, 3, 16)
    for step in conditions.unbind(1):
        assert torch.equal(step, torch.cat([noise, sentence], dim=1))


def test_the_linear_output_is_what_tanh_is_taken_of_and_is_drawn_clamped():
    generator, linear = small_generator(), small_generator(output="linear")
    for network in (generator, linear):
        network.to_rgb.bias.data.copy_(torch.tensor([-3.0, 0.0, 3.0]))
    noise, sentences = torch.randn(2, 7), torch.randn(2, 9)

    images = linear(noise, sentences)

    assert images.abs().max() > 2
    assert torch.equal(images.tanh(), generator(noise, sentences))
    assert torch.equal(linear.draw(noise, sentences), images.clamp(-1, 1))


def test_residual_scales_start_where_they_are_told_and_other_weights_where_they_did():
    torch.manual_seed(0)
    published = Generator(32, base_channels=2).state_dict()
    torch.manual_seed(0)
    changed = Generator(32, base_channels=2, residual_start=0.5).state_dict()

    scales = {name for name in published if name.endswith("residual_scale")}
    assert len(scales) == 4
    for name, weight in published.items():
        expected = torch.tensor([0.5]) if name in scales else weight
        assert torch.equal(changed[name], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "sigmoid"}, "output='sigmoid' must be one of tanh, linear"),
        ({"image_size": 100}, r"image_size=100 must be one of \(32, 64"),
        ({"affines_per_block": 3}, "affines_per_block=3 must be even"),
    ],
)
def test_impossible_architectures_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Generator(**changes)
