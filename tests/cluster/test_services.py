"""The services of compose.yaml as they are deployed: their own commands and environment, no Docker.

MLflow on a real PostgreSQL and SeaweedFS, and what of SeaweedFS somebody beside it reaches.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from tests.cluster.hosts import NETWORK, hosts, why_not
from tests.mlflow_server import reserved_port
from tests.services import KEY, SECRET, Postgres, Process, SeaweedFS, postgres, service, weed

pytestmark = [pytest.mark.slow, pytest.mark.rest]

BIN = Path(sys.executable).parent
ENTERED = ("ip", "netns", "exec")
S3_PORT, S3_SECOND_PORT = 8333, 18333
# What SeaweedFS would take without a name: all files, all volumes, all keys.
OTHERS = {"filer": 8888, "master": 9333, "volume": 8080, "filer's second": 18888}


@pytest.fixture(scope="module")
def mlflow(s3_server, tmp_path_factory):
    """MLflow's server on a database and a bucket: its address."""
    if not postgres():
        pytest.skip("PostgreSQL is not installed: make services")
    with ExitStack() as closing, tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        database = Postgres(Path(folder), user="mlflow", password="pass")
        closing.callback(database.kill)
        held = reserved_port()
        port = str(held.getsockname()[1])
        put_in = {
            "5000": port,
            "0.0.0.0": "127.0.0.1",
            "POSTGRES_PASSWORD": "pass",
            "@postgres/": f"@127.0.0.1:{database.port}/",
            "http://s3:8333": s3_server.environment["AWS_ENDPOINT_URL"],
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        log = tmp_path_factory.mktemp("mlflow") / "log"
        command, environment = service("buckets", put_in)
        done = subprocess.run(
            [sys.executable, *command[1:]], env=os.environ | environment, capture_output=True
        )
        assert not done.returncode, done.stderr
        command, environment = service("mlflow", put_in)
        server = Process([str(BIN / command[0]), *command[1:]], environment, log)
        closing.callback(server.kill)
        uri = f"http://127.0.0.1:{port}"
        server.wait_for(lambda: requests.get(f"{uri}/health", timeout=60).ok, "MLflow")
        yield uri
        held.close()


def test_mlflow_keeps_a_run_in_postgresql_and_its_artifact_in_the_bucket(
    mlflow, s3_server, tmp_path
):
    client = MlflowClient(mlflow)
    run = client.create_run(client.create_experiment("deployed")).info.run_id
    (tmp_path / "model.bin").write_bytes(bytes(range(256)))

    client.log_metric(run, "loss", 0.5, step=3)
    client.log_artifact(run, str(tmp_path / "model.bin"), "model")

    (point,) = client.get_metric_history(run, "loss")
    assert (point.value, point.step) == (0.5, 3)
    there = client.download_artifacts(run, "model/model.bin", str(tmp_path.joinpath("back")))
    assert Path(there).read_bytes() == bytes(range(256))
    filesystem = s3_server.file_system()
    (kept,) = (name for name in filesystem.find("mlflow") if run in name)
    assert filesystem.cat(kept) == bytes(range(256))


def test_mlflow_answers_under_the_names_of_this_machine_alone(mlflow):
    url = f"{mlflow}/api/2.0/mlflow/experiments/search"

    foreign = requests.post(url, json={"max_results": 1}, headers={"Host": "a.example"}, timeout=60)

    assert requests.post(url, json={"max_results": 1}, timeout=60).ok
    assert foreign.status_code == 403


VISITOR = """
import socket, sys, urllib.error, urllib.request
import grpc
host, s3, second, *others = sys.argv[1:]
for port in others:
    with socket.socket() as visitor:
        visitor.settimeout(60)
        print(port, "refused" if visitor.connect_ex((host, int(port))) else "open")
for method, path in [("GET", ""), ("GET", "lake?list-type=2"), ("GET", "lake/x"),
                     ("PUT", "lake/x"), ("DELETE", "lake/x"), ("PUT", "mine"),
                     ("POST", "?Action=ListUsers"), ("POST", "?Action=CreateUser&UserName=me")]:
    asked = urllib.request.Request(f"http://{host}:{s3}/{path}", method=method)
    try:
        print(method, path, urllib.request.urlopen(asked, timeout=60).status)
    except urllib.error.HTTPError as error:
        print(method, path, "refused" if error.code in (403, 405) else error.code)
def field(number, value):
    return bytes([number << 3 | 2, len(value)]) + value
keys = field(1, b"mallory-key") + field(2, b"mallory-secret")
person = field(1, b"mallory") + field(2, keys) + field(3, b"Admin")
with grpc.insecure_channel(f"{host}:{second}") as channel:
    ask = channel.unary_unary("/messaging_pb.SeaweedS3IamCache/PutIdentity")
    try:
        print("a key of one's own", ask(field(1, person), timeout=60))
    except grpc.RpcError as error:
        refused = error.code() == grpc.StatusCode.UNAVAILABLE
        print("a key of one's own", "refused" if refused else error)
"""


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
@pytest.mark.skipif(not weed(), reason="SeaweedFS' wheel is for Linux alone")
def test_nobody_beside_seaweedfs_gets_in_without_a_key(tmp_path):
    with hosts("s3", "visitor") as made:
        server = SeaweedFS(tmp_path / "s3", (*ENTERED, made.space("s3")), own_ports=False)
        try:
            server.server.wait_for(lambda: listens(made, S3_PORT), "SeaweedFS")
            there = listening(made)
            said = visit(made, f"{NETWORK}.1")
        finally:
            server.kill()

    outside = {port for address, port in there if not address.startswith("127.")}
    assert outside == {S3_PORT, S3_SECOND_PORT}
    assert {port for _, port in there} >= set(OTHERS.values()), "what is looked for is there"
    assert len(said) == len(OTHERS) + 9
    assert [line for line in said if not line.endswith("refused")] == []


def visit(made, host: str) -> list[str]:
    """What somebody else on the network is answered, a line for each thing tried."""
    ports = [str(port) for port in (S3_PORT, S3_SECOND_PORT, *OTHERS.values())]
    done = subprocess.run(
        [*ENTERED, made.space("visitor"), sys.executable, "-c", VISITOR, host, *ports],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return done.stdout.splitlines()


def listening(made) -> set[tuple[str, int]]:
    done = subprocess.run(
        [*ENTERED, made.space("s3"), "ss", "-Hltn"], capture_output=True, text=True, check=True
    )
    places = (line.split()[3].rpartition(":") for line in done.stdout.splitlines())
    return {(address, int(port)) for address, _, port in places}


def listens(made, port: int) -> bool:
    return port in {each for _, each in listening(made)}
