"""Where half precision stops, inside a step that runs under `torch.autocast`."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for a few lines; tensors keep the type they have.

    Args:
        like: A tensor on the device they run on.
    """
    device = like.device.type
    if not torch.amp.is_autocast_available(device):  # such as "meta", used for counting
        return nullcontext()
    return torch.autocast(device, enabled=False)
