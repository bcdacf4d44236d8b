"""The whole GPU campaign: each way to run a training step, those that matter most first.

    python benchmarks/gpu.py --minutes 8

Ways: eager, the generator's blocks compiled, and the whole step as a CUDA graph (both backward
passes, the penalty, both updates and the average); in channels first and last, with 24, 48 and 96
images, in bfloat16 and in float32 with TF32. The whole step is not compiled: torch 2.15 cannot
trace its own fused Adam. Of each:
images/s, share of the roofline, peak memory, the ten longest kernels, and whether the weights are
the same when the steps are done again, when they are resumed from a copy of the state by networks
that were built and captured anew, and when they are done eagerly. All with deterministic kernels,
as in a training. The published order of operations runs once, for comparison.

The roofline takes each product of a step at the larger of two times, that of its operations and
that of its tensors, at the rates of a large product and a large copy in the same run; all else is
free but the traffic of the updates.

The file in benchmarks/results/ is complete JSON after each case, whenever the run is cut. What
fails, takes too long or finds no time left stands there with its reason; a case that ends the
process does not end the others. Without a GPU the same plan runs at toy size. Needs torch >= 2.11,
numpy, pillow, safetensors and this repository; nothing is installed.
"""

import argparse
import contextlib
import copy
import datetime
import functools
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.workload import Step, Workload
from pipeline.training.device import configure_precision, keep_compiled_code
from ratgan.ops.op_counter import Counter, NoUpdate
from ratgan.options import Precision
from ratgan.randomness import step_noise
from ratgan.step import Gan

CASE_S = 120.0  # for one case: compiling a whole step may take longer than all the rest
GRACE_S = 60.0  # after the end, to write down what is left out
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
RUNNING = "the process ended in this case"  # stands in the file while a case runs


@dataclass(frozen=True)
class Size:
    """How large the campaign is.

    Attributes:
        base_channels: Width of the networks.
        image_size: Pixels.
        batch_sizes: Images in a step; the first matters most.
        matrix: Rows of the square matrices whose product is timed.
        copied: Numbers of the copy that is timed.
        warm_up: Steps before a capture or a timing: cuDNN and allocator settle in them.
        timed_s: Time for the timed steps of a case.
        steps: Steps whose weights are compared.
        backend: Of torch.compile.
    """

    base_channels: int = 64
    image_size: int = 256
    batch_sizes: tuple[int, ...] = (24, 48, 96)
    matrix: int = 8192
    copied: int = 2**30
    warm_up: int = 3
    timed_s: float = 1.5
    steps: int = 4
    backend: str = "inductor"


TOY = Size(2, 32, (2, 3, 4), 64, 2**10, 1, 0.0, 2, "aot_eager")


@dataclass(frozen=True)
class Case:
    """One way to run the step of a training."""

    way: str
    layout: str
    batch_size: int
    precision: Precision


@dataclass(frozen=True)
class Subject:
    """A case, ready to run.

    Attributes:
        gan: Its networks.
        batch: The step's inputs, which stay where they are in memory.
        step: Does one step.
    """

    gan: Gan
    batch: dict[str, Tensor]
    step: Step

    def networks(self) -> list[Tensor]:
        """Return the weights, uncopied."""
        gan = self.gan
        networks = (gan.generator, gan.average, gan.discriminator)
        return [t for each in networks for t in (*each.parameters(), *each.buffers())]

    def state(self) -> list[Tensor]:
        """Return all that a step goes on from, uncopied: the weights, then what Adam has."""
        optimizers = self.gan.generator_optimizer, self.gan.discriminator_optimizer
        moments = [m for each in optimizers for s in each.state.values() for m in s.values()]
        return [*self.networks(), *moments]

    @torch.no_grad()
    def load(self, saved: Sequence[Tensor]) -> None:
        """Copy a state to where this one is, for a graph knows it by its place; the rest is 0."""
        state = self.state()
        for place, tensor in zip(state, saved, strict=False):
            place.copy_(tensor)
        for place in state[len(saved) :]:
            place.zero_()

    def run(self, first: int, end: int) -> list[Tensor]:
        """Do steps whose noise follows from their numbers; return a copy of the state."""
        noise = self.batch["noise"]
        for number in range(first, end):
            noise.copy_(step_noise(0, number, *noise.shape))
            self.step()
        return [tensor.detach().clone() for tensor in self.state()]


def eager(subject: Subject, size: Size) -> Step:
    """Launch each kernel by itself."""
    return subject.step


def graph(subject: Subject, size: Size) -> Step:
    """Record the whole step once, and replay it: both updates, penalty and average included."""
    if not torch.cuda.is_available():
        raise RuntimeError("a CUDA graph needs a CUDA device")
    for optimizer in (subject.gan.generator_optimizer, subject.gan.discriminator_optimizer):
        for group in optimizer.param_groups:
            group["capturable"] = True
    # Warm-up and capture share a stream, so that gradients accumulate where they are captured.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(size.warm_up):
            subject.step()
    torch.cuda.current_stream().wait_stream(stream)
    # Gradients of the warm-up would stay outside the graph's own memory.
    subject.gan.generator_optimizer.zero_grad(set_to_none=True)
    subject.gan.discriminator_optimizer.zero_grad(set_to_none=True)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded, stream=stream):
        values = subject.step()

    def replay() -> dict[str, Tensor]:
        recorded.replay()
        return values

    return replay


def compiled_blocks(subject: Subject, size: Size) -> Step:
    """Compile the generator's blocks, as `--compile` does."""
    for block in subject.gan.generator.blocks:
        block.compile(backend=size.backend, dynamic=False)
    return subject.step


WAYS: dict[str, Callable[[Subject, Size], Step]] = {
    "eager": eager,
    "graph": graph,
    "compiled blocks": compiled_blocks,
}
LATE = {"compiled blocks": 2}  # they compile for minutes
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")


def plan(size: Size) -> list[Case]:
    """Return all cases, first those that decide most: as trainings run, and what takes seconds."""
    smallest = size.batch_sizes[0]
    every = product(PRECISIONS, size.batch_sizes, WAYS, LAYOUTS)
    cases = [Case(way, layout, images, precision) for precision, images, way, layout in every]

    def rank(case: Case) -> int:
        others = (case.batch_size != smallest) + 2 * (case.precision == "float32")
        return others + LATE.get(case.way, 0)

    return [Case("reference", "channels first", smallest, "float32"), *sorted(cases, key=rank)]


class Campaign:
    """Runs the plan, and writes the file after each case.

    Args:
        path: Of the file; what a process before this one wrote there is kept.
        size: Of the networks and of all that is timed.
        device: Where.
        left_s: Returns the seconds that are left.
    """

    def __init__(
        self, path: Path, size: Size, device: torch.device, left_s: Callable[[], float]
    ) -> None:
        self.path, self.size, self.device, self.left_s = path, size, device, left_s
        self.template = Workload(
            size.base_channels,
            max(size.batch_sizes),
            image_size=size.image_size,
            device=device.type,
        )
        self.eager: dict[tuple[str, int, str], list[Tensor]] = {}  # weights of eager runs
        self.result = json.loads(path.read_text()) if path.exists() else self._begin()

    def _begin(self) -> dict[str, Any]:
        configure_precision("bfloat16", tf32=True, deterministic=True, device=self.device)
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else platform.machine()
        return {
            "device": name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "size": asdict(self.size),
            "ceilings": ceilings(self.size, self.device),
            "cases": [],
        }

    def run(self) -> None:
        """Run what is not in the file yet, until the time is over.

        Raises:
            SystemExit: If the device takes no more work: the rest needs another process.
        """
        cases = self.result["cases"]
        for case in plan(self.size)[len(cases) :]:
            cases.append(asdict(case) | {"failed": RUNNING})
            self._write()
            cases[-1] = asdict(case) | self._outcome(case)
            self._write()
            print(_line(case, cases[-1]), flush=True)
            try:
                _wait(self.device)
            except RuntimeError as error:  # as after a wrong address: it never goes away
                sys.exit(f"{error}")

    def _write(self) -> None:
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.result, indent=1) + "\n")
        draft.replace(self.path)

    def _outcome(self, case: Case) -> dict[str, Any]:
        limit_s = min(CASE_S, self.left_s())
        if limit_s <= 0:
            return {"failed": "no time was left"}
        measured: dict[str, Any] = {}
        try:
            with _limit(limit_s):
                self._measure(case, measured)
        except _OverTime:
            measured["failed"] = f"it took longer than the {limit_s:.0f} s it had"
        except Exception as error:  # out of memory, not supported here, not compilable
            measured["failed"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return measured

    def _measure(self, case: Case, measured: dict[str, Any]) -> None:
        """Measure a case: speed and memory, kernels, then what is equal to what.

        What is known so far is in `measured` if it fails. A difference is the farthest that a
        number is from where it should be, relative to the largest of its tensor; 0 only if all bits
        are equal.
        """
        configure_precision(case.precision, tf32=True, deterministic=True, device=self.device)
        before = _reset_memory(self.device)
        if case.way == "reference":
            work = self._copy(case)
            reference = work.reference()
            for ours in (work.generator, work.discriminator):
                ours.to("meta")  # they gave their weights, and are no part of its memory
            measured |= self._speed(case, work.reference_step(reference), before)
            return
        subject, initial = self._prepare(case)
        measured |= self._speed(case, subject.step, before)
        measured["roofline_share"] = self._floor_s(case) * 1e3 / measured["ms_per_step"]
        measured |= longest_kernels(subject.step, self.device)
        half, end = self.size.steps // 2, self.size.steps
        subject.load(initial)
        middle, whole = subject.run(0, half), subject.run(half, end)
        subject.load(initial)
        measured["repeat_difference"] = farthest(subject.run(0, end), whole)
        del subject  # a second one may not fit beside it
        fresh, _ = self._prepare(case)
        fresh.load(middle)
        measured["resume_difference"] = farthest(fresh.run(half, end), whole)
        key = case.layout, case.batch_size, case.precision
        weights = [tensor.cpu() for tensor in whole[: len(initial)]]
        if case.way == "eager":
            self.eager[key] = weights
        elif key in self.eager:
            measured["eager_difference"] = farthest(weights, self.eager[key])

    def _copy(self, case: Case) -> Workload:
        """Return networks and a batch of their own for a case."""
        work, layout = copy.copy(self.template), LAYOUTS[case.layout]
        work.generator = copy.deepcopy(work.generator).to(memory_format=layout)
        work.discriminator = copy.deepcopy(work.discriminator).to(memory_format=layout)
        work.batch = {name: t[: case.batch_size].clone() for name, t in work.batch.items()}
        work.batch["images"] = work.batch["images"].to(memory_format=layout)
        return work

    def _prepare(self, case: Case) -> tuple[Subject, list[Tensor]]:
        """Make a case ready, and return it with a copy of its first weights."""
        work = self._copy(case)
        gan = work.ours()
        plain = work.our_step(gan, "fused")

        def step() -> dict[str, Tensor]:
            # No cache of weights in bfloat16: a graph that is replayed must cast them anew.
            with torch.autocast(
                self.device.type,
                torch.bfloat16,
                enabled=case.precision == "bfloat16",
                cache_enabled=case.way != "graph",
            ):
                return plain()

        subject = Subject(gan, work.batch, step)
        initial = [tensor.detach().clone() for tensor in subject.networks()]
        subject = replace(subject, step=WAYS[case.way](subject, self.size))
        for _ in range(self.size.warm_up):
            subject.step()
        _wait(self.device)
        return subject, initial

    def _speed(self, case: Case, step: Step, before: int) -> dict[str, float]:
        started = time.perf_counter()
        step()
        _wait(self.device)
        count = min(30, max(1, round(self.size.timed_s / (time.perf_counter() - started))))
        started = time.perf_counter()
        for _ in range(count):
            step()
        _wait(self.device)
        elapsed = time.perf_counter() - started
        cuda = self.device.type == "cuda"
        return {
            "images_per_s": count * case.batch_size / elapsed,
            "ms_per_step": 1e3 * elapsed / count,
            "peak_gib": (torch.cuda.max_memory_allocated() - before) / 2**30 if cuda else 0.0,
        }

    def _floor_s(self, case: Case) -> float:
        """Return the time of a step on the roofline."""
        products, moved = traffic(self.size, case.batch_size)
        rates, width = self.result["ceilings"], 2 if case.precision == "bfloat16" else 4
        flops, bytes_per_s = rates[f"{case.precision}_flops_per_s"], rates["bytes_per_s"]
        times = [max(each / flops, width * numbers / bytes_per_s) for each, numbers in products]
        return sum(times) + 4 * moved / bytes_per_s


@functools.cache
def traffic(size: Size, images: int) -> tuple[list[tuple[int, int]], int]:
    """Count a step on the meta device.

    Returns:
        The operations of each product with the numbers it reads and writes, and the numbers that
        the updates read and write.
    """
    work = Workload(size.base_channels, images, image_size=size.image_size, device="meta")
    gan = work.ours()
    gan.generator_optimizer = NoUpdate(gan.generator.parameters())
    gan.discriminator_optimizer = NoUpdate(gan.discriminator.parameters())
    with Counter() as counter:
        work.our_step(gan, "fused")()
    # Of a weight Adam reads four numbers and writes three, the average reads two and writes one.
    sizes = [sum(p.numel() for p in n.parameters()) for n in (gan.generator, gan.discriminator)]
    return counter.products, 10 * sizes[0] + 7 * sizes[1]


def ceilings(size: Size, device: torch.device) -> dict[str, float]:
    """Measure what the device does at most: products of large matrices, and a large copy."""
    found = {}
    for precision in PRECISIONS:
        matrix = torch.randn(size.matrix, size.matrix, device=device)
        if precision == "bfloat16":
            matrix = matrix.bfloat16()
        seconds = _seconds(lambda: matrix @ matrix, device)  # noqa: B023  # called at once
        found[f"{precision}_flops_per_s"] = 2 * size.matrix**3 / seconds
    source = torch.ones(size.copied, device=device)
    target = torch.empty_like(source)
    seconds = _seconds(lambda: target.copy_(source), device)
    return found | {"bytes_per_s": 2 * source.nbytes / seconds}  # read and written


def longest_kernels(step: Step, device: torch.device) -> dict[str, Any]:
    """Profile two steps; on a CPU their operators.

    Returns:
        Per step: the number of kernels, their time, and the ten that take longest together.
    """
    steps, cuda = 2, device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(steps):
            step()
        _wait(device)
    kind = "CUDA" if cuda else "CPU"
    rows = [
        {
            "name": each.key[:120],
            "calls": each.count / steps,
            "ms": (each.self_device_time_total if cuda else each.self_cpu_time_total) / 1e3 / steps,
        }
        for each in profile.key_averages()
        # Marks of the optimizers are repeated as if they were kernels.
        if each.device_type.name == kind and not each.is_user_annotation
    ]
    return {
        "kernels": sum(row["calls"] for row in rows),
        "kernel_ms": sum(row["ms"] for row in rows),
        "longest": sorted(rows, key=lambda row: -row["ms"])[:10],
    }


def farthest(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative difference; 0 only if all bits are equal.

    Raises:
        ValueError: If a number is not finite: nothing can be said then.
    """
    if not all(bool(each.isfinite().all()) for each in (*found, *expected)):
        raise ValueError("there are numbers in the state that are not finite")
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))
        for a, b in zip(found, expected, strict=True)
    )


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    work()
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return (time.perf_counter() - started) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _reset_memory(device: torch.device) -> int:
    """Count the peak from now on; return the bytes that are in use already."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


class _OverTime(BaseException):  # as KeyboardInterrupt: nothing on the way stops it
    """A case took too long."""


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise `_OverTime` in what is inside ``with`` after so many seconds."""

    def end(*_: object) -> None:
        raise _OverTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _line(case: Case, measured: dict[str, Any]) -> str:
    name = f"{case.way:15} {case.layout:14} B {case.batch_size:2} {case.precision:8}"
    if "failed" in measured:
        return f"{name}  left out: {measured['failed']}"
    line = f"{name} {measured['images_per_s']:8.1f} images/s {measured['peak_gib']:6.1f} GiB"
    if case.way == "reference":
        return line
    line += (
        f" {measured['roofline_share']:6.1%} of the roofline, {measured['kernels']:5.0f} "
        f"kernels of {measured['kernel_ms']:6.1f} ms; again {measured['repeat_difference']:.0e}, "
        f"resumed {measured['resume_difference']:.0e}"
    )
    if "eager_difference" in measured:
        line += f", from eager {measured['eager_difference']:.0e}"
    return line


def _commit() -> str:
    """Return the commit of the working tree, with "+" where it was changed since."""
    try:
        commit, status = (
            subprocess.run(
                ["git", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if status else "")


def main() -> None:
    """Start processes that run the plan, one after the other, until it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # of such a process
    options = parser.parse_args()
    cuda = torch.cuda.is_available()  # asks without taking the device, which is the process's below
    if options.until:
        torch.set_num_threads(1)  # at toy size several would only wait for each other
        keep_compiled_code()
        # A CUDA graph and a profiler that lets go of its hooks do not go together.
        os.environ.setdefault("TEARDOWN_CUPTI", "0")
        device = torch.device("cuda" if cuda else "cpu")
        size = Size() if cuda else TOY
        Campaign(options.results, size, device, lambda: options.until - time.time()).run()
        return
    until = time.time() + 60 * options.minutes
    path = (
        options.results
        / f"{'gpu' if cuda else 'toy'}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    again = [sys.executable, __file__, "--results", str(path), "--until", str(until)]
    done = -1
    with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs where nothing interrupts it
        while (
            done < (done := _count(path))
            and subprocess.run(
                again, check=False, timeout=max(0.0, until - time.time()) + GRACE_S
            ).returncode
        ):
            print("the process ended; another one goes on after that case", flush=True)
    if not path.exists():
        sys.exit("no case was begun: see above")
    print(f"written to {path}")


def _count(path: Path) -> int:
    return len(json.loads(path.read_text())["cases"]) if path.exists() else 0


if __name__ == "__main__":
    main()
