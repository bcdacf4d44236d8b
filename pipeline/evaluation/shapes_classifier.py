"""Classify images of shapes, and so measure exactly how well they follow their captions."""

import hashlib
import json
from collections.abc import Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from pipeline.data.dataset import Example, PreparedDataset
from pipeline.data.manifest import Manifest
from pipeline.preparation.sources.shapes import COLOURS, PLACES, SHAPES, SIZES
from pipeline.storage.folder import Folder
from ratgan.metrics.agreement import AttributeClassifier, agreement, train_classifier
from ratgan.networks import TextGenerator
from ratgan.randomness import sample_noise
from ratgan.sampling import sample

ATTRIBUTES = {
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
}
# Mean agreement of images that know nothing of their captions.
CHANCE = sum(1 / len(values) for values in ATTRIBUTES.values()) / len(ATTRIBUTES)


EPOCHS = 4
MOST_KNOWN = 5000  # real images the reader learns from: more teach it nothing new


def unreadable(manifest: Manifest, image_size: int) -> str:
    """Say why agreement cannot be measured on a dataset; empty if it can.

    Args:
        manifest: Of the dataset.
        image_size: Of the generated images in pixels.
    """
    if manifest.source["name"] != "shapes":
        return "what captions mean is known of shapes only"
    if manifest.source["pairs"]:
        return "images of two shapes are not read (--pairs 0)"
    if manifest.cache_size != image_size:
        return "places are read off images that are prepared without a margin (--margin 1)"
    if not manifest.rows("validation"):
        return "no images were held out"
    return ""


class ShapesReader:
    """Reads place, size, colour and shape off images, and so measures who follows a caption.

    Args:
        dataset: Prepared shapes, one in each image; the reader learns from the training split.
        count: Captions of the validation split to draw for; all, if not given.
        cache: Folder in which a trained classifier is kept and found again; None to train anew.

    Attributes:
        held_out: That many images of the validation split.
        accuracy: Share of them that are read right, per attribute.
    """

    def __init__(
        self, dataset: PreparedDataset, count: int | None = None, cache: Folder | None = None
    ) -> None:
        self.held_out = dataset.examples("validation", count)
        self.classifier = _classifier(dataset, cache)
        labels = _labels(self.held_out)
        self.accuracy = agreement(self.classifier, _images(self.held_out), labels)

    def agreement_of(self, generator: TextGenerator, *, seed: int) -> dict[str, float]:
        """Return the share of pictures, drawn for the held-out captions, that show what they say.

        Args:
            generator: Draws one for each.
            seed: Of its noise.
        """
        sentences = torch.stack([example.sentence for example in self.held_out])
        noise = sample_noise(seed, len(self.held_out), generator.noise_dim)
        drawn = sample(generator, sentences, noise)
        return self.agreement_with(drawn, range(len(self.held_out)))

    def agreement_with(self, images: Tensor, captions: Sequence[int]) -> dict[str, float]:
        """Return the share of images that show what a caption says.

        Args:
            images: uint8, [N, 3, H, W].
            captions: For each the number of a held-out image, whose caption it should show.
        """
        wanted = _labels([self.held_out[number] for number in captions])
        return agreement(self.classifier, images, wanted)


def _classifier(dataset: PreparedDataset, cache: Folder | None) -> AttributeClassifier:
    """Train a classifier, or read the one that was trained on the same images."""
    identity = json.dumps([dataset.digest, MOST_KNOWN, EPOCHS, ATTRIBUTES])
    name = f"classifier-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"
    weights, record = f"{name}.safetensors", f"{name}.json"
    if cache is not None and cache.exists(record) and cache.exists(weights):
        content = cache.read(weights)
        # What was damaged is trained anew.
        digest = hashlib.sha256(content).hexdigest()
        if digest.encode() in cache.read(record):
            found = AttributeClassifier(ATTRIBUTES, dataset.manifest.cache_size)
            found.load_state_dict(load(content))
            return found.eval()
    known = dataset.examples("train", MOST_KNOWN)
    trained = train_classifier(_images(known), _labels(known), ATTRIBUTES, epochs=EPOCHS)
    if cache is not None:
        content = save(trained.state_dict())
        cache.write(weights, content)
        cache.write_json(record, {"sha256": hashlib.sha256(content).hexdigest()})
    return trained


def _images(examples: Sequence[Example]) -> Tensor:
    return torch.stack([example.image for example in examples])


def _labels(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Read the value of each attribute from the meaning of each caption."""
    things = [(example.meaning or {})["objects"][0] for example in examples]
    return {name: [thing[name] for thing in things] for name in ATTRIBUTES}
