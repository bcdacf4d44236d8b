"""Resuming: what a training is told when it goes on in another way than before."""

from pathlib import Path

import pytest
import torch

from pipeline.checkpoint.store import commit
from pipeline.common.environment import versions
from pipeline.config import TrainConfig
from pipeline.distributed import collective
from pipeline.storage.folder import Folder
from pipeline.tracking.spool import read
from pipeline.training.loop import Job, open_dataset, resume
from tests.screen import own

CPU = torch.device("cpu")
CONFIG = TrainConfig(total_steps=10)


def job(run: Path, **changes) -> Job:
    given = {"config": {}, "run": str(run), "versions": versions(), "dataset": "d"}
    return Job(**given | changes)


def committed(root: Folder, **state) -> None:
    commit(root, [], step=4, state={"config": CONFIG.record(), **state}, keep=2)


def tags(run: Path) -> dict[str, str]:
    records = [entry.record for entry in read(Folder(str(run)) / "spool/records", {})]
    return {key: value for record in records for key, value in record["tags"].items()}


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({}, ""),
        ({"workers": 2}, "the same images, but numbers equal only to rounding: workers 2 → 1"),
        ({"threads": 99}, "rounding: threads 99 → "),
        ({"device": "an H100"}, "rounding: device an H100 → cpu"),
        (
            {"config": CONFIG.model_copy(update={"compile": True}).record()},
            "rounding: compile: True → False",
        ),
        (
            {"config": CONFIG.model_copy(update={"seed": 7}).record()},
            "other options than before, so another run from here on: seed: 7 → ",
        ),
        ({"versions": {"commit": "aaa"}}, "with other code than before: aaa → bbb"),
    ],
)
def test_what_is_otherwise_than_before_is_said_and_recorded(tmp_path, capsys, before, said):
    root, restored = Folder(str(tmp_path / "checkpoints")), []
    committed(root, **{"threads": torch.get_num_threads()} | before)
    config = CONFIG.model_copy(update={"allow_changes": ("seed",)})
    start = job(tmp_path, versions=versions() | {"commit": "bbb"})

    state = resume(start, config, root, CPU, restored.append)

    assert (state["step"], collective.world()) == (4, 1)
    assert restored[0].location == f"{root}/step-00000004"
    first, *lines = own(capsys.readouterr().out).splitlines()
    assert first.startswith("resuming from step 4")
    assert len(lines) == bool(said)
    assert all(said in line for line in lines)
    assert tags(tmp_path) == ({"resumed.4": lines[0].strip()} if said else {})


def test_a_checkpoint_from_before_workers_were_recorded_is_resumed(tmp_path, capsys):
    committed(Folder(str(tmp_path)))

    state = resume(job(tmp_path), CONFIG, Folder(str(tmp_path)), CPU, lambda folder: None)

    assert state["step"] == 4
    assert "to rounding" not in capsys.readouterr().out


def test_a_checkpoint_of_step_0_is_one_to_start_from(tmp_path, capsys):
    root, restored = Folder(str(tmp_path)), []
    commit(root, [], step=0, state={"config": CONFIG.record()}, keep=2)

    state = resume(job(tmp_path), CONFIG, root, CPU, restored.append)

    assert (state["step"], len(restored)) == (0, 1)
    assert "starting from step 0" in capsys.readouterr().out


def test_without_a_checkpoint_training_starts_at_zero(tmp_path):
    assert resume(job(tmp_path), CONFIG, Folder(str(tmp_path)), CPU, pytest.fail) == {}


def test_a_worker_trains_on_the_dataset_of_the_job_or_not_at_all(shapes, tmp_path):
    folder = shapes.folder.location

    assert open_dataset(job(tmp_path, dataset=shapes.digest), folder).digest == shapes.digest
    with pytest.raises(ValueError, match=r"holds another dataset on .* now than where the job was"):
        open_dataset(job(tmp_path), folder)
