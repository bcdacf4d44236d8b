"""Pairs of encoders that compare images with captions: DAMSM (ours or AttnGAN's) and CLIP.

Dimensions in this file:
    N images or captions, D size of all vectors.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ratgan.efficientnet import REGIONS, read_efficientnet
from ratgan.metrics.vision_transformers import VisionTransformer, check_folder
from ratgan.text.damsm import Damsm
from ratgan.text.image_branch import (
    EfficientNetBranch,
    ImageBranch,
    InceptionBranch,
    SmallBranch,
)
from ratgan.weights.strict import build_strictly, load_strictly
from ratgan.weights.weight_file import read_weights

TEXT_FILE, IMAGE_FILE = "text_encoder.safetensors", "image_branch.safetensors"
ATTNGAN_NAMES = {"emb_features.": "to_regions.", "emb_cnn_code.": "to_whole."}
TRUNK_PARTS = ("until_regions.", "until_whole.", "trunk.")
PAIRS = ("damsm", "clip")


class Pair(Protocol):
    """Two frozen encoders whose vectors are near where image and caption fit.

    Attributes:
        name: Key of `PAIRS`.
        sha256: Of the weights of both.
    """

    name: str
    sha256: str

    def of_images(self, images: Tensor) -> Tensor:
        """Encode images in [0, 255], [N, 3, H, W], to vectors on the CPU, [N, D]."""
        ...

    def of_captions(self, captions: Sequence[str]) -> Tensor:
        """Encode N captions to vectors on the CPU, [N, D]."""
        ...


class DamsmPair:
    """A text encoder and the image branch it was trained with.

    Args:
        text: Frozen.
        images: On the device it runs on.
        sha256: Of both files.
    """

    name = "damsm"

    def __init__(self, text: Damsm, images: ImageBranch, sha256: str) -> None:
        self.text, self.sha256 = text, sha256
        self.images = images.requires_grad_(False).eval()

    @torch.inference_mode()
    def of_images(self, images: Tensor) -> Tensor:
        """Encode images by the vector of the whole, as R-precision is published."""
        wholes: Tensor = self.images(images.float() / 127.5 - 1)[1]
        return wholes.cpu()

    def of_captions(self, captions: Sequence[str]) -> Tensor:
        """Encode captions by their sentence vectors.

        Raises:
            ValueError: If a caption holds no word the encoder knows.
        """
        return self.text.encode(captions)


class ClipPair:
    """Both towers of a CLIP.

    Args:
        location: Folder that transformers saved, with the tokenizer's files.
        device: The image tower's.
    """

    name = "clip"

    def __init__(self, location: str | Path, device: str | torch.device) -> None:
        from ratgan.text.clip import Clip

        self.text = Clip(str(check_folder(location, "clip")))
        self.images = VisionTransformer("clip", location, "bicubic").to(device)
        self.sha256 = self.images.sha256

    def of_images(self, images: Tensor) -> Tensor:
        """Encode images by the projected vector."""
        vectors: Tensor = self.images(images).vectors
        return vectors.cpu()

    def of_captions(self, captions: Sequence[str]) -> Tensor:
        """Encode captions by the projected state at their end."""
        return self.text.encode(captions)


def load_pair(
    name: str,
    location: str | Path,
    *,
    inception_weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Pair:
    """Load a pair.

    Args:
        name: Key of `PAIRS`.
        location: ``damsm``: folder with `TEXT_FILE` and `IMAGE_FILE`, as a checkpoint of
            jobs/pretrain_damsm.py holds them; the second may also be AttnGAN's image encoder under
            that name. ``clip``: folder that transformers saved.
        inception_weights: Weights of torchvision's Inception-v3, where the image branch stands on
            one and its file does not hold it.
        device: Where the image side runs.

    Raises:
        ValueError: If the parts do not fit together.
        FileNotFoundError: If one is not there, or the wheel that the image branch stands on.
    """
    if name == "clip":
        return ClipPair(location, device)
    if name != "damsm":
        raise ValueError(f"pair {name!r} is not known; choose one of: {', '.join(PAIRS)}.")
    folder = Path(location)
    text = Damsm.load(folder / TEXT_FILE)
    tensors, sha256 = read_weights(folder / IMAGE_FILE, "the image branch's weights")
    branch = _branch(tensors, inception_weights, str(folder / IMAGE_FILE))
    if (dim := branch.to_regions.weight.shape[0]) != text.dim:
        raise ValueError(
            f"{folder}: the text encoder gives {text.dim} numbers and the image branch {dim}: they "
            "were not trained together."
        )
    both = hashlib.sha256(f"{text.sha256} {sha256}".encode()).hexdigest()
    return DamsmPair(text, branch.to(device), both)


def _branch(
    tensors: dict[str, Tensor], inception_weights: str | Path | None, where: str
) -> ImageBranch:
    """Build the image branch that tensors are of."""
    renamed = {_our_name(name): tensor for name, tensor in tensors.items()}
    regions = renamed.get("to_regions.weight")
    if regions is None or regions.dim() != 4:
        raise ValueError(f"{where} does not hold an image branch: no projection of regions.")
    dim, inputs = regions.shape[:2]
    if "trunk.0.weight" in renamed:
        # Its last layer has 4 times the first one's width.
        return build_strictly(lambda: SmallBranch(dim, inputs // 4), renamed, where)
    projections = {n: t for n, t in renamed.items() if n.startswith("to_")}
    trunk = {n: t for n, t in renamed.items() if n not in projections}
    branch: InceptionBranch | EfficientNetBranch
    if inputs == REGIONS and not trunk:
        branch = EfficientNetBranch(read_efficientnet(), dim)
    else:
        branch = InceptionBranch(trunk or _inception(inception_weights, where), dim)
    frozen = {n: t for n, t in branch.state_dict().items() if n.startswith(TRUNK_PARTS)}
    load_strictly(branch, frozen | projections, where)
    return branch


def _inception(inception_weights: str | Path | None, where: str) -> dict[str, Tensor]:
    if inception_weights is None:
        raise ValueError(
            f"{where} holds projections of Inception-v3 alone: name the weights of torchvision "
            "that it was trained on, too."
        )
    return read_weights(inception_weights, "the Inception-v3 weights").tensors


def _our_name(name: str) -> str:
    for theirs, ours in ATTNGAN_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
