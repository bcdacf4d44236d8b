"""Samples and the ways between two of them."""

import torch

from ratgan.sampling import interpolate_noise, interpolate_sentences, sample, to_uint8
from tests.ratgan.networks import small_generator


def test_samples_do_not_depend_on_the_batch_size():
    generator = small_generator()
    sentences, noise = torch.randn(5, 9), torch.randn(5, 7)

    images = sample(generator, sentences, noise, batch_size=2)

    assert images.shape == (5, 3, 32, 32)
    assert images.dtype == torch.uint8
    difference = images.int() - sample(generator, sentences, noise, batch_size=5).int()
    assert difference.abs().max() <= 1  # one level, where rounding is on the edge


def test_pixels_are_rounded_to_the_nearest_level():
    values = torch.tensor([-1.0, -0.999, 0.0, 0.9999, 1.0, 1.5])

    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 255]


def test_interpolation_starts_and_ends_where_it_should():
    start, end = torch.randn(6), torch.randn(6)

    for between in (interpolate_sentences, interpolate_noise):
        torch.testing.assert_close(between(start, end, 0.0), start)
        torch.testing.assert_close(between(start, end, 1.0), end)


def test_noise_keeps_its_length_on_the_way():
    start, end = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])

    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        length = interpolate_noise(start, end, share).norm()
        torch.testing.assert_close(length, torch.tensor(3.0))


def test_noise_of_one_direction_is_interpolated_without_nan():
    noise = torch.randn(4)

    assert interpolate_noise(noise, noise, 0.5).isfinite().all()
