"""The models that a server draws with."""

import contextlib
import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.load_model import load_saved, saved_in
from pipeline.checkpoint.store import PREFIX
from pipeline.common.console import print_line
from pipeline.serving.config import ServeConfig
from pipeline.storage.folder import Folder
from pipeline.storage.local_copy import local_copy
from ratgan.networks import TextDiscriminator
from ratgan.text_to_image import TextToImage
from ratgan.visualize import attention_overlay
from ratgan.weights.saved_model import (
    DISCRIMINATOR_JSON,
    DISCRIMINATOR_TENSORS,
    load_discriminator,
)

IN_MLFLOW = "models:/"
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
        version: Number of its version in MLflow; None for a model from elsewhere.
    """

    name: str
    model: TextToImage
    discriminator: TextDiscriminator | None = None
    card: str = ""
    examples: tuple[str, ...] = ()
    version: str | None = None
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
            "version": self.version,
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
    for name, location in _places(config):
        if name in models:
            raise ValueError(
                f"two models are called {name}: name this one, for example second={location}"
            )
        models[name] = _load(config, name, location)
    return models


def reload_moved(config: ServeConfig, models: dict[str, ServedModel]) -> list[str]:
    """Replace the models whose alias names another version than the one that is loaded.

    Who has found a model keeps it: no picture is made of two. One that cannot be loaded leaves the
    one before in its place.

    Returns:
        What could not be done.
    """
    failures = []
    for name, location in _places(config):
        try:
            if (
                location.startswith(IN_MLFLOW)
                and _version(config, location) != models[name].version
            ):
                models[name] = _load(config, name, location)
                print_line(f"model {name} is version {models[name].version} now.")
        except Exception as error:  # whatever it is, pictures are drawn with the one before
            failures.append(f"note: {name} stays version {models[name].version}: {error}")
    return failures


def _places(config: ServeConfig) -> list[tuple[str, str]]:
    """Return name and location of each model."""
    found = []
    for place in config.model:
        named = NAMED.fullmatch(place)
        location = named[2] if named else place
        found.append((named[1] if named else _name(location), location))
    return found


def _name(location: str) -> str:
    """Return the last part of a location that says something."""
    if location.startswith(IN_MLFLOW):
        parts = re.split("[@/]", location.removeprefix(IN_MLFLOW))[:1]
    else:
        parts = [part for part in Folder(location).location.split("/") if part not in ("", "model")]
    return re.sub(r"[^\w.-]+", "-", parts[-1] if parts else "model")


def _version(config: ServeConfig, location: str) -> str:
    from pipeline.tracking.mlflow_registry import find_version  # MLflow takes seconds to import

    return find_version(location, config.tracking_uri)


def _load(config: ServeConfig, name: str, location: str) -> ServedModel:
    if not location.startswith(IN_MLFLOW):
        return _load_from(config, name, location)

    from pipeline.tracking.mlflow_registry import fetched

    version = _version(config, location)
    with fetched(location, version, config.tracking_uri) as folder:
        served = replace(_load_from(config, name, str(folder)), version=version)
    _ = served.identity  # computed now, not while requests wait
    return served


def _load_from(config: ServeConfig, name: str, location: str) -> ServedModel:
    place = saved_in(location)
    model = load_saved(place, config.encoder_path, device=config.device)
    model.load_encoder()
    card = ""
    with contextlib.suppress(OSError, ValueError):  # it has none, or a link that leads elsewhere
        card = place.closed().read(CARD, 0, MAX_CARD).decode("utf-8", "replace")
    return ServedModel(name, model, _discriminator(Folder(location), model), card, _examples(card))


def _discriminator(folder: Folder, model: TextToImage) -> TextDiscriminator | None:
    """Load the discriminator of a checkpoint, or of the run's checkpoint of the model's step."""
    origin = model.origin if isinstance(model.origin, dict) else {}
    step, places = origin.get("step"), [folder.closed()]
    if type(step) is int:
        name = f"checkpoints/{PREFIX}{step:08d}"
        above = Folder(folder.location.removesuffix("/model"))
        places += [folder.closed() / name, above.closed() / name]
    for place in places:
        if place.exists(DISCRIMINATOR_JSON) and place.exists(DISCRIMINATOR_TENSORS):
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
