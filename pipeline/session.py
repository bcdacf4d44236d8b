"""Joining or starting Ray: the cluster that is named, else a private Ray of this process."""

import json
import logging
import os
import re
from pathlib import Path

import ray
from ray.data import DataContext

from pipeline import private_ray
from pipeline.admission import check_head

GROWS_TO = "RATGAN_CLUSTER_GROWS_TO"


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
    settle()
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


def usable_cpus() -> int:
    """Return the CPUs this process may use: in a container that can be fewer than the host has."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    usable = affinity or os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return usable
    return usable if quota == "max" else max(1, min(usable, int(quota) // int(period)))


def settle() -> None:
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
