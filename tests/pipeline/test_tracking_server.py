"""A run recorded by a real MLflow server: options, curves, pictures and the model reach it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient

from pipeline.mlflow_run import fluent_api
from pipeline.train import train
from tests.conftest import free_ports
from tests.pipeline.test_train import config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a server that keeps artifacts itself, as a team's does."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health", process, folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def test_a_server_holds_curves_pictures_and_a_model_that_draws(server, shapes, tmp_path):
    run = train(config(shapes, tmp_path, total_steps=4, tracking={"uri": server}))

    client = MlflowClient(server)
    run_id = run.read_json("run.json")["mlflow_run_id"]
    recorded = client.get_run(run_id)
    assert recorded.info.status == "FINISHED"
    assert "tracking.uri" not in recorded.data.params
    assert [p.step for p in client.get_metric_history(run_id, "loss/generator")] == [2, 4]
    assert client.list_artifacts(run_id, "images")
    with fluent_api(server):
        (logged,) = mlflow.search_logged_models(
            experiment_ids=[recorded.info.experiment_id], output_format="list"
        )
        served = mlflow.pyfunc.load_model(logged.model_uri)
    drawn = served.predict(pd.DataFrame({"caption": ["a large blue square at the top left"]}))
    assert drawn.shape == (1, 32, 32, 3)
    assert not (tmp_path / "mlflow.db").exists(), "nothing is kept beside the runs then"
