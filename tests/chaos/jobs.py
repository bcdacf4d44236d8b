"""A training as a user starts it: a command, an environment, what it says."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from pipeline.config import TrainConfig
from pipeline.failpoints import VARIABLE

ROOT = Path(__file__).parents[2]


class Job:
    """A training in a process of its own.

    Args:
        run: Its options.
        folder: For its preset and its log.
        fault: That is to strike it.
        environment: Of the process.
    """

    def __init__(
        self,
        run: TrainConfig,
        folder: Path,
        fault: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        preset = folder / "preset.yaml"
        preset.write_text(yaml.safe_dump(run.model_dump(mode="json")))
        number = len(list(folder.glob("job-*.log")))
        self.log = folder / f"job-{number}.log"
        if environment is None:
            environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.started = time.monotonic()
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "jobs/train_coco.py"), f"--preset={preset}"],
                stdout=stream,
                stderr=stream,
                env=environment | ({VARIABLE: fault} if fault else {}),
                start_new_session=True,
            )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)

    @property
    def said(self) -> str:
        """All it has said so far."""
        return self.log.read_text()

    def until(self, pattern: str, timeout_s: float = 240, after: int = 0) -> int:
        """Wait until it says something that fits a pattern; return where that ends.

        Args:
            pattern: Of what is waited for.
            timeout_s: For so long.
            after: Look at what follows this place.
        """
        deadline = time.monotonic() + timeout_s
        while not (found := re.compile(pattern).search(self.said, after)):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)
        return found.end()

    def end(self, timeout_s: float = 300) -> int:
        """Wait for its end and return its status."""
        return self.process.wait(timeout=timeout_s)
