"""README's chapters in their order, by one user with one fresh home folder, at a small size."""

import os
import stat
import subprocess

import pytest

from tests.cluster.docs import ROOT, commands_of
from tests.cluster.test_local_cluster import BIN, Cluster

pytestmark = pytest.mark.slow

SMALL_QUICKSTART = (
    "--source.count=200 --sentence-dim=16 --train.total-steps=4 --train.log-every=4 "
    "--train.checkpoint-every=4 --train.sample-every=4 --train.evaluate-every=4 "
    "--train.evaluate-images=20 --train.model.base-channels=2"
)


def recipe(target: str, output: object) -> str:
    """What `make` would run for a target, last of all."""
    said = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target, f"OUTPUT={output}", f"BIN={BIN}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return said.strip().splitlines()[-1]


def test_the_chapters_in_their_order(tmp_path):
    home, outputs = tmp_path / "home", tmp_path / "outputs"
    home.mkdir()
    foreign = ("RAY_", "AWS_", "MLFLOW_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    user = Cluster(home, environment | {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"})
    make, draw, way, *_ = commands_of("../README.md", "Quickstart")
    start, export, submit, stop = commands_of("../README.md", "On a Ray cluster")

    assert make == "make quickstart"
    user.run(f"{recipe('quickstart', outputs)} {SMALL_QUICKSTART}")
    for command in (draw, way):  # the second has the model of the first as its default
        command = command.partition("#")[0].replace("--model outputs/quickstart/model", "")
        where = f"--model {outputs}/quickstart/model --output {outputs}/generated"
        user.run(f"{command} {where}")

    assert len(list((outputs / "generated").glob("*.png"))) > 2
    assert not (home / ".ray").exists(), "a run's own Ray is nobody else's business"

    said = user.come_up(start.partition("#")[0].strip())
    token = home / ".ray" / "auth_token"
    try:
        assert "refuse strangers" in said
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        user.export(export)
        submit = submit.replace("$PWD/data/coco-64", str(outputs / "quickstart" / "data"))
        submit = submit.replace("$PWD/outputs", str(outputs)).replace("-size 64", "-size 32")
        submit = submit.replace("-channels 16", "-channels 2").replace(
            "-steps 200", "-steps 2 --data.no-flip"
        )
        trained = user.run(submit)
    finally:
        user.run(stop)

    assert "step 2/2" in trained
    assert (outputs / "coco-64-job" / "model" / "model.json").exists()
    assert token.read_text() not in said + trained
