"""A real MLflow server that can be killed and started again, and what may stand before it."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.waiting import wait_until


@contextmanager
def patience() -> Iterator[None]:
    """Let what sends to a server that answers wait for it as long as a busy machine takes.

    What a test starts as a process waits longer for an answer too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        patch.setattr("pipeline.tracking.sender.PATIENCE_S", 120)
        yield


def reserved_port() -> socket.socket:
    """A port that is nobody else's while it is open; only who names it and may reuse it listens.

    Servers may: it is how they start again at their port at once. Until one does, it is refused.
    """
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", 0))
    return taken


class MlflowServer:
    """Keeps artifacts itself, as a team's does; always at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reserved = reserved_port()
        self.port = self.reserved.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.uri}/health", timeout=60).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        raise AssertionError(f"the server did not start:\n{(self.folder / 'log').read_text()}")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait(timeout=120)
            self.process = None
            # The one that listens is a child of it, and the next one needs its port.
            wait_until(self._is_silent, "nobody listens any more")

    def _is_silent(self) -> bool:
        with socket.socket() as visitor:
            return visitor.connect_ex(("127.0.0.1", self.port)) != 0


class Door:
    """Stands before a server: passes on, accepts and never answers, or answers 500."""

    def __init__(self, port: int) -> None:
        self.behind = port
        self.mode = "pass"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def turn(self, mode: str) -> None:
        """Behave differently from now on, to those inside too."""
        self.mode, inside, self.open = mode, self.open, []
        for each in inside:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                visitor, _ = self.listener.accept()
            except OSError:
                return
            if self.mode == "hang":
                self.open.append(visitor)
            elif self.mode == "500":
                visitor.recv(65536)
                visitor.sendall(
                    b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                visitor.close()
            else:
                server = socket.create_connection(("127.0.0.1", self.behind))
                self.open += [visitor, server]
                for ends in ((visitor, server), (server, visitor)):
                    threading.Thread(target=self._pipe, args=ends, daemon=True).start()

    def _pipe(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listener.close()
        self.turn("pass")
