"""The classifier that measures agreement, on images whose answer is known."""

import torch

from ratgan.metrics.agreement import AttributeClassifier, agreement, train_classifier

ATTRIBUTES = {"colour": ("red", "green"), "side": ("left", "right")}


def two_colours(count: int) -> tuple[torch.Tensor, dict[str, list[str]]]:
    """Images with a red or green half, left or right, on noise."""
    torch.manual_seed(count)
    images = torch.randint(0, 60, (count, 3, 16, 16), dtype=torch.uint8)
    labels: dict[str, list[str]] = {"colour": [], "side": []}
    for index in range(count):
        colour, side = index % 2, (index // 2) % 2
        images[index, colour, :, 8 * side : 8 * side + 8] = 220
        labels["colour"].append(ATTRIBUTES["colour"][colour])
        labels["side"].append(ATTRIBUTES["side"][side])
    return images, labels


def test_classifier_learns_to_read_real_images():
    images, labels = two_colours(256)

    classifier = train_classifier(images, labels, ATTRIBUTES, epochs=3)

    assert agreement(classifier, *two_colours(100)) == {"colour": 1.0, "side": 1.0}


def test_agreement_counts_images_that_show_something_else():
    images, labels = two_colours(256)
    classifier = train_classifier(images, labels, ATTRIBUTES, epochs=3)
    shown, asked = two_colours(100)
    asked["colour"] = ["red"] * 100

    assert agreement(classifier, shown, asked) == {"colour": 0.5, "side": 1.0}


def test_training_a_classifier_leaves_the_global_random_state_alone():
    images, labels = two_colours(64)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)

    train_classifier(images, labels, ATTRIBUTES, epochs=1)

    assert torch.equal(torch.rand(3), expected)


def test_classifier_answers_every_attribute():
    answers = AttributeClassifier(ATTRIBUTES, 32)(torch.zeros(5, 3, 32, 32))

    assert {name: tuple(a.shape) for name, a in answers.items()} == {
        "colour": (5, 2),
        "side": (5, 2),
    }
