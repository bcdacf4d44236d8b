"""Runs as a person reads them: three real ones in MLflow's UI, in a real browser."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import requests
from mlflow import MlflowClient

from pipeline.storage.folder import Folder
from pipeline.tracking.best_version import Quality
from pipeline.tracking.late_metrics import Findings, record_numbers
from pipeline.tracking.run_record import read_record
from pipeline.tracking.sender import send_rest
from pipeline.tracking.tracker import Tracker
from pipeline.training.train import train
from tests.browser import CHROMIUM, WAIT_MS
from tests.mlflow_server import patience, reserved_port
from tests.pipeline.reports.runs import make_run
from tests.pipeline.training.test_train import config
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
RATES = (0.0004, 0.0008, 0.0016)
VALUES = (31.5, 24.25, 28.0)
METRIC, NAME, CHANGED = "eval/fd_builtin", "ratgan-compared", "ratgan-changed"
# A picture of a run that is loaded; logos are smaller.
GRID = """[...document.images].find(image =>
    /artifact|^blob:/.test(image.src) && image.complete && image.naturalWidth > 100)"""
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
NOTE = "mlflow.note.content"


@pytest.fixture(autouse=True)
def patient():
    with patience():
        yield


def trained(
    server, shapes, output: Path, model: str, measured: Iterable[tuple[float, float]]
) -> dict[str, Folder]:
    """Train with other learning rates, each measured; return the folders by run id."""
    found = {}
    tracking = {"uri": server.uri, "experiment": output.name, "registered_model": model}
    for rate, value in measured:
        optim = {"batch_size": 12, "generator_lr": rate}
        options = config(
            shapes, output, f"rate-{rate:g}", total_steps=4, tracking=tracking, optim=optim
        )
        run = train(options)
        quality = Quality(METRIC, value, 4, "quick", lower_is_better=True)
        record_numbers(run, Findings(4, {}, quality=quality), uri=server.uri)
        found[read_record(run)["mlflow_run_id"]] = run
    return found


@pytest.fixture(scope="module")
def runs(mlflow_server, shapes, tmp_path_factory):
    """Three trainings, which no test changes."""
    output = tmp_path_factory.mktemp("all") / "compared"
    with patience():
        return trained(mlflow_server, shapes, output, NAME, zip(RATES, VALUES, strict=True))


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

    for rate in RATES:
        page.get_by_text(f"rate-{rate:g}", exact=True).first.wait_for()
    page.get_by_text(METRIC, exact=True).first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()

    def missing() -> set[str]:
        text = page.locator("body").inner_text()
        rows = {line.split("\n")[0].split("\t")[0] for line in re.split(r"\n(?=\S)", text)}
        numbers = {f"{number:g}" for number in (*RATES, *VALUES)}
        shown = {n for n in numbers if re.search(rf"(?<![\d.]){re.escape(n)}(?![\d.])", text)}
        return {"optim.generator_lr"} - rows | numbers - shown

    with suppress(AssertionError):  # which would not say what is missing
        wait_until(lambda: not missing(), "all is shown")
    assert missing() == set()
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


def test_the_charts_of_two_runs_show_a_caption_of_each_with_a_slider_over_steps(
    browser, mlflow_server, tmp_path
):
    both = {}
    for name in ("one", "other"):
        run = Folder(str(make_run(tmp_path / name, steps=(0, 10))))
        assert not send_rest(run, mlflow_server.uri).delivery.left()
        both[name] = read_record(run)["mlflow_run_id"]
    experiment = MlflowClient(mlflow_server.uri).get_experiment_by_name("e").experiment_id

    page = browser(mlflow_server, f"/experiments/{experiment}/runs?compareRunsMode=CHART")
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(
        has=page.get_by_text("samples/a blue square", exact=True)
    )
    card.locator("img").first.wait_for()
    card.scroll_into_view_if_needed()

    def runs_at(step: int) -> set[str]:
        """The runs whose picture of that step is on the card."""
        sources = card.locator("img").evaluate_all(
            "all => all.filter(i => i.complete && i.naturalWidth > 100).map(i => i.src)"
        )
        picture = f"samples~a blue square+step+{step}+"
        shown = [source for source in map(unquote, sources) if picture in source]
        return {run for run in both.values() if any(run in source for source in shown)}

    wait_until(lambda: runs_at(0) == set(both.values()), "both runs have their first picture")
    keep(page, "mlflow-captions")
    card.get_by_role("slider").press("ArrowRight")
    wait_until(lambda: runs_at(10) == set(both.values()), "both runs have that of step 10")


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
        assert "trained on 120 images of `shapes`" in tags[NOTE]
        assert "* State: finished: 4 steps, 48 images" in tags[NOTE]
        assert f"* Quality: {METRIC} {value:g} at step 4 under protocol quick (lower" in tags[NOTE]
        assert f"`{folder}/model`" in tags[NOTE]


def test_what_is_sent_again_makes_no_second_version_and_a_persons_note_stays(
    mlflow_server, shapes, tmp_path
):
    client = MlflowClient(mlflow_server.uri)
    two = zip(RATES[:2], VALUES[:2], strict=True)  # the second is better
    runs = trained(mlflow_server, shapes, tmp_path / "changed", CHANGED, two)
    run_id, folder = next(iter(runs.items()))
    before = client.get_run(run_id).data.tags[NOTE]

    (folder / "spool").delete("sent.json")
    assert send_rest(folder, mlflow_server.uri).delivery.delivered > 5

    assert len(client.search_model_versions(f"name='{CHANGED}'")) == 2
    assert client.get_run(run_id).data.tags[NOTE] == before

    client.set_tag(run_id, NOTE, "mine")
    again = Quality(METRIC, 1.5, 4, "quick", lower_is_better=True)
    tracker = Tracker(folder)
    tracker.quality(again)
    tracker.flush()
    send_rest(folder, mlflow_server.uri)

    assert client.get_run(run_id).data.tags[NOTE] == "mine"
    assert client.get_model_version_by_alias(CHANGED, "best").run_id == run_id


@pytest.mark.thorough
def test_mlflow_serves_the_best_model_over_http(runs, mlflow_server):
    reserved = reserved_port()
    port = reserved.getsockname()[1]
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

        def answers_a_ping() -> bool:
            assert server.poll() is None, "it ended"
            with suppress(requests.RequestException):
                return requests.get(f"{address}/ping", timeout=60).ok
            return False

        wait_until(answers_a_ping, "the server answers", 600)
        answers = [
            requests.post(
                f"{address}/invocations",
                json={"dataframe_records": [{"caption": "a red circle"}], "params": {"seed": seed}},
                timeout=300,
            ).json()["predictions"]
            for seed in (3, 3, 4)
        ]
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=300)
        reserved.close()

    images = [np.array(answer) for answer in answers]
    assert images[0].shape == (1, 32, 32, 3)
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
