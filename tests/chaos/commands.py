"""Commands in processes of their own: what they said and when, killed whole, started again."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
PATIENCE_S = 500.0  # for anything at all to come; a busy machine takes minutes to start one
KILLED = -signal.SIGKILL


class Command:
    """A job that runs beside the test; at the end of `with`, it and all it started are gone.

    Args:
        job: File name in `jobs/`, without its ending.
        flags: Of the job.
        environment: More of it, beside this process's.
    """

    def __init__(self, job: str, *flags: str, **environment: str) -> None:
        self.lines: list[tuple[float, str]] = []  # when it came, of time.monotonic
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags],
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def said(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end and return its exit status; one that does not end is killed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end of it within {seconds:.0f} s:\n{self.said}") from None
        self._reader.join(60)  # what it started may hold the pipe open
        return status

    def wait_for(self, wanted: str | Callable[[], bool], seconds: float = PATIENCE_S) -> float:
        """Wait for a line that holds a pattern, or for anything else; return when that was."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None  # before the look, which then sees all
            if callable(wanted):
                if wanted():
                    return time.monotonic()
            elif (when := self.when(wanted)) is not None:
                return when
            if ended and not self._reader.is_alive():
                break
            time.sleep(0.005)
        raise AssertionError(f"{wanted} did not come:\n{self.said}")

    def when(self, pattern: str, after: float = 0.0) -> float | None:
        """Return when a line first held a pattern; None if none has."""
        found = (at for at, line in list(self.lines) if at > after and re.search(pattern, line))
        return next(found, None)

    def kill(self, number: int = signal.SIGKILL, *, alone: bool = False) -> None:
        """Send a signal to the command and what it started, or to the command alone."""
        with contextlib.suppress(ProcessLookupError):
            if alone:
                os.kill(self.process.pid, number)
            else:
                os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(60)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):
            for line in self.process.stdout:
                self.lines.append((time.monotonic(), line.rstrip("\n")))


def training(data: str, output: Path | str, **changes: object) -> list[str]:
    """Flags of a small training, whose steps take milliseconds.

    Args:
        data: Prepared at 32 px.
        output: For its run, which is called `run`.
        changes: Options by name, with underscores: `total_steps=8`.
    """
    options: dict[str, object] = {
        "name": "run",
        "workers": 0,
        "threads": 1,  # the order of additions, and so the last bit
        "total_steps": 24,
        "log_every": 1,
        "checkpoint_every": 4,
        "sample_every": 12,
        "samples": 2,
        "model.image_size": 32,
        "model.base_channels": 2,
        "model.controller_dim": 8,
        "model.affine_dim": 8,
        "optim.batch_size": 12,
        "precision": "float32",
    }
    options |= changes
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [*flags, f"--data.path={data}", f"--output={output}", "--data.no-flip"]


def step_reached(command: Command) -> int:
    """Return the last step that a training told of, 0 if none."""
    steps = re.findall(r"step ([\d,]+)/", command.said)
    return max((int(step.replace(",", "")) for step in steps), default=0)


def step_resumed(said: str) -> int:
    """Return the step a training last went on from, 0 if it began."""
    steps = re.findall(r"resuming from step ([\d,]+)", said)
    return int(steps[-1].replace(",", "")) if steps else 0


def tell_losses(record_property: Callable[[str, object], None], *starts: Command) -> None:
    """Tell what each loss of workers, and each start after the first, cost a training.

    Steps lost are those that were done again, as far as the log tells of them. Time counts from the
    moment that the loss was noticed, or the command given again, to the next step.
    """
    reached, resumed, since = 0, 0, None
    for start in starts:
        since = None if start is starts[0] else start.started
        for at, line in start.lines:
            if "Restarting from the last checkpoint" in line:
                resumed, since = 0, at
            elif "resuming from step" in line:
                resumed = step_resumed(line)
            elif (step := re.search(r"\bstep ([\d,]+)/", line)) is not None:
                if since is not None:
                    record_property("steps_lost", max(0, reached - resumed))
                    record_property("recovered_s", at - since)
                    since = None
                reached = int(step[1].replace(",", ""))
