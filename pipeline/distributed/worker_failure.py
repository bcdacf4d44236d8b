"""Distinguish worker failures, which are retryable, from errors, which are not."""

import ray.exceptions

# Error texts of the other workers after the loss of one; torch has no types for it.
GONE = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "timed out waiting",
    "ncclremoteerror",
)
DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
)


# A node can be lost while workers are started on it. Ray Train's types for this are not public.
NOT_STARTED = ("WorkerGroupStartupFailedError", "WorkerGroupStartupTimeoutError")


def lost_worker(error: BaseException) -> str | None:
    """Return which worker was lost, or None if Ray Train's error has another cause."""
    failures: dict[int, BaseException] = {}
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        failures = getattr(error, "worker_failures", None) or failures
        if isinstance(error, DEATHS):
            return f"a worker was lost ({type(error).__name__})"
        if type(getattr(error, "controller_failure", None)).__name__ in NOT_STARTED:
            return "a worker was lost while it was being started"
        if type(error).__name__ == "PreemptionError":
            return "a machine was preempted"
        error = error.__cause__  # type: ignore[assignment]
    lost = [rank for rank, failure in sorted(failures.items()) if _is_death(failure)]
    if lost:
        return f"worker {', '.join(map(str, lost))} was lost (killed, crashed or out of memory)"
    if failures and all(map(_is_silence, failures.values())):
        return "workers lost the connection to each other"
    return None


def _is_silence(failure: BaseException) -> bool:
    # Torch raises only RuntimeError for it; a bucket that resets connections raises other types.
    error = getattr(failure, "_base_exc", failure)
    return isinstance(error, RuntimeError) and any(word in str(failure).lower() for word in GONE)


def _is_death(failure: BaseException) -> bool:
    # Ray Train's type for it is not public; it wraps the cause.
    health = type(failure).__name__ == "WorkerHealthCheckFailedError"
    return health or isinstance(failure, DEATHS)
