"""`make ui` serves this machine and nobody else: where it listens, and whom it answers."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from tests.conftest import free_ports

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Port of what the recipe of `make ui` starts."""
    folder, (port,) = tmp_path_factory.mktemp("ui"), free_ports(1)
    said = subprocess.run(
        [
            *("make", "--no-print-directory", "--dry-run", "ui"),
            *(f"OUTPUT={folder}", f"PORT={port}", "BIN=venv"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    recipe = said.strip().splitlines()[-1]  # before it: how .venv is made, where it is older
    assert "venv/mlflow server" in recipe
    command = recipe.replace("venv/mlflow", f"exec {shlex.quote(sys.executable)} -m mlflow")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, shell=True, stdout=log, stderr=log, process_group=0)
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.2)
        assert server.poll() is None, (folder / "log").read_text()
        yield port, server.pid
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)


def ask(port: int, **headers: str) -> requests.Response:
    method = "POST" if "Origin" in headers else "GET"
    path = "experiments/create" if method == "POST" else "experiments/get?experiment_id=0"
    return requests.request(
        method,
        f"http://127.0.0.1:{port}/api/2.0/mlflow/{path}",
        headers=headers,
        json={"name": "mine"} if method == "POST" else None,
        timeout=60,
    )


def test_it_listens_on_the_loopback_only(port):
    number, pid = port
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    listening = {
        (end.laddr.ip, end.laddr.port)
        for process in processes
        for end in process.net_connections("inet")
        if end.status == psutil.CONN_LISTEN
    }

    assert listening == {("127.0.0.1", number)}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "192.168.1.5:{port}"])
def test_a_name_from_elsewhere_is_refused(port, host):
    number, _ = port

    assert ask(number, Host=host.format(port=number)).status_code == 403


def test_a_page_from_elsewhere_changes_nothing(port):
    number, _ = port

    assert ask(number, Origin="http://evil.example").status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}"])
def test_this_machine_is_answered(port, host):
    number, _ = port

    answer = ask(number, Host=host.format(port=number))

    assert (answer.status_code, answer.json()["experiment"]["name"]) == (200, "Default")
