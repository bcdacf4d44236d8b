"""Adam's moments by parameter name: read from an optimizer, and loaded back into one."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the moments, as they are and where they are, by ``parameter/moment``."""
    return {
        f"{name}/{moment}": tensor.detach()
        for name, parameter in parameters.items()
        for moment, tensor in optimizer.state[parameter].items()
    }


def reset_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give Adam the moments that its first step would begin with, so that they can be saved."""
    for parameter in (each for group in optimizer.param_groups for each in group["params"]):
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }


def restore_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    where: str,
) -> None:
    """Load the moments of Adam, which itself would take any shape and fail at the next step.

    Args:
        optimizer: To load them into.
        parameters: By the names they were saved under.
        tensors: As `moments` gives them.
        where: They are from, for the message.

    Raises:
        ValueError: If they are of other parameters.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        found.setdefault(name, {})[moment] = tensor
    if unknown := sorted(found.keys() - parameters.keys()):
        raise ValueError(
            f"{where} does not fit the network: moments of unknown {', '.join(unknown[:5])}."
        )
    for name, parameter in parameters.items():
        held = found.get(name, {})
        shapes = {moment: list(tensor.shape) for moment, tensor in held.items()}
        # The count of steps has no dimensions; without it Adam forgets how warm it is.
        expected = {**{moment: list(parameter.shape) for moment in MOMENTS}, "step": []}
        if shapes != expected:
            raise ValueError(
                f"{where} does not fit the network: moments of {name} are {shapes} and should be "
                f"{expected}."
            )
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            # In the layout of the weights, which Adam takes for that of the moments.
            moment: torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            if moment in MOMENTS
            else tensor.to(parameter.device)
            for moment, tensor in found[name].items()
        }
