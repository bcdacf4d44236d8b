"""Copy tensors to host memory, into the same buffers each time.

What is copied can be written at leisure while training changes the originals. The memory is
taken once and kept: as much as the tensors have, and from a GPU up to twice that, since
locked memory is handed out in powers of two.
"""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Groups = dict[str, dict[str, Tensor]]
Network = TypeVar("Network", bound=nn.Module)


class HostCopy:
    """Holds the copy."""

    def __init__(self) -> None:
        self.groups: Groups = {}

    @torch.no_grad()
    def take(self, groups: Mapping[str, Mapping[str, Tensor]]) -> Groups:
        """Copy tensors over those of the last time.

        Args:
            groups: Tensors by group and name, on any device.

        Returns:
            The same on the CPU and contiguous, good until the next call.
        """
        held = {
            group: {
                name: self._place(group, name, tensor).copy_(tensor, non_blocking=True)
                for name, tensor in tensors.items()
            }
            for group, tensors in groups.items()
        }
        self.groups = held
        if torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()  # the copies were only asked for
        return held

    def _place(self, group: str, name: str, tensor: Tensor) -> Tensor:
        place = self.groups.get(group, {}).get(name)
        if place is not None and (place.shape, place.dtype) == (tensor.shape, tensor.dtype):
            return place
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def size(groups: Groups) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.nbytes for tensors in groups.values() for tensor in tensors.values())


def holding(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """Return a network like this one that holds these tensors in place of its own, uncopied."""
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    # deepcopy takes for an object what its memo already has for it.
    memo: dict[int, object] = {
        id(tensor): nn.Parameter(tensors[name], requires_grad=False)
        if isinstance(tensor, nn.Parameter)
        else tensors[name]
        for name, tensor in own.items()
        if name in tensors
    }
    return copy.deepcopy(network, memo)


def refuse_not_finite(
    groups: Mapping[str, Mapping[str, Tensor]],
    what: str,
    advice: str = "start a new run with smaller learning rates, under another --name",
) -> None:
    """Refuse numbers that would spoil whatever is made of them.

    Args:
        groups: Tensors by group and name.
        what: They are, for the message.
        advice: What to do.

    Raises:
        ValueError: With the name of the first tensor that holds NaN or an infinity.
    """
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            # A sum shows NaN and infinity at a tenth of the cost, and may overflow: then count.
            if tensor.sum().isfinite() or tensor.isfinite().all():
                continue
            bad = int((~tensor.isfinite()).sum())
            raise ValueError(
                f"{what}: {bad:,} of {tensor.numel():,} numbers of {group}/{name} are NaN or "
                f"infinite. Training broke down before; {advice}."
            )
