"""Joining or starting Ray: the running cluster where there is one, else this machine."""

import logging
import os
from pathlib import Path

import ray
from ray.data import DataContext


def connect(*, cpus: int, least: int | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names (a submitted job has it set), or start Ray here.

    Args:
        cpus: Logical CPUs the work can use. Ray on this machine is started with at
            least as many.
        least: That it needs, which a cluster must have; all of them if not given.

    Raises:
        ConnectionError: If the named cluster cannot be reached.
        ValueError: If the cluster has fewer CPUs.
    """
    settle()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            # Ray runs its workers at nice 15. Where the driver trains, they would starve.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # "local": a Ray that happens to run on this machine is not the one that was meant.
            # The dashboard costs nothing that can be measured, and Train asks it about its actors.
            ray.init(
                address="local",
                num_cpus=max(cpus, usable_cpus()),
                include_dashboard=True,
                logging_level=logging.WARNING,
            )
    available, needed = int(ray.cluster_resources().get("CPU", 0)), least or cpus
    if available < needed:
        raise ValueError(
            f"the Ray cluster has {available} CPUs and this job needs {needed}: one for each "
            "worker and one that reads data. Use fewer workers (--workers) or a larger cluster."
        )


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
    for name in ("ray.data", "ray.train", "ray.tune", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # They say at each start that Ray asks for a token, which is how it should be,
    # and that progress bars are off, which we did.
    for name in (
        "ray._private.authentication.authentication_token_setup",
        "ray.data._internal.progress",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Repeats each report in full; this logger is named by its file.
    reports = Path(ray.__file__).parent / "train/v2/_internal/execution/context.py"
    logging.getLogger(str(reports)).setLevel(logging.WARNING)
