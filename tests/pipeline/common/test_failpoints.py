"""Failpoints: they strike where they are told to, and only at places that are there."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.common import failpoints
from pipeline.common.failpoints import POINTS, arm, parse, reach

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def disarmed():
    yield
    arm("")


def test_without_a_fault_nothing_happens():
    assert not any(reach(point, step=1, rank=0, file="x") for point in POINTS)


def test_a_fault_strikes_at_its_step_rank_and_file_only():
    arm("nan@worker.step:rank=1,step=25;raise@storage.before_fsync:file=step-00000003/state.json")

    assert not reach("worker.step", step=25, rank=0)
    assert not reach("worker.step", step=24, rank=1)
    assert reach("worker.step", step=25, rank=1)
    assert not reach("storage.before_fsync", file="/run/step-00000003/other/state.json")
    with pytest.raises(RuntimeError, match=r"fault at storage\.before_fsync"):
        reach("storage.before_fsync", file="/run/step-00000003/state.json")


def test_a_bare_number_is_a_step_and_full_is_a_full_disk():
    arm("full@checkpoint.before_marker:40")

    assert not reach("checkpoint.before_marker", step=4)
    with pytest.raises(OSError, match="No space left on device") as caught:
        reach("checkpoint.before_marker", step=40)
    assert caught.value.errno == 28


def test_a_fault_for_once_strikes_once_over_all_processes(tmp_path):
    arm(f"nan@worker.step:once={tmp_path}/done")

    assert reach("worker.step", step=1, rank=0)
    arm(f"nan@worker.step:once={tmp_path}/done")
    assert not reach("worker.step", step=2, rank=0)


def test_a_fault_waits_for_the_file_that_it_comes_after(tmp_path, monkeypatch):
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / "go").touch()

    monkeypatch.setattr(failpoints, "time", SimpleNamespace(sleep=sleep))
    arm(f"nan@worker.step:step=1,after={tmp_path}/go")

    assert not reach("worker.step", step=0, rank=0)
    assert waits == []
    assert reach("worker.step", step=1, rank=0)
    assert len(waits) == 3
    assert reach("worker.step", step=1, rank=1)
    assert len(waits) == 3


@pytest.mark.parametrize("text", ["explode@worker.step", "kill@nowhere", "kill", "raise@worker"])
def test_a_fault_that_could_never_strike_is_refused(text):
    with pytest.raises(ValueError, match=f"{text}.*must be ACTION@POINT.*checkpoint.after_marker"):
        parse(text)


def test_the_environment_arms_a_process_that_starts():
    code = (
        "from pipeline.common.failpoints import reach; "
        "reach('worker.step', step=3); print('passed')"
    )
    outcomes = {}
    for fault in ("kill@worker.step:3", "kill@worker.step:4"):
        outcomes[fault] = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {failpoints.VARIABLE: fault, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        ).returncode

    assert outcomes == {"kill@worker.step:3": -signal.SIGKILL, "kill@worker.step:4": 0}


def test_every_named_point_is_somewhere_in_the_pipeline():
    reached: list[str] = []
    for file in (ROOT / "pipeline").rglob("*.py"):
        reached += re.findall(r'reach\("([\w.]+)"', file.read_text())

    assert set(reached) == set(POINTS)
    assert len(POINTS) == 7
