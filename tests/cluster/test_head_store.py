"""The store that keeps what a head knows: its own command, and a head that comes back to it."""

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.chaos.cluster import Cluster
from tests.mlflow_server import reserved_port
from tests.services import Process

# Not in make test-all: in one of two runs on a busy machine, `ray start` of the second head waited
# for five minutes, though its GCS had read the store.
pytestmark = [pytest.mark.slow, pytest.mark.thorough]

MANIFEST = Path(__file__).parents[2] / "cluster" / "kuberay" / "head-store.yaml"
PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
PASSWORD = "canary-store-password"
# What a job leaves with the head: jobs, actors and placement groups are kept in the same way.
NOTE = "import ray; from ray.experimental import internal_kv as kv; ray.init(log_to_driver=False); "


@pytest.fixture
def store(tmp_path):
    """The store as head-store.yaml starts it: its port."""
    if not PROGRAM:
        pytest.skip("neither Valkey nor Redis is installed: make services")
    found = [
        each for each in yaml.safe_load_all(MANIFEST.read_text()) if "template" in each["spec"]
    ]
    (container,) = found[0]["spec"]["template"]["spec"]["containers"]
    held = reserved_port()
    port = held.getsockname()[1]
    *shell, script = container["command"]
    own = f"{PROGRAM} - --port {port} --bind 127.0.0.1"
    assert "valkey-server -" in script
    script = script.replace("valkey-server -", own).replace("/data", str(tmp_path))
    server = Process([*shell, script], {"PASSWORD": PASSWORD}, tmp_path / "log")
    try:
        server.wait_for(lambda: "eady to accept connections" in server.log.read_text(), "the store")
        yield server, port
    finally:
        server.kill()
        held.close()


def asked(port: int, *words: str) -> str:
    client = f"{Path(PROGRAM).with_name(Path(PROGRAM).name.replace('server', 'cli'))}"
    done = subprocess.run(
        [client, "-h", "127.0.0.1", "-p", str(port), *words], capture_output=True, text=True
    )
    return done.stdout + done.stderr


def run(cluster: Cluster, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", NOTE + program],
        env=cluster.client,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_head_that_is_lost_comes_back_with_what_it_knew(store, tmp_path):
    server, port = store
    # As KubeRay tells a head of gcsFaultToleranceOptions.
    where = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}", "RAY_external_storage_namespace": "ratgan"}
    with ExitStack() as closing:
        cluster = closing.enter_context(Cluster(tmp_path, **where))
        cluster.head_options = [f"--redis-password={PASSWORD}"]
        head = cluster.add(cpus=1)
        run(cluster, "kv._internal_kv_put(b'note', b'kept')")

        head.end()
        cluster.nodes.clear()
        cluster.add(cpus=1)

        assert "kept" in run(cluster, "print(kv._internal_kv_get(b'note'))")
    assert "NOAUTH" in asked(port, "keys", "*")
    line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert PASSWORD.encode() not in line, "everybody on the node could read it"
    assert (tmp_path / "appendonlydir").is_dir() or list(tmp_path.glob("*.aof"))
