"""State of a DAMSM pretraining in a checkpoint: both encoders and the optimizer."""

from collections.abc import Iterator
from typing import Any

from safetensors.torch import save
from torch import Tensor

from pipeline.checkpoint.host_copy import Groups, holding
from pipeline.checkpoint.optimizer_state import moments, restore_moments
from pipeline.checkpoint.store import read_tensors
from pipeline.storage.folder import Folder
from ratgan.text.damsm import pack
from ratgan.text.pretraining import Pair
from ratgan.text.vocabulary import Vocabulary
from ratgan.weights.saved_model import TEXT_ENCODER
from ratgan.weights.strict import load_strictly

IMAGE_BRANCH = "image_branch.safetensors"
OPTIMIZER = "optimizer.safetensors"


def pair_tensors(pair: Pair) -> dict[str, dict[str, Tensor]]:
    """Return all tensors a pretraining goes on from, by group and name, uncopied."""
    branch = {
        name.removeprefix("images."): parameter
        for name, parameter in pair.trained().items()
        if name.startswith("images.")
    }
    return {
        "captions": dict(pair.captions.state_dict()),
        "images": branch,
        "optimizer": moments(pair.optimizer, pair.trained()),
    }


def pair_files(
    groups: Groups, state: dict[str, Any], *, pair: Pair, vocabulary: Vocabulary
) -> Iterator[tuple[str, bytes]]:
    """Make the files of a checkpoint, each when its turn comes.

    Args:
        groups: As `pair_tensors` gives them, on the CPU.
        state: Of the run; no file repeats it.
        pair: Tells the architecture; its weights are not read.
        vocabulary: Of the text encoder.
    """
    yield TEXT_ENCODER, pack(holding(pair.captions, groups["captions"]), vocabulary)
    yield IMAGE_BRANCH, save(groups["images"])
    yield OPTIMIZER, save(groups["optimizer"])


def restore(folder: Folder, pair: Pair) -> None:
    """Put both sides and the optimizer back to where a checkpoint left them.

    Raises:
        ValueError: If the checkpoint is of another architecture.
    """
    captions = read_tensors(folder, TEXT_ENCODER)
    load_strictly(pair.captions, captions, f"{folder}/{TEXT_ENCODER}")
    trained = read_tensors(folder, IMAGE_BRANCH)
    # The frozen trunk is not in the checkpoint: it is what it was built with.
    frozen = {n: t for n, t in pair.images.state_dict().items() if n not in _trained(pair)}
    load_strictly(pair.images, {**frozen, **trained}, f"{folder}/{IMAGE_BRANCH}")
    where = f"{folder}/{OPTIMIZER}"
    restore_moments(pair.optimizer, pair.trained(), read_tensors(folder, OPTIMIZER), where)


def _trained(pair: Pair) -> set[str]:
    return {name for name, parameter in pair.images.named_parameters() if parameter.requires_grad}
