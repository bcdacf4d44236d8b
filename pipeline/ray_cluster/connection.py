"""Connect to Ray: the cluster that is named, or a private Ray of this process."""

import json
import logging
import os
import re
from dataclasses import dataclass

import ray
import torch
from ray.data import DataContext

from pipeline.common.machine import usable_cpus
from pipeline.ray_cluster import private_ray
from pipeline.ray_cluster.authentication import check_head

GROWS_TO = "RATGAN_CLUSTER_GROWS_TO"


@dataclass(frozen=True)
class Resources:
    """What there is to train with.

    Attributes:
        cpus: That Ray can give away.
        gpus: The same.
        cluster: Whether of a cluster, or of this machine.
    """

    cpus: int
    gpus: int
    cluster: bool

    @classmethod
    def of_machine(cls) -> "Resources":
        """Return what Ray would find if it were started here."""
        return cls(usable_cpus(), torch.cuda.device_count(), cluster=False)

    @classmethod
    def of_ray(cls) -> "Resources":
        """Return what the Ray has, or can grow to, that this process is connected to."""
        in_cluster = bool(os.environ.get("RAY_ADDRESS"))
        return cls(obtainable("CPU"), obtainable("GPU"), in_cluster)

    def __str__(self) -> str:
        where = "in the cluster" if self.cluster else "here"
        return f"{self.cpus:,} CPUs and {self.gpus:,} GPUs {where}"


def connect(*, cpus: int, least: int | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names (a submitted job has it set), or start a Ray.

    Args:
        cpus: Logical CPUs the work can use. Ray on this machine is started with at
            least as many.
        least: That it needs, which a cluster must have; all of them if not given.

    Raises:
        OSError: If the named cluster cannot be reached, or not with this process' token.
        ValueError: If the cluster has fewer CPUs and cannot grow to so many.
    """
    configure_ray_data()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if address:
            check_head(address)
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            private_ray.start(cpus=max(cpus, usable_cpus()))
    available, needed = obtainable("CPU"), least or cpus
    if available < needed:
        raise ValueError(
            f"the Ray cluster has {available} CPUs and this job needs {needed}: one for each "
            "worker and one that reads data. Use fewer workers (--workers) or a larger cluster."
        )


def obtainable(resource: str) -> int:
    """Return how much of a resource the cluster has, or can grow to.

    What an autoscaler may add is not known to Ray before it is there: the cluster's files say it in
    `RATGAN_CLUSTER_GROWS_TO`, as CPU=128,GPU=8.

    Args:
        resource: CPU or GPU.

    Raises:
        ValueError: If that variable says something else.
    """
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
    """Return what Ray calls this job, to find its logs by; it must be connected."""
    tags = {"ray.job_id": ray.get_runtime_context().get_job_id()}
    # Ray tells a submitted job its own name here only.
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if name := (submitted.get("metadata") or {}).get("job_submission_id"):
        tags["ray.submission_id"] = name
    return tags


def configure_ray_data() -> None:
    """Set how Ray Data works in this process; each process that runs a dataset needs it."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True  # or the cause is lost in text
    for name in ("ray.data", "ray.tune", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What goes wrong in a worker is raised in the command too, which says it once; where a worker
    # is lost, what all others meet for want of it is no news.
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    # They say at each start that Ray asks for a token, which is how it should be,
    # and that progress bars are off, which we did.
    for name in (
        "ray._private.authentication.authentication_token_setup",
        "ray.data._internal.progress",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def find_resources() -> Resources:
    """Find out what there is to work with; a cluster is asked, and no Ray is started here.

    Raises:
        ConnectionError: If a cluster is named and cannot be reached.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return Resources.of_machine()
    joined = not ray.is_initialized()
    connect(cpus=0)
    try:
        return Resources.of_ray()
    finally:
        if joined:
            ray.shutdown()
