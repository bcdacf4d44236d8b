"""Configure the device of a run: precision, kernels, compiled blocks, and errors out of memory.

bfloat16 is an option and is not chosen by device, so that the record of a run shows its precision.
It has the range of float32, so no loss is scaled; `ratgan.ops.precision` lists what stays in
float32. A GPU multiplies in it several times as fast and moves half the bytes; a CPU without
instructions for it emulates them, slower than float32.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch.utils import deterministic as deterministic_mode

from pipeline.common.own_files import own_folder
from ratgan.networks import TextGenerator
from ratgan.options import Precision

FIRST_WITH_BFLOAT16 = (8, 0)  # compute capability of NVIDIA's Ampere
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
VARIANTS = 64  # compiled versions: each block, with and without gradient, for each size of a part


def configure_precision(
    precision: Precision, *, tf32: bool, deterministic: bool, device: torch.device
) -> str:
    """Configure precision and kernels of this process, and return a description.

    Args:
        precision: Precision of the layers.
        tf32: Let a GPU round the factors of float32 products and convolutions to TF32.
        deterministic: Let a GPU use only kernels that give the same bits each time; otherwise the
            fastest, chosen in the first steps. Kernels of a CPU are always deterministic.
        device: Device of the training; the other options have an effect on GPUs only.

    Raises:
        ValueError: If the device does not support the precision.
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
    # If an operation has no deterministic kernel, torch warns and uses another one.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Slow and not needed: all memory is written before it is read.
    deterministic_mode.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic:  # cuBLAS is deterministic only with a workspace of fixed size
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return (
        f"layers in {precision}, float32 products {'rounded to TF32' if tf32 else 'exact'}, "
        f"{'deterministic' if deterministic else 'the fastest'} kernels"
    )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Let layers compute in this precision; with float32, change nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def explained(
    *, batch_size: int, workers: int, accumulate: int, device: torch.device
) -> Iterator[None]:
    """Convert an out-of-memory error inside ``with`` into advice on how to train the same batch.

    Args:
        batch_size: Images of a step over all workers.
        accumulate: Parts of a worker's share.

    Raises:
        ValueError: If the device had no memory left.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        share = batch_size // workers
        smaller = smaller_parts(share, accumulate)
        raise ValueError(
            f"{device} has no memory left for a step: optim.batch_size={batch_size} gives each of "
            f"{workers} worker{'s' if workers > 1 else ''} {share} images, "
            f"{-(-share // accumulate)} of them at once (optim.accumulate={accumulate})"
            f"{_use(device)}. "
            + (
                f"Use --optim.accumulate {smaller}: the same batch and result in parts of "
                f"{share // smaller}, 7 % slower."
                if smaller
                else "No part is smaller than one image: use a device with more memory, or a new "
                "run with a smaller --model.base-channels or --model.image-size."
            )
        ) from error


def smaller_parts(share: int, accumulate: int) -> int | None:
    """Return the smallest number of equal parts that are at most half as large as now, or None."""
    largest = -(-share // accumulate)
    return next(
        (n for n in range(1, share + 1) if share % n == 0 and 2 * share // n <= largest), None
    )


def _is_lack_of_memory(error: Exception) -> bool:
    # On a CPU torch has no error type for it.
    ours = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return ours or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _use(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
    return f"; {total - free:.1f} of {total:.1f} GiB are in use"


def compile_blocks(generator: TextGenerator, device: torch.device) -> None:
    """Compile the blocks in place; names of weights, and so checkpoints, do not change.

    Args:
        generator: Each block is compiled when it first runs, in seconds to minutes.

    Raises:
        ValueError: If torch cannot compile on this machine, or its cache would not be safe.
    """
    keep_compiled_code()
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"compile=True, and torch cannot compile here ({type(error).__name__}: {reason[0]}). "
            "It needs a C++ compiler (on Debian: apt install g++), and on a GPU also Triton. "
            "Install it, or use --no-compile."
        ) from error
    from torch._dynamo import config as dynamo  # takes seconds, and few compile

    # Beyond its own limit torch would silently run the remaining blocks uncompiled.
    dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS)
    for block in generator.blocks:
        block.compile(dynamic=False)  # a run has one or two sizes; code for any size is slower


def keep_compiled_code() -> None:
    """Let torch keep compiled code where nobody else can write, for it runs what it finds there.

    Its own choice is a name in the shared temporary folder that anybody can take first.

    Raises:
        ValueError: If somebody has taken ours.
    """
    if os.environ.get(COMPILED):
        return
    folder = Path(tempfile.gettempdir()) / f"torchinductor-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    with own_folder(folder, remedy=f"Name a folder of your own for compiled code in {COMPILED}."):
        os.environ[COMPILED] = str(folder)
