"""Training under faults: killed, asked to stop, started twice; in the end the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ratgan
from pipeline.checkpointing import newest_checkpoint
from pipeline.config import TrainConfig
from pipeline.storage import Folder
from pipeline.train import train
from tests.pipeline.test_train import config, status, weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def options(shapes, output: Path, **changes) -> TrainConfig:
    values = {"sample_every": 1000, "checkpoint_every": 1000, "log_every": 2}
    return config(shapes, output, **(values | changes))


def command(run: TrainConfig) -> list[str]:
    """The command line of a run that `options` made."""
    return [
        sys.executable,
        str(ROOT / "jobs/train_coco.py"),
        *[f"--name={run.name}", f"--output={run.output}", f"--workers={run.workers}"],
        *[f"--total-steps={run.total_steps}", f"--log-every={run.log_every}"],
        *[f"--sample-every={run.sample_every}", f"--checkpoint-every={run.checkpoint_every}"],
        *[f"--samples={run.samples}", f"--data.path={run.data.path}", "--data.no-flip"],
        *["--model.image-size=32", "--model.base-channels=2", "--model.controller-dim=8"],
        *["--model.affine-dim=8", "--optim.batch-size=12", "--precision=float32"],
    ]


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | more


def test_a_killed_worker_is_replaced_and_the_weights_are_the_same(shapes, tmp_path):
    run = options(shapes, tmp_path / "killed", workers=2, checkpoint_every=2)

    done = subprocess.run(
        command(run),
        env=environment(RATGAN_FAULT=f"kill@worker.step:rank=1,step=3,once={tmp_path}/struck"),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    train(options(shapes, tmp_path / "whole", workers=2, checkpoint_every=2))

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "struck").exists()
    assert "worker 1 was lost" in done.stdout
    assert "Starting again from the last checkpoint (1 of 3 times)" in done.stdout
    assert "resuming from step 2" in done.stdout
    assert weights(tmp_path / "killed/run", 8) == weights(tmp_path / "whole/run", 8)
    assert status(tmp_path / "killed") == "FINISHED"


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_run_asked_to_stop_saves_its_step_and_goes_on_to_the_same_weights(
    workers, shapes, tmp_path
):
    run = options(shapes, tmp_path / "stopped", workers=workers, total_steps=60)
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command(run), stdout=stream, stderr=stream, env=environment(), start_new_session=True
        )
        try:
            deadline = time.monotonic() + 200
            while "step 4/60" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            if not workers:
                with pytest.raises(ValueError, match=r"is in use already, by .*train"):
                    train(run)
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            ended = process.wait(timeout=100)
            took_s = time.monotonic() - asked
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()

    assert ended == 128 + signal.SIGTERM, said
    _, state = newest_checkpoint(Folder(f"{run.output}/run/checkpoints"))
    assert 4 <= state["step"] < 60
    assert f"stopped at step {state['step']}. The same command goes on from there." in said
    assert took_s < 60
    assert status(tmp_path / "stopped") == "KILLED"

    train(run)
    train(run.model_copy(update={"output": str(tmp_path / "whole")}))

    assert weights(tmp_path / "stopped/run", 60) == weights(tmp_path / "whole/run", 60)
    assert status(tmp_path / "stopped") == "FINISHED"


def test_an_option_may_change_on_resume_only_if_it_is_named(shapes, tmp_path):
    train(options(shapes, tmp_path, total_steps=2))
    changed = options(shapes, tmp_path, total_steps=4).model_dump()
    changed["optim"]["generator_lr"] = 5e-5

    with pytest.raises(
        ValueError, match=r"(?s)optim\.generator_lr: 0\.0001 → 5e-05.*--allow-changes"
    ):
        train(TrainConfig.model_validate(changed))
    changed["allow_changes"] = ("optim.generator_lr",)
    run = train(TrainConfig.model_validate(changed))

    assert ratgan.load(f"{run}/model").origin["step"] == 4
