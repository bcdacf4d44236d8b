"""Hangs are found and told; what only takes long is left alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.distributed import hang_report
from pipeline.distributed.hang_report import Hang, describe, verdict
from pipeline.distributed.watchdog import HUNG, WARM_UP, Watchdog
from pipeline.storage.folder import Folder
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


class Clock:
    """A clock that stands still, so that a step takes as long as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr("pipeline.distributed.watchdog.time", found)
    return found


@pytest.fixture
def dog(tmp_path, clock, monkeypatch):
    """A watchdog of short steps that may take 0.2 s, and the event of its bite."""
    monkeypatch.setattr("pipeline.distributed.watchdog.OTHERS_S", 0.01)
    monkeypatch.setattr("pipeline.distributed.watchdog.WRITING_S", 120)
    bitten = threading.Event()
    with Watchdog(Folder(str(tmp_path)), 0.2, end=bitten.set) as watchdog:
        for step in range(WARM_UP):
            with watchdog.step(step):
                clock.now += 0.001
        yield watchdog, bitten


def wait_for_looks(watchdog: Watchdog, looks: int) -> None:
    """Wait until a watchdog has looked so many times, and in vain if it has not bitten then."""
    after = watchdog._ticks + looks + 1  # the last one may go on still
    wait_until(lambda: watchdog._ticks >= after, "the watchdog looks")


def test_a_step_that_does_not_end_is_told_with_the_stacks_of_all_threads(dog, tmp_path, capsys):
    watchdog, bitten = dog

    with watchdog.step(25):
        assert bitten.wait(120)

    (file,) = (tmp_path / "hangs").iterdir()
    first, stacks = file.read_text().split("\n\n", 1)
    hang = Hang(**json.loads(first))
    assert (hang.worker, hang.workers, hang.step, hang.for_others) == (0, 1, 25, False)
    assert hang.waited_s == pytest.approx(0.25), "at the first look after 0.2 s"
    assert "test_a_step_that_does_not_end" in stacks
    assert "watchdog.py" in stacks, "of other threads too"
    assert "step 25 has been running for" in capsys.readouterr().out


def test_what_takes_long_between_steps_or_before_the_usual_is_known_is_no_hang(dog, tmp_path):
    watchdog, bitten = dog

    wait_for_looks(watchdog, 10)  # a checkpoint, say
    with watchdog.step(26, patient=True):  # waits for worker 0, which saves
        wait_for_looks(watchdog, 10)
    watchdog.warm_up()
    with watchdog.step(27):  # another stream of batches
        wait_for_looks(watchdog, 10)

    assert not bitten.is_set()
    assert not (tmp_path / "hangs").exists()


def test_steps_that_are_usually_long_may_take_long(tmp_path, clock):
    bitten = threading.Event()
    with Watchdog(Folder(str(tmp_path)), 0.2, end=bitten.set) as watchdog:
        for step in range(WARM_UP):
            with watchdog.step(step):
                clock.now += 60
        with watchdog.step(WARM_UP):
            wait_for_looks(watchdog, 10)

    assert not bitten.is_set()
    assert not (tmp_path / "hangs").exists()


def test_a_step_that_goes_on_after_all_ends_nothing(dog, tmp_path, monkeypatch):
    watchdog, bitten = dog
    goes_on, tell = threading.Event(), Watchdog._tell

    def tell_and_wait(self, *said) -> None:
        tell(self, *said)
        assert goes_on.wait(120)

    monkeypatch.setattr(Watchdog, "_tell", tell_and_wait)

    with watchdog.step(28):
        wait_until(lambda: hang_report.names(watchdog.run), "stacks are left")
    goes_on.set()
    wait_for_looks(watchdog, 2)

    assert not bitten.is_set()


def test_a_watchdog_for_nothing_looks_for_nothing(tmp_path):
    with Watchdog(Folder(str(tmp_path)), 0) as watchdog, watchdog.step(0):
        assert not watchdog._thread.is_alive()


@pytest.mark.slow
def test_a_process_that_was_stopped_did_not_hang_meanwhile_and_one_that_hangs_ends(tmp_path):
    # While it is not stopped, step 4 has seconds to go on for which it needs a moment.
    code = f"""
import os, signal, time
from pipeline.storage.folder import Folder
from pipeline.distributed.watchdog import Watchdog
with Watchdog(Folder({str(tmp_path)!r}), 4.0) as watchdog:
    for step in range(4):
        with watchdog.step(step):
            time.sleep(0.05)
    with watchdog.step(4):
        os.kill(os.getpid(), signal.SIGSTOP)
    print("done", flush=True)
    with watchdog.step(5):
        time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        time.sleep(6)  # longer than a step may take
        process.send_signal(signal.SIGCONT)
        rest = process.communicate(timeout=120)[0]
    finally:
        process.kill()

    assert rest.startswith("done")
    assert "worker 0 is in code outside this project: step 5 has been running for" in rest
    assert process.returncode == HUNG


def left(worker: int, workers: int = 3, *, for_others: bool = True) -> Hang:
    return Hang(worker, workers, 25, 61.0, "pipeline.data.dataset.prefetch, line 4", for_others)


@pytest.mark.parametrize(
    ("found", "who"),
    [
        ([left(0), left(2)], "worker 1 (stopped, or its machine is gone) hung"),
        (
            [left(0), left(1, for_others=False), left(2)],
            "worker 1 (in pipeline.data.dataset.prefetch, line 4) hung",
        ),
        ([left(2)], "workers 0 and 1 (stopped, or its machine is gone) hung"),
        ([left(0), left(1), left(2)], "all workers, each waiting for the others, hung"),
    ],
)
def test_who_hung_is_told_from_who_left_what(found, who):
    said = describe(found, "/runs/a/hangs")

    assert said == f"step 25 took more than 61 s: {who}. Stacks: /runs/a/hangs"


def test_only_what_this_start_left_counts(tmp_path):
    run = Folder(str(tmp_path))
    assert verdict(run, set()) is None
    hang_report.leave(run, left(0), "stacks")
    before = hang_report.names(run)

    assert verdict(run, before) is None
    (run / hang_report.HANGS).write("broken.txt", b"no json\n")
    hang_report.leave(run, left(2), "stacks")

    assert "workers 0 and 1" in verdict(run, before)
    assert "worker 1" in verdict(run, set())
