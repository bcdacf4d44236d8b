"""Hosts of a test's own on this machine: network namespaces on one bridge, which can be cut off.

They share the disk and the clock; each has its own addresses, ports and loopback.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator

from tests.waiting import wait_until

NETWORK = "10.0.0"


def why_not() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if not shutil.which("ip"):
        return "iproute2 is not installed"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "type", "bridge"], capture_output=True, text=True
    )
    return tried.stderr.strip() if tried.returncode else ""


class Hosts:
    """A switch and the hosts on it, at 10.0.0.1 and up."""

    def __init__(self, *names: str) -> None:
        self.names, self.tag = names, f"ratgan-{secrets.token_hex(3)}"
        self.started: list[subprocess.Popen] = []
        self.ip("netns", "add", self.space("switch"))
        self.ip("-n", self.space("switch"), "link", "add", "bridge", "type", "bridge")
        self.ip("-n", self.space("switch"), "link", "set", "bridge", "up")
        for number, name in enumerate(names, start=1):
            space, switch = self.space(name), self.space("switch")
            self.ip("netns", "add", space)
            pair = ("type", "veth", "peer", "name", "eth0", "netns", space)
            self.ip("link", "add", name, "netns", switch, *pair)
            self.ip("-n", switch, "link", "set", name, "master", "bridge", "up")
            self.ip("-n", space, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                self.ip("-n", space, "link", "set", device, "up")
            # Ray finds a host's address by asking which way it would go out.
            self.ip("-n", space, "route", "add", "default", "dev", "eth0")

    def space(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def start(self, name: str, command: str, environment: dict[str, str], log) -> subprocess.Popen:
        """Start a command on a host."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.space(name), "bash", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def processes(self, name: str) -> list[int]:
        done = subprocess.run(
            ["ip", "netns", "pids", self.space(name)], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in done.stdout.split()]

    def cut(self, name: str) -> None:
        self.ip("-n", self.space("switch"), "link", "set", name, "down")

    def mend(self, name: str) -> None:
        self.ip("-n", self.space("switch"), "link", "set", name, "up")

    def close(self) -> None:
        """End every process of the hosts, and the hosts."""
        wait_until(lambda: not self.kill_all(), "the end of what runs on the hosts")
        for process in self.started:
            process.wait(timeout=60)
        for name in (*self.names, "switch"):
            self.ip("netns", "del", self.space(name))

    def kill_all(self) -> int:
        """Kill what runs on the hosts, and count it; meanwhile some of it may start more."""
        running = [pid for name in (*self.names, "switch") for pid in self.processes(name)]
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(running)


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    made = Hosts(*names)
    try:
        yield made
    finally:
        made.close()
