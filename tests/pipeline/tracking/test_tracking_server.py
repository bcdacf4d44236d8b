"""A run recorded by a real MLflow server: options, curves, pictures and the model reach it."""

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.tracking.mlflow_access import fluent_api
from pipeline.training.train import train
from tests.mlflow_server import patience
from tests.pipeline.training.test_train import config

pytestmark = pytest.mark.slow


def test_a_server_holds_curves_pictures_and_a_model_that_draws(mlflow_server, shapes, tmp_path):
    server = mlflow_server.uri
    tracking = {"uri": server, "experiment": "a server"}
    with patience():
        run = train(config(shapes, tmp_path, total_steps=4, tracking=tracking))

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
