"""What is drawn: complete passes, equal however it is cut, truncated as published."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.caption_sampling import DIVERSITY, CaptionPlan, evenly, part_of


def numbers(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def test_each_pass_draws_every_row_once_and_a_part_of_one_draws_some_at_random():
    plan = CaptionPlan(rows=50, count=120, seed=1)

    rows = plan.row_of(numbers(120))

    assert sorted(rows[:50]) == sorted(rows[50:100]) == list(range(50))
    assert len(set(rows[100:])) == 20
    assert rows[100:].max() > 25, "a dataset is stored class by class: not the first ones"
    assert (np.diff(rows[100:]) > 0).all(), "neighbours are read together"


def test_the_last_incomplete_batch_of_a_pass_is_another_one_each_time():
    plan = CaptionPlan(rows=50, count=96, seed=1, drop_last=24)

    rows = plan.row_of(numbers(96))

    left_out = [set(range(50)) - set(part.tolist()) for part in (rows[:48], rows[48:])]
    assert [len(part) for part in left_out] == [2, 2]
    assert left_out[0] != left_out[1]


def test_an_image_does_not_depend_on_which_others_are_asked_for():
    plan = CaptionPlan(rows=50, count=120, seed=1)
    some = numbers(120)[[3, 77, 110]]

    assert plan.row_of(some).tolist() == plan.row_of(numbers(120))[some].tolist()
    assert torch.equal(plan.noise(some, 5, None), plan.noise(numbers(120), 5, None)[some])
    assert not torch.equal(plan.noise(some, 5, None)[0], plan.noise(some, 5, None)[1])
    other = CaptionPlan(rows=50, count=120, seed=2)
    assert not torch.equal(plan.noise(some, 5, None), other.noise(some, 5, None))


def test_captions_are_chosen_anew_in_each_pass_and_all_of_them_come_up():
    random = CaptionPlan(rows=50, count=1000, seed=1)
    first = CaptionPlan(rows=50, count=1000, seed=1, captions="first")

    chosen = [random.caption_of(number, 10) for number in range(1000)]

    assert np.bincount(chosen, minlength=10).min() > 60
    assert {first.caption_of(number, 10) for number in range(100)} == {0}


def test_images_for_diversity_share_a_caption_and_differ_in_noise():
    plan = CaptionPlan(rows=50, count=30, seed=1, repeat=10, stream=DIVERSITY)

    rows = plan.row_of(numbers(30)).reshape(3, 10)

    assert (rows == rows[:, :1]).all()
    assert len(set(rows[:, 0])) == 3
    assert len({plan.caption_of(number, 5) for number in range(10)}) == 1
    assert len(plan.noise(numbers(10), 4, None).unique(dim=0)) == 10


def test_truncated_noise_is_a_normal_cut_at_two_deviations_and_scaled():
    plan = CaptionPlan(rows=50, count=1000, seed=1)

    noise = plan.noise(numbers(1000), 100, 0.88)

    assert noise.abs().max() <= 2 * 0.88
    assert noise.abs().max() > 1.9 * 0.88
    # Deviation of a standard normal cut at 2: 0.8796.
    assert float(noise.std()) == pytest.approx(0.8796 * 0.88, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)


def test_parts_are_equal_and_choices_even():
    assert np.bincount(part_of(103, 10, seed=0)).tolist() == [
        11,
        10,
        10,
        11,
        10,
        10,
        11,
        10,
        10,
        10,
    ]
    assert part_of(103, 10, seed=0).tolist() != part_of(103, 10, seed=1).tolist()
    assert evenly(10, 20).all()
    chosen = np.flatnonzero(evenly(1000, 7))
    assert len(chosen) == 7
    assert np.diff(chosen).min() >= 142
