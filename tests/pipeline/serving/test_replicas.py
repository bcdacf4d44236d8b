"""Replicas on a real Ray: the pictures and the closed doors of the one-process form."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from pipeline.cli.generate import GenerateConfig, generate
from pipeline.ray_cluster.port_audit import listening, see_that_they_refuse
from pipeline.serving.config import ServeConfig
from pipeline.serving.replicas import application, serve_replicas
from tests.pipeline.serving.server import make_run
from tests.processes import runs
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
CAPTIONS = ("a red bird", "two cats")
SEEDS = (0, 1)
TOKEN = "canary" + "0" * 40
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Server:
    """`jobs/serve.py --replicas 2` with all its processes."""

    def __init__(self, run: Path, token: Path, log: Path) -> None:
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, str(ROOT / "jobs/serve.py"), "--model", run.name),
                    *("--port", "0", "--replicas", "2", "--token-file", str(token)),
                ],
                cwd=run.parent,  # a model may be named from here
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.seen: set[psutil.Process] = set()

    def address(self) -> str:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return "open http://" in self.log.read_text()

        wait_until(ready, "the server listens", 900)
        return "http" + self.log.read_text().partition("open http")[2].partition("/ ")[0]

    def processes(self) -> set[psutil.Process]:
        own = psutil.Process(self.process.pid)
        self.seen |= {own, *own.children(recursive=True)}
        return {process for process in self.seen if runs(process)}

    def replicas(self) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                # Its name while it waits, and while it works.
                if re.search("SERVE_REPLICA|ServeReplica", " ".join(process.cmdline())):
                    found.append(process)
        return found

    def end(self) -> None:
        self.processes()
        self.process.terminate()
        assert self.process.wait(120) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "birds")


def imagine(address: str, caption: str, seed: int) -> requests.Response:
    question = {"prompt": caption, "seed": seed}
    return requests.get(f"{address}/imagine", params=question, headers=BEARER, timeout=120)


@pytest.mark.slow
@pytest.mark.rest
def test_replicas_draw_the_same_are_shut_survive_a_kill_and_leave_nothing(run, tmp_path):
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    expected = {
        (caption, seed): Path(
            generate(
                GenerateConfig(
                    captions=(caption,),
                    model=str(run),
                    output=str(tmp_path / f"{number}-{seed}"),
                    seed=seed,
                )
            )[0]
        ).read_bytes()
        for number, caption in enumerate(CAPTIONS)
        for seed in SEEDS
    }
    server = Server(run, token, tmp_path / "log")
    try:
        address = server.address()
        port = int(address.rpartition(":")[2])

        # The same pictures, and the same doors.
        assert {q: imagine(address, *q).content for q in expected} == expected
        assert requests.get(f"{address}/v1/models", timeout=60).status_code == 401
        stranger = {"Host": "evil.example"} | BEARER
        assert requests.get(f"{address}/", headers=stranger, timeout=60).status_code == 403
        wrong = requests.get(f"{address}/nothing", headers=BEARER, timeout=60)
        assert (wrong.status_code, wrong.json()["error"]["message"]) == (404, "Not Found.")
        assert port in {door.port for door in listening(server.processes())}
        assert port in see_that_they_refuse(server.processes(), only_at="127.0.0.1").shut

        # One is killed while both draw.
        victims = server.replicas()
        assert len(victims) == 2
        body = {"prompt": CAPTIONS[0], "n": 4, "seed": 0}

        def ask(_: int) -> requests.Response:
            return requests.post(
                f"{address}/v1/images/generations", json=body, headers=BEARER, timeout=300
            )

        whole = [each["b64_json"] for each in ask(0).json()["data"]]
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(ask, number) for number in range(48)]
            wait_until(lambda: any(each.done() for each in answers), "one is answered")
            victims[0].send_signal(signal.SIGKILL)
            results = [each.result() for each in answers]
        for result in results:
            if result.status_code == 200:
                assert [each["b64_json"] for each in result.json()["data"]] == whole
            else:
                kind = result.json()["error"]["type"]
                assert (result.status_code, kind) in ((503, "lost"), (503, "overloaded"))
                assert int(result.headers["retry-after"]) >= 1
        assert sum(result.status_code == 200 for result in results) >= 12
        wait_until(lambda: len(server.replicas()) == 2, "another one takes its place", 300)
        assert {q: imagine(address, *q).content for q in expected} == expected

        of_ray = Path(server.replicas()[0].environ()["RAY_AUTH_TOKEN_PATH"])
        logs = [path for path in of_ray.parent.rglob("logs/**/*") if path.is_file()]
        assert [path for path in logs if path.stat().st_size]
        for secret in (TOKEN, *CAPTIONS, "a+red+bird"):
            assert not [path for path in logs if secret.encode() in path.read_bytes()]
    finally:
        server.end()

    wait_until(lambda: not any(map(runs, server.seen)), "the end of all its processes")
    assert not of_ray.exists()
    assert TOKEN not in (tmp_path / "log").read_text()


def test_a_cluster_is_served_with_a_token_only(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ValueError, match="serve with --token-file and --port"):
        serve_replicas(ServeConfig())
    with pytest.raises(ValueError, match="RATGAN_SERVE_TOKEN has 0 characters"):
        application({"model": ["x"]})
