"""DINOv2 and the image side of CLIP by transformers, from a local folder; safetensors only.

Dimensions in this file:
    N images, D size of a feature vector.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ratgan.metrics.features import Features
from ratgan.metrics.resizing import resize
from ratgan.options import Resize
from ratgan.weights.weight_file import clear_errors

# Mean and deviation of the colours each was trained with, for pixels in [0, 1].
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINOV2_SIZE = 224  # pixels; its own configuration names the larger size it was trained at last


def folder_sha256(folder: Path) -> str:
    """Hash the weights and the configuration of a model that transformers saved."""
    digest = hashlib.sha256()
    for file in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def check_folder(location: str | Path, name: str) -> Path:
    """Return the folder of a model.

    Raises:
        FileNotFoundError: If it is none, or its weights are not safetensors.
    """
    folder = Path(location)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} is not a folder with the config.json and the model.safetensors of {name}, "
            "as transformers saves them. Nothing is downloaded here: get it first."
        )
    return folder


class VisionTransformer(nn.Module):
    """One of the two, frozen.

    Args:
        name: ``dinov2``: the vector of its class token, after the last normalization. ``clip``: the
            projected vector that CLIP compares with captions.
        location: Folder that transformers saved.
        rule: How images are resized.

    Raises:
        FileNotFoundError: If the folder does not hold such a model.
        OSError: If transformers cannot read it.
        ValueError: If a file in the folder is damaged, or something else than its name says.
    """

    has_logits = False
    published = False  # there are many of each name: the hash says which one it is

    def __init__(self, name: str, location: str | Path, rule: Resize) -> None:
        super().__init__()
        folder = check_folder(location, name)
        from transformers import CLIPVisionModelWithProjection, Dinov2Model
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        kind: Any = Dinov2Model if name == "dinov2" else CLIPVisionModelWithProjection
        with clear_errors(folder):
            self.model = kind.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
        self.requires_grad_(False).eval()
        self.name, self.rule, self.sha256 = name, rule, folder_sha256(folder)
        config = self.model.config
        self.size: int = DINOV2_SIZE if name == "dinov2" else config.image_size
        self.dim: int = config.hidden_size if name == "dinov2" else config.projection_dim
        mean, deviation = IMAGENET if name == "dinov2" else CLIP
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        """Look at images in [0, 255], [N, 3, H, W]."""
        pixels = resize(images.float(), self.size, self.rule) / 255
        pixels = (pixels - self.get_buffer("mean")) / self.get_buffer("deviation")
        output = self.model(pixel_values=pixels)
        vectors = output.pooler_output if self.name == "dinov2" else output.image_embeds
        return Features(vectors)  # [N, D]
