"""Metrics are never lost and never in the way: dead, hung and broken trackers, killed drivers."""

import json
import logging
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.cli.sync import SyncConfig, sync
from pipeline.storage.folder import Folder
from pipeline.tracking.run_record import read_record
from pipeline.tracking.sender import Sender, send_rest
from pipeline.tracking.spool import read
from pipeline.tracking.tracker import Tracker
from pipeline.training.train import train
from tests.mlflow_server import Door, MlflowServer, patience, reserved_port
from tests.pipeline.training.test_train import config
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def patient():
    with patience():
        yield


@pytest.fixture(scope="module")
def server(mlflow_server):
    return mlflow_server


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in a file, as a run has it where no server is named."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture
def dead():
    with reserved_port() as nobody_listens:
        yield f"http://127.0.0.1:{nobody_listens.getsockname()[1]}"


def new_run(folder: Path, uri: str) -> Tracker:
    """Begin a run as a driver does."""
    run = Folder(str(folder))
    run.write_json("run.json", {"mlflow_uri": uri})
    tracker = Tracker(run)
    tracker.options({"seed": 1}, {"dataset.digest": "d"})
    tracker.dataset("shapes", "d", "/data", 120)
    tracker.json({"seed": 1}, "config.json")
    # An experiment of its own: two runs in it would be one too many.
    tracker.begin(experiment=folder.name, name=folder.name, tags={"mlflow.user": "me"})
    return tracker


def told(run: Path) -> list[tuple[int, float, int]]:
    """Return step, value and time of each point in the spool."""
    return [
        (e.record["step"], e.record["values"]["loss"], e.record["time"])
        for e in read(Folder(str(run / "spool" / "records")), {})
        if e.record["kind"] == "points"
    ]


def arrived(uri: str, run: Path, key: str = "loss") -> list[tuple[int, float, int]]:
    """Return step, value and time of each point in MLflow, of the only run there is."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(run.name)
    (only,) = client.search_runs([experiment.experiment_id])
    assert only.info.run_id == read_record(Folder(str(run)))["mlflow_run_id"]
    history = client.get_metric_history(only.info.run_id, key)
    return sorted((p.step, p.value, p.timestamp) for p in history)


@pytest.mark.parametrize("kind", ["server", "store"])
def test_all_arrives_while_the_run_goes_on_and_stays_one_when_sent_again(kind, request, tmp_path):
    found = request.getfixturevalue(kind)
    uri = found if kind == "store" else found.uri
    run = tmp_path / f"all-{kind}"
    tracker = new_run(run, uri)
    said = []
    sender = Sender(tracker.run, uri, said.append)
    sender.start()
    (run / "samples").mkdir()
    Image.new("RGB", (40, 20)).save(run / "samples" / "a.png")
    for step in range(1, 6):
        tracker.metrics(step, {"loss": 1 / step, "not a number": float("nan")})
    wait_until(lambda: sender.delivery.delivered >= 8, "beside the run, not at its end")
    tracker.image("samples", 5, "samples/a.png")
    tracker.finish("FINISHED")

    left = sender.close()

    assert (left, said) == ({}, [])
    assert arrived(uri, run) == told(run)
    assert [step for step, *_ in arrived(uri, run, "not a number")] == [1, 2, 3, 4, 5]
    client, run_id = MlflowClient(uri), read_record(tracker.run)["mlflow_run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.params == {"seed": "1"}
    assert [i.dataset.name for i in client.get_run(run_id).inputs.dataset_inputs] == ["shapes"]
    images = {i.path.rpartition(".")[2] for i in client.list_artifacts(run_id, "images")}
    assert images == {"png", "webp"}
    assert client.list_artifacts(run_id)[0].path == "config.json"

    # What was sent last is forgotten, as if the sender had been killed before it noted that.
    sent = json.loads((run / "spool" / "sent.json").read_text())
    for change in ({"lanes": {"values": {}, "files": {}}, "points": {}, "images": {}}, None):
        if change is None:
            # Nor is the run's id known: it is found by the tag that it was created with.
            (run / "spool" / "sent.json").unlink()
            tracker.run.write_json("run.json", {"mlflow_uri": uri})
        else:
            (run / "spool" / "sent.json").write_text(json.dumps(sent | change))
        assert send_rest(tracker.run, uri).delivery.delivered > 5
        assert arrived(uri, run) == told(run)
        assert len(client.list_artifacts(run_id, "images")) == 2
    assert send_rest(tracker.run, uri).delivery.delivered == 0


def test_steps_that_are_trained_again_after_a_kill_stay_one_point(store, tmp_path):
    run = tmp_path / "resumed"
    first = new_run(run, store)
    for step in (1, 2, 3):
        first.metrics(step, {"loss": 1 / step})
    send_rest(first.run, store)
    first.metrics(4, {"loss": 1 / 4})  # is left unsent
    before = told(run)

    second = Tracker(Folder(str(run)))
    second.resume()
    for step in (3, 4, 5):
        second.metrics(step, {"loss": 1 / step})
    send_rest(second.run, store)

    assert arrived(store, run) == [*before, told(run)[-1]]
    assert [step for step, *_ in arrived(store, run)] == [1, 2, 3, 4, 5]


def test_what_is_measured_afterwards_may_be_of_any_step_and_told_again(store, tmp_path):
    tracker = new_run(tmp_path / "measured", store)
    Image.new("RGB", (32, 32)).save(tmp_path / "measured" / "drawn.png")
    for step in (10, 20, 30):
        tracker.metrics(step, {"loss": 1.0, "score": 0.1})
    tracker.image("drawn", 30, "drawn.png")

    for step, score in [(30, 0.2), (10, 0.3), (20, 0.4), (10, 0.3), (30, 0.25)]:
        tracker.measured(step, {"score": score})
        tracker.image("seen", step, "drawn.png", afterwards=True)
        tracker.flush()
        sender = send_rest(tracker.run, store)
        assert not sender.delivery.left()
    tracker.metrics(40, {"score": 0.5})
    tracker.flush()
    send_rest(tracker.run, store)

    points = [(step, value) for step, value, _ in arrived(store, tmp_path / "measured", "score")]
    of_training = [(10, 0.1), (20, 0.1), (30, 0.1), (40, 0.5)]
    afterwards = [(10, 0.3), (20, 0.4), (30, 0.2), (30, 0.25)]
    assert points == sorted(of_training + afterwards)
    run_id = read_record(tracker.run)["mlflow_run_id"]
    pictures = [each.path for each in MlflowClient(store).list_artifacts(run_id, "images")]
    assert sorted(
        int(re.search(r"seen\+step\+(\d+)", path)[1]) for path in pictures if "seen+" in path
    ) == [10, 10, 20, 20, 30, 30]  # each in two sizes


@pytest.mark.parametrize(
    ("mode", "reason"),
    [pytest.param("hang", "timed out", marks=pytest.mark.thorough), ("500", "500")],
)
def test_a_tracker_that_breaks_in_between_gets_all_of_it_later(mode, reason, server, tmp_path):
    door = Door(server.port)
    run = tmp_path / f"door-{mode}"
    tracker = new_run(run, door.uri)
    said = []
    sender = Sender(tracker.run, door.uri, said.append)
    sender.start()
    tracker.metrics(1, {"loss": 1.0})
    wait_until(lambda: not sender.delivery.left(), "all of the start is there")

    door.turn("hang")
    tracker.metrics(2, {"loss": 0.5})
    wait_until(lambda: door.open, "a request that is not answered")
    waiting = list(door.open)
    for step in range(3, 40):
        tracker.metrics(step, {"loss": 1 / step})
    assert door.open == waiting, "no call waited for the tracker: it still has not answered"
    door.turn(mode)
    wait_until(lambda: reason in (sender.problem or ""), f"{reason} is the problem", 300)
    door.turn("pass")
    wait_until(lambda: sender.problem is None, "the tracker is well again", 300)

    assert sender.close() == {}
    assert arrived(door.uri, run) == told(run)
    assert "does not answer; training goes on" in said[0]
    assert f"{run}/spool" in said[0]
    assert "answers again" in said[1]
    door.close()


def test_a_server_that_is_dead_at_the_start_and_killed_in_between(tmp_path, monkeypatch):
    folder = tmp_path / "server"
    folder.mkdir()
    server = MlflowServer(folder)
    run = tmp_path / "dead"
    tracker = new_run(run, server.uri)
    said = []
    sender = Sender(tracker.run, server.uri, said.append)
    sender.start()
    tracker.metrics(1, {"loss": 1.0})
    wait_until(lambda: said, "that nobody answers is told")
    assert "mlflow_run_id" not in read_record(tracker.run)

    server.start()
    try:
        wait_until(lambda: sender.problem is None, "the server answers")
        assert arrived(server.uri, run) == told(run)
        server.kill()
        tracker.metrics(2, {"loss": 0.5})
        tracker.finish("FINISHED")
        with monkeypatch.context() as patch, ThreadPoolExecutor(1) as other:
            patch.setattr("pipeline.tracking.sender.PATIENCE_S", 1)
            patch.setattr("pipeline.tracking.sender.LIMIT_S", 3600)  # for a server that answers
            assert other.submit(sender.close).result(timeout=120) == {"values": 2}
            with pytest.raises(ConnectionError, match=r"Nothing is lost(?s:.)*dead: .*refused"):
                sync(SyncConfig(run=str(run), uri=server.uri))
        server.start()

        sync(SyncConfig(run=str(tmp_path), uri=server.uri))

        assert arrived(server.uri, run) == told(run)
        assert len(told(run)) == 2
    finally:
        server.kill()


def test_a_killed_driver_leaves_points_that_two_syncs_at_once_send_once(server, tmp_path, dead):
    run = tmp_path / "killed"
    new_run(run, server.uri)
    code = (
        "import os, sys; from pipeline.tracking.sender import Sender\n"
        "from pipeline.storage.folder import Folder\n"
        "from pipeline.tracking.tracker import Tracker\n"
        "run = Folder(sys.argv[1]); tracker = Tracker(run)\n"
        "Sender(run, sys.argv[2]).start()\n"
        "for step in range(1, 3001): tracker.metrics(step, {'loss': 1 / step})\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(run), dead], cwd=ROOT, check=False, timeout=600
    )
    assert killed.returncode == -9

    command = [sys.executable, "jobs/sync.py", "--run", str(run), "--uri", server.uri]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [each.communicate(timeout=600)[0].decode() for each in both]

    assert 0 in [each.returncode for each in both], said
    assert len(told(run)) == 3000
    assert arrived(server.uri, run) == told(run)
    sync(SyncConfig(run=str(run), uri=server.uri))
    assert arrived(server.uri, run) == told(run)


def test_what_is_refused_for_ever_is_put_aside_and_the_rest_passes(store, tmp_path, caplog):
    run = tmp_path / "refused"
    tracker = new_run(run, store)
    for step in (1, 2, 3):
        tracker.metrics(step, {"loss": 1 / step, "bad\nname": 1.0})
    tracker.image("samples", 1, "samples/gone.png")
    tracker.finish("FINISHED")

    with caplog.at_level(logging.WARNING):
        sender = send_rest(tracker.run, store)

    assert not sender.delivery.left()
    assert sender.delivery.refused == 4
    assert arrived(store, run) == told(run)
    letters = [e.record for e in read(Folder(str(run / "spool" / "refused")), {})]
    assert [each["record"]["kind"] for each in letters] == ["points"] * 3 + ["image"]
    assert letters[0]["record"]["key"] == "bad\nname"
    assert "bad" in letters[0]["reason"]
    assert "is not there any more" in letters[3]["reason"]
    assert len([r for r in caplog.records if "MLflow refuses" in r.getMessage()]) == 1


def test_a_run_that_was_deleted_in_mlflow_is_made_anew_with_its_history(store, tmp_path):
    run = tmp_path / "deleted"
    tracker = new_run(run, store)
    tracker.metrics(1, {"loss": 1.0})
    send_rest(tracker.run, store)
    MlflowClient(store).delete_run(read_record(tracker.run)["mlflow_run_id"])
    tracker.metrics(2, {"loss": 0.5})

    send_rest(tracker.run, store)

    assert arrived(store, run) == told(run)
    assert len(told(run)) == 2


def test_one_sender_at_a_time_creates_one_run(store, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.storage.lock.BEATS_TO_WATCH", 1000)  # no pause looks like an end
    run = tmp_path / "twins"
    tracker = new_run(run, store)
    tracker.metrics(1, {"loss": 1.0})
    twins = [threading.Thread(target=send_rest, args=(tracker.run, store)) for _ in range(2)]

    for each in twins:
        each.start()
    for each in twins:
        each.join(300)

    assert arrived(store, run) == told(run)


def test_a_training_without_its_tracker_ends_well_and_is_sent_later(
    server, shapes, tmp_path, capsys, dead, monkeypatch
):
    secret = dead.replace("http://", "http://user:hush@")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tracking.sender.PATIENCE_S", 1)
        train(config(shapes, tmp_path, total_steps=4, tracking={"uri": secret}))

    said, run = capsys.readouterr().out, tmp_path / "run"
    assert f"MLflow at {dead} does not answer; training goes on" in said
    assert f"python jobs/sync.py --run {run}" in said
    assert "finished. model" in said
    kept = [p for p in run.rglob("*") if p.is_file()]
    assert not any(b"hush" in file.read_bytes() for file in kept)

    sync(SyncConfig(run=str(run), uri=server.uri))

    assert "left" not in capsys.readouterr().out
    client = MlflowClient(server.uri)
    recorded = client.get_run(read_record(Folder(str(run)))["mlflow_run_id"])
    assert recorded.info.status == "FINISHED"
    history = client.get_metric_history(recorded.info.run_id, "loss/generator")
    assert [point.step for point in history] == [2, 4]
    (model,) = client.search_logged_models([recorded.info.experiment_id])
    assert (model.source_run_id, model.status) == (recorded.info.run_id, "READY")

    # The same tracker as at the start, forgotten what was sent: the model is not logged twice.
    (run / "spool" / "sent.json").unlink()
    sync(SyncConfig(run=str(run), uri=server.uri))
    assert len(client.search_logged_models([recorded.info.experiment_id])) == 1
