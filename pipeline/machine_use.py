"""What training takes of its machines, for MLflow's tab of system metrics.

Values go by the names that MLflow shows in that tab, ``system/…``. Each worker measures itself over
an interval; worker 0 tells of all of them.
"""

import math
import time

import psutil
import torch

from pipeline import collective

TOLD = 8  # workers that are told of; more make the tab slow and no clearer
GIB = 2**30


class MachineUse:
    """Measures this process and its machine from now on."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.started = time.monotonic()
        self.before = self._cpu_s()

    def close(self, device: torch.device) -> dict[str, float]:
        """Return what was used since; every worker must call it, and each gets all of it.

        Args:
            device: That trains.

        Returns:
            By name, with the unit last: `percent` of a CPU core is 100 for a whole core, of a
            machine or GPU 100 for all of it. What a machine cannot tell is left out.
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
        """Return CPU seconds of this process, and those of the machine: busy, and all."""
        own, machine = self.process.cpu_times(), psutil.cpu_times()
        total = sum(machine)
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return own.user + own.system, total - idle, total


def _gpu(device: torch.device) -> dict[str, float]:
    """Return the same names on every worker of a run, for they are gathered by place."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    try:
        busy, watts = float(torch.cuda.utilization(device)), torch.cuda.power_draw(device) / 1000
    except Exception:  # NVML has errors of its own; in some containers it tells nothing
        busy, watts = math.nan, math.nan
    return {
        "gpu_percent": busy,
        "gpu_memory_gib": (total - free) / GIB,
        "gpu_power_watts": watts,
    }
