"""How networks and images lie in memory: as the convolutions of a device read them fastest."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Placed = TypeVar("Placed", bound=Tensor | nn.Module)


def placed(thing: Placed, device: torch.device) -> Placed:
    """Move a network, or images [B, C, H, W], to a device, in the layout that suits it.

    Tensor cores read channels last, and convolutions of other layouts are turned around for them
    and back, each time. On a CPU channels last are slower.
    """
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    of_either: Any = thing  # both have this method, with other names for what it takes
    moved: Placed = of_either.to(device, memory_format=layout)
    return moved
