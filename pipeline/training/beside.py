"""Measure each kept checkpoint by a named protocol, in a process beside the training.

The driver starts one child for each checkpoint, the oldest first, on a CPU that the training leaves
free. The child does what `jobs/evaluate.py` does, and only its report counts:

    evaluation/PROTOCOL-step-…/report.json    of a checkpoint; whoever is killed goes on from there
    checkpoints/measured.json                 what is being measured, and is not removed; scores

The driver alone writes scores, after the run's record has the numbers, where each counts once.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import asdict, replace
from typing import Any, Self

import torch

from pipeline.checkpoint.later_scores import LaterScores
from pipeline.checkpoint.store import STATE, Score, content_of, waiting
from pipeline.common.console import duration, print_line
from pipeline.common.machine import usable_cpus
from pipeline.common.periodic_thread import PeriodicThread
from pipeline.config import EvaluateBesideConfig, TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.distributed.graceful_stop import StoppedError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import findings
from pipeline.evaluation.features import digest
from pipeline.evaluation.quick_evaluation import AGREEMENT, BestBy
from pipeline.evaluation.report import REPORT, EvaluationReport
from pipeline.evaluation.task import measured_by
from pipeline.storage.folder import Folder
from pipeline.tracking.best_version import Quality
from pipeline.training.launch import RunningJob

logger = logging.getLogger(__name__)

CHILD = "pipeline.training.beside_process"  # the module that is run
LOOK_EVERY_S = 2.0  # for a new checkpoint
POLL_S = 0.2  # of the child, and of requests to stop
TRIES = 3  # of a checkpoint

# Errors of one checkpoint. Others are of the storage, which may be well again at the next look.
OF_A_CHECKPOINT = (
    ChildProcessError,
    FileNotFoundError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def without_if_crowded(config: TrainConfig) -> TrainConfig:
    """Return the options, without an evaluation beside the training if that leaves no CPU."""
    if config.evaluate_beside.protocol is None:
        return config
    gpus, cpus = torch.cuda.device_count(), usable_cpus()
    workers = gpus if config.workers is None else config.workers
    threads = config.threads or (1 if workers or gpus else torch.get_num_threads())
    # The workers of a cluster are mostly elsewhere, also those for which it may have GPUs.
    elsewhere = os.environ.get("RAY_ADDRESS") and config.workers != 0
    taken = 1 if elsewhere else max(workers, 1) * threads
    if taken < cpus:
        return config
    print_line(
        f"  training takes {taken} of {cpus} CPUs here, so checkpoints are not measured beside it; "
        "--threads with a smaller number leaves one"
    )
    return config.model_copy(update={"evaluate_beside": EvaluateBesideConfig()})


def refuse_unmeasurable_beside(dataset: PreparedDataset, config: TrainConfig) -> None:
    """Refuse what the protocol could not measure, before training.

    Raises:
        ValueError: If dataset, files and protocol do not go together.
        FileNotFoundError: If one of them is not there.
    """
    if config.evaluate_beside.protocol is None:
        return
    try:
        measured_by(_options(config), dataset, config.model.image_size)
    except ValueError as error:
        raise ValueError(f"evaluate_beside (options --evaluate-beside.NAME): {error}") from error


def _options(config: TrainConfig, **changes: Any) -> EvaluateConfig:
    given = config.evaluate_beside.model_dump() | {"data": config.data.path}
    return EvaluateConfig.model_validate(
        {"model": config.output, "actors": 0, "record": False} | given | changes
    )


class BesideEvaluation(PeriodicThread):
    """Measures the checkpoints of a run from `with` to the end of its block, if that is wanted.

    Args:
        config: Of the run, with absolute places.
        run: Its folder.
        last: Steps of the whole run.
        job: That trains it.
    """

    def __init__(self, config: TrainConfig, run: Folder, last: int, job: RunningJob) -> None:
        active = config.evaluate_beside.protocol is not None
        super().__init__("evaluation-beside", LOOK_EVERY_S, active=active, join_s=60)
        self.config, self.run, self.last, self.job = config, run, last, job
        self.root = run / "checkpoints"
        self.later = LaterScores()
        self.tries = Counter[tuple[str, str]]()  # that failed, by name and content
        self.failures = 0  # of the storage, in a row
        self.problem: Exception | None = None  # the last of these
        self.trained = threading.Event()
        self.complete = False  # whether nothing was left after training

    def __enter__(self) -> Self:
        """Begin where an earlier start ended: what that one was measuring is measured again."""
        self.later = LaterScores.read(self.root)
        if self._active or self.later.measuring:
            self._keep(replace(self.later, measuring=None))
        return super().__enter__()

    def finish(self) -> None:
        """Wait until all checkpoints are measured that are left when training has ended.

        Raises:
            StoppedError: If a stop was asked for, and some are left for the next start.
            OSError: If the storage does not let them be measured.
        """
        self.trained.set()
        if not self._active:
            return
        left = self._left()
        if left and not self.job.stop.asked:
            print_line(
                f"trained; checkpoints still to be measured: {left}. Ctrl-C ends that, and the "
                "same command goes on"
            )
        while self._thread.is_alive():
            self._thread.join(1.0)
        if self.complete:
            return
        if self.job.stop.asked:
            if self._left() == 0:
                return
            raise StoppedError(self.job.stop.number, self.last)
        raise OSError(
            f"the run is trained, and its last checkpoints cannot be measured: {self.problem}. The "
            "same command measures them; without --evaluate-beside.protocol it ends without that."
        ) from self.problem

    def look(self) -> bool:
        """Measure the oldest checkpoint that waits for it."""
        trained = self.trained.is_set()  # before the look, which then sees all
        try:
            found = waiting(self.root, self.later)
            if not found:
                self.complete = trained
                return not trained
            self._try(*found[0])
        except Exception as error:  # each object store has errors of its own
            self.failures += 1
            self.problem = error
            if self.failures == 1:
                logger.warning("checkpoints wait to be measured beside the training: %s", error)
            return not (self._ends() or (trained and self.failures >= TRIES))
        self.failures = 0
        return not self._ends()

    def _left(self) -> int | None:
        """Count the checkpoints that wait; None if the storage does not say."""
        with contextlib.suppress(Exception):
            return len(waiting(self.root, self.later))
        return None

    def _ends(self) -> bool:
        return self.over.is_set() or self.job.stop.asked

    def _try(self, name: str, content: str) -> None:
        """Measure a checkpoint, or pass it over if that has failed too often."""
        try:
            self._measure(name, content)
        except OF_A_CHECKPOINT as error:
            self.tries[name, content] += 1
            if self.tries[name, content] < TRIES:
                return
            print_line(f"checkpoint {name} cannot be measured beside the training: {error}")
            self.later = self.later.with_score(name, content, None)  # the next start tries it again
            self._output(name, content).remove()

    def _output(self, name: str, content: str) -> Folder:
        """Return the folder of the report, which no other content of that name has."""
        protocol = self.config.evaluate_beside.model_dump(mode="json")
        known = digest({"content": content, "protocol": protocol})[:8]
        return self.run / "evaluation" / f"{protocol['protocol']}-{name}-{known}"

    def _measure(self, name: str, content: str) -> None:
        """Measure a checkpoint, unless it is one that only a stop has made.

        Raises:
            ChildProcessError: If it could not be measured, with the reason.
        """
        folder = self.root / name
        state = folder.read_json(STATE)
        if state.get("extra") and state["step"] != self.last:
            self.later = self.later.with_score(name, content, None)
            return
        self._keep(replace(self.later, measuring=name))
        output = self._output(name, content)
        config = _options(self.config, model=folder.location, output=output.location)
        said = "" if output.exists(REPORT) else self._child(config)
        if content_of(folder) != content:  # the run went back to before it
            output.remove()
            return
        if self._ends():
            return  # the next start goes on
        if not output.exists(REPORT):
            raise ChildProcessError(said)
        report: EvaluationReport = output.read_json(REPORT)
        found = findings(report, self.run, output)
        found.tell(self.job.tracker)
        best_by = self.config.best_by if self.config.keep_best else None
        score = _score(report, found.quality, best_by)
        kept = asdict(score) if score is not None else None
        self._keep(self.later.with_score(name, content, kept))
        took = duration(report["seconds"]["in all"])
        print_line(f"  beside the training, in {took}: {found.quality}")

    def _keep(self, later: LaterScores) -> None:
        self.job.lock.check()
        later.write(self.root)
        self.later = later

    def _child(self, config: EvaluateConfig) -> str:
        """Evaluate in a child process; return the last line that it wrote."""
        options = {"parent": os.getpid(), "config": config.model_dump(mode="json")}
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with tempfile.TemporaryFile() as said:
            child = subprocess.Popen(
                # -P: not whatever lies in the working directory, but what this process sees.
                [sys.executable, "-P", "-m", CHILD, json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                # In no session of its own: Linux may share a CPU by sessions, before priorities.
                env=os.environ
                | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
            while child.poll() is None:
                if self.over.wait(POLL_S) or self.job.stop.asked:
                    child.kill()
                    child.wait()
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
        wrote = [line for line in lines if line.strip()]
        return f"its process ended with {child.returncode}: {wrote[-1] if wrote else 'silent'}"


def _score(report: EvaluationReport, quality: Quality | None, by: BestBy | None) -> Score | None:
    """Return by what the best checkpoint is found; None if it is not looked for."""
    if by is None or quality is None:
        return None
    # Named with the protocol, so that numbers by unlike ones are never compared.
    if by != "agreement":
        better = not quality.lower_is_better
        return Score(f"{quality.metric} {quality.protocol}", quality.value, better)
    shares = [
        report["numbers"][name]
        for name, kind in report["kinds"].items()
        if kind.startswith("agreement_") and not kind.startswith("agreement_real_")
    ]
    return Score(f"{AGREEMENT} {quality.protocol}", sum(shares) / len(shares)) if shares else None
