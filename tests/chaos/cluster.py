"""A Ray cluster of several nodes on this machine, whose nodes can be killed."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.conftest import free_ports
from tests.processes import started_by
from tests.waiting import wait_until

BIN = Path(sys.executable).parent
START_S = 300
TRIES = 5  # to start a node: somebody may take a free port between the look and the start


class Node:
    """One node: `ray start --block`, and what it started."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self.log = process, log

    def comes_up(self) -> bool:
        """Wait until its cluster has it; False if it ends before."""
        wait_until(
            lambda: self.process.poll() is not None or "runtime started" in self.log.read_text(),
            f"a node that is up, or not, by its log {self.log}",
            START_S,
        )
        return self.process.poll() is None

    def started(self, name: str) -> list[psutil.Process]:
        """Processes of this node whose command line holds a name."""
        return list(started_by(self.process.pid, name))

    def kill(self) -> None:
        """SIGKILL its raylet; the rest of the node ends for want of it."""
        (raylet,) = [each for each in self.started("raylet/raylet ") if each.name() == "raylet"]
        raylet.kill()

    def announce_departure(self, within_s: int, environment: dict[str, str]) -> None:
        """Tell its cluster that it is to be taken away, as an autoscaler does."""
        (raylet,) = [each for each in self.started("raylet/raylet ") if each.name() == "raylet"]
        (name,) = [part for part in raylet.cmdline() if part.startswith("--node_id=")]
        subprocess.run(
            [
                *(BIN / "ray", "drain-node", f"--address={environment['RAY_ADDRESS']}"),
                *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=wanted elsewhere"),
                *(name.replace("_", "-"), f"--deadline-remaining-seconds={within_s}"),
            ],
            env=environment,
            check=True,
            capture_output=True,
        )

    def end(self) -> None:
        """SIGKILL all of it, as when the power fails; nothing happens if it has ended."""
        if self.process.poll() is not None:
            return
        mine = [self.process.pid]
        with contextlib.suppress(psutil.NoSuchProcess):
            mine += [p.pid for p in psutil.Process(self.process.pid).children(recursive=True)]
        for pid in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=120)


class Cluster:
    """Nodes that find each other by ports nobody else has, and ask for a token.

    Args:
        folder: For their logs.
        more: Of their environment.
    """

    def __init__(self, folder: Path, **more: str) -> None:
        self.folder = folder
        self.temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path is short
        self.nodes: list[Node] = []
        self.head_options: list[str] = []
        self.address = ""
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_raylet_start_wait_time_s": str(START_S),  # on a busy machine 30 s are too few
            **more,
        }

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_) -> None:
        for node in self.nodes:
            node.end()
        shutil.rmtree(self.temporary, ignore_errors=True)

    @property
    def client(self) -> dict[str, str]:
        """Environment of a process that joins the cluster."""
        return self.environment | {"RAY_ADDRESS": self.address}

    def add(self, cpus: int) -> Node:
        """Start a node, the head first, and wait until the cluster has it."""
        for _ in range(TRIES):
            node = self._start(cpus)
            if node.comes_up():
                return node
            self.nodes.remove(node)
        raise AssertionError(node.log.read_text())

    def _start(self, cpus: int) -> Node:
        gcs, dashboard, client = free_ports(3)
        if self.nodes:
            role = [f"--address={self.address}"]
        else:
            self.address = f"127.0.0.1:{gcs}"
            role = ["--head", f"--port={gcs}", f"--ray-client-server-port={client}"]
            role += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
            role += [f"--temp-dir={self.temporary}", *self.head_options]
        log = self.folder / f"node-{len(self.nodes)}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [
                    *(BIN / "ray", "start", "--block", "--node-ip-address=127.0.0.1", *role),
                    *(f"--num-cpus={cpus}", "--object-store-memory=100000000"),
                    *("--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0"),
                    *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
                ],
                # What asks for Ray's state on a node would search the machine, and there may be
                # others on it.
                env=self.client,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        node = Node(process, log)
        self.nodes.append(node)
        return node
