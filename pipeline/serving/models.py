"""The models that a server draws with."""

import contextlib
import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.load_model import load_from
from pipeline.checkpoint.store import PREFIX
from pipeline.serving.config import ServeConfig
from pipeline.storage.folder import Folder
from pipeline.storage.local_copy import local_copy
from ratgan.networks import TextDiscriminator
from ratgan.text_to_image import TextToImage
from ratgan.visualize import attention_overlay
from ratgan.weights.saved_model import (
    DISCRIMINATOR_JSON,
    DISCRIMINATOR_TENSORS,
    MODEL_JSON,
    load_discriminator,
)

NAMED = re.compile(r"([A-Za-z0-9][\w.-]{0,63})=(.+)")
CARD = "README.md"
MAX_CARD = 64 * 2**10  # bytes
MAX_EXAMPLES = 8
VECTORS_KEPT = 4096  # captions


@dataclass
class ServedModel:
    """A model with what its page shows.

    Attributes:
        name: Under which it is asked for.
        model: Draws.
        discriminator: Shows its attention; None if there is none, or one without attention.
        card: How the model was made, in Markdown; empty if it has no card.
        examples: Captions of its training.
    """

    name: str
    model: TextToImage
    discriminator: TextDiscriminator | None = None
    card: str = ""
    examples: tuple[str, ...] = ()
    _vectors: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)

    @property
    def size(self) -> int:
        """Height and width of its images in pixels."""
        return int(self.model.generator.arguments["image_size"])

    @property
    def step(self) -> int | None:
        """Training step, if it is known: the record may be a stranger's."""
        origin = self.model.origin
        step = origin.get("step") if isinstance(origin, dict) else None
        return step if type(step) is int else None

    @cached_property
    def identity(self) -> str:
        """What its pictures depend on, besides the question."""
        overlay = hashlib.sha256()
        for tensor in self.discriminator.state_dict().values() if self.discriminator else ():
            overlay.update(tensor.cpu().contiguous().numpy().tobytes())
        parts = [self.model.digest, self.model.encoder_record["sha256"], self.step]
        device = next(self.model.generator.parameters()).device.type
        return json.dumps([*parts, overlay.hexdigest(), device, torch.__version__])

    def vector(self, caption: str) -> Tensor:
        """Encode a caption alone, [S]; recent ones are kept.

        Raises:
            ValueError: If the text encoder can make nothing of it.
        """
        if caption not in self._vectors:
            self._vectors[caption] = self.model.encode([caption])[0]
            if len(self._vectors) > VECTORS_KEPT:
                self._vectors.popitem(last=False)
        self._vectors.move_to_end(caption)
        return self._vectors[caption]

    @torch.inference_mode()
    def attention(self, image: Tensor, caption: str) -> Tensor:
        """Overlay an image, uint8 [3, H, W], with the attention to its caption."""
        if self.discriminator is None:
            raise ValueError(f"model {self.name} has no attention to show: serve its run.")
        pixels = image[None].float() / 127.5 - 1
        weights = self.discriminator.attention_maps(pixels, self.vector(caption)[None])
        if weights is None:
            raise ValueError(f"the discriminator of model {self.name} has no attention.")
        return attention_overlay(image[None], weights)[0]

    def describe(self) -> dict[str, Any]:
        """Return what a client may know of it, as JSON types."""
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "ratgan",
            "image_size": self.size,
            "step": self.step,
            "digest": self.model.digest,
            "attention": self.discriminator is not None,
            "examples": self.examples,
            "card": self.card,
        }


def load_models(config: ServeConfig) -> dict[str, ServedModel]:
    """Load all models of a server, by name.

    Raises:
        ValueError: If two have one name, or one is damaged.
        FileNotFoundError: If there is none at a place.
    """
    models: dict[str, ServedModel] = {}
    for place in config.model:
        named = NAMED.fullmatch(place)
        location = named[2] if named else place
        served = _load(config, named[1] if named else "", location)
        if served.name in models:
            raise ValueError(
                f"two models are called {served.name}: name this one, for example second={location}"
            )
        models[served.name] = served
    return models


def _load(config: ServeConfig, name: str, location: str) -> ServedModel:
    folder = Folder(location)
    model = load_from(location, config.encoder_path, device=config.device)
    model.load_encoder()
    inner = folder / "model" if (folder / "model").exists(MODEL_JSON) else folder
    card = ""
    with contextlib.suppress(OSError, ValueError):  # it has none, or a link that leads elsewhere
        card = inner.closed().read(CARD, 0, MAX_CARD).decode("utf-8", "replace")
    parts = [part for part in folder.location.split("/") if part not in ("", "model")]
    return ServedModel(
        name or re.sub(r"[^\w.-]+", "-", parts[-1] if parts else "model"),
        model,
        _discriminator(folder, model),
        card,
        _examples(card),
    )


def _discriminator(folder: Folder, model: TextToImage) -> TextDiscriminator | None:
    """Load the discriminator of a checkpoint, or of the run's checkpoint of the model's step."""
    origin = model.origin if isinstance(model.origin, dict) else {}
    step, places = origin.get("step"), [folder]
    if type(step) is int:
        name = f"checkpoints/{PREFIX}{step:08d}"
        places += [folder / name, Folder(folder.location.removesuffix("/model")) / name]
    for place in places:
        if place.exists(DISCRIMINATOR_JSON):
            with local_copy(str(place), (DISCRIMINATOR_JSON, DISCRIMINATOR_TENSORS)) as path:
                found = load_discriminator(path)
            sizes = (found.arguments.get("image_size"), found.arguments.get("sentence_dim"))
            fits = sizes == (model.generator.arguments["image_size"], model.transform.dim)
            return found if fits and found.arguments.get("attention") != "none" else None
    return None


def _examples(card: str) -> tuple[str, ...]:
    """Read captions from a model card: the list after "captions such as"."""
    _, found, rest = card.partition("captions such as")
    lines = rest.strip().splitlines() if found else []
    captions = []
    for line in lines:
        if not line.startswith("* "):
            break
        captions.append(line.removeprefix("* ").strip())
    return tuple(captions[:MAX_EXAMPLES])
