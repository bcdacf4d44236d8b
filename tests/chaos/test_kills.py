"""More of killing than each change needs: at every step, alone, at once, in a bucket."""

import random
from pathlib import Path

import pytest

from pipeline.common.failpoints import VARIABLE
from pipeline.training.train import train
from tests.chaos import invariants
from tests.chaos.cluster import Cluster
from tests.chaos.commands import (
    KILLED,
    PATIENCE_S,
    Command,
    step_resumed,
    tell_losses,
    training,
)
from tests.chaos.proxy import ChaosProxy
from tests.pipeline.training.test_train import config
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

STEPS = 40


def undisturbed(shapes, output: Path, **changes) -> Path:
    """Train through what `training` names, in this process unless it says otherwise."""
    values = {"threads": 1, "log_every": 1, "sample_every": 1000, "samples": 2}
    values["optim"] = {"batch_size": 12}
    train(config(shapes, output, **(values | changes)))
    return output / "run"


def test_a_worker_killed_at_every_step_is_replaced_each_time(shapes, tmp_path, record_property):
    every = ";".join(
        f"kill@worker.step:step={step},once={tmp_path}/struck-{step}" for step in range(STEPS)
    )
    flags = training(
        str(shapes.folder),
        tmp_path / "killed",
        workers=1,
        total_steps=STEPS,
        checkpoint_every=3,
        sample_every=1000,
        max_restarts=STEPS,
    )

    with Command("train_coco", *flags, RATGAN_FAULT=every) as command:
        status = command.wait(3000)
    whole = undisturbed(shapes, tmp_path / "whole", workers=1, total_steps=STEPS)

    assert status == 0, command.said
    assert len(list(tmp_path.glob("struck-*"))) == STEPS
    assert f"Restarting from the last checkpoint ({STEPS} of {STEPS} times)" in command.said
    run = tmp_path / "killed/run"
    assert invariants.other_weights(run, whole, STEPS) == []
    assert invariants.incomplete(run) == []
    assert invariants.left_over(run) == []
    store = f"sqlite:///{tmp_path}/killed/mlflow.db"
    assert invariants.broken_curves(store, run, range(1, STEPS + 1)) == []
    assert invariants.unequal_epochs(str(shapes.folder), 12, 100, (1, 2, 3)) == []
    tell_losses(record_property, command)
    record_property("weights_equal", True)


def test_a_driver_killed_alone_leaves_no_worker_that_spoils_the_next_start(
    shapes, tmp_path, record_property
):
    """Its Ray goes on: the next start meets what was left of it, on the same cluster."""
    flags = training(str(shapes.folder), tmp_path / "killed", workers=2, sample_every=1000)

    with Cluster(tmp_path, **{VARIABLE: "slow@worker.step"}) as cluster:  # not done before the kill
        cluster.add(cpus=4)
        with Command("train_coco", *flags, **cluster.client) as first:
            first.wait_for("step 9/")
            first.kill(alone=True)
            with Command("train_coco", *flags, **cluster.client) as second:
                status = second.wait()
                assert status == 0, second.said
    whole = undisturbed(shapes, tmp_path / "whole", workers=2, total_steps=24)

    run = tmp_path / "killed/run"
    assert invariants.other_weights(run, whole, 24) == []
    assert invariants.incomplete(run) == []
    assert invariants.left_over(run) == []
    store = f"sqlite:///{tmp_path}/killed/mlflow.db"
    assert invariants.broken_curves(store, run, range(1, 25)) == []
    tell_losses(record_property, first, second)
    record_property("weights_equal", True)


def test_of_two_starts_at_the_same_moment_exactly_one_runs(shapes, tmp_path, record_property):
    output, refused = tmp_path / "twins", tmp_path / "refused"
    flags = training(str(shapes.folder), output, sample_every=1000)
    # One is at work for longer than the other watches whether it is alive.
    stay = {VARIABLE: f"slow@worker.step:step=5,after={refused}"}

    with (
        Command("train_coco", *flags, **stay) as first,
        Command("train_coco", *flags, **stay) as second,
    ):
        both = (first, second)
        wait_until(
            lambda: any(command.process.poll() is not None for command in both),
            "the end of one of them",
            PATIENCE_S,
        )
        refused.touch()
        ended = {command.wait(): command for command in both}
    whole = undisturbed(shapes, tmp_path / "whole", total_steps=24)

    assert sorted(ended) == [0, 2], f"{first.said}\n--- and ---\n{second.said}"
    assert "run is in use already, by train (PID" in ended[2].said
    assert invariants.other_weights(output / "run", whole, 24) == []
    assert invariants.left_over(output / "run") == []
    record_property("weights_equal", True)


def test_a_run_in_a_bucket_that_fails_now_and_then_ends_with_the_same_weights(
    shapes, bucket, s3_server, tmp_path, record_property
):
    environment, filesystem = bucket
    whole = undisturbed(shapes, tmp_path / "whole", total_steps=24)
    flags = training(
        str(shapes.folder), "s3://lake/runs", sample_every=1000, **{"health.hang_s": 0}
    )
    dice, store = random.Random(1), f"sqlite:///{tmp_path}/mlflow.db"
    hang = "hang@worker.step:step=9"  # however late the kill comes

    def now_and_then(request) -> bool:
        return dice.random() < 0.03

    with ChaosProxy(*s3_server.address) as proxy:
        for kind in ("503", "500", "reset", "cut", "lost_answer", "slow"):
            proxy.inject(kind, times=10_000, size=100, when=now_and_then)
        faulty = environment | {"AWS_ENDPOINT_URL": proxy.url, "MLFLOW_TRACKING_URI": store}
        with Command("train_coco", *flags, **faulty, **{VARIABLE: hang}) as killed:
            killed.wait_for("step 9/")
            killed.kill()
        assert killed.wait() == KILLED
        with Command("train_coco", *flags, **faulty) as command:
            status = command.wait()

    assert status == 0, command.said
    assert step_resumed(command.said) in (4, 8)
    copy = tmp_path / "copy"
    filesystem.get("lake/runs", str(copy), recursive=True)
    assert invariants.other_weights(copy / "run", whole, 24) == []
    assert invariants.incomplete(copy / "run") == []
    assert invariants.broken_curves(store, copy / "run", range(1, 25)) == []
    tell_losses(record_property, killed, command)
    record_property("weights_equal", True)
