"""Profiled steps: which ones, what the files hold, and what they must not."""

import gzip
import hashlib
import json
import socket
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipeline.storage.folder import Folder
from pipeline.tracking.spool import RECORDS, SPOOL, read
from pipeline.training import step_profile
from pipeline.training.step_profile import StepProfile
from pipeline.training.train import train
from tests.pipeline.training.test_train import config, weights

CPU = torch.device("cpu")


def profiled(run: Path, asked: range, done: list[int]) -> list[str]:
    """Do steps, and return the names of the traces that they leave."""
    run.mkdir(exist_ok=True)
    matrix = torch.ones(8, 8)
    with StepProfile(asked, Folder(str(run)), CPU) as profile:
        for number in done:
            with profile.step(number):
                matrix @ matrix
    return sorted(path.name for path in run.glob("profile-*.json.gz"))


def trace(run: Path) -> str:
    (file,) = run.glob("profile-*.json.gz")
    return gzip.decompress(file.read_bytes()).decode()


def test_a_trace_has_the_steps_asked_for_and_nothing_of_the_run(tmp_path):
    run = tmp_path / "a-secret-run"
    names = profiled(run, range(1, 3), [0, 1, 2, 3])

    assert names == ["profile-00000001-00000003.json.gz"]
    content = trace(run)
    seen = [event["name"] for event in json.loads(content)["traceEvents"]]
    assert [name for name in seen if name.startswith("step ")] == ["step 1", "step 2"]
    assert seen.count("aten::mm") == 2
    table = (run / "profile-00000001-00000003.txt").read_text()
    assert "aten::mm" in table
    for text in (content, table):
        for secret in (socket.gethostname(), "a-secret-run", str(Path.cwd()), "/tmp"):
            assert f'"{secret}' not in text, secret
            assert f"{secret}/" not in text, secret


def test_both_files_are_told_to_the_tracker(tmp_path):
    profiled(tmp_path, range(1), [0])

    told = {}
    for entry in read(Folder(str(tmp_path)) / SPOOL / RECORDS, {}):
        told[entry.record["file"]] = entry.record["sha256"]
    assert sorted(told) == [f"profile-00000000-00000001.{ending}" for ending in ("json.gz", "txt")]
    for file, sha256 in told.items():
        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(
    ("done", "names"),
    [
        ([4, 5, 6], ["profile-00000004-00000006.json.gz"]),  # resumed inside
        ([2, 3], ["profile-00000003-00000004.json.gz"]),  # stopped inside
        ([2, 3, 4, 0, 1], ["profile-00000003-00000005.json.gz"]),  # rolled back out of them
    ],
)
def test_what_was_done_of_the_steps_is_written(tmp_path, done, names):
    assert profiled(tmp_path, range(3, 6), done) == names


def test_steps_that_are_past_are_said_and_those_profiled_before_are_left(tmp_path, capsys):
    assert profiled(tmp_path, range(3, 6), [7, 8]) == []
    assert "steps 3 to 6 were not profiled: this start did none of them" in capsys.readouterr().out

    first = profiled(tmp_path, range(1), [0])
    written = trace(tmp_path)
    assert profiled(tmp_path, range(1), [0]) == first
    assert trace(tmp_path) == written
    assert "steps 0 to 1 were profiled before" in capsys.readouterr().out


def test_other_workers_and_runs_without_the_option_record_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step_profile, "profile", None)  # calling it would fail, and be said

    assert profiled(tmp_path, range(0), [0, 1]) == []
    monkeypatch.setattr(step_profile.collective, "rank", lambda: 1)
    assert profiled(tmp_path, range(2), [0, 1]) == []

    assert capsys.readouterr().out == ""


def test_no_fault_of_a_profile_ends_a_training(tmp_path, monkeypatch, capsys):
    def full(self, name, content):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full)
        assert profiled(tmp_path, range(1, 2), [0, 1, 2]) == []
    monkeypatch.setattr(step_profile, "profile", None)
    assert profiled(tmp_path, range(1, 3), [0, 1, 2]) == []

    said = capsys.readouterr().out
    assert "warning: steps 1 to 2 are not profiled: no space left" in said
    assert said.count("warning: steps 1 to 3 are not profiled") == 1


def test_an_error_of_a_step_goes_on_and_lets_the_next_profile_begin(tmp_path):
    with (
        pytest.raises(ValueError, match="of the step"),
        StepProfile(range(3), Folder(str(tmp_path)), CPU) as profile,
        profile.step(0),
    ):
        raise ValueError("of the step")

    assert profiled(tmp_path, range(1), [0]) == ["profile-00000000-00000001.json.gz"]


@pytest.mark.slow
@pytest.mark.rest
def test_a_profiled_run_has_the_files_in_mlflow_and_the_same_weights(
    shapes, tmp_path, monkeypatch, capsys
):
    with pytest.raises(ValueError, match=r"profile_steps=3:5 goes beyond the last step .* 4: name"):
        train(config(shapes, tmp_path, total_steps=4, profile_steps="3:5"))
    monkeypatch.setattr("pipeline.training.reporter.peak_images_per_s", lambda *_: 1e4)
    train(config(shapes, tmp_path / "plain", total_steps=4))
    for steps in (2, 4):  # resumed inside of the steps to profile
        train(
            config(shapes, tmp_path, total_steps=steps, profile_steps=f"1:{steps}"),
        )

    assert weights(tmp_path / "run", 4) == weights(tmp_path / "plain" / "run", 4)
    said = capsys.readouterr().out
    assert "% of the peak)" in said
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = json.loads((tmp_path / "run" / "run.json").read_text())["mlflow_run_id"]
    artifacts = {each.path for each in client.list_artifacts(run_id)}
    for steps in ("00000001-00000002", "00000002-00000004"):
        assert {f"profile-{steps}.json.gz", f"profile-{steps}.txt"} <= artifacts
    speed, share = (
        client.get_metric_history(run_id, f"speed/{name}")[0].value
        for name in ("images_per_s", "peak_share")
    )
    assert share == pytest.approx(speed / 1e4)
