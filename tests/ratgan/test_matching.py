"""The matching losses against a plain loop over samples, and against what must not matter."""

import math

import pytest
import torch
from torch.nn import functional

from ratgan.text.matching import matching_loss, sentence_matches, word_matches

LENGTHS = (5, 2, 4, 1)


@pytest.fixture
def batch():
    """Four images of 6 regions and four captions of up to 5 words, float64."""
    torch.manual_seed(0)
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    words = torch.randn(4, 5, 3, dtype=torch.float64) * mask[:, :, None]
    return torch.randn(4, 6, 3, dtype=torch.float64), words, mask


def match_of_one(regions, words, focus, pooling) -> float:
    """Equations 7 to 10 of AttnGAN, word by word and region by region."""
    likeness = [[float(word @ region) for region in regions] for word in words]
    share = [
        [math.exp(row[j]) / sum(math.exp(other[j]) for other in likeness) for j in range(len(row))]
        for row in likeness
    ]
    total = 0.0
    for word, row in zip(words, share, strict=True):
        weights = [math.exp(focus * s) for s in row]
        found = sum(w * region for w, region in zip(weights, regions, strict=True)) / sum(weights)
        total += math.exp(pooling * float(found @ word) / float(found.norm() * word.norm()))
    return math.log(total) / pooling


def test_word_matches_are_those_of_a_plain_loop(batch):
    regions, words, mask = batch

    matches = word_matches(regions, words, mask, focus=4, pooling=5)

    expected = [
        [
            match_of_one(image, caption[:length], 4, 5)
            for caption, length in zip(words, LENGTHS, strict=True)
        ]
        for image in regions
    ]
    torch.testing.assert_close(
        matches, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_what_stands_behind_the_end_of_a_caption_does_not_matter(batch):
    regions, words, mask = batch

    expected = word_matches(regions, words, mask)

    noise = torch.randn_like(words) * 100 * ~mask[:, :, None]
    torch.testing.assert_close(word_matches(regions, words + noise, mask), expected)
    longer = functional.pad(words, (0, 0, 0, 3)), functional.pad(mask, (0, 3))
    torch.testing.assert_close(word_matches(regions, *longer), expected)


def test_gradients_are_those_of_finite_differences(batch):
    regions, words, mask = batch
    classes = torch.tensor([0, 1, 1, 2])

    def loss(regions, words):
        return sum(matching_loss(word_matches(regions, words, mask), classes))

    inputs = regions.requires_grad_(), words.requires_grad_()
    assert torch.autograd.gradcheck(lambda r, w: loss(r, w * mask[:, :, None]), inputs)
    loss(*inputs).backward()
    assert torch.isfinite(words.grad).all()
    assert not words.grad[~mask].any()


def test_losses_are_those_of_a_plain_loop_without_pairs_of_one_class():
    torch.manual_seed(1)
    matches = torch.randn(5, 5, dtype=torch.float64)
    classes = [7, 8, 7, 9, 7]

    to_caption, to_image = matching_loss(matches, torch.tensor(classes), sharpness=10)

    def choice(scores: list[float], own: int) -> float:
        rivals = [s for i, s in enumerate(scores) if i == own or classes[i] != classes[own]]
        return math.log(sum(math.exp(10 * s) for s in rivals)) - 10 * scores[own]

    rows = [choice(matches[i].tolist(), i) for i in range(5)]
    columns = [choice(matches[:, i].tolist(), i) for i in range(5)]
    assert float(to_caption) == pytest.approx(sum(rows) / 5, rel=1e-12)
    assert float(to_image) == pytest.approx(sum(columns) / 5, rel=1e-12)


def test_a_pair_of_one_class_gets_no_gradient():
    matches = torch.zeros(3, 3, requires_grad=True)

    sum(matching_loss(matches, torch.tensor([4, 4, 5]))).backward()

    assert matches.grad[0, 1] == matches.grad[1, 0] == 0
    assert (matches.grad.diagonal() < 0).all()
    assert matches.grad[0, 2] > 0


def test_a_batch_of_one_class_has_nothing_to_choose():
    losses = matching_loss(torch.randn(3, 3), torch.zeros(3, dtype=torch.int64))

    assert [float(loss) for loss in losses] == [0, 0]


def test_sentence_matches_are_cosines():
    wholes, sentences = torch.randn(3, 4), torch.randn(2, 4)

    matches = sentence_matches(wholes, sentences)

    expected = functional.cosine_similarity(wholes[:, None], sentences[None], dim=2)
    torch.testing.assert_close(matches, expected)
