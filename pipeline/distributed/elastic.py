"""Start the workers; restart them after a failure, or with more when capacity returns."""

import gc
import os
import uuid
from collections.abc import Callable
from typing import Any

import torch
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline import config as options
from pipeline.common.console import print_line
from pipeline.distributed import hang_report
from pipeline.distributed.capacity import GrowthWatch, wait_for_room
from pipeline.distributed.graceful_stop import StopRequests
from pipeline.distributed.process_group import NetworkTorchConfig
from pipeline.distributed.worker_count import WorkerRange
from pipeline.distributed.worker_failure import lost_worker
from pipeline.storage.folder import Folder

RAY_RECORDS = "ray"  # in the run's folder, while it runs
COLLECTIVE_TIMEOUT_S = 300  # a worker without an answer for so long is lost; Ray's default: 1800 s

Work = Callable[[dict[str, Any]], str]  # returns why it stopped early, or "" at its end


def train_with_restarts(
    work: Work,
    fields: dict[str, Any],
    config: options.RunConfig,
    *,
    run: Folder,
    crew: WorkerRange,
    stop: StopRequests,
) -> None:
    """Run a function in every worker until all of them reach its end.

    After the loss of a worker it restarts from the last checkpoint, with as many workers as the
    cluster has capacity for. If there is capacity for more, the workers save a checkpoint and stop,
    and more workers start. If a machine is preempted, the workers stop in the same way. Ray Train's
    own elastic training would lose the steps since the last checkpoint.

    Args:
        crew: Permitted numbers of workers.
        stop: Stop requests of the user; after one this returns.

    Raises:
        ValueError: If there is no capacity for the workers.
        Exception: The error of a worker, or the loss after the last permitted restart.
    """
    restarts, before = 0, 0
    while True:
        # If Ray's controller lost its helper processes, other workers may still run. They end with
        # the controller, after its last reference: the error of a loss has one, in a cycle.
        gc.collect()
        size = wait_for_room(crew, config.wait_for_room_s, lambda: stop.asked)
        if size is None:
            return
        if len(crew.sizes) > 1 and size != before:
            print_line(f"  {size} worker{'s' if size > 1 else ''}")
        before, left, growth = (
            size,
            hang_report.names(run),
            GrowthWatch(crew, size, stop.tell_workers),
        )
        stop.withdraw_stop()  # a request to earlier workers
        try:
            with growth:
                reason = _fit(
                    work, fields, name=config.name, run=run, workers=size, use_gpu=crew.use_gpu
                )
        except Exception as error:
            loss = lost_worker(error)
            if loss is None:
                raise
            if stop.asked:  # the run stops at the last checkpoint
                return
            loss = hang_report.verdict(run, left) or loss
            if restarts == config.max_restarts:
                print_line(f"{loss}, and training was already restarted {restarts} times")
                raise
            restarts += 1
            print_line(
                f"{loss}. Restarting from the last checkpoint "
                f"({restarts} of {config.max_restarts} times)"
            )
        else:
            if stop.asked or not reason:
                return
            if not growth.found:
                print_line(
                    f"{reason}. A checkpoint is saved, and training continues on other machines"
                )


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer without its handler of Ctrl-C, which ends the workers during their step."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _fit(
    work: Work, fields: dict[str, Any], *, name: str, run: Folder, workers: int, use_gpu: bool
) -> str:
    """Run a function in every worker, or in this process if `workers` is 0; return its result."""
    threads = torch.get_num_threads()
    try:
        if workers:
            trainer = _trainer(work, fields, name=name, run=run, workers=workers, use_gpu=use_gpu)
            reason = trainer.fit().return_value
        else:
            reason = work(fields)
    finally:
        torch.set_num_threads(threads)  # a run in this process may have changed it
    (run / RAY_RECORDS).remove()  # of an earlier start, too
    return reason or ""


def _trainer(
    work: Work, fields: dict[str, Any], *, name: str, run: Folder, workers: int, use_gpu: bool
) -> TorchTrainer:
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # `preemption.py` does this
    return _Trainer(
        work,
        train_loop_config=fields,
        torch_config=NetworkTorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        # The commit marker of this project decides where to resume. Ray keeps its records under a
        # unique name, so that state of an earlier start has no effect.
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=(run / RAY_RECORDS).uri,
            logging_config=LoggingConfig(log_level="CRITICAL"),
            # `train_with_restarts` handles failures; Ray would wait for a node without end.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
