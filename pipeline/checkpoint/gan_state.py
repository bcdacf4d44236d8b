"""State of a GAN training in a checkpoint: networks, moving average and optimizers.

    model/                    the averaged generator, as `ratgan.load` reads it
    discriminator.json …      the discriminator, as `ratgan.weights.saved_model` reads it
    generator.safetensors     the generator in training
    generator_optimizer.safetensors, discriminator_optimizer.safetensors    the moments of Adam
    matcher.safetensors, matcher_optimizer.safetensors    of a run with a matching loss

Learning rates and betas are options of the run, and in the state as such.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.checkpoint.host_copy import Groups, holding
from pipeline.checkpoint.optimizer_state import moments, restore_moments
from pipeline.checkpoint.store import read_tensors
from pipeline.storage.folder import Folder
from ratgan.step import Gan
from ratgan.text.transform import SentenceTransform
from ratgan.weights.saved_model import MODEL_TENSORS, pack_discriminator, pack_model
from ratgan.weights.strict import load_strictly


def gan_tensors(gan: Gan) -> dict[str, dict[str, Tensor]]:
    """Return all tensors a training goes on from, by group and name, uncopied."""
    networks = {
        "average": gan.average,
        "discriminator": gan.discriminator,
        "generator": gan.generator,
        **_matcher(gan),
    }
    return {
        **{group: dict(network.state_dict()) for group, network in networks.items()},
        **{
            group: moments(optimizer, dict(network.named_parameters()))
            for group, (optimizer, network) in _optimizers(gan).items()
        },
    }


def gan_files(
    groups: Groups,
    state: dict[str, Any],
    *,
    gan: Gan,
    transform: SentenceTransform,
    encoder_file: bytes | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Make the files of a checkpoint, each when its turn comes.

    Args:
        groups: As `gan_tensors` gives them, on the CPU.
        state: Of the run; the saved model names its origin and its encoder from it.
        gan: Tells the architecture; its weights are not read.
        transform: Of raw sentence vectors.
        encoder_file: Content of the text encoder's file, where it has one.
    """
    origin = {key: state[key] for key in ("run", "dataset", "versions", "step")}
    if started_from := state.get("started_from"):
        origin["started_from"] = started_from
    average = holding(gan.average, groups["average"])
    yield from (
        (f"model/{name}", content)
        for name, content in pack_model(
            average, transform, state["encoder"], origin, encoder_file
        ).items()
    )
    yield from pack_discriminator(holding(gan.discriminator, groups["discriminator"])).items()
    for group in ("generator", *_matcher(gan), *_optimizers(gan)):
        yield f"{group}.safetensors", save(groups[group])


def restore(folder: Folder, gan: Gan) -> None:
    """Put networks, average and optimizers back to where a checkpoint left them.

    Raises:
        ValueError: If the checkpoint is damaged or of another architecture.
    """
    if not folder.exists("matcher.safetensors"):
        gan = replace(gan, matcher=None, matcher_optimizer=None)  # it is new in the run
    networks = {"generator": gan.generator, "discriminator": gan.discriminator, **_matcher(gan)}
    for name, network in networks.items():
        file = f"{name}.safetensors"
        load_strictly(network, read_tensors(folder, file), f"{folder}/{file}")
    model = read_tensors(folder, f"model/{MODEL_TENSORS}")
    average = {
        name.removeprefix("generator."): tensor
        for name, tensor in model.items()
        if name.startswith("generator.")
    }
    load_strictly(gan.average, average, f"{folder}/model/{MODEL_TENSORS}")
    for group, (optimizer, network) in _optimizers(gan).items():
        file = f"{group}.safetensors"
        parameters = dict(network.named_parameters())
        restore_moments(optimizer, parameters, read_tensors(folder, file), f"{folder}/{file}")


def _matcher(gan: Gan) -> dict[str, nn.Module]:
    return {"matcher": gan.matcher} if gan.matcher else {}


def _optimizers(gan: Gan) -> dict[str, tuple[torch.optim.Optimizer, nn.Module]]:
    found: dict[str, tuple[torch.optim.Optimizer, nn.Module]] = {
        "generator_optimizer": (gan.generator_optimizer, gan.generator),
        "discriminator_optimizer": (gan.discriminator_optimizer, gan.discriminator),
    }
    if gan.matcher and gan.matcher_optimizer:
        found["matcher_optimizer"] = (gan.matcher_optimizer, gan.matcher)
    return found
