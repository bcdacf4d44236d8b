"""Adam without torch's compiler: importing that takes as long as importing the rest of torch."""

from collections.abc import Iterable
from inspect import unwrap

import torch
from torch import nn
from torch.optim import Optimizer


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, fused; no step of it can be compiled.

    Torch wraps these methods so that a compiler leaves them alone, and imports the compiler for it
    at their first call, in every process that trains.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, fused=True)

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)
