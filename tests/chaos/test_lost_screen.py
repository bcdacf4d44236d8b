"""Jobs whose screen goes away: a terminal is closed, a reader leaves, a disk is full."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.checkpoint.store import newest_checkpoint
from pipeline.common.failpoints import VARIABLE
from pipeline.config import TrainConfig
from pipeline.data.manifest import read_manifest
from pipeline.storage.folder import Folder
from pipeline.storage.run_log import LOG
from pipeline.training.train import train
from tests.chaos import invariants
from tests.chaos.commands import PATIENCE_S, ROOT
from tests.chaos.test_training_faults import options
from tests.pipeline.training.test_train import status
from tests.processes import runs
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]


@contextlib.contextmanager
def started(job: str, *flags: str, screen: int, **environment: str) -> Iterator[subprocess.Popen]:
    """Start a job in a session of its own; what it has started is gone at the end of `with`."""

    def lead_the_terminal() -> None:
        os.setsid()
        if os.isatty(screen):
            fcntl.ioctl(screen, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags],
        env=os.environ | environment,
        stdin=screen if os.isatty(screen) else subprocess.DEVNULL,
        stdout=screen,
        stderr=screen,
        preexec_fn=lead_the_terminal,
    )
    own = psutil.Process(process.pid)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [*own.children(recursive=True), own]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        process.wait(60)


def preset(run: TrainConfig, folder: Path) -> str:
    (folder / "preset.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))
    return f"--preset={folder}/preset.yaml"


def read_until(terminal: int, wanted: str) -> str:
    """Read what a job says on a terminal until it has said that."""
    said = ""
    while wanted not in said:
        try:
            said += os.read(terminal, 2**16).decode(errors="replace")
        except OSError as error:
            raise AssertionError(f"it ended before {wanted!r}:\n{said}") from error
    return said


def log_of(folder: Path) -> str:
    return (folder / LOG).read_text() if (folder / LOG).exists() else ""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_whose_terminal_is_closed_saves_its_step(workers, shapes, tmp_path):
    run = options(shapes, tmp_path, workers=workers, total_steps=10**6, log_every=1)
    master, slave = os.openpty()

    with started(
        "train_coco", preset(run, tmp_path), screen=slave, **{VARIABLE: "slow@worker.step"}
    ) as job:
        os.close(slave)
        said = read_until(master, "step 4/")
        os.close(master)
        with contextlib.suppress(ProcessLookupError):  # as a shell does, to all that it started
            os.killpg(job.pid, signal.SIGHUP)
        ended = job.wait(PATIENCE_S)

    assert ended == 128 + signal.SIGHUP, said
    _, state = newest_checkpoint(Folder(f"{tmp_path}/run/checkpoints"))
    assert 4 <= state["step"] < 10**6
    assert f"stopped at step {state['step']}. The same command goes on" in log_of(tmp_path / "run")
    assert status(tmp_path) == "KILLED"
    assert invariants.left_over(tmp_path / "run") == []


def test_a_training_whose_reader_has_left_ends_well_and_says_so_in_its_log(shapes, tmp_path):
    run = options(shapes, tmp_path, workers=1, total_steps=4, log_every=1)
    reader, writer = os.pipe()
    os.close(reader)

    with started("train_coco", preset(run, tmp_path), screen=writer) as job:
        os.close(writer)
        ended = job.wait(PATIENCE_S)

    log = log_of(tmp_path / "run")
    assert ended == 0, log
    assert "stdout takes no more lines (Broken pipe)" in log
    assert "step 4/4" in log, "the lines of the worker too"
    assert f"\nfinished. model {tmp_path}/run/model\n" in log
    assert status(tmp_path) == "FINISHED"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is tried with /dev/full")
def test_a_preparation_whose_screen_is_a_full_disk_ends_well_and_again(tmp_path):
    output = tmp_path / "prepared"
    flags = ["shapes", "--count=20", "--size=32", "--image-size=32", f"--output={output}"]
    starts = []

    for more in ([], ["--overwrite"]):
        full = os.open("/dev/full", os.O_WRONLY)
        with started("prepare", *flags, *more, screen=full) as job:
            os.close(full)
            starts.append(job.wait(PATIENCE_S))

    log = log_of(output)
    assert starts == [0, 0], log
    assert log.count("seen 20 = written 20 + rejected 0") == 2
    assert read_manifest(Folder(str(output)))[0].written == 20


def closed(job: str, *flags: str, after: str) -> tuple[int, str]:
    """Start a job on a terminal, close it once a line was said, and see that all of it ends.

    Returns:
        Its exit status, and what it had said.
    """
    master, slave = os.openpty()
    with started(job, *flags, screen=slave) as process:
        os.close(slave)
        said = read_until(master, after)
        children = psutil.Process(process.pid).children(recursive=True)
        os.close(master)
        ended = process.wait(PATIENCE_S)
        wait_until(lambda: not any(runs(child) for child in children), "the end of its Ray")
    return ended, said


def test_a_preparation_whose_terminal_is_closed_leaves_no_process_and_no_lock(tmp_path):
    output = tmp_path / "prepared"
    flags = ["shapes", "--count=20000", "--image-size=32", f"--output={output}"]

    ended, said = closed("prepare", *flags, after="preparing")

    assert ended == 128 + signal.SIGHUP, said
    locks = [path.read_text() for path in output.glob(".lock-*")]
    assert locks
    assert all('"released": true' in lock for lock in locks)


def test_an_evaluation_whose_terminal_is_closed_leaves_no_process(shapes, tmp_path):
    run = train(options(shapes, tmp_path, total_steps=2))
    flags = [f"--model={run}", "--count=50000", "--chunk-images=64", "--actors=1", "--few-images"]

    ended, said = closed("evaluate", *flags, after="evaluated")

    assert ended == 128 + signal.SIGHUP, said
    assert not list((tmp_path / "run/evaluation").glob("*/report.json"))
