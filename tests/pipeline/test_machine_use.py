"""What a training takes of its machine, under the names that MLflow shows as system metrics."""

import time

import pytest
import torch

from pipeline.machine_use import MachineUse

CPU = torch.device("cpu")


def test_a_busy_process_is_told_from_a_sleeping_one():
    shares = []
    for busy in (True, False):
        use, until = MachineUse(), time.monotonic() + 0.4
        cpu = time.process_time()
        while time.monotonic() < until:
            if not busy:
                time.sleep(0.01)
        spent = time.process_time() - cpu
        values = use.close(CPU)
        shares.append(values["system/process_cpu_percent"])
        # psutil counts in ticks of 10 ms.
        assert shares[-1] == pytest.approx(100 * spent / 0.4, abs=15)

    assert shares[0] > shares[1]


def test_names_end_in_their_units_and_begin_as_the_tab_wants_it():
    use = MachineUse()
    time.sleep(0.05)  # the machine's clock of CPU time ticks every 10 ms

    values = use.close(CPU)

    assert set(values) == {
        "system/process_cpu_percent",
        "system/process_memory_gib",
        "system/machine_cpu_percent",
        "system/machine_memory_percent",
    }
    assert 0 < values["system/process_memory_gib"] < 64
    assert 0 < values["system/machine_memory_percent"] <= 100
