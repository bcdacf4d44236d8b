"""Does an image show what its caption says? Exact where the meaning is known.

A small classifier learns each attribute from real images whose meaning is
known. What it then reads off generated images is compared with what their
captions asked for. Its accuracy on held-out real images is the ceiling, and
belongs beside every agreement.

Dimensions in this file:
    N images, H W height and width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratgan.ops.adam import Adam

Labels = Mapping[str, Sequence[str]]


class AttributeClassifier(nn.Module):
    """Small convolutional network with one answer per attribute.

    Args:
        attributes: For each attribute its possible values, in the order of the logits.
        image_size: Height and width of the images in pixels.
        channels: Width of the first layer.
    """

    def __init__(self, attributes: Labels, image_size: int, channels: int = 24) -> None:
        super().__init__()
        self.attributes = {name: tuple(values) for name, values in attributes.items()}
        layers: list[nn.Module] = []
        inputs, width, size = 3, channels, image_size
        while size > 4:
            layers += [
                nn.Conv2d(inputs, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            inputs, width, size = width, min(2 * width, 4 * channels), size // 2
        self.trunk = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(inputs * size * size, 128), nn.ReLU()
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128, len(values)) for name, values in self.attributes.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Read images [N, 3, H, W] in [-1, 1]: logits [N, values] per attribute."""
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}

    def targets(self, labels: Labels) -> dict[str, Tensor]:
        """Turn value names into indices, [N] per attribute."""
        return {
            name: torch.tensor([values.index(label) for label in labels[name]])
            for name, values in self.attributes.items()
        }


def train_classifier(
    images: Tensor,
    labels: Labels,
    attributes: Labels,
    *,
    epochs: int = 6,
    batch_size: int = 64,
    seed: int = 0,
) -> AttributeClassifier:
    """Train a classifier on real images.

    Args:
        images: uint8, [N, 3, H, W].
        labels: For each attribute the value of each image, N of them.
        attributes: For each attribute its possible values.
        epochs: Passes over the images.
        batch_size: Images per step.
        seed: Decides initial weights and order.

    Returns:
        The classifier, ready to read images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = AttributeClassifier(attributes, images.shape[-1]).train()
        targets = classifier.targets(labels)
        optimizer = Adam(classifier.parameters(), lr=2e-3)
        steps = epochs * (len(images) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for rows in order.split(batch_size)[: len(images) // batch_size]:
                answers = classifier(images[rows].float() / 127.5 - 1)
                losses = [functional.cross_entropy(answers[n], targets[n][rows]) for n in targets]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()
                optimizer.step()
                schedule.step()
    return classifier.eval()


@torch.inference_mode()
def agreement(classifier: AttributeClassifier, images: Tensor, labels: Labels) -> dict[str, float]:
    """Measure the share of images that show the value they should, per attribute.

    Args:
        classifier: Trained on real images.
        images: uint8, [N, 3, H, W].
        labels: For each attribute the value each image should show.

    Returns:
        Shares in [0, 1].
    """
    targets = classifier.targets(labels)
    hits = dict.fromkeys(targets, 0)
    for rows in torch.arange(len(images)).split(256):
        for name, answer in classifier(images[rows].float() / 127.5 - 1).items():
            hits[name] += int((answer.argmax(1) == targets[name][rows]).sum())
    return {name: count / len(images) for name, count in hits.items()}
