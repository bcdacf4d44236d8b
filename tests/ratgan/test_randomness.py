"""Noise and pairing: functions of seed and place, and never a matching pair."""

import pytest
import torch

from ratgan.randomness import (
    mismatched_partners,
    published_partners,
    sample_noise,
    step_noise,
)


def test_noise_depends_on_seed_and_step_and_nothing_else():
    torch.manual_seed(1)
    first = step_noise(7, 3, 4, 5)
    torch.manual_seed(2)

    assert torch.equal(first, step_noise(7, 3, 4, 5))
    assert not torch.equal(first, step_noise(7, 4, 4, 5))
    assert not torch.equal(first, step_noise(8, 3, 4, 5))


def test_noise_of_a_sample_does_not_depend_on_how_many_there_are():
    assert torch.equal(sample_noise(0, 9, 5)[:4], sample_noise(0, 4, 5))


def test_partners_are_of_another_class():
    classes = torch.randint(0, 5, (64,))
    images = torch.arange(64)

    for step in range(50):
        partners = mismatched_partners(0, step, images, classes)
        assert (classes[partners] != classes).all()


def test_partners_differ_from_step_to_step_but_not_from_call_to_call():
    images = torch.arange(16)

    first = mismatched_partners(0, 1, images, images)

    assert torch.equal(first, mismatched_partners(0, 1, images, images))
    assert not torch.equal(first, mismatched_partners(0, 2, images, images))


def test_without_another_class_the_partner_is_another_image():
    images, classes = torch.tensor([0, 1, 1, 2]), torch.zeros(4).long()

    for step in range(20):
        partners = mismatched_partners(0, step, images, classes)
        assert (images[partners] != images).all()


def test_one_image_repeated_still_gets_a_partner_at_another_place():
    same = torch.zeros(3).long()

    partners = mismatched_partners(0, 0, same, same)

    assert (partners != torch.arange(3)).all()


def test_published_partners_are_the_next_in_a_batch_sorted_by_length():
    lengths = torch.tensor([3, 9, 5, 5])

    partners, weights = published_partners(lengths)

    # Sorted: 1, 2, 3, 0. The last has no partner, and the mean is over the other three.
    assert partners[[1, 2, 3]].tolist() == [2, 3, 0]
    assert weights.tolist() == pytest.approx([0, 4 / 3, 4 / 3, 4 / 3])
