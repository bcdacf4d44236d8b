"""The matcher: it learns which caption an image has, and each image by itself."""

import pytest
import torch

from ratgan.matcher import Choice, Matcher
from ratgan.ops.adam import Adam


@pytest.mark.parametrize("size", [32, 64, 256])
def test_images_of_every_size_are_compared_with_all_captions(size):
    matcher = Matcher(size, 9)

    cosines = matcher(torch.rand(2, 3, size, size), torch.randn(5, 9))

    assert cosines.shape == (2, 5)
    assert (cosines.abs() <= 1.001).all()


def test_it_learns_to_find_captions_by_place_and_colour():
    torch.manual_seed(0)
    images = -torch.ones(6, 3, 32, 32)
    for n in range(6):
        images[n, n % 3, 4:12, 16 * (n % 2) : 16 * (n % 2) + 8] = 1
    matcher = Matcher(32, 9)
    optimizer = Adam(matcher.parameters(), lr=2e-3)
    nothing = torch.zeros(6, 6, dtype=torch.bool)
    choice = Choice(1.0, torch.randn(6, 9), torch.arange(6), nothing)

    for _ in range(40):
        optimizer.zero_grad()
        matcher.loss(images, choice).backward()
        optimizer.step()

    found = matcher(images, choice.sentences).argmax(1)
    assert torch.equal(found, choice.own)


def test_a_score_in_bfloat16_has_a_loss_in_float32():
    matcher = Matcher(32, 9)
    choice = Choice(1.0, torch.randn(2, 9), torch.arange(2), torch.zeros(2, 2, dtype=torch.bool))

    with torch.autocast("cpu", torch.bfloat16):
        loss = matcher.loss(torch.rand(2, 3, 32, 32), choice)

    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_captions_of_earlier_batches_stay_to_choose_from_but_for_those_of_the_same_class():
    matcher = Matcher(32, 9)
    first, second = torch.randn(3, 9), torch.randn(2, 9)

    alone = matcher.choice(0.5, first, torch.tensor([7, 8, 7]), torch.tensor([0, 1, 2]))
    later = matcher.choice(0.5, second, torch.tensor([8, 9]), torch.tensor([1]))

    free = (~alone.alike).nonzero().tolist()
    assert free == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    assert torch.equal(later.sentences[:5], torch.cat([second, first]))
    assert (~later.alike).nonzero()[:, 1].tolist() == [0, 1, 2, 3, 4]
    again = matcher.choice(0.5, second, torch.tensor([8, 9]), torch.tensor([0]))
    assert (~again.alike).nonzero()[:, 1].tolist() == [0, 1, 3, 4, 6], (
        "others of its class are none"
    )


def test_the_oldest_captions_are_forgotten():
    matcher = Matcher(32, 1)

    for n in range(40):
        choice = matcher.choice(1.0, torch.full((8, 1), n), torch.arange(8), torch.arange(2))

    assert sorted(set(choice.sentences[8:, 0].tolist())) == [float(n) for n in range(7, 39)]


def test_a_caption_that_is_not_finite_is_forgotten_after_its_step():
    matcher = Matcher(32, 9)
    spoilt = torch.randn(3, 9)
    spoilt[1, 4] = torch.nan
    classes = torch.arange(3)

    during = matcher.choice(1.0, spoilt, classes, classes)
    after = matcher.choice(1.0, torch.randn(3, 9), classes + 3, classes)

    assert during.sentences[1].isnan().any(), "the step is skipped"
    loss = matcher.loss(torch.rand(3, 3, 32, 32), after)
    loss.backward()
    assert loss.isfinite()
    assert all(each.grad.isfinite().all() for each in matcher.parameters())
    assert (~after.alike).any(0)[:7].tolist() == [True, True, True, True, False, True, False]
