"""Limits of control groups count, of either version, and however far out they are set."""

import os

import psutil
import pytest

from pipeline.common import machine

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Make control groups from the text of /proc/self/cgroup and what their files hold."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    memory = type("Memory", (), {"available": 100 * GIB})
    monkeypatch.setattr(psutil, "virtual_memory", memory)

    def make(own: str, files: dict[str, object]) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n")

    return make


def test_without_limits_all_of_the_machine_may_be_used(groups):
    groups("0::/\n", {"memory.max": "max", "memory.current": GIB, "cpu.max": "max 100000"})

    assert (machine.available(), machine.usable_cpus()) == (100 * GIB, 64)


def test_no_control_groups_are_no_limit(groups):
    assert (machine.available(), machine.usable_cpus()) == (100 * GIB, 64)


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/\n", {"memory.max": 4 * GIB, "memory.current": GIB, "cpu.max": "250000 100000"}),
        (
            "0::/batch/job_7/step\n",
            {
                "batch/job_7/memory.max": 4 * GIB,
                "batch/job_7/memory.current": GIB,
                "batch/job_7/cpu.max": "250000 100000",
                "batch/job_7/step/memory.max": "max",
                "batch/job_7/step/memory.current": GIB,
                "batch/job_7/step/cpu.max": "max 100000",
            },
        ),
        (
            "3:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f\n0::/\n",
            {  # a container sees its own group where its mount begins
                "memory/memory.limit_in_bytes": 4 * GIB,
                "memory/memory.usage_in_bytes": GIB,
                "cpu/cpu.cfs_quota_us": 250000,
                "cpu/cpu.cfs_period_us": 100000,
            },
        ),
    ],
    ids=["a container", "a batch system", "version 1"],
)
def test_limits_are_found(own, files, groups):
    groups(own, files)

    assert (machine.available(), machine.usable_cpus()) == (3 * GIB, 2)


def test_version_1_without_limits(groups):
    groups(
        "2:cpu,cpuacct:/\n1:memory:/\n",
        {
            "memory/memory.limit_in_bytes": 2**63 - 4096,
            "memory/memory.usage_in_bytes": GIB,
            "cpu/cpu.cfs_quota_us": -1,
            "cpu/cpu.cfs_period_us": 100000,
        },
    )

    assert (machine.available(), machine.usable_cpus()) == (100 * GIB, 64)


def test_less_than_a_cpu_is_one_and_a_limit_that_is_reached_leaves_nothing(groups):
    groups("0::/\n", {"memory.max": GIB, "memory.current": 2 * GIB, "cpu.max": "50000 100000"})

    assert (machine.available(), machine.usable_cpus()) == (0, 1)
