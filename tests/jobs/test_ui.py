"""`make ui` serves this machine and nobody else: where it listens, and whom it answers."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from tests.conftest import free_ports
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Port and process of what the recipe of `make ui` starts."""
    folder = tmp_path_factory.mktemp("ui") / "my%20runs [v2]"  # no address by itself
    folder.mkdir()
    for _ in range(5):  # somebody may take a free port before the server does
        (port,) = free_ports(1)
        server = started_at(port, folder)
        try:
            if answers(server, port):
                yield port, server.pid
                return
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(timeout=60)
    raise AssertionError((folder / "log").read_text())


def started_at(port: int, folder: Path) -> subprocess.Popen:
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
    python = shlex.quote(sys.executable)
    command = recipe.replace("venv/mlflow", f"exec {python} -m mlflow")
    command = command.replace("venv/python", python)
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            command, shell=True, cwd=ROOT, stdout=log, stderr=log, process_group=0
        )


def answers(server: subprocess.Popen, port: int) -> bool:
    """Wait until it answers, and nobody else at its port; false if it ends before."""

    def is_up() -> bool:
        if ("127.0.0.1", port) not in listening(server.pid):
            return False
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=300).ok

    def is_up_or_over() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess, requests.RequestException):
            return server.poll() is not None or is_up()
        return False

    wait_until(is_up_or_over, "the server of make ui", seconds=300)
    return server.poll() is None


def listening(pid: int) -> set[tuple[str, int]]:
    """Where a process and those it started listen."""
    process = psutil.Process(pid)
    return {
        (end.laddr.ip, end.laddr.port)
        for each in [process, *process.children(recursive=True)]
        for end in each.net_connections("inet")
        if end.status == psutil.CONN_LISTEN
    }


def ask(port: int, **headers: str) -> requests.Response:
    method = "POST" if "Origin" in headers else "GET"
    path = "experiments/create" if method == "POST" else "experiments/get?experiment_id=0"
    return requests.request(
        method,
        f"http://127.0.0.1:{port}/api/2.0/mlflow/{path}",
        headers=headers,
        json={"name": "mine"} if method == "POST" else None,
        timeout=300,
    )


def test_it_listens_on_the_loopback_only(port):
    number, pid = port

    assert listening(pid) == {("127.0.0.1", number)}


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
