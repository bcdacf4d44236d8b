"""Training with workers on a real Ray."""

import json
import re
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

import ratgan
from pipeline.cli.generate import GenerateConfig, generate
from pipeline.config import TrainConfig
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.evaluate import evaluate
from pipeline.tracking.mlflow_access import fluent_api
from pipeline.tracking.store_file import store_address
from pipeline.training.train import train
from tests.files import files
from tests.pipeline.training.test_train import config

pytestmark = pytest.mark.slow


def test_two_ray_workers_train_as_one_and_resume(ray_session, shapes, tmp_path):
    whole = tmp_path / "whole"
    train(config(shapes, whole))
    train(config(shapes, tmp_path, workers=2, total_steps=4))

    train(config(shapes, tmp_path, workers=2, total_steps=8))

    def losses(output: Path) -> list[float]:
        client = MlflowClient(f"sqlite:///{output}/mlflow.db")
        run_id = json.loads((output / "run" / "run.json").read_text())["mlflow_run_id"]
        assert re.fullmatch("[0-9a-f]+", client.get_run(run_id).data.tags["ray.job_id"])
        return [p.value for p in client.get_metric_history(run_id, "loss/discriminator")]

    # In float32, Adam makes full steps of gradients that are only rounding; the equality in
    # float64 is in test_collective.py.
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-3)
    assert ratgan.load(tmp_path / "run" / "model").origin["step"] == 8


@pytest.mark.rest
def test_a_run_with_its_data_is_moved_between_folders_of_any_name_and_goes_on(
    ray_session, shapes, tmp_path
):
    old, new = tmp_path / "my%20runs #1 [v2]? ü", tmp_path / "it's {a,b} 100%"
    shutil.copytree(str(shapes.folder), old / "data")

    def options(output: Path, **changes) -> TrainConfig:
        data = {"path": f"{output}/data", "flip": False}
        return config(shapes, output, data=data, total_steps=2, checkpoint_every=2, **changes)

    train(options(old, workers=1))
    before = files(old / "mlflow-artifacts")
    old.rename(new)
    train(options(new, extend=2))
    model = str(new / "run" / "model")
    drawn = generate(
        GenerateConfig(captions=("a red circle",), model=model, output=str(new / "drawn"))
    )
    report = evaluate(EvaluateConfig(model=str(new / "run"), count=20, few_images=True, actors=1))

    assert [each.name for each in tmp_path.iterdir()] == [new.name]
    assert all(Path(each).is_file() for each in drawn)
    assert report["data"]["location"] == f"{new}/data"
    uri = store_address(new / "mlflow.db")
    run_id = json.loads((new / "run" / "run.json").read_text())["mlflow_run_id"]
    logged = MlflowClient(uri).get_run(run_id)
    history = MlflowClient(uri).get_metric_history(run_id, "loss/generator")
    assert [point.step for point in history] == [2, 4]
    assert logged.data.metrics["eval/fd_builtin_20"] == report["numbers"]["fd_builtin"]
    assert before.items() <= files(new / "mlflow-artifacts").items()
    with fluent_api(uri):
        found = Path(mlflow.artifacts.download_artifacts(run_id=run_id))
        served = mlflow.pyfunc.load_model("models:/ratgan-shapes-32/1")
    assert {Path(name).name for name in before if "/images/" in name} <= {
        each.name for each in (found / "images").iterdir()
    }
    assert served.metadata.signature.inputs.input_names() == ["caption"]
