"""Run a Ray cluster on this machine: a head and some workers, closed without its token.

    python -m pipeline.ray_cluster.local_cluster 2        # a head and two workers
    python -m pipeline.ray_cluster.local_cluster --stop

Each node is a `ray start --block` of its own, with its own ports. A cluster that lets a stranger in
at any port is stopped again.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.common.commands import command
from pipeline.common.console import print_line
from pipeline.common.errors import show_error
from pipeline.common.machine import usable_cpus
from pipeline.common.own_files import OTHERS_ENTER, own_folder, read_own_file
from pipeline.common.redaction import redacted_output
from pipeline.ray_cluster.loopback import ADDRESS, ENVIRONMENT, START_HOOK
from pipeline.ray_cluster.port_audit import see_that_they_refuse
from pipeline.ray_cluster.port_probe import Endpoint, count_nodes
from pipeline.ray_cluster.private_ray import LONGEST_TMPDIR
from pipeline.ray_cluster.start_budget import StartBudget
from pipeline.ray_cluster.token_file import token_file

FIRST_PORT = 8260  # so that the dashboard is where everybody looks for it, at 8265
PORTS_PER_NODE = 10
START_S = 600.0
STOP_S = 30.0  # for nodes to end what they started
LEFT_S = 3.0  # for what they have not ended
# `ray job stop` kills a job after so many seconds; a checkpoint must be saved by then. Ray: 3.
JOB_STOP_S = 120
NODES = "nodes.json"  # the processes that were started
NAME = re.compile(r"head|worker-[1-9]\d{0,3}")
# A socket needs a short path, and `--stop` is to find it whatever TMPDIR is then. Nobody knows the
# rest of a folder's name before it is there.
PREFIX = "/tmp/ratgan-cluster."
ELSEWHERE = "Name one of your own, of mode 700 or not there yet: --folder PLACE"
SERVICES = {  # by their place among the ports of a node
    "node-manager-port": 1,
    "object-manager-port": 2,
    "runtime-env-agent-port": 4,
    "dashboard-agent-listen-port": 6,
    "dashboard-agent-grpc-port": 7,
}


@dataclass(frozen=True)
class ClusterPlan:
    """What to start.

    Attributes:
        workers: Nodes beside the head.
        cpus: Logical CPUs of each worker.
        first_port: Of the head's ports; the workers' follow.
        folder: For logs and sockets; its path must be short.
    """

    workers: int
    cpus: int
    first_port: int
    folder: Path

    @property
    def store(self) -> Endpoint:
        """Where the head's store listens: what drivers and nodes join."""
        return Endpoint(ADDRESS, self.first_port)

    @property
    def dashboard(self) -> Endpoint:
        """Where jobs are submitted."""
        return Endpoint(ADDRESS, self.first_port + 5)

    def ports(self, node: int) -> list[int]:
        """Return the ports of a node; 0 is the head."""
        first = self.first_port + node * PORTS_PER_NODE
        own = [first + place for place in SERVICES.values()]
        return own if node else sorted([*own, self.store.port, self.dashboard.port])

    def command(self, node: int) -> list[str]:
        """Return the command that starts a node."""
        first = self.first_port + node * PORTS_PER_NODE
        ports = [f"--{name}={first + place}" for name, place in SERVICES.items()]
        shared = [
            *(f"{Path(sys.executable).parent}/ray", "start", "--block", "--disable-usage-stats"),
            *(f"--node-ip-address={ADDRESS}", *ports),
            # One for each: a node deletes what it unpacked there when it needs it no longer.
            f"--temp-dir={self.folder}/{node or 'head'}",
        ]
        if node:
            return [*shared, f"--address={self.store}", f"--num-cpus={self.cpus}"]
        return [
            *(*shared, "--head", f"--port={self.store.port}", "--num-cpus=1"),
            *(f"--dashboard-host={ADDRESS}", f"--dashboard-port={self.dashboard.port}"),
        ]


def start(plan: ClusterPlan) -> None:
    """Start a cluster, see that it is shut, and say how to use it.

    Raises:
        ValueError: If there is no token that only its owner can read, the ports are taken, a
            cluster runs in the folder already, or the folder is open to others.
        OSError: If it does not come up, or a port of it lets strangers in; it is stopped then.
    """
    token = token_file()
    _refuse_twice(plan)
    environment = environment_of(plan, token)
    with contextlib.suppress(FileExistsError):
        plan.folder.mkdir(mode=0o700, parents=True)
    # Ray lets everybody write to the folders that it makes in there.
    with own_folder(plan.folder, closed_to=OTHERS_ENTER, remedy=ELSEWHERE):
        _write(plan.folder, {})  # what an earlier cluster left, as when the power failed
    try:
        for node in range(plan.workers + 1):
            _start_node(plan, node, environment)
            if node == 0:  # the others ask for it once, and end if it is not there
                _wait_for_nodes(plan, 1, token.read_text().strip(), environment)
        _wait_for_nodes(plan, plan.workers + 1, token.read_text().strip(), environment)
        _wait_for_ports(plan, environment)
        shut = see_that_it_is_shut(plan)
    except BaseException:
        stop(plan.folder, keep_logs=True)
        print_line(f"logs of the start that failed: {plan.folder}")
        raise
    words = ["RAY_AUTH_MODE=token", f"RAY_API_SERVER_ADDRESS=http://{plan.dashboard}"]
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        words.append(f"RAY_AUTH_TOKEN_PATH={token}")
    said = command("export", *words)
    print_line(
        f"a head and {plan.workers} workers with {plan.cpus} CPUs each; all {shut} ports are on "
        f"{ADDRESS} and refuse strangers\n"
        f"  to use it:   {said}\n"
        f"  to stop it:  {_stop_command(plan.folder)}\n"
        f"  its logs:    {plan.folder}/*/session_latest/logs"
    )


def environment_of(plan: ClusterPlan, token: Path) -> dict[str, str]:
    """Return the environment of a cluster's processes.

    Args:
        plan: Of the cluster.
        token: File of its token.
    """
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_JOB_STOP_WAIT_TIME_S": os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", str(JOB_STOP_S)),
        # A node that is to end waits for its work to move elsewhere; here, all of them end.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # What asks for Ray's state on a node would search the machine, and fail where two Rays run.
        "RAY_ADDRESS": str(plan.store),
    }
    if len(tempfile.gettempdir()) > LONGEST_TMPDIR:
        own["TMPDIR"] = "/tmp"
    return os.environ | ENVIRONMENT | START_HOOK | own


def stop(folder: Path, *, keep_logs: bool = False) -> int:
    """End a cluster: what `start` started and what came of that, by process, nothing else.

    Args:
        folder: Of the cluster.
        keep_logs: Leave what its processes wrote.

    Returns:
        How many processes were ended.

    Raises:
        ValueError: If the folder, or what it says of processes, may be somebody else's.
    """
    processes, nodes, known = list(_processes(folder)), _nodes(folder), _read(folder)
    for process in reversed(nodes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _left_of(nodes, STOP_S)
    for process in _left_of(processes, LEFT_S):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _left_of(processes, STOP_S)
    with contextlib.suppress(FileNotFoundError), own_folder(folder, remedy=ELSEWHERE) as opened:
        for name in () if keep_logs else known:  # nothing but what `start` made
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{name}.log", dir_fd=opened)
            shutil.rmtree(name.removeprefix("worker-"), ignore_errors=True, dir_fd=opened)
        os.unlink(NODES, dir_fd=opened)
        with contextlib.suppress(OSError):
            folder.rmdir()
    return len(processes)


def see_that_it_is_shut(plan: ClusterPlan) -> int:
    """Knock as a stranger at every port of a cluster.

    Returns:
        How many there are.

    Raises:
        OSError: If one lets strangers in, can be reached from other machines, or was not found.
    """
    shut = see_that_they_refuse(_processes(plan.folder), only_at=ADDRESS).shut
    missing = {port for node in range(plan.workers + 1) for port in plan.ports(node)} - shut
    if missing:
        raise OSError(f"not found among the ports of the cluster: {sorted(missing)}")
    return len(shut)


def _start_node(plan: ClusterPlan, node: int, environment: dict[str, str]) -> None:
    name = f"worker-{node}" if node else "head"
    with (plan.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            plan.command(node),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    known = _read(plan.folder)
    known[name] = (process.pid, psutil.Process(process.pid).create_time())
    _write(plan.folder, known)


def _wait_for_nodes(plan: ClusterPlan, count: int, token: str, environment: dict[str, str]) -> None:
    for _ in _until(plan, f"{count} nodes", environment):
        if count_nodes(plan.store, token) >= count:
            return


def _wait_for_ports(plan: ClusterPlan, environment: dict[str, str]) -> None:
    for _ in _until(plan, "all ports", environment):
        nodes = range(plan.workers + 1)
        if not any(_is_free(port) for node in nodes for port in plan.ports(node)):
            return


def _until(plan: ClusterPlan, what: str, environment: dict[str, str]) -> Iterator[None]:
    """Go on while the cluster is coming up; start a node again that has ended as it started.

    Raises:
        OSError: If a node has ended too often, or it takes too long.
    """
    give_up, budget = time.monotonic() + START_S, StartBudget()
    while time.monotonic() < give_up:
        yield
        for name, (pid, started) in _read(plan.folder).items():
            if _process(pid, started) is None:
                if budget.allows_another(time.time() - started):
                    _start_node(plan, int(name.partition("-")[2] or 0), environment)
                    continue
                log = (plan.folder / f"{name}.log").read_text(errors="replace").strip()
                raise OSError(f"{name} of the cluster ended as it started:\n{log[-2000:]}")
        time.sleep(0.2)
    raise OSError(f"{what} of the cluster did not answer in {START_S:.0f} s.")


def _refuse_twice(plan: ClusterPlan) -> None:
    if _nodes(plan.folder):
        raise ValueError(
            f"a cluster runs in {plan.folder} already. Stop it first: {_stop_command(plan.folder)}"
        )
    nodes = range(plan.workers + 1)
    taken = [port for node in nodes for port in plan.ports(node) if not _is_free(port)]
    if taken:
        raise ValueError(
            f"somebody listens on port {', '.join(map(str, taken))} already. Stop that, or use "
            "other ports: --first-port 9260"
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((ADDRESS, port)) != 0


def _read(folder: Path) -> dict[str, tuple[int, float]]:
    """Return what `start` has written of a cluster's processes; nothing if there is none.

    Raises:
        ValueError: If the folder or the file may be somebody else's, or says anything else.
    """
    path = folder / NODES
    try:
        with own_folder(folder, remedy=ELSEWHERE) as opened:
            said = read_own_file(path, opened, remedy=ELSEWHERE)
    except FileNotFoundError:
        return {}
    try:
        known = {name: (int(pid), float(at)) for name, (pid, at) in json.loads(said).items()}
    except (ValueError, AttributeError, TypeError):
        known = {"": (0, 0.0)}
    if not all(NAME.fullmatch(name) and pid > 1 for name, (pid, _) in known.items()):
        raise ValueError(
            f"{path} does not say what this command writes there, so nothing was touched. If no "
            f"cluster runs there: {command('rm', path)}"
        )
    return known


def _write(folder: Path, known: dict[str, tuple[int, float]]) -> None:
    """Write whole or not at all what `_read` reads."""
    draft = folder / f".{NODES}"
    with open(draft, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        json.dump(known, file)
    draft.replace(folder / NODES)


def _nodes(folder: Path) -> list[psutil.Process]:
    """Return what `start` started and what still runs, the head first."""
    found = [_process(pid, started) for pid, started in _read(folder).values()]
    return [process for process in found if process]


def _processes(folder: Path) -> Iterator[psutil.Process]:
    """Return every process of the cluster."""
    for process in _nodes(folder):
        yield process
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from process.children(recursive=True)


def _process(pid: int, started: float) -> psutil.Process | None:
    """Find a process of this user again; a number may belong to another one by now."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1 and process.uids().real == os.getuid()
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _left_of(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Wait for the end of processes; return those that do not end."""
    give_up = time.monotonic() + within_s
    while processes and time.monotonic() < give_up:
        processes = [process for process in processes if _runs(process)]
        time.sleep(0.1)
    return processes


def _runs(process: psutil.Process) -> bool:
    """Tell whether a process runs; one that has ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _stop_command(folder: Path) -> str:
    where = () if str(folder).startswith(PREFIX) else ("--folder", folder)
    return command("cluster/start-local.sh", "--stop", *where)


def own_folders() -> list[Path]:
    """Return the folders of this user's clusters that were started without `--folder`."""
    found = []
    for path in Path(PREFIX).parent.glob(f"{Path(PREFIX).name}*"):
        with contextlib.suppress(FileNotFoundError, ValueError), own_folder(path, remedy=""):
            found.append(path)
    return sorted(found, key=lambda path: not _read(path))  # those that run come first


@redacted_output()
def main() -> None:
    """Start or stop, as the command line says."""
    options = argparse.ArgumentParser(description=__doc__, prog="cluster/start-local.sh")
    options.add_argument("workers", type=int, nargs="?", default=2, help="nodes beside the head")
    options.add_argument("--cpus", type=int, help="logical CPUs of each; default: shared out")
    options.add_argument("--first-port", type=int, default=FIRST_PORT)
    options.add_argument("--folder", type=Path, help="of mode 700; default: one in /tmp")
    options.add_argument("--stop", action="store_true")
    given = options.parse_args()
    try:
        folders = [given.folder.absolute()] if given.folder else own_folders()
        if given.stop:
            print_line(f"{sum(map(stop, folders))} processes ended")
            return
        if not 1 <= given.workers <= 100:
            raise ValueError(f"{given.workers} workers: use 1 to 100.")
        cpus = given.cpus or max(1, usable_cpus() // given.workers)
        folder = folders[0] if folders else Path(f"{PREFIX}{secrets.token_hex(4)}")
        start(ClusterPlan(given.workers, cpus, given.first_port, folder))
    except (ValueError, OSError) as error:
        show_error(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
