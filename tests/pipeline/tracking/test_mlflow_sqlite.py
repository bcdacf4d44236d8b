"""MLflow's store in a file is whole or not there, whoever is killed while it is made."""

import signal
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from pipeline.tracking.mlflow_sqlite import make_store

pytestmark = [pytest.mark.slow, pytest.mark.rest]

MAKE = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from pipeline.tracking.mlflow_sqlite import make_store

made = []

@event.listens_for(Engine, "after_cursor_execute")
def killed_at_the_third_table(connection, cursor, statement, *_):
    made.extend(["a table"] if "CREATE TABLE" in statement else [])
    if len(made) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

make_store(sys.argv[1])
"""


def test_a_store_whose_making_was_killed_is_made_by_the_next(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    killed = subprocess.run([sys.executable, "-c", MAKE, uri], check=False, timeout=600)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".mlflow-*/mlflow.db"))
    assert not (tmp_path / "mlflow.db").exists()

    make_store(uri)
    made = (tmp_path / "mlflow.db").read_bytes()
    make_store(uri)

    assert (tmp_path / "mlflow.db").read_bytes() == made
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("e")).info.run_id
    client.log_metric(run, "loss", 1.0)
    assert client.get_run(run).data.metrics == {"loss": 1.0}
    with pytest.raises(FileNotFoundError):
        (tmp_path / "mlflow.db-wal").stat()


def test_a_server_is_not_a_file():
    make_store("http://127.0.0.1:9")
