"""A run folder of a stranger neither writes nor reads outside of itself when it is sent."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.cli.sync import SyncConfig, sync
from pipeline.storage.folder import Folder
from pipeline.tracking.spool import read
from pipeline.tracking.untrusted_records import lies_in
from tests.corpus_runs import ATTACKS, SECRET, lay_run, of_file, of_image
from tests.files import files

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What does not go now never will here."""
    monkeypatch.setattr("pipeline.tracking.sender.PATIENCE_S", 3.0)


@pytest.fixture
def place(tmp_path, made_store, monkeypatch):
    """Somebody's machine: a home, a folder for temporary files, and runs with their store."""
    for name in ("home", "tmp", "outputs"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / ".bashrc").write_bytes(b"mine")
    (tmp_path / "home" / "id_rsa").write_bytes(SECRET)
    (tmp_path / "outputs" / "mlflow.db").write_bytes(made_store.read_bytes())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
def test_nothing_outside_of_a_run_is_written_or_sent(attack, place):
    run, uri = place / "outputs" / "run", f"sqlite:///{place}/outputs/mlflow.db"
    run.mkdir()
    record = attack(run, place / "home")
    (run / "good.txt").write_bytes(b"good")
    lay_run(run, [record, of_file("good.txt", b"good")], uri=uri)
    before = files(place / "home")

    sync(SyncConfig(run=str(run)))

    assert files(place / "home") == before
    assert files(place / "tmp") == {}
    sent = files(place / "outputs" / "mlflow-artifacts")
    assert list(sent.values()) == [b"good"], "what is in the run is sent all the same"
    (refused,) = read(Folder(str(run / "spool" / "refused")), {})
    assert refused.record["record"]["kind"] == record["kind"]
    assert "PATH_UNSAFE" in refused.record["reason"] or "is a path" in refused.record["reason"]


@pytest.mark.parametrize("sha256", ["", None, "0" * 64, 1])
def test_a_file_that_no_hash_proves_is_not_sent(sha256, place):
    run = place / "outputs" / "run"
    record = of_file("notes", b"notes") | {"sha256": sha256}
    lay_run(run, [record], uri=f"sqlite:///{place}/outputs/mlflow.db")
    (run / "notes").write_bytes(b"notes")

    sync(SyncConfig(run=str(run)))

    assert files(place / "outputs" / "mlflow-artifacts") == {}
    (refused,) = read(Folder(str(run / "spool" / "refused")), {})
    assert "is no hash" in refused.record["reason"] or "replaced" in refused.record["reason"]


@pytest.mark.parametrize("name", ["spool", "spool/records", "spool/refused"])
def test_a_link_in_a_run_is_no_way_out_for_what_is_written(name, place):
    run = place / "outputs" / "run"
    unknown = {"kind": "unknown"}
    lay_run(run, [unknown], uri=f"sqlite:///{place}/outputs/mlflow.db")
    outside = place / "home" / "outside"
    if name == "spool/refused":
        outside.mkdir()
    else:
        (run / name).rename(outside)
    (run / name).symlink_to(outside)
    before = files(place / "home")

    with pytest.raises((ValueError, ConnectionError), match="leads out of the folder by a link"):
        sync(SyncConfig(run=str(run)))

    assert files(place / "home") == before


@pytest.mark.parametrize("named", ["experiment", "folder"])
def test_a_store_that_came_with_a_run_does_not_say_where_files_are_written(named, place):
    run, uri = place / "outputs" / "run", f"sqlite:///{place}/outputs/mlflow.db"
    lay_run(run, [of_file(".bashrc", b"evil")], uri=uri)
    (run / ".bashrc").write_bytes(b"evil")
    if named == "experiment":
        location = (place / "home" / "theirs").as_uri()
        MlflowClient(uri).create_experiment("theirs", artifact_location=location)
    else:
        (place / "outputs" / "mlflow-artifacts").symlink_to(place / "home")
    before = files(place / "home")

    with pytest.raises(ConnectionError, match=r"keeps files of this run in .*, which is not"):
        sync(SyncConfig(run=str(run)))

    assert files(place / "home") == before


@pytest.mark.parametrize(
    "theirs",
    ["/tmp/a:/../{home}/theirs", "a:/../../{home}/theirs", "http://127.0.0.1:9/x", "runs:/1/x"],
)
def test_no_other_form_of_a_place_is_taken_for_one_beside_the_store(theirs, place):
    folder = (place / "outputs" / "mlflow-artifacts").as_uri()

    assert not lies_in(theirs.format(home=place / "home"), folder)
    assert lies_in(f"{folder}/1/artifacts", folder)


def test_a_store_with_a_trigger_gets_no_files(place):
    run, uri = place / "outputs" / "run", f"sqlite:///{place}/outputs/mlflow.db"
    lay_run(run, [of_file("notes", b"good")], uri=uri)
    (run / "notes").write_bytes(b"good")
    MlflowClient(uri).search_experiments()
    with contextlib.closing(sqlite3.connect(place / "outputs" / "mlflow.db")) as db:
        db.execute(
            "CREATE TRIGGER away AFTER INSERT ON runs BEGIN "
            "UPDATE runs SET artifact_uri = 'file:///elsewhere'; END"
        )
        db.commit()

    with pytest.raises(ConnectionError, match=r"has a trigger or view|keeps files of this run in"):
        sync(SyncConfig(run=str(run)))

    assert files(place / "outputs" / "mlflow-artifacts") == {}


def test_records_as_earlier_versions_wrote_them_are_sent(place):
    run = place / "outputs" / "run"
    (run / "samples").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(run / "samples" / "samples-00000004.png")
    (run / "table.md").write_bytes(b"a table")
    records = [
        {"kind": "json", "value": {"seed": 1}, "file": "config.json"},
        of_image("samples/samples-00000004.png"),  # never had a hash
        of_file("table.md", b"a table"),
    ]
    lay_run(run, records, uri=f"sqlite:///{place}/outputs/mlflow.db")

    sync(SyncConfig(run=str(run)))

    sent = [Path(name).name for name in files(place / "outputs" / "mlflow-artifacts")]
    assert {"config.json", "table.md"} < set(sent)
    assert sorted(name.rpartition(".")[2] for name in sent) == ["json", "md", "png", "webp"]


def test_a_picture_that_is_no_png_is_put_aside(place):
    run = place / "outputs" / "run"
    run.mkdir()
    Image.new("RGB", (8, 8)).save(run / "a.png", "GIF")
    lay_run(run, [of_image("a.png")], uri=f"sqlite:///{place}/outputs/mlflow.db")

    sync(SyncConfig(run=str(run)))

    (refused,) = read(Folder(str(run / "spool" / "refused")), {})
    assert "is no PNG" in refused.record["reason"]
