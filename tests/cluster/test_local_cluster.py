"""A cluster of three nodes on this machine, as docs/cluster.md has it: shut, and at work."""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import fsspec
import psutil
import pytest
import requests
from mlflow import MlflowClient

from pipeline.common.failpoints import VARIABLE
from pipeline.distributed.graceful_stop import REQUEST
from pipeline.ray_cluster import authentication
from pipeline.ray_cluster.authentication import check_dashboard, check_head
from pipeline.ray_cluster.local_cluster import PORTS_PER_NODE, ClusterPlan, _processes
from pipeline.ray_cluster.port_audit import see_that_they_refuse
from tests.cluster.docs import ROOT, commands_of, exported
from tests.mlflow_server import MlflowServer
from tests.services import KEY, SECRET
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]

BIN = Path(sys.executable).parent
BUCKET = "ratgan"
NODES = 3
PATIENCE_S = 900.0  # for anything at all to come; on a busy machine a job takes minutes to start
HELD_AT = 30  # steps: the training that is stopped does no more of them before it is asked to


class Cluster:
    """A terminal beside a cluster that runs: what the docs have typed there so far."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path must be short
        self.plan = ClusterPlan(NODES - 1, 1, free_block(NODES * PORTS_PER_NODE), folder)
        self.environment = environment
        self.times: dict[str, float] = {}

    def typed(self, command: str) -> str:
        """A command of the docs, at ports and a place that are this test's own."""
        own = f"--first-port {self.plan.first_port} --folder {self.plan.folder}"
        command = command.replace(":8265", f":{self.plan.dashboard.port}")
        command = command.replace("--output drawn", f"--output {self.home}/drawn")
        # A step that this test holds up is no hang, however long that takes.
        command = command.replace("--total-steps 150", "--total-steps 150 --health.hang-s 0")
        command = re.sub(r"start-local.sh 2$", rf"start-local.sh 2 --cpus 1 {own}", command)
        return command.replace("--stop", f"--stop --folder {self.plan.folder}")

    def come_up(self, command: str) -> str:
        """Start the cluster, at other ports where somebody was quicker to take one."""
        for _ in range(5):
            started = time.monotonic()
            process = self.start(command)
            said, _ = process.communicate(timeout=PATIENCE_S)
            self.times[command.strip()[:75]] = time.monotonic() - started
            if not process.returncode:
                return plain(said)
            if not re.search("listens on port|[Aa]ddress already in use", said):
                break
            self.plan = replace(self.plan, first_port=free_block(NODES * PORTS_PER_NODE))
        raise AssertionError(f"{command}\n{said}")

    def start(self, command: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "-c", self.typed(command)],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str, *, fails: bool = False) -> str:
        """Type a command and wait for its end."""
        started = time.monotonic()
        process = self.start(command)
        said, _ = process.communicate(timeout=PATIENCE_S)
        self.times[command.strip()[:75]] = time.monotonic() - started
        assert bool(process.returncode) == fails, f"{command}\n{said}"
        return plain(said)

    def lake(self):
        return fsspec.filesystem(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            key=KEY,
            secret=SECRET,
            skip_instance_cache=True,
        )

    def export(self, command: str) -> None:
        self.environment = exported(self.typed(command), self.environment)


def free_block(count: int) -> int:
    """The first of so many ports in a row that nobody listens on, below those of clients."""
    taken = {c.laddr.port for c in psutil.net_connections("tcp") if c.laddr}
    while True:
        first = random.SystemRandom().randrange(20000, 32000)  # not the same in each process
        if not taken & set(range(first, first + count)):
            return first


@pytest.fixture(scope="module")
def cluster(s3_server, tmp_path_factory):
    """The cluster, a bucket and an MLflow server that its nodes know of."""
    home = Path(tmp_path_factory.mktemp("c"))
    s3_server.empty_bucket(BUCKET)
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    coming = threading.Thread(target=server.start)
    coming.start()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))} | {
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        **s3_server.environment,
        "MLFLOW_TRACKING_URI": server.uri,
        VARIABLE: f"slow@worker.step:step={HELD_AT},after={home / 'go'}",
        "PYTHONUNBUFFERED": "1",  # or what `ray job logs` says waits until a buffer is full
    }
    made = Cluster(home, environment)
    (token,) = commands_of("cluster.md", "The token")
    first, export, *_ = commands_of("cluster.md", "One machine")
    *_, last = commands_of("cluster.md", "One machine")
    try:
        made.run(token)
        made.said = made.come_up(first)
        made.export(export)
        coming.join()
        yield made
    finally:
        ended = made.run(last)
        coming.join()
        server.kill()
    assert int(ended.split()[0]) > NODES
    wait_until(lambda: not processes_of(made), "the end of all that the cluster started")
    times = "\n".join(f"{seconds:6.1f} s  {what}" for what, seconds in made.times.items())
    sys.stdout.write(f"{made.said}\n{times}\n")  # pytest -s shows it


def processes_of(cluster: Cluster) -> list[psutil.Process]:
    folder = str(cluster.plan.folder)
    return [each for each in psutil.process_iter(["cmdline"]) if folder in str(each.info)]


def workers_at(cluster: Cluster) -> set[str]:
    """The nodes on which processes of training run."""
    nodes = json.loads((cluster.plan.folder / "nodes.json").read_text())
    found = set()
    for name, (pid, _) in nodes.items():
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # others come and go meanwhile
                if "TrainWorker" in "".join(process.cmdline()[:1]):
                    found.add(name)
    return found


def wait_for(process: subprocess.Popen, pattern: str) -> str:
    """Read lines of a process until one matches; return all of them."""
    said, late = "", threading.Timer(PATIENCE_S, process.kill)
    late.start()
    try:
        for line in process.stdout:
            said += line
            if re.search(pattern, line):
                return said
    finally:
        late.cancel()
    raise AssertionError(f"{pattern} was not said:\n{said}")


def test_every_port_refuses_strangers_and_is_on_loopback(cluster):
    ports = re.search(r"all (\d+) ports are on 127.0.0.1 and refuse strangers", cluster.said)

    assert int(ports[1]) >= sum(len(cluster.plan.ports(node)) for node in range(NODES))
    for node in range(NODES):  # the agents take jobs too
        for place in ("api/version", "api/job_agent/jobs/"):
            url = f"http://127.0.0.1:{cluster.plan.ports(node)[-3]}/{place}"
            assert requests.post(url, json={"entrypoint": "id"}, timeout=120).status_code == 401


@pytest.fixture(scope="module")
def trained(cluster):
    """What was said by a training before it was stopped and after; its nodes and their ports."""
    _, _, prepare, train, logs, stop, again, *_ = commands_of("cluster.md", "One machine")
    # Beside the work that is meant, to save time: one that is refused in the job itself.
    lost = cluster.start("cluster/submit.sh -- python jobs/train_coco.py --data.path /nowhere")

    assert "seen 200 = written 200 + rejected 0" in cluster.run(prepare)
    said, _ = lost.communicate(timeout=PATIENCE_S)
    assert lost.returncode != 0
    assert "output='outputs' is a relative path, and a submitted job runs in a tempo" in said
    cluster.run(train)
    following = cluster.start(logs)
    before = wait_for(following, r"step \d+/150 ")
    nodes = workers_at(cluster)
    ports = see_that_they_refuse(_processes(cluster.plan.folder), only_at="127.0.0.1").training
    stopping, lake = cluster.start(stop), cluster.lake()
    wait_until(
        lambda: lake.invalidate_cache() or lake.exists(f"{BUCKET}/runs/shapes/{REQUEST}"),
        "the request to stop",
        PATIENCE_S,
    )
    (cluster.home / "go").touch()
    stopped, _ = stopping.communicate(timeout=PATIENCE_S)
    assert stopping.returncode == 0, stopped
    before = plain(before + following.communicate(timeout=PATIENCE_S)[0])
    after = cluster.run(again)
    cluster.said += before + after
    return before, after, nodes, ports


def test_a_submitted_training_is_stopped_and_goes_on_by_the_same_command(
    cluster, trained, record_property
):
    before, after, nodes, ports = trained

    assert len(nodes) == 2, nodes
    assert len(ports) == 3, "where gloo of either and the store listen: nowhere but on loopback"
    stopped = int(re.search(r"stopped at step (\d+)\.", before)[1])
    reached = max(int(step) for step in re.findall(r"step (\d+)/150 ", before))
    assert reached <= stopped < reached + 10, "the step at hand is saved, and none after it done"
    assert stopped < 150
    record_property("steps_lost", 0)
    assert f"resuming from step {stopped} (s3://{BUCKET}/runs/shapes/checkpoints" in after
    assert "step 150/150" in after
    record = json.loads(cluster.lake().cat(f"{BUCKET}/runs/shapes/run.json"))
    client = MlflowClient(cluster.environment["MLFLOW_TRACKING_URI"])
    run = client.get_run(record["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert run.data.tags["git.commit"] == head.stdout.strip(), "the copy it runs in has no .git"
    points = [point.step for point in client.get_metric_history(run.info.run_id, "loss/generator")]
    assert points == list(range(10, 151, 10))
    assert_quiet(before)
    assert_quiet(after)


def test_the_other_commands_of_the_page_evaluate_sweep_and_draw(cluster, trained):
    *_, evaluate, sweep, draw, _ = commands_of("cluster.md", "One machine")

    at_once = [cluster.start(command) for command in (evaluate, sweep, draw)]
    for process in at_once:
        said, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
        cluster.said += plain(said)

    lake = cluster.lake()
    assert lake.glob(f"{BUCKET}/runs/shapes/evaluation/**/report.json")
    assert len(lake.glob(f"{BUCKET}/runs/shapes-sweep*/**/checkpoints/*20/COMMITTED")) >= 2
    assert (cluster.home / "drawn" / "grid.png").exists()


def plain(said: str) -> str:
    """Leave out colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", said)


def assert_quiet(said: str) -> None:
    """Nothing in a job's log but what we say, and what Ray says of the job as such."""
    lines = said.split("Tailing logs until the job exits")[-1].splitlines()
    noise = [
        line
        for line in (re.sub(r"^\(RayTrainWorker pid=[^)]*\) ", "", line) for line in lines)
        if re.match(r"\(|20\d\d-|\[|WARNING|INFO|.*Warning:|Traceback", line)
        and not re.search(r" (cli|sdk|job_manager)\.py:\d+ -- ", line)
        and " strikes at " not in line  # the fault that holds the training until it is stopped
    ]
    assert not noise, "\n".join(noise)


def test_what_stands_in_the_way_is_said_at_once(cluster, monkeypatch, tmp_path):
    store, dashboard = str(cluster.plan.store), f"http://{cluster.plan.dashboard}"
    other = tmp_path / "other"
    other.write_text("0" * 64)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    asked, checks = counted_asking(monkeypatch), 0
    cases = [
        ("token missing: the cluster at .* requires one", tmp_path / "none", None),
        ("requires a token, and the one in .* is not used: export RAY_AUTH_MODE", other, None),
        ("wrong token: the cluster at .* does not accept the one in", other, "token"),
    ]

    for message, path, mode in cases:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
        if mode:
            monkeypatch.setenv("RAY_AUTH_MODE", mode)
        for check, address in ((check_head, store), (check_dashboard, dashboard)):
            checks += 1
            with pytest.raises(PermissionError, match=message):
                check(address)
    for check, address in ((check_head, "127.0.0.1:1"), (check_dashboard, "http://127.0.0.1:1")):
        checks += 1
        with pytest.raises(ConnectionError, match=r"no Ray .* answers at .*127\.0\.0\.1:1"):
            check(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.home / ".ray" / "auth_token"))
    check_head(store)
    check_dashboard(dashboard)

    assert checks == 8
    assert len(asked) <= 2 * (checks + 2), "once, and once with a token"


def counted_asking(monkeypatch) -> list[object]:
    """Count how often a cluster is asked: one that has answered is not asked again and again."""
    asked: list[object] = []
    ask_head, ask_dashboard = authentication.ask_head, urllib.request.urlopen
    monkeypatch.setattr(
        authentication, "ask_head", lambda *where: asked.append(where) or ask_head(*where)
    )
    monkeypatch.setattr(
        urllib.request,
        "urlopen",
        lambda *what, **how: asked.append(what) or ask_dashboard(*what, **how),
    )
    return asked
