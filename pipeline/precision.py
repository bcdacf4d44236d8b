"""How exactly a run computes: bfloat16 or float32 in its layers, TF32 or not in float32 products.

bfloat16 is an option and not taken from the device, so that the record of a run says what its
numbers are. It has the range of float32, so no loss is scaled; `ratgan.precision` says what stays
in float32. A GPU multiplies in it several times as fast and moves half the bytes; a CPU
without instructions for it imitates them, slower than float32.
"""

import os
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch.utils import deterministic as deterministic_mode

Precision = Literal["float32", "bfloat16"]
FIRST_WITH_BFLOAT16 = (8, 0)  # compute capability of NVIDIA's Ampere


def settle(precision: Precision, *, tf32: bool, deterministic: bool, device: torch.device) -> str:
    """Set this process up to compute so, and say how.

    Args:
        precision: Of the layers.
        tf32: Let a GPU round the factors of float32 products and convolutions to TF32.
        deterministic: Let a GPU use only kernels that give the same bits each time; else the
            fastest, tried out in the first steps. Those of a CPU always do.
        device: To train on; the rest is set on GPUs only.

    Raises:
        ValueError: If the device cannot.
    """
    if device.type != "cuda":
        return f"layers in {precision}"
    if precision == "bfloat16" and torch.cuda.get_device_capability(device) < FIRST_WITH_BFLOAT16:
        raise ValueError(
            f"precision=bfloat16 needs a GPU that computes in it (Ampere and later), and "
            f"{torch.cuda.get_device_name(device)} does not. Use --precision float32."
        )
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    # Where an operation has none, torch warns and takes what there is.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Slower, and for nothing: all memory is written before it is read.
    deterministic_mode.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic:  # cuBLAS repeats itself with a workspace of fixed size only
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return (
        f"layers in {precision}, float32 products {'rounded to TF32' if tf32 else 'exact'}, "
        f"{'deterministic' if deterministic else 'the fastest'} kernels"
    )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Let layers compute in this precision; with float32, change nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
