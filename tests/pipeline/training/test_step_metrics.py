"""What a training takes of its machine, under the names that MLflow shows as system metrics."""

import time
from types import SimpleNamespace

import psutil
import torch

from pipeline.training.step_metrics import MachineUse
from tests.waiting import wait_until

CPU = torch.device("cpu")
TICKS_S = 0.03  # psutil counts in ticks of 10 ms, here and there of user and system


def test_a_busy_process_is_told_from_a_sleeping_one(monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("pipeline.training.step_metrics.time", clock)

    shares = []
    for busy_s in (0.4, 0.0):
        before = time.process_time()
        use = MachineUse()
        begun = time.process_time()
        while time.process_time() < begun + busy_s:
            pass
        clock.now += 2.0
        spent = time.process_time() - begun
        shares.append(use.close(CPU)["system/process_cpu_percent"])
        most = time.process_time() - before
        assert 50 * (spent - TICKS_S) <= shares[-1] <= 50 * (most + TICKS_S)

    assert shares[0] > shares[1]


def test_names_end_in_their_units_and_begin_as_the_tab_wants_it():
    use = MachineUse()
    before = use.before[-1]
    wait_until(lambda: sum(psutil.cpu_times()) > before, "the machine counts CPU time")

    values = use.close(CPU)

    assert set(values) == {
        "system/process_cpu_percent",
        "system/process_memory_gib",
        "system/machine_cpu_percent",
        "system/machine_memory_percent",
    }
    assert 0 < values["system/process_memory_gib"] < 64
    assert 0 < values["system/machine_memory_percent"] <= 100
