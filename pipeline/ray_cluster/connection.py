"""Connect to Ray: the cluster that is named, or a private Ray of this process.

Ray is imported by what needs it: that takes seconds, and much work is done without it.
"""

import contextlib
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.common.machine import usable_cpus

GROWS_TO = "RATGAN_CLUSTER_GROWS_TO"


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs that Ray can assign, in a cluster or on this machine."""

    cpus: int
    gpus: int
    cluster: bool

    @classmethod
    def of_machine(cls) -> "Resources":
        """Return the resources that Ray would find on this machine."""
        return cls(usable_cpus(), torch.cuda.device_count(), cluster=False)

    @classmethod
    def of_ray(cls) -> "Resources":
        """Return what the connected Ray has, or can grow to."""
        in_cluster = bool(os.environ.get("RAY_ADDRESS"))
        return cls(obtainable("CPU"), obtainable("GPU"), in_cluster)

    def __str__(self) -> str:
        where = "in the cluster" if self.cluster else "here"
        return f"{self.cpus:,} CPUs and {self.gpus:,} GPUs {where}"


def connect(*, cpus: int, least: int | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names (a submitted job has it set), or start a Ray.

    Args:
        cpus: Logical CPUs that the work can use. A Ray on this machine is started with at least as
            many.
        least: CPUs that a cluster must have; `cpus` if not given.

    Raises:
        OSError: If the named cluster cannot be reached, or rejects the token of this process.
        ValueError: If the cluster has fewer CPUs and cannot grow to so many.
    """
    import ray

    from pipeline.ray_cluster import private_ray
    from pipeline.ray_cluster.authentication import check_head

    configure_ray_data()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if address:
            check_head(address)
        with _own_signals():
            if address:
                ray.init(address=address, logging_level=logging.WARNING)
            else:
                private_ray.start(cpus=max(cpus, usable_cpus()))
    available, needed = obtainable("CPU"), least or cpus
    if available < needed:
        raise ValueError(
            f"the Ray cluster has {available} CPUs and this job needs {needed}: one for each "
            "worker and one that reads data. Use fewer workers (--workers) or a larger cluster."
        )


def is_connected() -> bool:
    """Return whether this process is connected to Ray."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def end_private_ray() -> None:
    """End the Ray that `connect` started for this process; leave a cluster as it is."""
    if is_connected() and not os.environ.get("RAY_ADDRESS"):
        sys.modules["ray"].shutdown()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep Ray from taking SIGTERM over, and a closing terminal from ending what Ray starts.

    Its processes are of the terminal's too, and the workers are to save a checkpoint first. They
    inherit that SIGHUP is blocked, and end with this process.
    """
    before = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        yield
    finally:
        if callable(before):
            signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def obtainable(resource: str) -> int:
    """Return how much of a resource the cluster has, or can grow to.

    Ray does not know what an autoscaler may add. So the cluster's files set the limit in
    `RATGAN_CLUSTER_GROWS_TO`, for example CPU=128,GPU=8.

    Args:
        resource: CPU or GPU.

    Raises:
        ValueError: If that variable has another form.
    """
    import ray

    now = int(ray.cluster_resources().get(resource, 0))
    said = os.environ.get(GROWS_TO, "")
    try:
        limits = {name: int(count) for name, count in re.findall(r"(\w+)=(\w+)", said)}
    except ValueError:
        limits = {}
    if said and not limits:
        raise ValueError(f"{GROWS_TO}={said!r} must be like CPU=128,GPU=8.")
    return max(now, limits.get(resource, 0))


def job_tags() -> dict[str, str]:
    """Return Ray's ids of this job, to find its logs; none if it is not connected to Ray."""
    if not is_connected():
        return {}
    import ray

    tags = {"ray.job_id": ray.get_runtime_context().get_job_id()}
    # Only this variable has the name of a submitted job.
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if name := (submitted.get("metadata") or {}).get("job_submission_id"):
        tags["ray.submission_id"] = name
    return tags


def configure_ray_data() -> None:
    """Configure Ray Data in this process; each process that runs a dataset must call it."""
    from ray.data import DataContext

    quiet_libraries()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # otherwise the cause is only text


def quiet_libraries() -> None:
    """Let libraries print only what a user can act on; before they are used."""
    for name in ("ray.data", "ray.tune", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The command also raises the error of a worker, and reports it once. After the loss of a worker
    # the errors in the others give no information.
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    # At each start they log that Ray requires a token and that progress bars are off: both are
    # intended.
    for name in (
        "ray._private.authentication.authentication_token_setup",
        "ray.data._internal.progress",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def find_resources() -> Resources:
    """Return the available resources; asks a cluster if one is named, and starts no Ray.

    Raises:
        ConnectionError: If a cluster is named and cannot be reached.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return Resources.of_machine()
    joined = not is_connected()
    connect(cpus=0)
    try:
        return Resources.of_ray()
    finally:
        if joined:
            sys.modules["ray"].shutdown()
