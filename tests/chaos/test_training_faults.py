"""Training under faults: killed, asked to stop, started twice; in the end the same weights."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

import ratgan
from pipeline import launch, loop, worker
from pipeline.checkpointing import newest_checkpoint
from pipeline.cli import root_cause
from pipeline.config import TrainConfig
from pipeline.storage import Folder
from pipeline.train import train
from pipeline.versions import versions
from tests.chaos import invariants
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


def test_a_killed_worker_is_replaced_and_the_weights_are_the_same(
    shapes, tmp_path, record_property
):
    run = options(shapes, tmp_path / "killed", workers=2, checkpoint_every=2)
    kills = {3: 0, 7: 1}  # before which step, and which worker

    done = subprocess.run(
        command(run),
        env=environment(
            RATGAN_FAULT=";".join(
                f"kill@worker.step:rank={rank},step={step},once={tmp_path}/struck-{step}"
                for step, rank in kills.items()
            )
        ),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    train(options(shapes, tmp_path / "whole", workers=2, checkpoint_every=2))

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("struck-*"))) == len(kills)
    assert "worker 1 was lost" in done.stdout
    assert "Starting again from the last checkpoint (2 of 3 times)" in done.stdout
    resumed = [int(step) for step in re.findall(r"resuming from step (\d)", done.stdout)]
    assert resumed == [2, 6]
    for struck, step in zip(kills, resumed, strict=True):
        record_property("steps_lost", struck - step)
    assert weights(tmp_path / "killed/run", 8) == weights(tmp_path / "whole/run", 8)
    assert status(tmp_path / "killed") == "FINISHED"
    assert invariants.left_over(tmp_path / "killed/run") == []
    record_property("weights_equal", True)


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (0, signal.SIGINT),
        pytest.param(0, signal.SIGTERM, marks=pytest.mark.thorough),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.thorough),
        pytest.param(2, signal.SIGTERM, marks=pytest.mark.thorough),
    ],
)
def test_a_run_asked_to_stop_saves_its_step_and_goes_on_to_the_same_weights(
    workers, number, shapes, tmp_path, record_property
):
    run = options(shapes, tmp_path / "stopped", workers=workers, total_steps=40)
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command(run),
            stdout=stream,
            stderr=stream,
            # Too slow to be done before it is asked.
            env=environment(RATGAN_FAULT="slow@worker.step"),
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 200
            while "step 4/40" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            if not workers:
                with pytest.raises(ValueError, match=r"is in use already, by .*train"):
                    train(run)
            asked = time.monotonic()
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does: to all it started, too
            else:
                process.send_signal(number)
            ended = process.wait(timeout=100)
            took_s = time.monotonic() - asked
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()

    assert ended == 128 + number, said
    _, state = newest_checkpoint(Folder(f"{run.output}/run/checkpoints"))
    assert 4 <= state["step"] < 40
    assert f"stopped at step {state['step']}. The same command goes on from there." in said
    assert took_s < 60
    assert status(tmp_path / "stopped") == "KILLED"

    train(run)
    train(run.model_copy(update={"output": str(tmp_path / "whole")}))

    assert weights(tmp_path / "stopped/run", 40) == weights(tmp_path / "whole/run", 40)
    assert status(tmp_path / "stopped") == "FINISHED"
    assert invariants.left_over(tmp_path / "stopped/run") == []
    record_property("steps_lost", 0)
    record_property("weights_equal", True)


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


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    """A run of 8 steps in this process that nothing happens to."""
    output = tmp_path_factory.mktemp("whole")
    train(options(shapes, output))
    return output


def test_torn_records_of_ray_are_no_hindrance(whole, shapes, tmp_path, record_property):
    train(options(shapes, tmp_path, total_steps=4))
    name = "checkpoint_manager_snapshot.json"
    for start in ("run", "run-0a1b2c3d"):
        left = tmp_path / "run/ray" / start / name
        left.parent.mkdir(parents=True)
        left.write_text('{"ray_version": "2.60.0", "checkpoint_results": [{"checkpoint'[:40])

    train(options(shapes, tmp_path))

    assert invariants.other_weights(tmp_path / "run", whole / "run", 8) == []
    assert invariants.left_over(tmp_path / "run") == []
    record_property("steps_lost", 0)
    record_property("weights_equal", True)


def test_a_clock_that_jumps_changes_nothing(whole, shapes, tmp_path, monkeypatch, record_property):
    taken, clock, clock_ns = iter((-3600, 7200, -3600)), time.time, time.time_ns
    ahead_s, step = [0], worker.train_step

    def jumping(*arguments, **keywords):
        ahead_s[0] += next(taken, 0)
        return step(*arguments, **keywords)

    monkeypatch.setattr(worker, "train_step", jumping)
    monkeypatch.setattr(time, "time", lambda: clock() + ahead_s[0])
    monkeypatch.setattr(time, "time_ns", lambda: clock_ns() + 10**9 * ahead_s[0])

    train(options(shapes, tmp_path))

    run, store = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    assert ahead_s == [0]
    assert invariants.other_weights(run, whole / "run", 8) == []
    assert invariants.broken_curves(store, run, (2, 4, 6, 8)) == []
    speeds = [point.value for point in history(store, run, "speed/images_per_s")]
    assert all(0 < speed < 1e5 for speed in speeds), speeds
    record_property("weights_equal", True)


def history(store: str, run: Path, key: str) -> list:
    run_id = Folder(str(run)).read_json("run.json")["mlflow_run_id"]
    return MlflowClient(store).get_metric_history(run_id, key)


def test_a_worker_with_other_versions_is_refused(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "versions", lambda: versions() | {"torch": "1.0", "ray": "1.2"})

    with pytest.raises(Exception, match="a worker has other versions than") as refusal:
        train(options(shapes, tmp_path))

    said = str(root_cause(refusal.value))
    assert "torch 1.0 → 2" in said
    assert "ray 1.2 → 2" in said
    assert "Install the same ones (requirements.lock) on all machines" in said


def test_other_versions_than_the_checkpoints_are_said(shapes, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(launch, "versions", lambda: versions() | {"numpy": "1.0"})
        patch.setattr(loop, "refuse_skew", lambda driver: None)
        train(options(shapes, tmp_path, total_steps=2))

    train(options(shapes, tmp_path, total_steps=4))

    assert "with other versions than before, so perhaps other numbers: numpy 1.0 → 2" in (
        capsys.readouterr().out
    )
