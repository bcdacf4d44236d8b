"""The generator's blocks compiled: fewer, larger kernels, where this machine can build them.

The discriminator stays as it is: torch cannot compile what the penalty differentiates twice.
"""

import torch
from torch._dynamo import config as dynamo

from ratgan.generator import Generator

VARIANTS = 64  # that torch may build: of each block, with gradient and without, by size of a part


def compile_blocks(generator: Generator, device: torch.device) -> None:
    """Compile the blocks in place; names of weights stay, so checkpoints do too.

    Args:
        generator: Its blocks are built when they first run, in seconds to minutes.
        device: It runs on.

    Raises:
        ValueError: If nothing can be compiled on this machine.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"compile=True, and torch cannot compile here ({type(error).__name__}: {reason[0]}). "
            "It needs a C++ compiler (on Debian: apt install g++), and on a GPU also Triton. "
            "Install it, or use --no-compile."
        ) from error
    # Beyond its own limit torch would quietly run the remaining blocks as they are.
    dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS)
    for block in generator.blocks:
        block.compile(dynamic=False)  # a run has one or two sizes; code for any size is slower
