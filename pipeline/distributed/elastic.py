"""Start the workers; restart them after a failure, or with more when capacity returns."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from pipeline import config as options
from pipeline.common.console import print_line
from pipeline.distributed import hang_report
from pipeline.distributed.capacity import GrowthWatch, wait_for_room
from pipeline.distributed.graceful_stop import StopRequests
from pipeline.distributed.worker_count import WorkerRange
from pipeline.ray_cluster.connection import is_connected
from pipeline.storage.folder import Folder

RAY_RECORDS = "ray"  # in the run's folder, while it runs

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
            if not is_connected():
                raise
            from pipeline.distributed.worker_failure import lost_worker

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


def _fit(
    work: Work, fields: dict[str, Any], *, name: str, run: Folder, workers: int, use_gpu: bool
) -> str:
    """Run a function in every worker, or in this process if `workers` is 0; return its result."""
    threads = torch.get_num_threads()
    try:
        if workers:
            from pipeline.distributed.ray_trainer import make_trainer  # takes seconds to import

            records = (run / RAY_RECORDS).uri
            trainer = make_trainer(work, fields, name, records, workers=workers, use_gpu=use_gpu)
            reason = trainer.fit().return_value
        else:
            reason = work(fields)
    finally:
        torch.set_num_threads(threads)  # a run in this process may have changed it
    (run / RAY_RECORDS).remove()  # of an earlier start, too
    return reason or ""
