"""Runs as a person reads them: three real ones in MLflow's UI, in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow import MlflowClient

from pipeline.best_model import Quality
from pipeline.evaluation.afterwards import record_numbers
from pipeline.run_record import read_record
from pipeline.sender import send_rest
from pipeline.tracking import Tracker
from pipeline.train import train
from tests.conftest import free_ports
from tests.pipeline.test_train import config

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
WAIT_MS = 120_000  # a busy machine takes its time
RATES = (0.0004, 0.0008, 0.0016)
VALUES = (31.5, 24.25, 28.0)
METRIC, NAME = "eval/fd_builtin", "ratgan-compared"
# A picture of a run that is loaded; logos are smaller.
GRID = """[...document.images].find(image =>
    /artifact|^blob:/.test(image.src) && image.complete && image.naturalWidth > 100)"""
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
NOTE = "mlflow.note.content"


@pytest.fixture(scope="module")
def runs(mlflow_server, shapes, tmp_path_factory):
    """Three trainings with other learning rates, each measured; their folders by run id."""
    output, found = tmp_path_factory.mktemp("compared"), {}
    for rate, value in zip(RATES, VALUES, strict=True):
        tracking = {
            "uri": mlflow_server.uri,
            "experiment": "compared",
            "registered_model": NAME,
        }
        optim = {"batch_size": 12, "generator_lr": rate}
        options = config(
            shapes, output, f"rate-{rate:g}", total_steps=4, tracking=tracking, optim=optim
        )
        run = train(options)
        record_numbers(run, 4, {}, quality=Quality(METRIC, value, 4, "quick", lower_is_better=True))
        found[read_record(run)["mlflow_run_id"]] = run
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that no one has used before; a function that opens a page of MLflow."""
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: make browser installs Debian's")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"),
            executable_path=CHROMIUM,
            args=FLAGS.split(),
            viewport={"width": 1400, "height": 900},
        )
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()

        def open_page(server, path: str):
            page.goto(f"{server.uri}/#{path}")
            return page

        yield open_page
        context.close()


def keep(page, name: str) -> None:
    """Keep a picture of a page where one is asked for: they are in docs/."""
    if folder := os.environ.get("RATGAN_SCREENSHOTS"):
        assistant = page.get_by_role("button", name="Close", exact=True)
        if assistant.count():
            assistant.first.click()
        page.wait_for_timeout(3000)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_compare_page_shows_names_learning_rates_and_the_quality_of_three_runs(
    runs, browser, mlflow_server
):
    client = MlflowClient(mlflow_server.uri)
    experiment = client.get_experiment_by_name("compared").experiment_id
    chosen = json.dumps(list(runs), separators=(",", ":"))

    page = browser(mlflow_server, f"/compare-runs?runs={chosen}&experiments=[%22{experiment}%22]")

    table = page.locator("body")
    for rate in RATES:
        page.get_by_text(f"rate-{rate:g}", exact=True).first.wait_for()
    page.get_by_text(METRIC, exact=True).first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    text = table.inner_text()
    rows = {line.split("\n")[0].split("\t")[0]: line for line in re.split(r"\n(?=\S)", text)}
    assert "optim.generator_lr" in rows
    for number in (*RATES, *VALUES):
        assert re.search(rf"(?<![\d.]){re.escape(f'{number:g}')}(?![\d.])", text), number
    keep(page, "mlflow-compare")


def test_the_pages_of_a_run_show_curves_system_metrics_and_grids_that_follow_the_steps(
    runs, browser, mlflow_server
):
    client = MlflowClient(mlflow_server.uri)
    experiment = client.get_experiment_by_name("compared").experiment_id
    home = f"/experiments/{experiment}/runs/{next(iter(runs))}"

    page = browser(mlflow_server, f"{home}/system-metrics")
    page.get_by_text("process_cpu_percent", exact=False).first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()

    page = browser(mlflow_server, f"{home}/model-metrics")
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
    keep(page, "mlflow-run")
    # Grids come last, and what is not on the screen yet is not there yet.
    deadline = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(f"Boolean({GRID})"):
        assert time.monotonic() < deadline, page.inner_text("body")
        page.mouse.move(500, 600)
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(300)
    page.evaluate(f"{GRID}.scrollIntoView({{block: 'center'}})")
    page.get_by_role("slider").first.wait_for()
    keep(page, "mlflow-grid")


def test_the_alias_best_names_the_version_with_the_best_measure_and_says_why(runs, mlflow_server):
    client = MlflowClient(mlflow_server.uri)
    best = client.get_model_version_by_alias(NAME, "best")
    registered = client.get_registered_model(NAME)

    assert best.run_id == list(runs)[VALUES.index(min(VALUES))]
    assert registered.tags["best"] == (
        f"version {best.version} has the lowest {METRIC}, 24.25, of the 3 measured under protocol "
        "quick"
    )
    for (run_id, folder), value in zip(runs.items(), VALUES, strict=True):
        tags = client.get_run(run_id).data.tags
        assert tags["protocol"] == "quick"
        assert re.fullmatch("[0-9a-f]+", tags["ray.job_id"])
        assert "trained on 120 images of `shapes`" in tags[NOTE]
        assert "* State: finished: 4 steps, 48 images" in tags[NOTE]
        assert f"* Quality: {METRIC} {value:g} at step 4 under protocol quick (lower" in tags[NOTE]
        assert f"`{folder}/model`" in tags[NOTE]


def test_what_is_sent_again_makes_no_second_version_and_a_persons_note_stays(runs, mlflow_server):
    client = MlflowClient(mlflow_server.uri)
    run_id, folder = next(iter(runs.items()))
    before = client.get_run(run_id).data.tags[NOTE]

    (folder / "spool").delete("sent.json")
    assert send_rest(folder, mlflow_server.uri).delivery.delivered > 5

    assert len(client.search_model_versions(f"name='{NAME}'")) == 3
    assert client.get_run(run_id).data.tags[NOTE] == before

    client.set_tag(run_id, NOTE, "mine")
    again = Quality(METRIC, 1.5, 4, "quick", lower_is_better=True)
    tracker = Tracker(folder)
    tracker.quality(again)
    tracker.flush()
    send_rest(folder, mlflow_server.uri)

    assert client.get_run(run_id).data.tags[NOTE] == "mine"
    assert client.get_model_version_by_alias(NAME, "best").run_id == run_id


@pytest.mark.thorough
def test_mlflow_serves_the_best_model_over_http(runs, mlflow_server):
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@best"),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
    ]
    server = subprocess.Popen(
        command,
        env=os.environ | {"MLFLOW_TRACKING_URI": mlflow_server.uri, "PATH": PATH},
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and server.poll() is None:
            with suppress(requests.RequestException):
                if requests.get(f"{address}/ping", timeout=5).ok:
                    break
            time.sleep(0.5)
        answers = [
            requests.post(
                f"{address}/invocations",
                json={"dataframe_records": [{"caption": "a red circle"}], "params": {"seed": seed}},
                timeout=120,
            ).json()["predictions"]
            for seed in (3, 3, 4)
        ]
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=60)

    images = [np.array(answer) for answer in answers]
    assert images[0].shape == (1, 32, 32, 3)
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
