"""Start a Ray that belongs to this process alone: loopback, free ports, own folder and token.

Two runs on a machine do not conflict: there is no fixed port, no shared folder and no shared token.
Code that searches for the Ray of this machine finds this one by `RAY_ADDRESS`.
"""

import atexit
import contextlib
import fcntl
import functools
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray
import ray._private.authentication.authentication_token_setup as authentication
import ray._private.parameter as parameter
import ray._private.ray_constants as constants

from pipeline.common.own_files import own_folder
from pipeline.ray_cluster.loopback import ADDRESS, ENVIRONMENT
from pipeline.ray_cluster.start_budget import StartBudget
from pipeline.ray_cluster.token_file import create_token

logger = logging.getLogger(__name__)

PREFIX = "ratgan-ray."
NICENESS = "RAY_worker_niceness"
OWNER = "owner.lock"  # locked while the process that started this Ray lives
# A path of a socket has at most 103 bytes on macOS and 107 on Linux. Ray appends
# `/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store` to its folder.
LONGEST_FOLDER = 103 - 64
LONGEST_TMPDIR = 103 - 32  # Python appends `/pymp-12345678/listener-12345678` for its own sockets
WITHOUT_OWNER_S = 3600.0


def start(*, cpus: int) -> None:
    """Start Ray for this process and connect to it; it ends with the process.

    Args:
        cpus: Logical CPUs that Ray may assign.

    Raises:
        OSError: If no folder is short enough for its sockets, or Ray does not start.
    """
    folder = _make_folder()
    budget = StartBudget()
    while True:
        began = time.monotonic()
        try:
            with _environment(folder, _free_port()), _free_agent_port():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    # It has no measurable cost, and Ray Train reads the state of actors from it.
                    include_dashboard=True,
                    dashboard_host=ADDRESS,
                    dashboard_port=0,
                    logging_level=logging.WARNING,
                    _temp_dir=str(folder / "r"),
                )
            return
        except Exception as error:
            ray.shutdown()
            _end_processes(folder)
            if not budget.allows_another(time.monotonic() - began):
                raise
            logger.warning("Ray did not start and is restarted: %s", error)


def _end_processes(folder: Path) -> None:
    """End what a start that failed has left: Ray knows nothing of it any more."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if str(folder) in " ".join(child.cmdline()):
                for each in (*child.children(recursive=True), child):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()


@contextlib.contextmanager
def _environment(folder: Path, port: int) -> Iterator[None]:
    """Set the environment of Ray's processes, and restore it: a later Ray may be another one."""
    own = ENVIRONMENT | {
        # Ray gives its workers nice 15. Beside a training in this process they would starve.
        NICENESS: os.environ.get(NICENESS, "0"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        constants.GCS_PORT_ENVIRONMENT_VARIABLE: str(port),
        # Without it, Ray Train's cleaner of placement groups and other readers of Ray's state
        # search the machine for a Ray, and fail if there are two.
        constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE: f"{ADDRESS}:{port}",
    }
    if len(tempfile.gettempdir()) > LONGEST_TMPDIR:
        own["TMPDIR"] = str(folder)
    hidden = ("RAY_AUTH_TOKEN", constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE)
    before = {name: os.environ.get(name) for name in (*own, *hidden)}
    clusters = constants.ENABLE_RAY_CLUSTER
    os.environ.update(own)
    for name in hidden:
        os.environ.pop(name, None)
    constants.ENABLE_RAY_CLUSTER = False  # read from the environment when Ray was imported
    authentication.Config.initialize("")  # so was the authentication mode
    authentication.AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _free_agent_port() -> Iterator[None]:
    """Let the agent of Ray's dashboard use a free port: `ray.init` has no option for it."""
    original = parameter.RayParams
    parameter.RayParams = functools.partial(original, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameter.RayParams = original


def _make_folder() -> Path:
    """Create a folder for logs, sockets and token that is removed when this process ends."""
    _remove_abandoned()
    for base in _bases():
        if len(str(base)) + len(f"/{PREFIX}12345678/r") <= LONGEST_FOLDER:
            with contextlib.suppress(OSError):
                folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # of mode 0700
                break
    else:
        raise OSError(
            "Ray needs a writable temporary folder whose path has at most "
            f"{LONGEST_FOLDER - len(PREFIX) - 11} characters, and none of "
            f"{', '.join(map(str, _bases()))} is one. Set TMPDIR to such a folder."
        )
    lock = os.open(folder / "new", os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # held open: the system releases it when this process ends
    (folder / "new").rename(folder / OWNER)  # so the file is never visible without its lock
    create_token(folder / "token")
    atexit.register(_end, folder, os.getpid())
    return folder


def _bases() -> list[Path]:
    named = os.environ.get("RAY_TMPDIR")
    places = [named] if named else []
    places += [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    return list(dict.fromkeys(Path(place).absolute() for place in places))


def _remove_abandoned() -> None:
    """Remove the folders of this user's processes that were killed."""
    for base in _bases():
        for folder in base.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError, ValueError), own_folder(folder, remedy="") as opened:
                try:
                    lock = os.open(OWNER, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=opened)
                except FileNotFoundError:
                    # An ending Ray wrote into it after the removal. A new folder gets its lock at
                    # once.
                    if time.time() - os.fstat(opened).st_mtime > WITHOUT_OWNER_S:
                        shutil.rmtree(folder, ignore_errors=True)
                    continue
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def _end(folder: Path, owner: int) -> None:
    """End Ray, then remove its folder."""
    if os.getpid() == owner:  # not in a fork
        ray.shutdown(_exiting_interpreter=True)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])
