"""Images per second, share of the roofline and memory, for reference and ours on one device.

The reference runs as published: float32 with TF32 products, channels first, eager. Ours runs
in bfloat16 under autocast, score and penalty in float32, channels last: eager, with the generator's
blocks compiled, replayed as a CUDA graph, and both. Eager runs in channels first too, and with one
update of D, the default of training, which is another algorithm than the reference's.
A way that does not work is reported with its reason, and the others still count.
"""

import datetime
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.comparison import bfloat16_error, count
from benchmarks.workload import Step, Workload
from ratgan.step import Gan, Update

BATCH_SIZES = (24, 96)  # of the paper, and what fills a large device
WARM_UP = 3  # steps before a capture or a timing: cuDNN chooses its kernels in them


def write_throughput(
    folder: Path, *, device: str, batch_sizes: Sequence[int], steps: int, base_channels: int = 64
) -> dict[str, Any]:
    """Measure all ways at all batch sizes and write what is known after each of them.

    Args:
        folder: For the JSON file, named after device and time.
        device: "cuda", or "cpu" to run through the same lines without a GPU.
        batch_sizes: Images in a step.
        steps: Steps that are timed.
        base_channels: Width of the networks.

    Returns:
        What the file holds.
    """
    torch.set_float32_matmul_precision("high")  # TF32 for products; convolutions have it anyway
    torch.backends.cudnn.benchmark = True
    reference_cost, our_cost = count(base_channels)
    now = datetime.datetime.now(datetime.UTC)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    result: dict[str, Any] = {
        "device": name,
        "date": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "base_channels": base_channels,
        "image_size": 256,
        "steps": steps,
        "ceiling_tflops": measured_ceiling(device),
        "ceiling": "bfloat16 product of two square matrices, measured in this run",
        "gflops_per_image": {
            "reference": reference_cost.gflops_per_image,
            "ours": our_cost.gflops_per_image,
        },
        "bfloat16_error": _gradient_errors(device),
        "measurements": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace(' ', '-')}-{now:%Y%m%dT%H%M%S}.json"
    ways: dict[str, Callable[[Workload], Step]] = {
        "reference": as_published,
        "ours, eager, channels first": channels_first,
        "ours, eager": eager,
        "ours, eager, one update of D": one_update,
        "ours, compiled blocks": compiled_eager,
        "ours, CUDA graph": graphed,
        "ours, CUDA graph, compiled blocks": compiled,
    }
    print(f"{name}, ceiling {result['ceiling_tflops']:.1f} TFLOP/s in bfloat16", flush=True)
    for batch_size in batch_sizes:
        for way, prepare in ways.items():
            side = "reference" if way == "reference" else "ours"
            try:
                measured = measure(prepare, base_channels, batch_size, device, steps)
            except Exception as error:
                # Out of memory, not supported here, not compilable: others may still work.
                measured = {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            else:
                tflops = measured["images_per_s"] * result["gflops_per_image"][side] / 1e3
                measured["roofline_share"] = tflops / result["ceiling_tflops"]
            result["measurements"].append({"way": way, "batch_size": batch_size} | measured)
            path.write_text(json.dumps(result, indent=1) + "\n")
            print(_line(way, batch_size, measured), flush=True)
    print(f"written to {path}", flush=True)
    return result


def measure(
    prepare: Callable[[Workload], Step],
    base_channels: int,
    batch_size: int,
    device: str,
    steps: int,
) -> dict[str, Any]:
    """Time one way of running the step.

    Args:
        prepare: Makes the step from a workload.
        base_channels: Width of the networks.
        batch_size: Images in a step.
        device: Where.
        steps: Steps that are timed, after those that warm up.

    Returns:
        Images per second, peak memory in GiB (0 on a CPU), and the losses of the last step.
    """
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = prepare(Workload(base_channels, batch_size, device=device))
    for _ in range(WARM_UP):
        step()
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        losses = step()
    _wait(device)
    elapsed = time.perf_counter() - started
    return {
        "images_per_s": steps * batch_size / elapsed,
        "ms_per_step": 1e3 * elapsed / steps,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0,
        "losses": {name: float(value) for name, value in losses.items() if name.startswith("loss")},
    }


def as_published(work: Workload) -> Step:
    """Run the reference as it is."""
    reference = work.reference()
    for ours in (work.generator, work.discriminator):
        ours.to("meta")  # they gave their weights, and are no part of its memory
    return work.reference_step(reference)


def eager(work: Workload) -> Step:
    """Run ours in bfloat16 and channels last."""
    return _half_precision(work, _channels_last(work))


def channels_first(work: Workload) -> Step:
    """Run ours in bfloat16, laid out as the reference is."""
    return _half_precision(work, work.ours())


def one_update(work: Workload) -> Step:
    """Run ours with hinge loss and penalty in one update of D."""
    return _half_precision(work, _channels_last(work), update="fused")


def compiled_eager(work: Workload) -> Step:
    """Compile the generator's blocks and launch everything anew at each step."""
    gan = _channels_last(work)
    for block in gan.generator.blocks:
        block.compile()
    return _half_precision(work, gan)


def graphed(work: Workload) -> Step:
    """Record our step once as a CUDA graph and replay it."""
    gan = _channels_last(work)
    return _captured(_half_precision(work, gan), gan)


def compiled(work: Workload) -> Step:
    """Compile the generator's blocks, and record the step as a CUDA graph.

    The discriminator stays eager: torch cannot compile what is differentiated twice.
    """
    gan = _channels_last(work)
    for block in gan.generator.blocks:
        block.compile()
    return _captured(_half_precision(work, gan), gan)


def _channels_last(work: Workload) -> Gan:
    work.generator.to(memory_format=torch.channels_last)
    work.discriminator.to(memory_format=torch.channels_last)
    work.batch["images"] = work.batch["images"].to(memory_format=torch.channels_last)
    return work.ours()


def _half_precision(work: Workload, gan: Gan, update: Update = "separate") -> Step:
    step = work.our_step(gan, update)
    device = work.batch["images"].device.type

    def run() -> dict[str, Tensor]:
        # No cache of weights in bfloat16: a graph that is replayed must cast them anew.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            return step()

    return run


def _captured(step: Step, gan: Gan) -> Step:
    if not torch.cuda.is_available():
        raise RuntimeError("a CUDA graph needs a CUDA device.")
    for optimizer in (gan.generator_optimizer, gan.discriminator_optimizer):
        for group in optimizer.param_groups:
            group["capturable"] = True
    # Warm-up and capture share a stream, so that gradients accumulate where they are captured.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    # Gradients of the warm-up would stay outside the graph's own memory.
    gan.generator_optimizer.zero_grad(set_to_none=True)
    gan.discriminator_optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        losses = step()

    def replay() -> dict[str, Tensor]:
        graph.replay()
        return losses

    return replay


def _gradient_errors(device: str, seeds: int = 7) -> dict[str, dict[str, float]]:
    """Return by loss how far gradients in bfloat16 are from float64: medians over seeds."""
    found = [bfloat16_error(seed, device=device) for seed in range(seeds)]
    return {
        loss: {
            side: statistics.median(errors[loss][column] for errors in found)
            for column, side in enumerate(("reference", "ours"))
        }
        for loss in found[0]
    }


def measured_ceiling(device: str) -> float:
    """Return the TFLOP/s of a bfloat16 matrix product on random data."""
    size, repeats = (8192, 10) if device == "cuda" else (512, 2)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(WARM_UP):
        a @ b
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    _wait(device)
    return 2 * size**3 * repeats / (time.perf_counter() - started) / 1e12


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _line(way: str, batch_size: int, measured: dict[str, Any]) -> str:
    if "failed" in measured:
        return f"{way:36} B {batch_size:3}  left out: {measured['failed']}"
    return (
        f"{way:36} B {batch_size:3}  {measured['images_per_s']:8.1f} images/s  "
        f"{measured['ms_per_step']:8.1f} ms/step  {measured['roofline_share']:6.1%} of the "
        f"ceiling  {measured['peak_gib']:6.1f} GiB"
    )


def _commit() -> str:
    """Return the commit of the working tree, with "+" where it was changed since."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *arguments],
                capture_output=True,
                text=True,
                check=True,
                cwd=Path(__file__).parent,
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if status else "")
