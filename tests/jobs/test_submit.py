"""Jobs submitted to a Ray cluster that really runs, with a token, beside the one of the tests."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

import ratgan
from pipeline.checkpointing import newest_checkpoint
from pipeline.storage import Folder
from tests.chaos import invariants
from tests.chaos.commands import training
from tests.conftest import free_ports

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" * 6 + "c0ff"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def submit(tmp_path_factory):
    """Start a cluster of one node; return a function that submits a job and waits for its end."""
    gcs, dashboard, agent, client = free_ports(4)
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path must be short
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # Ray's own 3 s are less than a save may take
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    log = tmp_path_factory.mktemp("cluster") / "log"
    with log.open("wb") as stream:
        head = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", "--num-cpus=3"),
                *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={temporary}"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
                *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
            ],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def jobs(*arguments: str) -> subprocess.CompletedProcess:
        address = f"http://127.0.0.1:{dashboard}"
        return subprocess.run(
            [BIN / "ray", "job", arguments[0], "--address", address, *arguments[1:]],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def run(*command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        variables = json.dumps({"env_vars": {"GIT_COMMIT": COMMIT}})
        place = ("--working-dir", ".", "--runtime-env-json", variables)
        return jobs("submit", *place, *options, "--", "python", *command)

    run.jobs = jobs
    try:
        _wait_for(f"http://127.0.0.1:{dashboard}/api/version", head, log)
        yield run
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(url, timeout=5).status_code == 401:  # it asks for the token: it is up
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise AssertionError(f"the cluster did not start:\n{log.read_text()}")


def test_a_submitted_job_refuses_a_folder_that_would_be_lost(submit):
    done = submit("jobs/train_coco.py", "--data.path", "/nowhere")

    assert done.returncode != 0
    assert "output='outputs' is a relative path, and a submitted job runs in a tempo" in done.stdout
    assert "s3://my-bucket/outputs" in done.stdout


def test_a_submitted_job_trains_on_the_cluster(submit, shapes, tmp_path):
    done = submit(
        *("jobs/train_coco.py", "--name", "submitted", "--output", str(tmp_path)),
        *("--data.path", shapes.folder.location, "--data.no-flip", "--workers", "1"),
        *("--model.image-size", "32", "--model.base-channels", "2", "--optim.batch-size", "4"),
        *("--total-steps", "4", "--log-every", "2", "--samples", "2"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 4/4" in done.stdout
    assert ratgan.load(tmp_path / "submitted" / "model").origin["step"] == 4
    run_id = json.loads((tmp_path / "submitted" / "run.json").read_text())["mlflow_run_id"]
    run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["git.commit"] == COMMIT, "the copy it runs in has no .git"


def test_a_stopped_job_saves_the_step_it_is_in(submit, shapes, tmp_path, record_property):
    flags = training(
        str(shapes.folder), tmp_path, total_steps=3000, checkpoint_every=3000, sample_every=3000
    )
    named = ("--no-wait", "--submission-id", "to-be-stopped")
    started = submit("jobs/train_coco.py", *flags, options=named)
    assert started.returncode == 0, started.stdout + started.stderr
    deadline = time.monotonic() + 200
    while "step 5/" not in (said := submit.jobs("logs", "to-be-stopped").stdout):
        assert time.monotonic() < deadline, said

    asked = time.monotonic()
    stopped = submit.jobs("stop", "to-be-stopped")
    took_s = time.monotonic() - asked

    said = submit.jobs("logs", "to-be-stopped").stdout
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert took_s < 60
    _, state = newest_checkpoint(Folder(f"{tmp_path}/run/checkpoints"))
    reached = [int(step) for step in re.findall(r"(?m)^step (\d+)/", said.replace(",", ""))]
    assert state["step"] == max(reached), "the step at hand is the last one that was done"
    assert f"stopped at step {state['step']:,}. The same command goes on from there." in said
    assert invariants.left_over(tmp_path / "run") == []
    record_property("steps_lost", max(reached) - state["step"])
