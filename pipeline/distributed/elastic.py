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
COLLECTIVE_TIMEOUT_S = 300  # a worker that is silent for so long is gone; Ray's default is 1800 s

Work = Callable[[dict[str, Any]], str]  # why it came to no end, empty if it did


def train_through_losses(
    work: Work,
    fields: dict[str, Any],
    config: options.RunConfig,
    *,
    run: Folder,
    crew: WorkerRange,
    stop: StopRequests,
) -> None:
    """Run a function in every worker until all of them come to its end.

    If one is lost, it is run again from the last checkpoint, with as many workers as there is
    room for. If there is room for more, the workers are asked to save and stop, and more are
    started; if the machine of one is to be taken away, they do so unasked. Ray Train's own elastic
    training would lose the steps since the last checkpoint then.

    Args:
        work: The function.
        fields: What it is given.
        config: Of the run.
        run: Its folder.
        crew: How many workers there may be.
        stop: What the user asks for; then this returns.

    Raises:
        ValueError: If there is no room for the workers.
        Exception: What went wrong in a worker, or the loss that was one too many.
    """
    restarts, before = 0, 0
    while True:
        # Ray's controller may have lost its own helpers too, and left other workers running. They
        # end with it, once nothing holds it: the error of a loss does, in a circle.
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
        stop.withdraw_stop()  # of a crew that is gone
        try:
            with growth:
                reason = _fit(
                    work, fields, name=config.name, run=run, workers=size, use_gpu=crew.use_gpu
                )
        except Exception as error:
            loss = lost_worker(error)
            if loss is None:
                raise
            if stop.asked:  # then it stops at the last checkpoint
                return
            loss = hang_report.verdict(run, left) or loss
            if restarts == config.max_restarts:
                print_line(f"{loss}, and training was started again {restarts} times already")
                raise
            restarts += 1
            print_line(
                f"{loss}. Starting again from the last checkpoint "
                f"({restarts} of {config.max_restarts} times)"
            )
        else:
            if stop.asked or not reason:
                return
            if not growth.found:
                print_line(
                    f"{reason}. A checkpoint is saved, and training goes on from it on others"
                )


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's, which leaves Ctrl-C to `graceful_stop.py`: its own ends the workers in their step."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def _fit(
    work: Work, fields: dict[str, Any], *, name: str, run: Folder, workers: int, use_gpu: bool
) -> str:
    """Run a function in every worker, or in this process with none; return what it returned."""
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # `preemption.py` looks
    trainer = _Trainer(
        work,
        train_loop_config=fields,
        torch_config=NetworkTorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        # Our own commit marker says where to resume. Ray keeps its records under a name
        # that is used once, so that no state of an earlier start can get in the way.
        run_config=RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(run / RAY_RECORDS),
            logging_config=LoggingConfig(log_level="CRITICAL"),
            # Whatever fails is for `train_through_losses`; Ray would wait for a node for ever.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
    threads = torch.get_num_threads()
    try:
        result = trainer.fit()
    finally:
        torch.set_num_threads(threads)  # which a run in this process may have changed
    (run / RAY_RECORDS).remove()
    return result.return_value or ""
