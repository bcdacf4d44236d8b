"""Ray Train as this project uses it: it starts the workers once, and decides nothing."""

import os
import uuid
from collections.abc import Callable
from typing import Any

from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.distributed.process_group import NetworkTorchConfig

COLLECTIVE_TIMEOUT_S = 300  # a worker without an answer for so long is lost; Ray's default: 1800 s


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer without its handler of Ctrl-C, which ends the workers during their step."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def make_trainer(
    work: Callable[[dict[str, Any]], str],
    fields: dict[str, Any],
    name: str,
    records: str,
    *,
    workers: int,
    use_gpu: bool,
) -> TorchTrainer:
    """Return what runs a function in every worker.

    Args:
        fields: What the function is given.
        name: Of the run.
        records: Address of the folder for Ray's own records.
    """
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
            storage_path=records,
            logging_config=LoggingConfig(log_level="CRITICAL"),
            # `elastic.py` handles failures; Ray would wait for a node without end.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
