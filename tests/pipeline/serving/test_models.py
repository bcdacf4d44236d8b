"""Models of MLflow: an alias that moves takes over between two pictures, and no request fails."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from pipeline.cli.generate import GenerateConfig, generate
from pipeline.serving.config import ServeConfig
from pipeline.tracking.mlflow_access import fluent_api, open_store
from pipeline.tracking.mlflow_model import log_model
from tests.pipeline.serving.server import STEP, make_run, served
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]  # MLflow's store takes seconds to make


def register(uri: str, experiment: str, model: Path) -> None:
    """Make a version as the end of a training does."""
    client = MlflowClient(uri)
    content = {path.name: path.read_bytes() for path in model.iterdir()}
    record = {
        "files": {name: len(data) for name, data in content.items()} | {"from": str(model)},
        "name": "birds",
        "step": STEP,
        "description": "birds",
        "text_encoder": "minilm",
        "example": ["a bird"],
    }
    with fluent_api(uri):
        log_model(client, client.create_run(experiment), record, content)


def get(url: str, timeout: float) -> requests.Response:
    """Ask without the environment, which MLflow changes in another thread of this process."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=timeout)


def test_an_alias_that_moves_takes_over_without_a_failed_request(tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_store(uri)
    client = MlflowClient(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "files").as_uri())
    runs = [make_run(tmp_path / str(seed) / "birds", seed=seed) for seed in (1, 2)]
    for run in runs:
        register(uri, experiment, run / "model")
    client.create_model_version("birds", (tmp_path / "nothing").as_uri())
    client.set_registered_model_alias("birds", "best", "1")
    expected = [
        Path(
            generate(
                GenerateConfig(captions=("a red bird",), model=f"{run}/model", output=f"{run}/out")
            )[0]
        ).read_bytes()
        for run in runs
    ]
    assert expected[0] != expected[1]
    config = ServeConfig(model=("models:/birds@best",), tracking_uri=uri, reload_s=0.05, port=0)
    moved = threading.Event()

    with served(config) as address:

        def version() -> str:
            return get(f"{address}/v1/models", timeout=60).json()["data"][0]["version"]

        def ask(_: int) -> list[requests.Response]:
            answers = []
            while not moved.is_set():
                answers.append(get(f"{address}/imagine?prompt=a+red+bird", timeout=120))
            return answers

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, number) for number in range(4)]
            try:
                first = get(f"{address}/imagine?prompt=a+red+bird", timeout=120)
                client.set_registered_model_alias("birds", "best", "2")
                wait_until(lambda: version() == "2", "version 2 takes over")
                second = get(f"{address}/imagine?prompt=a+red+bird", timeout=120)
            finally:
                moved.set()
            answers = [answer for each in asking for answer in each.result()]
        client.set_registered_model_alias("birds", "best", "3")  # has no files
        said = []
        wait_until(
            lambda: said.append(capsys.readouterr().out) or "stays version 2" in "".join(said),
            "that it cannot be loaded is said",
        )
        third = get(f"{address}/imagine?prompt=a+red+bird", timeout=120)
        described = get(f"{address}/v1/models", timeout=60).json()["data"][0]

    assert [first.content, second.content, third.content] == [*expected, expected[1]]
    assert first.headers["etag"] != second.headers["etag"]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in answers} <= set(expected)
    assert (described["id"], described["step"], described["examples"][0]) == (
        "birds",
        STEP,
        "a red bird",
    )
