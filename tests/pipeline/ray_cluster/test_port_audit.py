"""Ports that ask for no token: of a training at one address, of pictures on loopback, no others."""

import re
import subprocess
import sys

import psutil
import pytest

from pipeline.ray_cluster.port_audit import see_that_they_refuse
from pipeline.ray_cluster.port_probe import Endpoint

# A process that listens, says where, and hangs up on everybody.
LISTENER = """
import pathlib, socket, sys
pathlib.Path("/proc/self/comm").write_text(sys.argv[1])
with socket.create_server((sys.argv[2], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        with listener.accept()[0] as asker:
            if sys.argv[1] == "SERVE_PROXY":
                asker.recv(1000)
                asker.sendall(b"HTTP/1.1 404 Not Found\\r\\n\\r\\n")
"""


@pytest.fixture
def listens():
    started = []

    def start(name: str, address: str) -> tuple[Endpoint, psutil.Process]:
        process = subprocess.Popen(
            [sys.executable, "-c", LISTENER, name, address],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Endpoint(address, int(process.stdout.readline())), psutil.Process(process.pid)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_port_of_a_training_is_told_apart_from_those_that_refuse_strangers(listens):
    door, process = listens("TrainWorker", "127.0.0.1")

    ports = see_that_they_refuse([process], only_at="127.0.0.1")

    assert (ports.shut, ports.training) == (set(), {door})


def test_a_port_that_serves_this_machine_is_told_apart(listens):
    door, process = listens("SERVE_PROXY", "127.0.0.1")

    ports = see_that_they_refuse([process], only_at="127.0.0.1")

    assert (ports.shut, ports.training, ports.serving) == (set(), set(), {door})


@pytest.mark.parametrize(
    ("name", "address", "only_at", "problem"),
    [
        ("SERVE_PROXY", "0.0.0.0", "", "answers without a token"),
        ("TrainWorker", "0.0.0.0", "", "does not confirm that it requires a token"),
        ("TrainWorker", "127.0.0.2", "127.0.0.1", "can be reached from other machines"),
        ("Reader", "127.0.0.1", "", "does not confirm that it requires a token"),
    ],
)
def test_a_port_that_says_nothing_is_not_shut_elsewhere(name, address, only_at, problem, listens):
    door, process = listens(name, address)

    with pytest.raises(OSError, match=re.escape(f"not shut:\n{door} ({name}) {problem}")):
        see_that_they_refuse([process], only_at=only_at)
