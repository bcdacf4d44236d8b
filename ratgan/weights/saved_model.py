"""What a saved model is, and how it becomes a thing you can call.

    model.json          architecture, text encoder, where it comes from, hash of the tensors
    model.safetensors   the generator's weights and the sentence transform
    text_encoder.safetensors   the text encoder, where it is of one file

A training checkpoint, and an imported model where it is known, holds beside it

    discriminator.json          architecture, and hash of the tensors
    discriminator.safetensors   the discriminator's weights

No pickle is written or read.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ratgan.architectures import architecture_of, find_architecture
from ratgan.file_kind import HEAD, refusal
from ratgan.networks import TextDiscriminator, TextGenerator
from ratgan.options import STANDARD, Device
from ratgan.text.transform import SentenceTransform
from ratgan.text_to_image import TextToImage, find_device
from ratgan.weights.strict import build_strictly

FORMAT_VERSION = 1
MODEL_JSON = "model.json"
MODEL_TENSORS = "model.safetensors"
TEXT_ENCODER = "text_encoder.safetensors"
DISCRIMINATOR_JSON = "discriminator.json"
DISCRIMINATOR_TENSORS = "discriminator.safetensors"


def pack_model(
    generator: TextGenerator,
    transform: SentenceTransform,
    encoder: dict[str, str],
    origin: dict[str, Any],
    encoder_file: bytes | None = None,
) -> dict[str, bytes]:
    """Make the files of a saved model.

    Args:
        generator: Its weights are copied.
        transform: Of raw sentence vectors.
        encoder: Name and sha256 of the text encoder, and its location if it stays where it is,
            for people: who loads the model names it.
        origin: Where it comes from, as JSON types.
        encoder_file: Content of its file, which then comes along.

    Returns:
        Content by file name.
    """
    tensors = {
        **{f"generator.{name}": t for name, t in generator.state_dict().items()},
        **{f"transform.{name}": t for name, t in transform.state_dict().items()},
    }
    content = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    record = {
        "format_version": FORMAT_VERSION,
        **_architecture(generator),
        "generator": generator.arguments,
        "transform": transform.kind,
        "encoder": encoder,
        "origin": origin,
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
    }
    files = {MODEL_TENSORS: content, MODEL_JSON: json.dumps(record, indent=1).encode() + b"\n"}
    return files if encoder_file is None else files | {TEXT_ENCODER: encoder_file}


def pack_discriminator(discriminator: TextDiscriminator) -> dict[str, bytes]:
    """Make the files of a saved discriminator: content by file name."""
    tensors = {n: t.detach().cpu().contiguous() for n, t in discriminator.state_dict().items()}
    content = save_tensors(tensors)
    record = {
        "format_version": FORMAT_VERSION,
        **_architecture(discriminator),
        "discriminator": discriminator.arguments,
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
    }
    return {
        DISCRIMINATOR_TENSORS: content,
        DISCRIMINATOR_JSON: json.dumps(record, indent=1).encode() + b"\n",
    }


def load_discriminator(path: str | Path) -> TextDiscriminator:
    """Load the discriminator of a training checkpoint, to see where it looks.

    Args:
        path: Folder of a checkpoint: OUTPUT/NAME/checkpoints/step-….

    Raises:
        FileNotFoundError: If there is no discriminator.
        ValueError: If it is damaged.
    """
    folder = Path(path)
    if not (folder / DISCRIMINATOR_JSON).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {DISCRIMINATOR_JSON}. A discriminator is kept in the checkpoints "
            "of a run: OUTPUT/NAME/checkpoints/step-…"
        )
    record, content = _read_checked(folder, DISCRIMINATOR_JSON, DISCRIMINATOR_TENSORS)
    with _refused_as_damaged(folder / DISCRIMINATOR_JSON):
        architecture = find_architecture(record.get("architecture", STANDARD))
        discriminator = build_strictly(
            lambda: architecture.discriminator(**record["discriminator"]),
            load_tensors(content),
            str(folder / DISCRIMINATOR_TENSORS),
        )
    return discriminator.requires_grad_(False).eval()


@contextlib.contextmanager
def _refused_as_damaged(record: Path) -> Iterator[None]:
    """Refuse with a ValueError what a record and its tensors do not have, or have of no use."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{record} is damaged, or the tensors beside it: {error!r}") from error


def _read_checked(folder: Path, record_file: str, tensor_file: str) -> tuple[dict[str, Any], bytes]:
    """Read a record and the tensors it names the hash of.

    Raises:
        ValueError: If they are damaged or of another version.
    """
    text = (folder / record_file).read_bytes()
    try:
        record = json.loads(text)
        version, sha256 = record["format_version"], record["tensors_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        problem = refusal(text[:HEAD], str(folder / record_file), "a record of a saved model")
        raise ValueError(problem or f"{folder / record_file} is damaged: {error!r}") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{folder} has format {version}, and this version reads {FORMAT_VERSION}.")
    content = (folder / tensor_file).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        problem = refusal(content[:HEAD], str(folder / tensor_file), "weights")
        raise ValueError(
            problem or f"{folder / tensor_file} is damaged: its hash is not the recorded one."
        )
    return record, content


def load(
    path: str | Path, *, encoder_path: str | Path | None = None, device: Device = "cpu"
) -> TextToImage:
    """Load a saved model: ``ratgan.load("outputs/run/model")("a small red bird")``.

    Args:
        path: Folder of a saved model, or of a training checkpoint that holds one.
        encoder_path: Where the text encoder is, if it does not come along. A place that the
            model names is used only if it is a folder in the model: whoever made it may name any.
        device: Where images are drawn; auto is a GPU if there is one.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If it is damaged or of another version, or the device is not there.
    """
    folder = Path(path)
    if (folder / "model" / MODEL_JSON).is_file():
        folder = folder / "model"
    if not (folder / MODEL_JSON).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {MODEL_JSON}: it is not a saved model. Runs keep theirs in "
            "OUTPUT/NAME/model, and in each folder of OUTPUT/NAME/checkpoints."
        )
    record, content = _read_checked(folder, MODEL_JSON, MODEL_TENSORS)
    beside = folder / TEXT_ENCODER
    comes_along = encoder_path is None and beside.is_file()
    with _refused_as_damaged(folder / MODEL_JSON):
        tensors = load_tensors(content)
        mean, projection = tensors["transform.mean"], tensors["transform.projection"]
        architecture = find_architecture(record.get("architecture", STANDARD))
        generator = build_strictly(
            lambda: architecture.generator(**record["generator"]),
            _under("generator.", tensors),
            str(folder / MODEL_TENSORS),
        )
        sizes = (len(mean), generator.arguments["sentence_dim"])
        if projection.shape != sizes:
            raise ValueError(
                f"{folder / MODEL_TENSORS} does not fit the network: transform.projection is "
                f"{list(projection.shape)} and should be {list(sizes)}."
            )
        model = TextToImage(
            generator.requires_grad_(False).eval().to(find_device(device)),
            SentenceTransform(mean, projection, record["transform"]),
            record["encoder"],
            record["origin"],
            beside if comes_along else encoder_path or _within(folder, record["encoder"]),
            record["tensors_sha256"],
        )
        if comes_along:
            model.load_encoder()  # at once: the folder may be a copy that is soon deleted
    return model


def _architecture(network: TextGenerator | TextDiscriminator) -> dict[str, str]:
    """Return what a record says of the architecture: nothing of the standard one."""
    name = architecture_of(network)
    return {} if name == STANDARD else {"architecture": name}


def _within(folder: Path, encoder: dict[str, str]) -> Path | None:
    """Return the folder of a text encoder if it is inside that of its model, else None."""
    place = (folder / str(encoder.get("location", ""))).resolve()
    root = folder.resolve()
    return place if place != root and place.is_relative_to(root) and place.is_dir() else None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
