"""The address in a run's record is only believed where it is known here anyway."""

import contextlib
import sqlite3

import pytest

from pipeline.storage.folder import Folder
from pipeline.tracking.store_file import store_address, store_file
from pipeline.tracking.tracker import address, sync_command

THEIRS = "http://collector.example:5000"


@pytest.fixture
def run(tmp_path):
    return Folder(str(tmp_path / "outputs" / "run"))


@pytest.fixture
def beside(tmp_path):
    return f"sqlite:///{tmp_path}/outputs/mlflow.db"


@pytest.mark.parametrize(
    "theirs", [THEIRS, "sqlite:////home/me/other.db", "file:///home/me", "databricks"]
)
def test_an_address_that_only_a_record_names_is_not_used(theirs, run, beside):
    run.write_json("run.json", {"mlflow_uri": theirs})

    with pytest.raises(ValueError, match="no address is taken from a file") as refused:
        address(run, option="--tracking-uri")

    assert theirs in str(refused.value)
    assert beside in str(refused.value)
    assert "with --tracking-uri." in str(refused.value)
    assert address(run, THEIRS) == THEIRS, "the option says what is meant"
    assert sync_command(run, THEIRS) == f"python jobs/sync.py --run {run} --uri {THEIRS}"


def test_the_file_beside_the_run_and_the_environment_are_known(run, beside, monkeypatch):
    run.write_json("run.json", {"mlflow_uri": beside})
    assert address(run) == beside
    assert sync_command(run, beside) == f"python jobs/sync.py --run {run}"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush-hush@team.example")
    assert address(run) == beside, "it is where the run is recorded"
    run.write_json("run.json", {"mlflow_uri": "http://team.example"})
    assert address(run) == "http://me:hush-hush@team.example"

    run.write_json("run.json", {"mlflow_uri": THEIRS})
    with pytest.raises(ValueError, match=r"here it would be http://team\.example\. ") as refused:
        address(run)
    assert "hush" not in str(refused.value)


def test_a_trial_is_recorded_beside_its_sweep(run, beside):
    trial = run / "run-000"
    run.write_json("run.json", {"mlflow_uri": beside})
    trial.write_json("run.json", {"mlflow_uri": beside})

    assert address(trial) == beside


def test_the_file_beside_the_run_is_known_however_a_record_spells_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, spelled in {
        "a": "sqlite:///a/mlflow.db",
        "b%20c": "sqlite:///{}/mlflow.db",
    }.items():
        run = Folder(str(tmp_path / folder / "run"))
        run.write_json("run.json", {"mlflow_uri": spelled.format(tmp_path / folder)})
        assert address(run) == store_address(tmp_path / folder / "mlflow.db")


@pytest.mark.parametrize("run_id", ["0" * 32, None, 1, ["0"], {"a": 1}])
def test_a_run_that_is_not_in_the_store_beside_it_is_not_taken_for_moved(run_id, run, beside):
    run.write_json("run.json", {"mlflow_uri": "sqlite:////old/mlflow.db", "mlflow_run_id": run_id})
    with contextlib.closing(sqlite3.connect(store_file(beside))) as db:
        db.execute("CREATE TABLE runs (run_uuid)")
        db.execute("INSERT INTO runs VALUES ('1')")
        db.commit()

    with pytest.raises(ValueError, match=r"names the tracker sqlite:////old/mlflow\.db"):
        address(run)

    run.write_json("run.json", {"mlflow_uri": "sqlite:////old/mlflow.db", "mlflow_run_id": "1"})
    assert address(run) == beside


def test_a_run_in_a_bucket_has_no_file_beside_it(monkeypatch):
    run = Folder("memory://lake/runs/run")
    run.write_json("run.json", {"mlflow_uri": THEIRS})

    with pytest.raises(ValueError, match=r"here it would be none\. "):
        address(run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", THEIRS)
    assert address(run) == THEIRS
