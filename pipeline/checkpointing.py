"""Training checkpoints: committed or not there.

    checkpoints/step-00001000/
        model/                    the averaged generator, as `ratgan.load` reads it
        discriminator.json …      the discriminator, as `ratgan.checkpoint` reads it
        generator.safetensors …   the generator in training and both optimizers
        state.json                step, config, dataset, versions
        files.json                sha256 of every file above
        COMMITTED                 sha256 of files.json; written last

A folder without its marker, or with a file that does not match, is passed over.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline.storage import Folder
from ratgan.checkpoint import MODEL_TENSORS, pack_discriminator, pack_model
from ratgan.step import Gan
from ratgan.strict import load_strictly
from ratgan.text.transform import SentenceTransform

logger = logging.getLogger(__name__)

FILES = "files.json"
MARKER = "COMMITTED"
STATE = "state.json"
PREFIX = "step-"


def save_checkpoint(
    root: Folder,
    gan: Gan,
    *,
    step: int,
    state: dict[str, Any],
    transform: SentenceTransform,
    encoder: dict[str, str],
    encoder_file: bytes | None = None,
    keep: int,
) -> Folder:
    """Write a checkpoint and let go of old ones.

    Args:
        root: Folder of the run's checkpoints.
        gan: Networks and optimizers.
        step: Steps done.
        state: What else the run needs to go on, as JSON types.
        transform: Of raw sentence vectors.
        encoder: Name and sha256 of the text encoder.
        encoder_file: Content of its file, where it has one.
        keep: Newest checkpoints to keep.

    Returns:
        The committed checkpoint.
    """
    origin = {key: state[key] for key in ("run", "dataset", "versions")} | {"step": step}
    model = pack_model(gan.average, transform, encoder, origin, encoder_file)
    files = chain(
        ((f"model/{name}", content) for name, content in model.items()),
        pack_discriminator(gan.discriminator).items(),
        ((f"{name}.safetensors", save(held)) for name, held in _tensors(gan)),
    )
    return commit(root, files, step=step, state=state, keep=keep)


def commit(
    root: Folder,
    files: Iterable[tuple[str, bytes]],
    *,
    step: int,
    state: dict[str, Any],
    keep: int,
) -> Folder:
    """Write the files of a checkpoint, then its marker, and let go of old ones.

    Args:
        root: Folder of the run's checkpoints.
        files: Names and contents, taken one at a time: each may be large.
        step: Steps done.
        state: What else the run needs to go on, as JSON types.
        keep: Newest checkpoints to keep.

    Returns:
        The committed checkpoint.
    """
    folder = root / f"{PREFIX}{step:08d}"
    folder.remove()  # left by a start that was cut short here
    hashes = {name: folder.write(name, content) for name, content in files}
    hashes[STATE] = folder.write_json(STATE, state | {"step": step})
    folder.write(MARKER, folder.write_json(FILES, hashes).encode())
    older = [
        name for name in root.names() if name.startswith(PREFIX) and name < f"{PREFIX}{step:08d}"
    ]
    whole = [name for name in older if (root / name).exists(MARKER)]
    for name in set(older) - set(whole[len(whole) - (keep - 1) :]):
        (root / name).remove()
    return folder


def newest_checkpoint(root: Folder) -> tuple[Folder, dict[str, Any]] | None:
    """Find the newest checkpoint that verifies, and its state; None if there is none."""
    for name in sorted(root.names(), reverse=True):
        folder = root / name
        if not name.startswith(PREFIX):
            continue
        if problem := _problem(folder):
            logger.warning("checkpoint %s is passed over: %s", folder, problem)
            continue
        return folder, folder.read_json(STATE)
    return None


def restore(folder: Folder, gan: Gan) -> None:
    """Put networks, average and optimizers back to where a checkpoint left them.

    Raises:
        ValueError: If the checkpoint is of another architecture.
    """
    for name, network in _networks(gan).items():
        where = f"{folder}/{name}.safetensors"
        load_strictly(network, load(folder.read(f"{name}.safetensors")), where)
    model = load(folder.read(f"model/{MODEL_TENSORS}"))
    average = {
        name.removeprefix("generator."): tensor
        for name, tensor in model.items()
        if name.startswith("generator.")
    }
    load_strictly(gan.average, average, f"{folder}/model/{MODEL_TENSORS}")
    for name, (optimizer, network) in _optimizers(gan).items():
        held = load(folder.read(f"{name}.safetensors"))
        where = f"{folder}/{name}.safetensors"
        restore_moments(optimizer, dict(network.named_parameters()), held, where)


def _problem(folder: Folder) -> str | None:
    """Say what is wrong with a checkpoint, or None."""
    try:
        if not folder.exists(MARKER):
            return "it was not completed"
        listing = folder.read(FILES)
        if hashlib.sha256(listing).hexdigest().encode() != folder.read(MARKER):
            return f"{FILES} was changed"
        for name, sha256 in folder.read_json(FILES).items():
            if hashlib.sha256(folder.read(name)).hexdigest() != sha256:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"a file is missing: {error}"
    return None


def _networks(gan: Gan) -> dict[str, nn.Module]:
    return {"generator": gan.generator, "discriminator": gan.discriminator}


def _optimizers(gan: Gan) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
    return {
        "generator_optimizer": (gan.generator_optimizer, gan.generator),
        "discriminator_optimizer": (gan.discriminator_optimizer, gan.discriminator),
    }


def _tensors(gan: Gan) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the rest of the tensors by file, copied to the CPU when their turn comes."""
    yield "generator", {n: t.cpu().contiguous() for n, t in gan.generator.state_dict().items()}
    for name, (optimizer, network) in _optimizers(gan).items():
        yield name, moments(optimizer, dict(network.named_parameters()))


def moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the moments of Adam by the names of the parameters."""
    return {
        f"{name}/{moment}": tensor.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for moment, tensor in optimizer.state[parameter].items()
    }


def restore_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: dict[str, Tensor],
    where: str,
) -> None:
    """Load the moments of Adam, which itself would take any shape and fail at the next step.

    Raises:
        ValueError: If they are of other parameters.
    """
    for name, parameter in parameters.items():
        found = {
            key.rsplit("/", 1)[1]: tensor
            for key, tensor in tensors.items()
            if key.rsplit("/", 1)[0] == name
        }
        shapes = {key: tensor.shape for key, tensor in found.items() if key != "step"}
        if shapes != {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}:
            raise ValueError(f"{where} does not fit the network: moments of {name} are {shapes}.")
        optimizer.state[parameter] = {
            key: tensor.to(parameter.device) for key, tensor in found.items()
        }
