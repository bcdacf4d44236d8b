"""Training under faults: killed, asked to stop, started twice; in the end the same weights."""

import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

import ratgan
from pipeline.checkpoint.store import newest_checkpoint
from pipeline.common.environment import versions
from pipeline.common.errors import root_cause
from pipeline.config import TrainConfig
from pipeline.ray_cluster.loopback import ADDRESS
from pipeline.ray_cluster.port_audit import TRAINS, listening, see_that_they_refuse
from pipeline.ray_cluster.port_probe import Endpoint
from pipeline.storage import lock
from pipeline.storage.folder import Folder
from pipeline.training import launch, loop
from pipeline.training.train import train
from ratgan.step import train_step
from tests.chaos import invariants
from tests.chaos.commands import Command, step_reached
from tests.chaos.runs import start
from tests.pipeline.training.test_train import config, status, use_step, weights

pytestmark = [pytest.mark.slow, pytest.mark.rest]

MET = 5  # ports of two workers that have met: Ray's and gloo's of each, and the store of the first


def options(shapes, output: Path, **changes) -> TrainConfig:
    values = {"sample_every": 1000, "checkpoint_every": 1000, "log_every": 2}
    return config(shapes, output, **(values | changes))


def all_of(job: Command) -> list[psutil.Process]:
    assert job.process.poll() is None, job.said
    own = psutil.Process(job.process.pid)
    return [own, *own.children(recursive=True)]


def ports_of_workers(job: Command) -> set[Endpoint]:
    return {door for door, name in listening(all_of(job)).items() if TRAINS in name}


def test_a_killed_worker_is_replaced_and_the_weights_are_the_same(
    shapes, tmp_path, record_property
):
    run = options(shapes, tmp_path / "killed", workers=2, checkpoint_every=2, health={"hang_s": 0})
    kills = {3: 0, 7: 1}  # before which step, and which worker

    def kill(step: int, rank: int) -> str:
        # Not before the last checkpoint is there: it is written beside the steps, as time allows.
        saved = f"{tmp_path}/killed/run/checkpoints/step-{step - 1:08d}/COMMITTED"
        bounds = f"rank={rank},step={step},once={tmp_path}/struck-{step},after={saved}"
        return f"kill@worker.step:{bounds}"

    # The first workers, and those after them, are held until their ports have been looked at.
    holds = [f"slow@worker.step:step={step},after={tmp_path}/seen-{step}" for step in (2, 5)]
    faults = [*(kill(step, rank) for step, rank in kills.items()), *holds]

    with start(run, tmp_path, ";".join(faults)) as job:
        job.wait_for(lambda: len(ports_of_workers(job)) >= MET)
        first = ports_of_workers(job)
        # Knocking, which takes half a minute, does the training no harm.
        training = see_that_they_refuse(all_of(job), only_at=ADDRESS).training
        (tmp_path / "seen-2").touch()
        job.wait_for("resuming from step 2")
        job.wait_for(lambda: len(ports_of_workers(job) - first) >= MET)
        second = ports_of_workers(job)
        (tmp_path / "seen-5").touch()
        ended = job.wait()
    train(options(shapes, tmp_path / "whole", workers=2, checkpoint_every=2))

    assert ended == 0, job.said
    assert len(training) == 3, "gloo's two and the store"
    assert {door.host for door in first | second} == {ADDRESS}
    assert len(list(tmp_path.glob("struck-*"))) == len(kills)
    # It is chance whether Ray hears of its end before the other says that it is gone.
    assert re.search("worker 1 was lost|connection to each other", job.said), job.said
    assert "Restarting from the last checkpoint (2 of 3 times)" in job.said
    resumed = [int(step) for step in re.findall(r"resuming from step (\d)", job.said)]
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
    workers, number, shapes, tmp_path, monkeypatch, record_property
):
    endless = options(shapes, tmp_path / "stopped", workers=workers, total_steps=10**6)
    # The run is not taken over, however long its owner's sign of life takes on a busy machine.
    monkeypatch.setattr(lock, "BEATS_TO_WATCH", 30)

    with start(endless, tmp_path, "slow@worker.step") as job:
        job.wait_for("step 4/")
        if not workers:
            with pytest.raises(ValueError, match=r"is in use already, by .*train"):
                train(endless)
        # Ctrl-C goes to all that a command started, too.
        job.kill(number, alone=number != signal.SIGINT)
        ended = job.wait()

    assert ended == 128 + number, job.said
    _, state = newest_checkpoint(Folder(f"{endless.output}/run/checkpoints"))
    assert step_reached(job) <= state["step"] < 10**6
    assert f"stopped at step {state['step']}. The same command goes on from there." in job.said
    assert status(tmp_path / "stopped") == "KILLED"

    last = state["step"] + 4
    for output in ("stopped", "whole"):
        train(options(shapes, tmp_path / output, workers=workers, total_steps=last))

    assert weights(tmp_path / "stopped/run", last) == weights(tmp_path / "whole/run", last)
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
    for earlier in ("run", "run-0a1b2c3d"):
        left = tmp_path / "run/ray" / earlier / name
        left.parent.mkdir(parents=True)
        left.write_text('{"ray_version": "2.60.0", "checkpoint_results": [{"checkpoint'[:40])

    train(options(shapes, tmp_path))

    assert invariants.other_weights(tmp_path / "run", whole / "run", 8) == []
    assert invariants.left_over(tmp_path / "run") == []
    record_property("steps_lost", 0)
    record_property("weights_equal", True)


def test_a_clock_that_jumps_changes_nothing(whole, shapes, tmp_path, monkeypatch, record_property):
    taken, clock, clock_ns = iter((-3600, 7200, -3600)), time.time, time.time_ns
    ahead_s, step = [0], train_step

    def jumping(*arguments, **keywords):
        ahead_s[0] += next(taken, 0)
        return step(*arguments, **keywords)

    use_step(monkeypatch, jumping)
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
