"""Metrics of training steps: means over an interval, speed, and use of the machine.

MLflow shows metrics named ``system/…`` in the tab "System metrics". Each worker measures itself
over an interval; rank 0 logs the values of all workers.
"""

import math
import time
from collections.abc import Iterator

import psutil
import torch
from torch import Tensor

from pipeline.data.loader import Batch
from pipeline.distributed import collective

TOLD = 8  # workers that are logged; more make the tab slow and less clear
GIB = 2**30


class MachineUse:
    """Measures this process and its machine, from its creation on."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.started = time.monotonic()
        self.before = self._cpu_s()

    def close(self, device: torch.device) -> dict[str, float]:
        """Return the use since creation; every worker must call it, and receives all values.

        Returns:
            Values by name, with the unit last: of a process, 100 `percent` is one CPU core; of a
            machine or GPU, it is the whole. Values that a machine does not provide are omitted.
        """
        elapsed = max(time.monotonic() - self.started, 1e-9)
        mine, busy, total = (
            now - then for now, then in zip(self._cpu_s(), self.before, strict=True)
        )
        memory = psutil.virtual_memory()
        values = {
            "process_cpu_percent": 100 * mine / elapsed,
            "process_memory_gib": self.process.memory_info().rss / GIB,
            "machine_cpu_percent": 100 * busy / total if total else math.nan,
            "machine_memory_percent": memory.percent,
            **_gpu(device),
        }
        row = torch.tensor(list(values.values()), dtype=torch.float32)
        rows = collective.gather_on(device, row[None])[:TOLD]
        return {
            f"system/{f'worker_{rank}/' if len(rows) > 1 else ''}{name}": value
            for rank, each in enumerate(rows.tolist())
            for name, value in zip(values, each, strict=True)
            if math.isfinite(value)
        }

    def _cpu_s(self) -> tuple[float, float, float]:
        """Return CPU seconds of this process, and of the machine: busy and total."""
        own, machine = self.process.cpu_times(), psutil.cpu_times()
        total = sum(machine)
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return own.user + own.system, total - idle, total


def _gpu(device: torch.device) -> dict[str, float]:
    """Return GPU values, with the same names on every worker: they are gathered by position."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    try:
        busy, watts = float(torch.cuda.utilization(device)), torch.cuda.power_draw(device) / 1000
    except Exception:  # NVML has its own error types, and is not available in some containers
        busy, watts = math.nan, math.nan
    return {
        "gpu_percent": busy,
        "gpu_memory_gib": (total - free) / GIB,
        "gpu_power_watts": watts,
    }


class Interval:
    """Sums values over an interval of logging, without waiting for the device."""

    def __init__(self, step: int) -> None:
        self.first = step
        self.started = self.began = time.monotonic()
        self.waited_s = 0.0  # for batches
        self.stepped_s = 0.0  # in steps, including waits
        self.own_s: list[float] = []  # of each worker for a step without waits, set by `close`
        self.use = MachineUse()
        collective.waited_s()  # resets the waits before this interval
        self.names: list[str] = []
        self.sums: Tensor | None = None  # of finite values, and their counts, [2, names]

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """Begin a step: take the next batch, and measure the wait."""
        self.began = time.monotonic()
        batch = next(batches)
        self.waited_s += time.monotonic() - self.began
        return batch

    def add(self, values: dict[str, Tensor]) -> None:
        """End a step and add its values; values that are not finite are not counted."""
        self.stepped_s += time.monotonic() - self.began
        self.names = list(values)
        row = torch.stack(list(values.values()))
        finite = row.isfinite()
        counted = torch.stack([row.where(finite, 0), finite.to(row.dtype)])
        self.sums = counted if self.sums is None else self.sums + counted

    def close(self, step: int, batch_size: int, device: torch.device) -> dict[str, float]:
        """Return means over steps and workers, and the speed.

        The mean of a value that was never finite is NaN.
        """
        steps = step - self.first
        if self.sums is None:
            raise ValueError("an interval without a step has no means.")
        sums, counts = collective.mean(self.sums)
        means = (sums / counts).tolist()
        elapsed = time.monotonic() - self.started
        own_s = (self.stepped_s - collective.waited_s()) / steps
        self.own_s = collective.gather(torch.tensor([own_s], device=device)).tolist()
        return {
            **dict(zip(self.names, means, strict=True)),
            "images_seen": step * batch_size,
            "speed/images_per_s": steps * batch_size / elapsed,
            "speed/data_wait_share": self.waited_s / elapsed,
            **self.use.close(device),
            "memory/process_gib": psutil.Process().memory_info().rss / 2**30,
            **(
                {"memory/gpu_peak_gib": torch.cuda.max_memory_allocated(device) / 2**30}
                if device.type == "cuda"
                else {}
            ),
        }
