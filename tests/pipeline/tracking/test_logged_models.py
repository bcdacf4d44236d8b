"""A model that MLflow logged carries its code: it loads whatever the code here has become."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import ratgan

# Logged when `pipeline` and `ratgan` were flat: one channel, 32 px, untrained.
LOGGED = Path(__file__).with_name("model_before_packages.tar.xz")
DRAW = """
import json, sys
import mlflow, pandas
import ratgan
served = mlflow.pyfunc.load_model(sys.argv[1])
drawn = served.predict(pandas.DataFrame({"caption": ["a red circle"]}), params={"seed": 3})
code = sys.modules["ratgan"].__file__
print(json.dumps([list(drawn.shape), str(drawn.dtype), int(drawn.min()) < int(drawn.max()), code]))
"""


@pytest.mark.slow
@pytest.mark.rest  # a process that imports torch and MLflow
@pytest.mark.parametrize("imported", [True, False], ids=["beside ours", "alone"])
def test_a_model_logged_before_the_packages_loads_and_draws(imported, tmp_path):
    with tarfile.open(LOGGED) as archive:
        archive.extractall(tmp_path / "model", filter="data")

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            DRAW if imported else DRAW.replace("import ratgan\n", ""),
            str(tmp_path / "model"),
        ],
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    shape, kind, varied, code = json.loads(done.stdout.splitlines()[-1])
    assert (shape, kind, varied) == ([1, 32, 32, 3], "uint8", True)
    # Where ours is imported already, it is ours that draws.
    assert code == (ratgan.__file__ if imported else f"{tmp_path}/model/code/ratgan/__init__.py")


@pytest.mark.slow
@pytest.mark.rest  # a process that imports torch and MLflow
def test_mlflow_runs_the_code_of_a_model_and_drawing_from_its_folder_does_not(tmp_path):
    with tarfile.open(LOGGED) as archive:
        archive.extractall(tmp_path / "model", filter="data")
    marker = tmp_path / "ran"
    code = tmp_path / "model" / "served_model.py"
    code.write_text(f"open({str(marker)!r}, 'w').close()\n{code.read_text()}")
    (artifacts,) = (tmp_path / "model" / "artifacts").iterdir()

    ratgan.load(artifacts)

    assert not marker.exists()
    subprocess.run(
        [sys.executable, "-c", DRAW, str(tmp_path / "model")],
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        check=True,
    )
    assert marker.exists()  # what docs/security.md says of registries
