"""Loading tensors into a module that must have exactly those."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def load_strictly(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load tensors into a module that must have exactly those.

    Raises:
        ValueError: With the names of missing, unknown and wrongly shaped tensors.
    """
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
    module.load_state_dict(tensors)


def batch_counts(module: nn.Module) -> dict[str, Tensor]:
    """Return the counters of batch normalizations, which files of old versions leave out.

    They have no use in a network that is not trained.
    """
    own: dict[str, Tensor] = module.state_dict()
    return {name: t for name, t in own.items() if name.endswith("num_batches_tracked")}
