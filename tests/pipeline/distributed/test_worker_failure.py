"""A worker that is lost is told from an error that would come again."""

import re

import pytest
import ray.exceptions
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from pipeline.distributed.worker_failure import lost_worker

DEATH = WorkerHealthCheckFailedError("died", ray.exceptions.ActorDiedError())
GONE = RuntimeError("[gloo/pair.cc:588] Connection closed by peer [127.0.0.1]:42")
BROKEN = BrokenPipeError("Broken pipe")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WorkerGroupError("", {1: DEATH, 0: GONE}), "worker 1 was lost"),
        (WorkerGroupError("", {0: GONE}), "workers lost the connection to each other"),
        (WorkerGroupError("", {0: ValueError("a shard is damaged")}), None),
        (WorkerGroupError("", {0: OSError("writing s3://a failed: Connection reset")}), None),
        (WorkerGroupError("", {0: UserExceptionWithTraceback(GONE, str(GONE))}), "each other"),
        (WorkerGroupError("", {0: UserExceptionWithTraceback(BROKEN, "Broken pipe")}), None),
        (WorkerGroupError("", {0: GONE, 1: ValueError("a shard is damaged")}), None),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), "while it was being started"),
        (ControllerError(ValueError("a fault of ours")), None),
        (ray.exceptions.ActorDiedError(), r"lost \(ActorDiedError\)"),
    ],
)
def test_losses_are_told_from_errors(error, said):
    found = lost_worker(error)

    assert (found is None) == (said is None)
    assert said is None or re.search(said, found)
