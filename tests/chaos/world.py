"""What the rounds of a random schedule share: a Ray, data, an MLflow server behind a proxy.

The Ray is a cluster that outlives each start, as one is that jobs are submitted to: what a killed
driver leaves there must not get in the way of the next.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.storage.folder import Folder
from pipeline.tracking.sender import send_rest
from tests.chaos import invariants
from tests.chaos.cluster import Cluster
from tests.chaos.commands import ROOT, Command, training
from tests.chaos.proxy import ChaosProxy
from tests.mlflow_server import MlflowServer

STEPS, EVERY = 24, 4  # of a run; between two checkpoints
SEED, BATCH = 100, 12


class World:
    """Made once, for hours of faults.

    Args:
        folder: For all that is written; what is there is used again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = str(folder / "data")
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as closing:
            if not Path(self.data, "manifest.json").exists():
                self._prepare()
            self.cluster = closing.enter_context(Cluster(self.folder))
            self.cluster.add(cpus=4)
            place = self.folder / "mlflow"
            place.mkdir(exist_ok=True)
            self.database = place / "mlflow.db"
            self.server = MlflowServer(place)
            closing.callback(self.server.kill)
            self.server.start()
            self.proxy = closing.enter_context(ChaosProxy("127.0.0.1", self.server.port))
            self._closing = closing.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._closing.close()

    def _prepare(self) -> None:
        subprocess.run(
            [
                *(sys.executable, str(ROOT / "jobs/prepare.py"), "shapes", "--count=150"),
                *("--size=32", "--validation=0.2", "--image-size=32", "--sentence-dim=16"),
                *("--rows-per-shard=50", "--row-group-rows=16", f"--output={self.data}"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self, output: Path, workers: int, fault: str = "") -> Command:
        """Start the training that all rounds do, or go on with it.

        Args:
            output: For its run.
            workers: Processes that train; 0 in the command itself.
            fault: For `RATGAN_FAULT`.
        """
        environment = {
            **self.cluster.client,
            "MLFLOW_TRACKING_URI": self.proxy.url,
        }
        if fault:
            environment["RATGAN_FAULT"] = fault
        if fault and workers:  # as a submitted job hands variables on to its workers
            variables = {"env_vars": {"RATGAN_FAULT": fault}}
            environment["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": variables})
        changes = {"workers": workers, "total_steps": STEPS, "checkpoint_every": EVERY}
        flags = training(self.data, output, seed=SEED, **changes)
        return Command("train_coco", *flags, **environment)

    def reference(self, workers: int) -> Path:
        """Return the run with so many workers that nothing happened to."""
        output = self.folder / f"undisturbed-{workers}"
        if not invariants.weights(output / "run", STEPS):
            with self.start(output, workers) as command:
                if status := command.wait():
                    raise AssertionError(f"status {status} without any fault:\n{command.said}")
        return output / "run"

    def broken(self, output: Path, workers: int) -> list[str]:
        """Return what is wrong with a run that has come to its end."""
        run = output / "run"
        send_rest(Folder(str(run)), self.proxy.url)  # what a tracker that was away has not got
        return [
            *invariants.other_weights(run, self.reference(workers), STEPS),
            *invariants.incomplete(run),
            *invariants.broken_curves(self.proxy.url, run, range(1, STEPS + 1)),
            *invariants.left_over(run),
        ]
