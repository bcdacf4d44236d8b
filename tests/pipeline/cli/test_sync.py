"""Sending what is left of a stranger's run: no password and no file goes where its record says."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.cli.sync import SyncConfig, plan_sync, sync
from pipeline.storage.folder import Folder
from pipeline.tracking.late_metrics import Findings, record_numbers
from tests.corpus_runs import lay_run

pytestmark = pytest.mark.slow


@pytest.fixture
def collector() -> Iterator[tuple[str, list[str]]]:
    """A server that takes whatever comes, and what it was given for a password."""
    given: list[str] = []

    class Collect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(str(self.headers["Authorization"]))
            self.send_response(404)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collect)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", given
    server.shutdown()
    server.server_close()


SENDERS = {
    "sync": lambda run: sync(SyncConfig(run=run)),
    "sync of all": lambda run: sync(SyncConfig(run=run.rpartition("/")[0])),
    "a dry run": lambda run: plan_sync(SyncConfig(run=run)),
    "an evaluation": lambda run: record_numbers(Folder(run), Findings(1, {"eval/x": 1.0})),
}


@pytest.mark.parametrize("sender", SENDERS)
def test_the_password_does_not_go_where_a_record_says(sender, collector, tmp_path, monkeypatch):
    uri, given = collector
    run = tmp_path / "outputs" / "run"
    lay_run(run, [{"kind": "status", "status": "FINISHED"}], uri=uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    monkeypatch.setattr("pipeline.tracking.sender.PATIENCE_S", 1)

    with pytest.raises(ValueError, match=f"names the tracker {uri}, and here it would be sqlite"):
        SENDERS[sender](str(run))

    assert given == []


def test_no_store_is_made_where_a_record_says(tmp_path):
    run, theirs = tmp_path / "outputs" / "run", tmp_path / "home" / "made.db"
    lay_run(run, [{"kind": "status", "status": "FINISHED"}], uri=f"sqlite:///{theirs}")

    with pytest.raises(ValueError, match="no address is taken from a file"):
        sync(SyncConfig(run=str(run)))

    assert not theirs.parent.exists()


def test_a_run_that_is_refused_keeps_no_other_from_being_sent(tmp_path, capsys):
    outputs = tmp_path / "outputs"
    known = f"sqlite:///{outputs}/mlflow.db"
    for name, uri in {"a": "http://127.0.0.1:9", "b": known}.items():
        lay_run(outputs / name, [{"kind": "status", "status": "FINISHED"}], uri=uri)

    with pytest.raises(ValueError, match=r"outputs/a/run\.json names the tracker"):
        sync(SyncConfig(run=str(outputs)))

    assert f"{outputs}/b: 1 records sent to {known}" in capsys.readouterr().out


def test_a_dry_run_for_tensorboard_names_all_that_writing_would_refuse(tmp_path, capsys):
    outputs, theirs = tmp_path / "outputs", tmp_path / "theirs"
    theirs.mkdir()
    for name in ("a", "b", "c"):
        lay_run(outputs / name, [{"kind": "points", "step": 1, "values": {"x": 1.0}}], uri="x")
    for name in ("a", "c"):
        (outputs / name / "tensorboard").symlink_to(theirs)

    both = r"outputs/a: [^\n]*leads out(?s:.)*outputs/c: .*leads out"
    with pytest.raises(ValueError, match=both):
        plan_sync(SyncConfig(run=str(outputs), to="tensorboard"))

    assert f"{outputs}/b: 1 points and 0 images to write" in capsys.readouterr().out
    assert not list(theirs.iterdir())
