"""A canary in every place that holds a secret: nothing that runs keep or say has it."""

import os
from pathlib import Path

import pytest

from tests.chaos import invariants
from tests.chaos.cluster import Cluster
from tests.chaos.commands import Command, training
from tests.chaos.proxy import ChaosProxy
from tests.mlflow_server import MlflowServer

pytestmark = [pytest.mark.slow, pytest.mark.rest]

CANARY = "canary-5f0d91c3ab"
KEYS = {  # of places that hold secrets, each with its own
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}/aws+secret",
    "AWS_SESSION_TOKEN": f"{CANARY}-session",
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-mlflow",
    "MLFLOW_TRACKING_USERNAME": "me",
    "HF_TOKEN": f"{CANARY}-hub",
    "DATABASE_URL": f"postgresql://me:{CANARY}-db@db/x",
}


@pytest.fixture
def server(tmp_path):
    (tmp_path / "mlflow").mkdir()
    server = MlflowServer(tmp_path / "mlflow")
    server.start()
    yield server
    server.kill()


def with_password(uri: str) -> str:
    return uri.replace("://", f"://me:{CANARY}-uri@")


@pytest.mark.thorough
def test_a_run_and_its_tracker_keep_no_secret_nor_do_their_words(server, shapes, tmp_path):
    output = tmp_path / "runs"
    flags = training(str(shapes.folder), output, workers=1, total_steps=4, checkpoint_every=2)
    flags += [f"--tracking.uri={with_password(server.uri)}"]

    with Cluster(tmp_path, **KEYS) as cluster:
        head = cluster.add(cpus=2)
        with Command("train_coco", *flags, **cluster.client) as command:
            assert command.wait() == 0, command.said
        head.end()  # or files come and go while they are searched
        records = Path(cluster.temporary)
        logs = list(records.rglob("*.log"))
        found = invariants.secrets_in([tmp_path, records], [CANARY])

    assert f"mlflow {server.uri} run new" in command.said
    kept = list(output.rglob("*"))
    assert {"run.json", "state.json", "README.md", "start.json"} <= {path.name for path in kept}
    assert (tmp_path / "mlflow/mlflow.db").stat().st_size > 100_000
    assert list((tmp_path / "mlflow/artifacts").rglob("MLmodel"))
    assert logs, "Ray wrote its logs elsewhere"
    assert CANARY not in command.said
    assert found == []


@pytest.mark.thorough
def test_nothing_that_fails_tells_a_secret(shapes, tmp_path, s3_server, bucket):
    environment, _ = bucket
    output = tmp_path / "runs"
    flags = training(str(shapes.folder), output, total_steps=2)

    with ChaosProxy(*s3_server.address) as dead:
        dead.refuse()
        with Command(
            *("train_coco", "--debug", *flags), **KEYS, MLFLOW_TRACKING_URI=with_password(dead.url)
        ) as alone:
            assert alone.wait() == 0, alone.said
    with ChaosProxy(*s3_server.address) as proxy:
        proxy.inject("403", times=1000)
        refusing = environment | KEYS | {"AWS_ENDPOINT_URL": with_password(proxy.url)}
        with Command(
            *("train_coco", "--debug", *training(str(shapes.folder), "s3://lake/runs")), **refusing
        ) as refused:
            status = refused.wait()

    assert f"MLflow at {dead.url} does not answer" in alone.said
    assert status == 2, refused.said
    assert "output: nothing can be kept in s3://lake/runs" in refused.said
    assert CANARY not in alone.said + refused.said
    assert invariants.secrets_in([tmp_path], [CANARY]) == []


def test_a_canary_would_be_found(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(os.urandom(100) + CANARY.encode() + os.urandom(100))

    assert invariants.secrets_in([tmp_path], [CANARY]) == [f"{tmp_path}/deep/file holds {CANARY}"]
