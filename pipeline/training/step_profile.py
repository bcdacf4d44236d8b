"""Profile some steps of a training: a trace of operators and kernels, and a table of the longest.

Trace and table name operators, kernels and the device, and nothing of the run: no stacks, no
shapes, no places, no name of the machine.
"""

import contextlib
import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from pipeline.common.console import print_line
from pipeline.distributed import collective
from pipeline.storage.folder import Folder
from pipeline.tracking.tracker import Tracker

# Of torch's trace. It also has the name of the machine, and a path.
KEPT = {"schemaVersion", "deviceProperties", "displayTimeUnit", "baseTimeNanoseconds"}
ROWS = 50  # of the table


class StepProfile:
    """Records steps on rank 0, and writes what it saw when the last of them is done.

    At the end of ``with`` it writes what there is. No error of it ends a training.

    Args:
        steps: To record, each by the number of steps done before it; empty for none.
        run: Folder of the run, where the files are written.
        device: Of the training.
    """

    def __init__(self, steps: range, run: Folder, device: torch.device) -> None:
        self.steps = steps if collective.rank() == 0 else range(0)
        self.run, self.device = run, device
        self.recorded: list[int] = []
        self._profile: profile | None = None
        if self.steps and run.exists(f"{_name(steps.start, steps.stop)}.txt"):
            print_line(f"  {_named(steps)} were profiled before")
            self.steps = range(0)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Record what is done inside ``with``, if this step is one of those to record."""
        if number not in self.steps:
            self._end()  # if a rollback led out of them
            yield
            return
        if self._profile is None:
            self._start()
        with record_function(f"step {number}"):
            yield
        self.recorded.append(number)
        if number + 1 == self.steps.stop:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._end()
            if self.steps and not self.recorded:
                print_line(f"{_named(self.steps)} were not profiled: this start did none of them")
        elif self._profile is not None:
            with contextlib.suppress(Exception):  # what ended the training matters more
                self._profile.stop()

    def _start(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its lines are no errors of a training
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.recorded = []
        with self._never_fatal():
            started = profile(activities=activities)
            started.start()
            self._profile = started

    def _end(self) -> None:
        if self._profile is None:
            return
        with self._never_fatal():
            done, self._profile = self._profile, None
            done.stop()  # waits for the device
            name = _name(min(self.recorded), max(self.recorded) + 1)
            files = {f"{name}.json.gz": _trace(done), f"{name}.txt": _table(done, self.device)}
            tracker = Tracker(self.run)
            for file, content in files.items():
                tracker.file(file, self.run.write(file, content))
            tracker.flush()
            print_line(f"profiled steps: {', '.join(files)} in {self.run}")

    @contextlib.contextmanager
    def _never_fatal(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of torch, of CUPTI or of the run's folder
            print_line(f"warning: {_named(self.steps)} are not profiled: {error}")
            self.steps = range(0)


def _named(steps: range) -> str:
    return f"steps {steps.start:,} to {steps.stop:,}"


def _name(first: int, end: int) -> str:
    return f"profile-{first:08d}-{end:08d}"


def _trace(done: profile) -> bytes:
    """Return the trace as chrome://tracing and ui.perfetto.dev open it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        done.export_chrome_trace(str(path))
        whole: dict[str, Any] = json.loads(path.read_bytes())
    kept = {key: value for key, value in whole.items() if key in KEPT | {"traceEvents"}}
    return gzip.compress(json.dumps(kept).encode(), mtime=0)


def _table(done: profile, device: torch.device) -> bytes:
    order = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
    averages = done.key_averages()
    table = averages.table(sort_by=order, row_limit=ROWS, max_name_column_width=100)
    return str(table).encode()
