"""Nodes that leave and join while a training is going on, and clusters that are gone."""

import json
import re
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
from mlflow import MlflowClient

from pipeline.common.failpoints import VARIABLE
from pipeline.distributed import capacity
from pipeline.distributed.graceful_stop import StoppedError, StopRequests
from pipeline.storage.folder import Folder
from pipeline.training.train import train
from tests.chaos.cluster import Cluster
from tests.chaos.commands import Command, tell_losses
from tests.chaos.runs import start, then
from tests.chaos.test_training_faults import options
from tests.pipeline.training.test_train import status, weights
from tests.processes import runs
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

PATIENCE_S = 500


def steps_told(output: Path) -> list[int]:
    """Steps at which a curve has a point, as MLflow has them."""
    run_id = json.loads((output / "run/run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    return [point.step for point in client.get_metric_history(run_id, "loss/generator")]


def newest(output: Path) -> dict:
    """State of the newest checkpoint; empty while there is none or it is on its way out."""
    try:
        folders = sorted((output / "run/checkpoints").glob("step-*"))
        return json.loads((folders[-1] / "state.json").read_text())
    except (OSError, IndexError):
        return {}


def test_a_run_grows_when_there_is_room_and_loses_no_step(
    ray_session, shapes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(capacity, "LOOK_EVERY_S", 0.5)
    monkeypatch.setattr(capacity, "SETTLE_S", 0)

    @ray.remote
    class Other:
        def ready(self) -> bool:
            return True

    cpus = ray.cluster_resources()["CPU"]
    other = Other.options(num_cpus=cpus - 2).remote()  # leaves room for one that trains
    ray.get(other.ready.remote())

    run = options(
        shapes, tmp_path, workers=2, min_workers=1, total_steps=10**6, checkpoint_every=10
    )
    stop = StopRequests(Folder(f"{run.output}/{run.name}"))

    def lead() -> None:
        try:
            wait_until(lambda: newest(tmp_path), "a checkpoint", PATIENCE_S)
            ray.kill(other)
            larger = "a checkpoint of two workers"
            wait_until(lambda: newest(tmp_path).get("workers") == 2, larger, PATIENCE_S)
        finally:
            stop.request()

    leader = threading.Thread(target=lead, daemon=True)
    leader.start()
    with pytest.raises(StoppedError):
        train(run, stop=stop)
    leader.join()

    said = capsys.readouterr().out
    assert "1 to 2 workers" in said
    assert "capacity for 2 workers: they continue from a checkpoint" in said
    assert "workers 1 → 2" in said
    told = steps_told(tmp_path)
    assert told == list(range(2, told[-1] + 1, 2)), "each step was done once"


def test_a_node_leaves_and_another_joins(shapes, tmp_path, record_property):
    run = options(
        shapes, tmp_path / "runs", workers=2, min_workers=1, total_steps=10**6, checkpoint_every=10
    )
    with Cluster(tmp_path) as cluster:
        nodes = [cluster.add(cpus=1) for _ in range(3)]
        with start(run, tmp_path, **cluster.client) as job:
            at = then(job, "step 20/")
            next(node for node in nodes[1:] if node.started("RayTrainWorker")).kill()
            left = time.monotonic()
            at = then(job, "Restarting from the last checkpoint", at)
            noticed_s = at - left
            at = then(job, "workers 2 → 1", at)
            at = then(job, "step [0-9,]+/", at)
            cluster.add(cpus=1)
            joined = time.monotonic()
            asked = then(job, "capacity for 2 workers", at)
            found_s = asked - joined
            at = then(job, "workers 1 → 2", asked)
            at = then(job, "step [0-9,]+/", at)
            seconds = f"noticed after {noticed_s:.0f} s, room found after {found_s:.0f} s, "
            record_property("measured", seconds + f"grown {at - asked:.0f} s later")
            job.kill(signal.SIGTERM, alone=True)
            assert job.wait() == 128 + signal.SIGTERM, job.said

    told = steps_told(tmp_path / "runs")
    assert sorted(set(told)) == list(range(2, told[-1] + 1, 2)), "no step is left out"
    assert newest(tmp_path / "runs")["step"] >= told[-1]
    tell_losses(record_property, job)


@pytest.mark.parametrize("by", ["its cluster", "SIGTERM"])
def test_a_machine_that_is_to_be_taken_away_is_left_with_no_step_done_twice(
    by, shapes, tmp_path, record_property
):
    run = options(
        shapes,
        tmp_path / "runs",
        workers=2,
        min_workers=1,
        total_steps=10**6,
        checkpoint_every=10**5,
    )
    # A busy machine may take longer than the 30 s after which a node with SIGTERM goes.
    with Cluster(tmp_path, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=str(PATIENCE_S)) as cluster:
        nodes = [cluster.add(cpus=1) for _ in range(3)]
        with start(run, tmp_path, **cluster.client) as job:
            at = then(job, "step 20/")
            going = next(node for node in nodes[1:] if node.started("RayTrainWorker"))
            if by == "SIGTERM":
                going.process.terminate()
            else:
                going.announce_departure(PATIENCE_S, cluster.client)
            told = time.monotonic()
            at = then(job, "machine of worker . is preempted. A checkpoint is saved", at)
            stopped_s = at - told
            at = then(job, "workers 2 → 1", at)
            at = then(job, "step [0-9,]+/", at)
            record_property(
                "measured",
                f"left {stopped_s:.0f} s after the notice, went on {at - told:.0f} s after",
            )
            wait_until(lambda: not going.started("RayTrainWorker"), "a node that may go")
            job.kill(signal.SIGTERM, alone=True)
            assert job.wait() == 128 + signal.SIGTERM, job.said

    told_of = steps_told(tmp_path / "runs")
    assert told_of == list(range(2, told_of[-1] + 1, 2)), "each step was done once"
    assert "Restarting" not in job.said, "it is no loss"
    record_property("steps_lost", 0)


def interrupted(shapes, tmp_path: Path, **changes):
    """A run of 2 workers of which one stands still at step 6, and what its nodes need for that."""
    values = {"workers": 2, "checkpoint_every": 4, "total_steps": 12, "health": {"hang_s": 0}}
    values["log_every"] = 1
    run = options(shapes, tmp_path / "runs", **values | changes)
    # Workers have the environment of their node.
    return run, {VARIABLE: f"hang@worker.step:step=6,once={tmp_path}/still"}


def stand_still(tmp_path: Path, job: Command) -> None:
    """Wait until it does, with the checkpoint of step 4 behind it."""
    marker = tmp_path / "runs/run/checkpoints/step-00000004/COMMITTED"
    job.wait_for(lambda: (tmp_path / "still").exists() and marker.exists())


def test_a_machine_that_goes_before_the_step_at_hand_is_done_is_a_loss(
    shapes, tmp_path, record_property
):
    run, fault = interrupted(shapes, tmp_path, min_workers=1)
    with Cluster(tmp_path, **fault, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="3") as cluster:
        nodes = [cluster.add(cpus=1) for _ in range(3)]
        with start(run, tmp_path, **cluster.client) as job:
            stand_still(tmp_path, job)
            next(node for node in nodes[1:] if node.started("RayTrainWorker")).process.terminate()
            assert job.wait() == 0, job.said

    assert "Restarting from the last checkpoint (1 of 3 times)" in job.said
    assert "resuming from step 4" in job.said
    assert "workers 2 → 1" in job.said
    tell_losses(record_property, job)


def test_a_worker_that_ray_ends_for_want_of_memory_costs_no_work(
    shapes, tmp_path, two_workers_through, record_property
):
    memory = psutil.virtual_memory()
    room_for = 6 * 2**30  # what cluster and run take, and what is eaten before Ray ends the eater
    if memory.available < 2 * room_for:
        pytest.skip("too little memory is free to waste some")
    full = (memory.total - memory.available + room_for) / memory.total
    run = options(
        shapes,
        tmp_path / "runs",
        workers=2,
        checkpoint_every=4,
        total_steps=12,
        log_every=1,
        wait_for_room_s=20,
    )
    with Cluster(
        tmp_path,
        **{VARIABLE: f"eat@worker.step:rank=1,step=6,once={tmp_path}/ate"},
        RAY_memory_usage_threshold=f"{full:.3f}",
        RAY_memory_monitor_refresh_ms="100",
    ) as cluster:
        cluster.add(cpus=3)
        with start(run, tmp_path, **cluster.client) as job:
            ended, said = job.wait(), job.said
        starts = [job]
        if ended:
            # Ray ended helpers of its own too, and keeps the workers' place until the job is over.
            assert "error: no capacity for 2 workers in 20 s" in said
            with start(run, tmp_path, **cluster.client) as job:
                assert job.wait() == 0, job.said
            said += job.said
            starts.append(job)

    assert re.search(r"lost \((killed, crashed or out of memory|OutOfMemoryError)\)", said), said
    assert "Restarting from the last checkpoint (1 of 3 times)" in said
    assert "resuming from step 4" in said
    assert weights(tmp_path / "runs/run", 12) == two_workers_through[12]
    tell_losses(record_property, *starts)
    record_property("weights_equal", True)


def test_a_fixed_number_of_workers_waits_for_a_node_and_then_says_what_is_missing(
    shapes, tmp_path, two_workers_through
):
    run, fault = interrupted(shapes, tmp_path, wait_for_room_s=60)
    with Cluster(tmp_path, **fault) as cluster:
        nodes = [cluster.add(cpus=2), cluster.add(cpus=1)]
        with start(run, tmp_path, **cluster.client) as job:
            stand_still(tmp_path, job)
            nodes[1].kill()
            for worker in nodes[0].started("RayTrainWorker"):
                worker.kill()
            assert job.wait() == 2, job.said
        assert "waiting up to 60 s for capacity for 2 workers: the cluster has" in job.said
        assert "error: no capacity for 2 workers in 60 s: the cluster has 2 CP" in job.said
        assert status(tmp_path / "runs") == "FAILED"

        cluster.add(cpus=1)
        with start(run, tmp_path, **cluster.client) as job:
            assert job.wait() == 0, job.said
    assert "resuming from step 4" in job.said
    assert weights(tmp_path / "runs/run", 12) == two_workers_through[12]


@pytest.mark.parametrize("gone", ["raylet", "gcs_server", "the machine"])
def test_a_run_whose_cluster_is_gone_goes_on_on_a_new_one_by_the_same_command(
    gone, shapes, tmp_path, two_workers_through, record_property
):
    run, fault = interrupted(shapes, tmp_path)
    with Cluster(tmp_path, **fault) as cluster:
        head = cluster.add(cpus=3)
        with start(run, tmp_path, **cluster.client) as struck:
            stand_still(tmp_path, struck)
            if gone == "the machine":
                head.end()
            else:
                (process,) = [each for each in head.started(gone) if each.name() == gone]
                process.kill()
            assert struck.wait() not in (0, 128 + signal.SIGTERM), struck.said

    with Cluster(tmp_path, **fault) as cluster:
        cluster.add(cpus=3)
        with start(run, tmp_path, **cluster.client) as job:
            assert job.wait() == 0, job.said

    assert "resuming from step 4" in job.said
    assert weights(tmp_path / "runs/run", 12) == two_workers_through[12]
    tell_losses(record_property, struck, job)
    record_property("weights_equal", True)


def test_the_workers_of_a_killed_driver_end_and_the_same_command_goes_on(
    shapes, tmp_path, two_workers_through
):
    run, fault = interrupted(shapes, tmp_path)
    with Cluster(tmp_path, **fault) as cluster:
        head = cluster.add(cpus=3)
        with start(run, tmp_path, **cluster.client) as job:
            stand_still(tmp_path, job)
            left = head.started("RayTrainWorker")
            assert len(left) == 2
            job.kill(alone=True)
            what = "the end of the workers: nobody else writes to the run"
            wait_until(lambda: not any(map(runs, left)), what, PATIENCE_S)
        with start(run, tmp_path, **cluster.client) as job:
            assert job.wait() == 0, job.said

    assert re.search("taking .* over from train .*that process is gone", job.said), job.said
    assert "resuming from step 4" in job.said
    assert weights(tmp_path / "runs/run", 12) == two_workers_through[12]
