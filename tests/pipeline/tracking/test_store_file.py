"""A store in a file is where it lies now, whatever its path is called and its rows name."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.cli.sync import SyncConfig, plan_sync, sync
from pipeline.storage.folder import Folder
from pipeline.tracking.late_metrics import Findings, record_numbers
from pipeline.tracking.mlflow_access import fluent_api
from pipeline.tracking.run_record import read_record, update_record
from pipeline.tracking.sender import send_rest
from pipeline.tracking.store_file import (
    escaped_address,
    holds_run,
    name_places_beside,
    store_address,
    store_file,
)
from pipeline.tracking.tracker import Tracker, address, tracking_uri
from tests.files import files

NAMES = ["my%20runs", "a?b", "with # hash", "my data [v2]", "curly {a,b}", "ü", "it's", 'a"b', "1%"]


@pytest.fixture
def outputs(tmp_path, made_store):
    """A folder of runs as a training leaves it: a run with a grid and a file, all of it sent."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    shutil.copy(made_store, outputs / "mlflow.db")
    train(outputs / "run", step=1)
    return outputs


def train(run: Path, *, step: int, uri: str | None = None) -> None:
    """Log a step as a training does, and send it to the tracker that one finds by itself."""
    folder, at = Folder(str(run)), uri or tracking_uri(None, Folder(str(run.parent)))
    update_record(folder, mlflow_uri=at, status="RUNNING")
    tracker = Tracker(folder)
    if tracker.is_new():
        tracker.options({"seed": 1}, {"dataset.digest": "d"})
        tracker.begin(experiment="ratgan", name=run.name, tags={})
    (run / "samples").mkdir(exist_ok=True)
    Image.new("RGB", (40, 20)).save(run / "samples" / f"{step}.png")
    tracker.metrics(step, {"loss": 1 / step})
    tracker.image("samples", step, f"samples/{step}.png")
    tracker.json({"step": step}, f"step-{step}.json")
    tracker.finish("FINISHED")
    assert not send_rest(folder, at).delivery.left()


def shown(store: Path, run: Path) -> tuple[list[int], dict[str, bytes]]:
    """Return steps of the curve and downloaded files of a run, as MLflow's own client has them."""
    uri, run_id = store_address(store), read_record(Folder(str(run)))["mlflow_run_id"]
    client = MlflowClient(uri)
    steps = [point.step for point in client.get_metric_history(run_id, "loss")]
    with fluent_api(uri):
        found = Path(mlflow.artifacts.download_artifacts(run_id=run_id))
    return steps, files(found)


def named(store: Path) -> str:
    """Return all that a store has, as text: what names an old place stands in it."""
    with contextlib.closing(sqlite3.connect(store)) as db:
        return "\n".join(db.iterdump())


@pytest.mark.parametrize("name", NAMES)
def test_the_address_of_a_store_has_escapes_where_it_needs_them(name, tmp_path):
    file = tmp_path / name / "mlflow.db"
    uri = store_address(file)

    assert store_file(uri) == file
    assert escaped_address(uri) == uri
    assert (uri == f"sqlite:///{file}") == (not {"%", "?"} & set(name))
    assert tracking_uri(None, Folder(str(file.parent))) == uri
    assert file.parent.is_dir()
    # A folder that is there is meant as it is written.
    assert tracking_uri(f"sqlite:///{file}", Folder(str(tmp_path))) == uri
    assert not file.exists()


def test_an_address_of_another_database_is_left_as_it_is(tmp_path):
    others = (
        "http://a/b%20c?d postgresql+psycopg://u@h/db?x=1 sqlite:// sqlite:/// sqlite:///:memory:"
    )
    for uri in (*others.split(), "sqlite:///file:/a/mlflow.db?mode=ro&uri=true"):
        assert (escaped_address(uri), store_file(uri)) == (uri, None)
    assert store_file("sqlite:///outputs/mlflow.db") == Path("outputs/mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db?timeout=30"
    assert (escaped_address(uri), store_file(uri)) == (uri, tmp_path / "mlflow.db")
    escaped = f"sqlite:///{tmp_path}/my%20own/mlflow.db"  # as SQLAlchemy reads it
    assert store_file(escaped) == tmp_path / "my own" / "mlflow.db"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my%20runs", "a?b", "with # hash [v2] {a,b} ü 'it\"s' 1%"])
def test_a_folder_of_any_name_has_its_runs_in_mlflow_and_nothing_is_beside_it(
    name, tmp_path, made_store
):
    outputs = tmp_path / name
    outputs.mkdir()
    shutil.copy(made_store, outputs / "mlflow.db")

    train(outputs / "run", step=1)

    steps, found = shown(outputs / "mlflow.db", outputs / "run")
    assert (steps, sorted(Path(each).suffix for each in found)) == ([1], [".json", ".png", ".webp"])
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert {each.name for each in outputs.iterdir()} == {"mlflow.db", "mlflow-artifacts", "run"}


MOVES = {
    "moved": lambda old, new: old.rename(new),
    "copied": lambda old, new: shutil.copytree(old, new),
    "moved to a place with escapes": lambda old, new: old.rename(new),
}
NEXT = {
    "training": lambda run: train(run, step=2),
    "sync": lambda run: sync(SyncConfig(run=str(run.parent))),
    "an evaluation": lambda run: record_numbers(Folder(str(run)), Findings(1, {"eval/x": 1.0})),
}


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("then", NEXT)
def test_a_folder_that_was_moved_goes_on_where_it_is_now(move, then, outputs, tmp_path):
    before, content = shown(outputs / "mlflow.db", outputs / "run")
    new = tmp_path / ("new%20[v2]?" if "escapes" in move else "new") / "place"
    new.parent.mkdir()
    MOVES[move](outputs, new)
    old = files(outputs)

    NEXT[then](new / "run")

    assert files(outputs) == old, "nothing is written at the old place"
    assert outputs.exists() == (move == "copied")
    steps, found = shown(new / "mlflow.db", new / "run")
    assert steps == before + [2] * (then == "training")
    assert content.items() <= found.items(), "the files of before can be downloaded there"
    assert f"{outputs}/mlflow" not in named(new / "mlflow.db")
    assert read_record(Folder(str(new / "run")))["mlflow_uri"] == store_address(new / "mlflow.db")


@pytest.mark.slow
def test_a_sweep_that_was_moved_finds_its_store_for_each_trial(outputs, tmp_path):
    trial = outputs / "run" / "run-000"
    train(trial, step=1, uri=store_address(outputs / "mlflow.db"))
    outputs.rename(tmp_path / "moved")

    assert address(Folder(f"{tmp_path}/moved/run/run-000")) == (
        f"sqlite:///{tmp_path}/moved/mlflow.db"
    )


@pytest.mark.slow
def test_a_run_that_was_moved_without_its_store_is_sent_nowhere_unasked(outputs, tmp_path):
    (tmp_path / "alone").mkdir()
    (outputs / "run").rename(tmp_path / "alone" / "run")
    before = files(outputs)

    for command in (sync, plan_sync):
        with pytest.raises(ValueError, match=f"names the tracker sqlite:///{outputs}/mlflow.db"):
            command(SyncConfig(run=str(tmp_path / "alone" / "run")))

    assert files(outputs) == before
    assert [each.name for each in (tmp_path / "alone").iterdir()] == ["run"]
    # A training makes the store beside it, with the whole history.
    train(tmp_path / "alone" / "run", step=2)
    steps, found = shown(tmp_path / "alone" / "mlflow.db", tmp_path / "alone" / "run")
    assert (steps, len(found)) == ([1, 2], 6)
    assert files(outputs) == before


@pytest.mark.slow
def test_a_store_that_the_user_named_stays_the_store_of_a_moved_run(
    outputs, tmp_path, made_store, monkeypatch
):
    team = tmp_path / "team" / "mlflow.db"
    team.parent.mkdir()
    shutil.copy(made_store, team)
    train(outputs / "other", step=1, uri=f"sqlite:///{team}")
    outputs.rename(tmp_path / "moved")
    other = Folder(str(tmp_path / "moved" / "other"))

    with pytest.raises(ValueError, match=f"names the tracker sqlite:///{team}"):
        address(other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{team}")
    assert address(other) == f"sqlite:///{team}"


@pytest.mark.slow
def test_a_place_for_files_that_the_user_chose_is_left(tmp_path, made_store):
    store, chosen = tmp_path / "mlflow.db", tmp_path / "disk" / "mlflow-artifacts"
    shutil.copy(made_store, store)
    chosen.mkdir(parents=True)
    client = MlflowClient(f"sqlite:///{store}")
    for name, place in {"a": chosen.as_uri(), "b": "s3://lake/mlflow-artifacts"}.items():
        client.create_experiment(name, artifact_location=place)
    before = store.read_bytes()

    name_places_beside(store)

    assert store.read_bytes() == before


@pytest.mark.slow
def test_the_store_of_a_stranger_leads_nowhere_by_what_is_made_of_its_places(outputs, tmp_path):
    store, run = outputs / "mlflow.db", outputs / "run"
    home = tmp_path / "home"
    home.mkdir()
    theirs = (tmp_path / "theirs" / "mlflow-artifacts").as_uri()
    run_id = read_record(Folder(str(run)))["mlflow_run_id"]
    with contextlib.closing(sqlite3.connect(store)) as db:
        db.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'ratgan'", (theirs,))
        db.execute("UPDATE runs SET artifact_uri = ?", (f"{theirs}/../../home",))
        db.commit()
    Tracker(Folder(str(run))).json({"evil": 1}, "evil.json")

    sender = send_rest(Folder(str(run)), store_address(store))

    assert sender.blocked
    assert f"mlflow-artifacts/../../home, which is not below {outputs.as_uri()}" in sender.problem
    assert list(home.iterdir()) == []
    assert (
        MlflowClient(store_address(store))
        .get_run(run_id)
        .info.artifact_uri.startswith(outputs.as_uri())
    )


@pytest.mark.slow
def test_a_view_in_the_store_of_a_stranger_is_not_asked(outputs):
    with contextlib.closing(sqlite3.connect(outputs / "mlflow.db")) as db:
        db.execute("ALTER TABLE runs RENAME TO others")
        db.execute(
            "CREATE VIEW runs AS WITH RECURSIVE n(run_uuid) AS "
            "(SELECT 1 UNION ALL SELECT run_uuid + 1 FROM n) SELECT * FROM n"  # has no end
        )
        db.commit()

    assert not holds_run(outputs / "mlflow.db", "0")
    name_places_beside(outputs / "mlflow.db")


@pytest.mark.slow
def test_the_ui_gets_the_address_of_a_moved_store_whose_places_are_beside_it(outputs, tmp_path):
    new = tmp_path / "my%20runs"
    outputs.rename(new)

    said = subprocess.run(  # as the recipe of `make ui` does it
        [sys.executable, "-m", "pipeline.tracking.store_file", str(new)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said == f"{store_address(new / 'mlflow.db')}\n"
    assert len(shown(new / "mlflow.db", new / "run")[1]) == 3
    assert not outputs.exists()


@pytest.mark.slow
def test_the_registered_model_of_a_moved_store_is_found(tmp_path, made_store):
    (tmp_path / "old").mkdir()
    store = tmp_path / "old" / "mlflow.db"
    shutil.copy(made_store, store)
    client = MlflowClient(f"sqlite:///{store}")
    place = (tmp_path / "old" / "mlflow-artifacts").as_uri()
    experiment = client.create_experiment("e", artifact_location=place)
    run = client.create_run(experiment).info.run_id
    logged = client.create_logged_model(experiment, name="model", source_run_id=run)
    (tmp_path / "weights").write_bytes(b"weights")
    client.log_model_artifact(logged.model_id, str(tmp_path / "weights"))
    client.finalize_logged_model(logged.model_id, "READY")
    client.create_registered_model("m")
    with fluent_api(f"sqlite:///{store}"):
        client.create_model_version("m", f"models:/{logged.model_id}", model_id=logged.model_id)
    (tmp_path / "old").rename(tmp_path / "new")

    name_places_beside(tmp_path / "new" / "mlflow.db")

    with fluent_api(f"sqlite:///{tmp_path}/new/mlflow.db"):
        found = Path(mlflow.artifacts.download_artifacts("models:/m/1"))
    assert (found / "weights").read_bytes() == b"weights"
    assert not (tmp_path / "old").exists()


KILLED = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE experiments SET name = hex(randomblob(100000))")
db.execute("CREATE TABLE large AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n "
           "LIMIT 2000) SELECT randomblob(1000) AS x FROM n")
os._exit(9)
"""


def test_a_write_of_the_store_that_was_killed_is_rolled_back_and_the_run_found(outputs):
    store = outputs / "mlflow.db"
    run_id = read_record(Folder(str(outputs / "run")))["mlflow_run_id"]
    subprocess.run([sys.executable, "-c", KILLED, str(store)], check=False, timeout=120)
    assert Path(f"{store}-journal").stat().st_size, "nothing is left of it"

    name_places_beside(store)

    assert holds_run(store, run_id)
    with contextlib.closing(sqlite3.connect(store)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM experiments")}
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'large'").fetchall()
    assert names == {"Default", "ratgan"}
