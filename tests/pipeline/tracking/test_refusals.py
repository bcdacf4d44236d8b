"""A tracker that refuses is not one that is away: the message says which, and what to do."""

import contextlib
import errno
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow import MlflowClient

from pipeline.cli.sync import SyncConfig, plan_sync, sync
from pipeline.common.console import DryRunReport
from pipeline.config import TrainConfig
from pipeline.storage.folder import Folder
from pipeline.tracking.mlflow_access import state_of
from pipeline.tracking.mlflow_run import MlflowRun
from pipeline.tracking.refusals import BlockedError, UnavailableError, sorted_error
from pipeline.tracking.run_record import read_record
from pipeline.tracking.sender import Sender, send_rest
from pipeline.tracking.spool import read
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.untrusted_records import RefusedError
from pipeline.training.dry_run import tracker_state
from tests.chaos.proxy import ChaosProxy
from tests.mlflow_server import patience
from tests.pipeline.tracking.test_sender import arrived, new_run, told
from tests.waiting import wait_until

RESTORE = r"experiment a was deleted there\. Restore it with `mlflow experiments restore --exp"


@pytest.fixture
def store(tmp_path, made_store):
    """A store of its own, beside the runs of the test."""
    shutil.copy(made_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def sent_run(folder, uri: str) -> Tracker:
    tracker = new_run(folder, uri)
    tracker.metrics(1, {"loss": 1.0})
    assert not send_rest(tracker.run, uri).delivery.left()
    return tracker


@contextlib.contextmanager
def answering(status: int, text: str = "no") -> Iterator[str]:
    """A server that answers everything alike, as a proxy before MLflow does."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_an_experiment_that_is_deleted_while_a_run_goes_on_is_named(store, tmp_path, caplog):
    tracker = sent_run(tmp_path / "a", store)
    client, said = MlflowClient(store), []
    number = client.get_experiment_by_name("a").experiment_id
    sender = Sender(tracker.run, store, said.append)
    sender.start()
    tracker.metrics(2, {"loss": 0.5})
    wait_until(lambda: sender.delivery.delivered, "it goes on")
    client.delete_experiment(number)
    tracker.metrics(3, {"loss": 0.25})
    wait_until(lambda: said, "that it is refused is told")

    assert sender.close()["values"] > 1, "all of it, where the run is made anew"
    assert not sender.is_alive(), "no patience for what does not pass"

    assert said[0].startswith(f"MLflow at {store} refuses the run: experiment a was deleted there.")
    assert f"`mlflow experiments restore --experiment-id {number}`" in said[0]
    assert (
        f"`mlflow gc --experiment-ids {number}`, both with MLFLOW_TRACKING_URI={store}" in said[0]
    )
    assert "does not answer" not in "".join([*said, caplog.text])

    client.restore_experiment(number)
    sync(SyncConfig(run=str(tmp_path / "a")))
    assert arrived(store, tmp_path / "a") == told(tmp_path / "a")


@pytest.mark.slow
def test_an_experiment_that_is_restored_meanwhile_takes_the_run_again(store, tmp_path):
    client, said = MlflowClient(store), []
    place = (tmp_path / "mlflow-artifacts").as_uri()
    number = client.create_experiment("a", artifact_location=place)
    client.delete_experiment(number)
    tracker = new_run(tmp_path / "a", store)
    sender = Sender(tracker.run, store, said.append)
    sender.start()
    wait_until(lambda: said, "that it is refused is told")

    client.restore_experiment(number)
    wait_until(lambda: len(said) == 2, "the run is taken")

    assert "refuses the run: experiment a was deleted" in said[0]
    assert said[1].endswith("takes the run again")
    sender.close()
    (run,) = client.search_runs([number])
    assert run.data.params == {"seed": "1"}


@pytest.mark.slow
def test_a_dry_run_says_that_mlflow_would_refuse_the_run(store, tmp_path, capsys):
    client, report = MlflowClient(store), DryRunReport()
    client.delete_experiment(client.create_experiment("a"))
    config = TrainConfig(total_steps=1, output=str(tmp_path), tracking={"experiment": "a"})

    said = tracker_state(config, report)
    report.end()

    assert said.startswith(f"{store} refuses the run: experiment a was deleted there. Restore it")
    assert "It continues without it and stores its metrics in its folder" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.slow
def test_sync_names_what_is_refused_and_sends_the_others(store, tmp_path, capsys):
    refused, other = sent_run(tmp_path / "a", store), sent_run(tmp_path / "b", store)
    client = MlflowClient(store)
    client.delete_experiment(client.get_experiment_by_name("a").experiment_id)
    for tracker in (refused, other):
        tracker.metrics(2, {"loss": 0.5})
        tracker.flush()

    with pytest.raises(ConnectionError, match=RESTORE) as planned:
        plan_sync(SyncConfig(run=str(tmp_path)))
    with pytest.raises(ConnectionError, match=RESTORE) as error:
        sync(SyncConfig(run=str(tmp_path)))

    assert str(planned.value).startswith(f"MLflow refuses these runs:\n{tmp_path}/a: experiment a")
    assert "does not answer" not in str(planned.value)
    assert str(error.value).startswith("MLflow refuses what is left of these runs. Nothing is lost")
    assert f"\n{tmp_path}/a: experiment a was deleted" in str(error.value)
    assert f"{tmp_path}/b" not in str(error.value)
    assert arrived(store, tmp_path / "b") == told(tmp_path / "b")
    assert f"{tmp_path}/b: 1 records sent" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_was_deleted_is_named_and_made_anew(store, tmp_path, caplog):
    tracker = sent_run(tmp_path / "a", store)
    deleted = read_record(tracker.run)["mlflow_run_id"]
    said = []
    sender = Sender(tracker.run, store, said.append)
    sender.start()
    tracker.metrics(2, {"loss": 0.5})
    wait_until(lambda: sender.delivery.delivered, "it goes on")
    MlflowClient(store).delete_run(deleted)
    tracker.metrics(3, {"loss": 0.25})
    wait_until(lambda: "was deleted in MLflow" in caplog.text, "it is named")

    assert sender.close() == {}
    assert f"mlflow runs restore --run-id {deleted}" in caplog.text
    assert said == [], "it does answer"
    assert arrived(store, tmp_path / "a") == told(tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("revision", "what"),
    [
        ("0a8213491aaa", "of an older MLflow: keep a copy of it, and run `mlflow db upgrade`"),
        ("deadbeef0000", "of a newer MLflow: install that version here"),
    ],
)
def test_a_database_with_another_schema_is_named(revision, what, store, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        db.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        db.commit()
    tracker = new_run(tmp_path / "a", store)

    sender = send_rest(tracker.run, store)

    assert sender.blocked
    assert f"its database is {what}" in sender.problem
    assert revision in sender.problem
    with pytest.raises(BlockedError, match=revision):
        state_of(store, "a")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"hello " * 1000, "is no SQLite database: restore"),
        (None, "its database cannot be"),  # opened or read: kernels differ on a folder
    ],
)
def test_a_file_that_is_no_store_is_named_at_once(content, what, tmp_path):
    store = tmp_path / "mlflow.db"
    store.mkdir() if content is None else store.write_bytes(content)
    tracker = new_run(tmp_path / "a", f"sqlite:///{store}")

    sender = send_rest(tracker.run, f"sqlite:///{store}")

    assert sender.blocked
    assert what in sender.problem
    with pytest.raises(BlockedError, match=what):
        state_of(f"sqlite:///{store}", "a")


@pytest.mark.slow
def test_a_database_that_can_only_be_read_is_named(store, tmp_path):
    tracker = sent_run(tmp_path / "a", store)
    tracker.metrics(2, {"loss": 0.5})
    reading = f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true"

    sender = send_rest(tracker.run, reading)

    assert sender.blocked
    assert sender.problem.startswith("its database can only be read: allow to write")


def test_a_full_disk_and_other_errors_of_databases_and_files_are_told_apart(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "full.db")) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as full:
            db.execute("INSERT INTO t VALUES (zeroblob(100000))")
        db.execute("BEGIN EXCLUSIVE")
        with (
            contextlib.closing(sqlite3.connect(tmp_path / "full.db", timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError) as busy,
        ):
            other.execute("INSERT INTO t VALUES (1)")

    def found(error: Exception) -> str:
        return str(sorted_error(error, RefusedError))

    assert found(full.value).startswith("the disk of its database is full: make room there")
    assert found(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))).startswith(
        "the disk of its files is full: make room there"
    )
    assert "allow it for their folder" in found(PermissionError(errno.EACCES, "Permission denied"))
    passing = sorted_error(busy.value, RefusedError)
    assert type(passing) is UnavailableError
    assert "locked" in str(passing)
    assert type(sorted_error(ConnectionRefusedError("refused"), RefusedError)) is UnavailableError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "what"),
    [
        (401, "it does not take this user: set MLFLOW_TRACKING_USERNAME and"),
        (403, "this user may not do it: ask for the right to write"),
        (404, "no MLflow is at this address, or one too old"),
        (405, "it refuses this"),
    ],
)
def test_a_server_that_refuses_a_user_is_named_as_that(status, what, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hush-hush")
    said = []
    with answering(status, "<h1>No.</h1>") as uri:
        tracker = new_run(tmp_path / "a", uri)
        sender = Sender(tracker.run, uri, said.append)
        sender.start()
        wait_until(lambda: said, "that it is refused is told")
        sender.close()
        with pytest.raises(BlockedError, match=what):
            state_of(uri, "a")

    assert len(said) == 1
    assert said[0].startswith(f"MLflow at {uri} refuses the run: {what}")
    assert f"(status {status}: " in said[0]
    assert f"is kept in {tracker.run}/spool" in said[0]
    assert "hush" not in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_is_busy_or_broken_is_not_one_that_refuses(status, tmp_path):
    with answering(status) as uri, pytest.raises(UnavailableError) as caught:
        state_of(uri, "a")

    assert type(caught.value) is UnavailableError


@pytest.mark.slow
def test_one_param_or_tag_that_is_refused_does_not_take_the_others_with_it(store, tmp_path, caplog):
    tracker = new_run(tmp_path / "a", store)
    names = {f"option.{number}": number for number in range(120)}
    tracker.options(names | {"bad\nname": 1}, {"good": "tag", "bad\ntag": "x"})

    with caplog.at_level(logging.WARNING):
        sender = send_rest(tracker.run, store)

    assert not sender.delivery.left()
    run = MlflowClient(store).get_run(read_record(tracker.run)["mlflow_run_id"])
    assert run.data.params == {"seed": "1"} | {name: str(value) for name, value in names.items()}
    assert run.data.tags["good"] == "tag"
    (letter,) = [e.record for e in read(Folder(f"{tracker.run}/spool/refused"), {})]
    assert "bad\nname: " in letter["reason"]
    assert "bad\ntag: " in letter["reason"]


@pytest.mark.slow
@pytest.mark.rest
def test_a_server_that_refuses_in_between_gets_all_but_what_is_too_large(mlflow_server, tmp_path):
    with ChaosProxy("127.0.0.1", mlflow_server.port) as proxy, patience():
        tracker, said = new_run(tmp_path / "refuses", proxy.url), []
        sender = Sender(tracker.run, proxy.url, said.append)
        sender.start()
        wait_until(lambda: not sender.delivery.left(), "all of the start is there", 300)

        proxy.inject("401", times=10**6)
        tracker.metrics(1, {"loss": 1.0})
        wait_until(lambda: said, "that it is refused is told", 300)
        proxy.clear()
        wait_until(lambda: len(said) == 2, "the run is taken again", 300)
        proxy.inject("413", times=10**6, when=lambda request: b"too large" in request.body)
        tracker.metrics(2, {"loss": 0.5, "too large": 1.0})

        assert sender.close() == {}
        assert "refuses the run: it does not take this user: set MLFLOW_TRACKING_USERN" in said[0]
        assert said[1].endswith("takes the run again")
        assert arrived(proxy.url, tmp_path / "refuses") == told(tmp_path / "refuses")
        (letter,) = [e.record for e in read(Folder(f"{tracker.run}/spool/refused"), {})]
        assert letter["record"]["key"] == "too large"
        assert MlflowRun(proxy.url, read_record(tracker.run)["mlflow_run_id"]).last_steps() == {
            "loss": 2
        }
