"""The whole way through a bucket: a real S3 API server on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.rest]

ROOT = Path(__file__).parents[3]


def job(name: str, *flags: str, environment: dict[str, str]) -> str:
    """Run a job as a user would and return what it says."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *flags],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The rest of it, without the pretraining, is done by the cluster's test for each change.
@pytest.mark.thorough
def test_prepare_pretrain_train_resume_and_generate_on_s3(bucket, tmp_path):
    environment, filesystem = bucket
    tracked = environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    prepare = ["shapes", "--count=60", "--size=32", "--image-size=32", "--sentence-dim=8"]
    pretrain = [
        "--preset=damsm_shapes",
        "--data.path=s3://lake/shapes",
        "--output=s3://lake/runs",
        "--total-steps=2",
    ]
    encoder = "--encoder-path=s3://lake/runs/damsm-shapes/text_encoder.safetensors"
    train = [
        "--data.path=s3://lake/shapes-damsm",
        "--data.no-flip",
        "--output=s3://lake/runs",
        "--name=small",
        "--model.image-size=32",
        "--model.base-channels=2",
        "--optim.batch-size=6",
        "--log-every=2",
        "--samples=2",
        "--checkpoint-every=2",
    ]

    said = job("prepare", *prepare, "--output=s3://lake/shapes", environment=environment)
    assert "seen 60 = written 60 + rejected 0" in said
    said = job("pretrain_damsm", *pretrain, environment=tracked)
    assert "of 6 held-out images among" in said
    with_damsm = ["--encoder=damsm", encoder, "--output=s3://lake/shapes-damsm"]
    job("prepare", *prepare, *with_damsm, environment=environment)
    job("train_coco", *train, "--total-steps=2", "--workers=0", environment=tracked)
    said = job("train_coco", *train, "--total-steps=4", "--workers=1", environment=tracked)
    assert "resuming from step 2 (s3://lake/runs/small/checkpoints/step-00000002)" in said
    job(
        "generate",
        "--model=s3://lake/runs/small/model",
        f"--output={tmp_path}/drawn",
        "a red circle",
        environment=environment,
    )

    assert filesystem.exists("lake/shapes/manifest.json")
    assert filesystem.exists("lake/runs/small/checkpoints/step-00000004/COMMITTED")
    assert (tmp_path / "drawn" / "grid.png").exists()
