"""What reference and ours cost and how far apart they are, without an accelerator."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reference import discriminator_tensors, generator_tensors
from benchmarks.workload import Workload
from ratgan.ops.op_counter import Counter, NoUpdate


@dataclass(frozen=True)
class Cost:
    """What one step takes.

    Attributes:
        gflops_per_image: Of matrix products and convolutions, in 10⁹ operations.
        kernels: In eager mode, without those of Adam.
        peak_gib: New memory alive at once, without weights and Adam's state.
    """

    gflops_per_image: float
    kernels: int
    peak_gib: float


def count(base_channels: int = 64, batch_size: int = 24) -> tuple[Cost, Cost]:
    """Count a step of the reference and one of ours at 256 px, on the meta device."""
    work = Workload(base_channels, batch_size, device="meta")
    reference, gan = work.reference(), work.ours()
    for side in (reference, gan):
        side.generator_optimizer = NoUpdate(side.generator.parameters())
        side.discriminator_optimizer = NoUpdate(side.discriminator.parameters())
    costs = []
    for step in (work.reference_step(reference), work.our_step(gan)):
        with Counter() as counter:
            step()
        costs.append(
            Cost(
                counter.flops / batch_size / 1e9,
                counter.kernels,
                counter.peak_bytes / 2**30,
            )
        )
    return costs[0], costs[1]


def float64_error(base_channels: int = 4, batch_size: int = 2, image_size: int = 256) -> float:
    """Run one whole iteration of both in float64 and return the worst difference.

    Compared are the losses, the gradients at each of the three Adam steps and the
    weights after them; each difference relative to the largest value of its tensor.
    """
    work = Workload(base_channels, batch_size, image_size=image_size, dtype=torch.float64)
    reference, gan = work.reference(), work.ours()
    renamings = _renamings(work)

    recorded: dict[str, list[dict[str, Tensor]]] = {"reference": [], "ours": []}
    for name, side in (("reference", reference), ("ours", gan)):
        for network in ("discriminator", "generator"):

            def record(*_: Any, name: str = name, side: Any = side, network: str = network) -> None:
                gradients = {
                    key: parameter.grad.clone()
                    for key, parameter in getattr(side, network).named_parameters()
                    if parameter.grad is not None
                }
                recorded[name].append(
                    gradients if name == "reference" else renamings[network](gradients)
                )

            getattr(side, f"{network}_optimizer").register_step_pre_hook(record)
    expected_losses, losses = work.reference_step(reference)(), work.our_step(gan)()

    pairs = [(losses, expected_losses)]
    pairs += zip(recorded["ours"], recorded["reference"], strict=True)
    pairs += [
        (
            renamings[network](getattr(gan, network).state_dict()),
            getattr(reference, network).state_dict(),
        )
        for network in ("discriminator", "generator")
    ]
    return max(_difference(ours, expected) for ours, expected in pairs)


def _renamings(work: Workload) -> dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
    """Return, by network, what gives our tensors the names and shapes of the reference's."""
    affines = work.generator.affines_per_block
    return {
        "generator": lambda tensors: generator_tensors(tensors, affines),
        "discriminator": discriminator_tensors,
    }


def bfloat16_error(
    seed: int,
    base_channels: int = 8,
    batch_size: int = 4,
    image_size: int = 64,
    device: str = "cpu",
) -> dict[str, tuple[float, float]]:
    """Compare gradients under bfloat16 autocast with those in float64, of reference and ours.

    Weights stay as they are, so that each gradient is taken at the same ones.

    Args:
        seed: Of weights and data.
        base_channels: Width of the networks.
        batch_size: Images in a step.
        image_size: Pixels.
        device: Where; float64 too.

    Returns:
        By loss: the error of the reference and of ours, as the length of the difference over
        that of the gradient in float64.
    """
    found: dict[str, list[dict[str, Tensor]]] = {"exact": [], "reference": [], "ours": []}
    for way, gradients in found.items():
        work = Workload(base_channels, batch_size, image_size=image_size, seed=seed, device=device)
        if way == "exact":
            work.generator.double()
            work.discriminator.double()
            work.batch = {name: tensor.double() for name, tensor in work.batch.items()}
        side: Any = work.reference() if way == "reference" else work.ours()
        for network, renamed in _renamings(work).items():
            module = getattr(side, network)
            optimizer = NoUpdate(module.parameters())
            setattr(side, f"{network}_optimizer", optimizer)

            def record(
                *_: Any,
                module: nn.Module = module,
                renamed: Any = dict if way == "reference" else renamed,
                gradients: list[dict[str, Tensor]] = gradients,
            ) -> None:
                held = {
                    n: p.grad.double() for n, p in module.named_parameters() if p.grad is not None
                }
                gradients.append(renamed(held))

            optimizer.register_step_pre_hook(record)
        step = work.reference_step(side) if way == "reference" else work.our_step(side)
        with torch.autocast(device, torch.bfloat16, enabled=way != "exact"):
            step()
    turns = ("hinge", "penalty", "generator")
    return {
        turn: (_relative(reference, exact), _relative(ours, exact))
        for turn, exact, reference, ours in zip(turns, *found.values(), strict=True)
    }


def _relative(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Return the length of a difference over that of what is exact; what is missing is zero."""
    errors = [
        (found.get(name, torch.zeros_like(tensor)) - tensor).norm()
        for name, tensor in exact.items()
    ]
    lengths = [tensor.norm() for tensor in exact.values()]
    return float(torch.stack(errors).norm() / torch.stack(lengths).norm())


def _difference(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    missing = expected.keys() - ours.keys()
    if missing:
        raise ValueError(f"our step has nothing to compare with {sorted(missing)[:5]}.")
    # A gradient that is zero but for rounding is compared with the others' size, not with its own.
    least = 1e-3 * max(float(tensor.abs().max()) for tensor in expected.values())
    return max(
        float((ours[name] - tensor).abs().max() / tensor.abs().max().clamp(min=least))
        for name, tensor in expected.items()
    )


def cpu_seconds(
    rounds: int, base_channels: int = 16, batch_size: int = 2
) -> list[tuple[float, float]]:
    """Time steps of both in turn, after one of each to warm up.

    Args:
        rounds: Pairs that are timed.
        base_channels: Width of the networks.
        batch_size: Images in a step.

    Returns:
        CPU seconds of the reference and of ours, for each round.
    """
    work = Workload(base_channels, batch_size)
    reference = work.reference_step(work.reference())
    ours = work.our_step(work.ours())
    pairs = []
    for _ in range(rounds + 1):
        started = time.process_time()
        reference()
        between = time.process_time()
        ours()
        pairs.append((between - started, time.process_time() - between))
    return pairs[1:]


def compare(rounds: int) -> tuple[str, dict[str, float]]:
    """Measure everything.

    Args:
        rounds: Pairs of steps that are timed.

    Returns:
        A table, and the ratios under the names of the benchmark's last line.
    """
    torch.set_num_threads(1)  # several wait for each other where a machine is shared
    reference, ours = count()
    error = float64_error()
    pairs = cpu_seconds(rounds)
    seconds = [statistics.median(column) for column in zip(*pairs, strict=True)]
    speedup = statistics.median(before / after for before, after in pairs)
    ratios = {
        "flops_ratio": ours.gflops_per_image / reference.gflops_per_image,
        "kernels_ratio": ours.kernels / reference.kernels,
        "cpu_speedup": speedup,
        "peak_memory_ratio": ours.peak_gib / reference.peak_gib,
        "float64_error": error,
    }
    lines = [
        f"{'':42}{'reference':>12}{'ours':>12}{'ratio':>10}",
        _row("GFLOP per image (nf 64, 256 px)", reference.gflops_per_image, ours.gflops_per_image),
        _row("kernels per step, eager, without Adam", reference.kernels, ours.kernels),
        _row("peak of new memory, GiB (float32, B 24)", reference.peak_gib, ours.peak_gib),
        f"{'CPU seconds per step (nf 16, B 2, 1 thread)':42}"
        f"{seconds[0]:12.2f}{seconds[1]:12.2f}{1 / speedup:10.3f}",
        f"float64: worst relative difference of losses, gradients, weights {error:.1e}",
    ]
    return "\n".join(lines), ratios


def _row(name: str, reference: float, ours: float) -> str:
    return f"{name:42}{reference:12,.1f}{ours:12,.1f}{ours / reference:10.3f}"
