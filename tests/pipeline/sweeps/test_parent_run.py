"""A sweep's run in MLflow and those under it, whatever is sent first."""

import pytest
from mlflow import MlflowClient

from pipeline.cli.sync import SyncConfig, sync
from pipeline.config import TrainConfig
from pipeline.storage.folder import Folder
from pipeline.sweeps.parent_run import ParentRun, finish_trial_run
from pipeline.sweeps.study_folder import StudyFolder
from pipeline.tracking.refusals import UnavailableError
from pipeline.tracking.run_record import read_record, update_record
from pipeline.tracking.sender import Delivery
from pipeline.tracking.tracker import PartOf, Tracker


@pytest.fixture
def study(tmp_path):
    """A sweep of which one trial was killed while it ran; nothing of it is sent."""
    folder = StudyFolder(Folder(str(tmp_path / "lr")), "lr")
    folder.open({}, frozenset())
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parent = Tracker(folder.folder)
    our_id = parent.begin(experiment="ratgan", name="lr", tags={})
    record = folder.add(0, {"seed": 1})
    record.status, record.curve, record.latest = "stopped", [(5, 0.5)], {"loss/generator": 2.0}
    trial = Tracker(folder.run(0))
    trial.metrics(5, record.latest)
    trial.begin(
        experiment="ratgan", name="lr-000", tags={}, part_of=PartOf(our_id, {"sweep": "lr"})
    )
    for run in (folder.folder, folder.run(0)):
        update_record(run, status="RUNNING", mlflow_uri=uri)
    return folder, record, uri


def test_a_trial_waits_for_the_run_that_it_is_under(study):
    folder, _, uri = study

    with pytest.raises(UnavailableError, match="the run that this one is part of is not there"):
        Delivery(folder.run(0), uri).deliver()
    Delivery(folder.folder, uri).deliver()
    Delivery(folder.run(0), uri).deliver()

    client = MlflowClient(uri)
    child = client.get_run(read_record(folder.run(0))["mlflow_run_id"])
    assert child.data.tags["mlflow.parentRunId"] == read_record(folder.folder)["mlflow_run_id"]
    assert child.data.tags["sweep"] == "lr"


def test_trials_that_were_killed_are_ended_and_the_best_is_told_above_them(study, tmp_path):
    folder, record, uri = study
    parent = ParentRun(folder, TrainConfig(total_steps=9), uri)

    assert finish_trial_run(folder, record, uri, send=False)["values"] > 0, "it is kept, not sent"
    parent.trial_done("max", "eval/x")
    parent.conclude(record, "what it found", {})
    parent.tracker.finish("FINISHED")
    sync(SyncConfig(run=str(tmp_path)))

    client = MlflowClient(uri)
    above, below = (
        client.get_run(read_record(run)["mlflow_run_id"]) for run in (folder.folder, folder.run(0))
    )
    assert (above.info.status, below.info.status) == ("FINISHED", "KILLED")
    assert below.data.tags["sweep.status"] == "stopped"
    assert above.data.params == {"seed": "1"}
    assert above.data.tags["mlflow.note.content"] == "what it found"
    assert above.data.metrics["eval/x"] == 0.5
    assert above.data.metrics["loss/generator"] == 2.0
    assert above.data.metrics["trials/stopped"] == 1
