"""Loading tensors into a module that must have exactly those."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def build_strictly(build: Callable[[], Network], tensors: dict[str, Tensor], where: str) -> Network:
    """Build the module that tensors are of, and load them.

    Sizes come from the file of somebody else: no memory is taken before the tensors are known to
    have them, or a line of JSON could ask for terabytes.

    Raises:
        ValueError: As `load_strictly` does, or if there is no module of such sizes.
    """
    try:
        with torch.device("meta"):
            network = build()
    except (RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{where} belongs to sizes that no network can have: {error}") from error
    _check(network, tensors, where)
    module = build()
    load_strictly(module, tensors, where)
    return module


@torch.no_grad()
def load_strictly(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load tensors into a module that must have exactly those.

    Raises:
        ValueError: With the names of missing, unknown and wrongly shaped tensors.
    """
    _check(module, tensors, where)
    module.load_state_dict(tensors)


def _check(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in own]
    problems += [
        f"{name} is {list(tensors[name].shape)} and should be {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{where} does not fit the network: {'; '.join(problems[:5])}{more}.")


def batch_counts(module: nn.Module) -> dict[str, Tensor]:
    """Return the counters of batch normalizations, which files of old versions leave out.

    They have no use in a network that is not trained.
    """
    own: dict[str, Tensor] = module.state_dict()
    return {name: t for name, t in own.items() if name.endswith("num_batches_tracked")}
