"""Checkpoints are measured beside a training: which weights, numbers and best that leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipeline.checkpoint.later_scores import LaterScores
from pipeline.checkpoint.store import PREFIX, Score
from pipeline.common.failpoints import VARIABLE
from pipeline.config import RESUMABLE_CHANGES, EvaluateBesideConfig, TrainConfig
from pipeline.distributed.elastic import train_with_restarts
from pipeline.distributed.graceful_stop import StoppedError
from pipeline.evaluation.networks import find_model
from pipeline.storage.folder import Folder
from pipeline.tracking.best_version import Quality
from pipeline.tracking.spool import RECORDS, SPOOL, read
from pipeline.training import beside
from pipeline.training.beside import (
    BesideEvaluation,
    _score,
    refuse_unmeasurable_beside,
    without_if_crowded,
)
from pipeline.training.train import train
from tests.pipeline.training.test_train import config, weights
from tests.waiting import wait_until

CURVE = "eval/fd_builtin_40"
BESIDE = {"protocol": "builtin", "count": 40, "few_images": True}


def measured(run: Path) -> list[tuple[int, float]]:
    """Return step and distance of each evaluation that a run told of, in their order."""
    records = [entry.record for entry in read(Folder(str(run)) / SPOOL / RECORDS, {})]
    told = [each["quality"] for each in records if each and each["kind"] == "quality"]
    assert {each["metric"] for each in told} <= {CURVE}
    return [(each["step"], each["value"]) for each in told]


def curve(output: Path, key: str) -> list[tuple[int, float]]:
    run_id = json.loads((output / "run/run.json").read_text())["mlflow_run_id"]
    history = MlflowClient(f"sqlite:///{output}/mlflow.db").get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


@pytest.mark.slow
@pytest.mark.rest
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_is_measured_beside_trains_the_same_and_finds_its_best(
    workers, shapes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(beside, "usable_cpus", lambda: 4)
    options = {"workers": workers, "threads": 1, "best_by": "fd_builtin"}
    train(config(shapes, tmp_path / "alone", **options))
    without = capsys.readouterr().out

    run = train(config(shapes, tmp_path / "beside", evaluate_beside=BESIDE, **options))

    place = tmp_path / "beside/run"
    assert weights(place, 8) == weights(tmp_path / "alone/run", 8)
    points = measured(place)
    assert [step for step, _ in points] == [4, 8]
    assert curve(tmp_path / "beside", CURVE) == points, "each once"
    best = min(points, key=lambda point: point[1])
    assert find_model(str(run), checkpoint="best", weights="average").step == best[0]
    later = LaterScores.read(run / "checkpoints")
    assert later.measuring is None
    found = [later.scores[f"{PREFIX}{step:08d}"]["score"] for step, _ in points]
    assert [each["value"] for each in found] == [value for _, value in points]
    assert all(each["metric"].startswith(f"{CURVE} builtin-") for each in found)
    screen = capsys.readouterr().out
    assert f": {CURVE} {points[1][1]:.4g} at step 8 under protocol builtin-" in screen
    assert screen.count("beside the training, in") == 2
    assert "beside the training" not in without
    assert not (tmp_path / "alone/run/checkpoints/measured.json").exists()
    assert not (tmp_path / "alone/run/evaluation").exists()
    state = json.loads((place / "checkpoints/step-00000008/state.json").read_text())
    assert state["score"] is None, "it came later"


@pytest.mark.slow
@pytest.mark.rest
def test_a_stop_in_the_last_step_leaves_the_measuring_to_the_next_start(
    shapes, tmp_path, monkeypatch
):
    def stopped(*arguments, stop, **options) -> None:
        train_with_restarts(*arguments, stop=stop, **options)
        stop.asked = True  # while the last checkpoint was saved

    def no_child(self, config) -> str:
        wait_until(lambda: self.job.stop.asked, "the stop")
        return "killed"

    monkeypatch.setattr(beside, "usable_cpus", lambda: 4)
    options = config(shapes, tmp_path, evaluate_beside=BESIDE, threads=1, total_steps=4)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.train.train_with_restarts", stopped)
        patch.setattr(BesideEvaluation, "_child", no_child)
        with pytest.raises(StoppedError):
            train(options)
    record = json.loads((tmp_path / "run/run.json").read_text())
    between = measured(tmp_path / "run")

    train(options)

    assert (record["status"], record.get("handed_over"), between) == ("KILLED", None, [])
    assert [step for step, _ in measured(tmp_path / "run")] == [4]


@pytest.mark.slow
@pytest.mark.rest
def test_a_checkpoint_that_cannot_be_measured_is_passed_over_and_said(
    shapes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(beside, "usable_cpus", lambda: 4)
    # This process has read it already: it is for the child alone, and strikes each time.
    monkeypatch.setenv(VARIABLE, "kill@storage.before_rename:file=chunk-00000.safetensors")
    options = {"threads": 1, "total_steps": 4}

    run = train(config(shapes, tmp_path, evaluate_beside=BESIDE, **options))

    said = (
        "checkpoint step-00000004 cannot be measured beside the training: its process ended with -9"
    )
    assert capsys.readouterr().out.count(said) == 1
    assert measured(tmp_path / "run") == []
    left = LaterScores.read(run / "checkpoints")
    assert left == LaterScores("step-00000004"), "the next start tries it again"
    train(config(shapes, tmp_path, **options, extend=4))
    assert LaterScores.read(run / "checkpoints") == LaterScores(), "and one without is not held up"


def test_where_training_leaves_no_cpu_nothing_is_measured_beside_it(monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(beside, "usable_cpus", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def beside_of(**options) -> str | None:
        wanted = TrainConfig(total_steps=1, evaluate_beside=BESIDE, **options)
        return without_if_crowded(wanted).evaluate_beside.protocol

    assert beside_of() is None
    assert "takes 4 of 4 CPUs here" in capsys.readouterr().out
    assert beside_of(threads=3) == beside_of(workers=3) == "builtin"
    assert beside_of(workers=2, threads=2) is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert beside_of() == "builtin"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert beside_of(workers=64) == "builtin", "the workers are on other machines"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert beside_of() == "builtin", "as many workers as the cluster has GPUs"
    assert beside_of(workers=0) is None, "this process trains"


@pytest.mark.slow
def test_what_the_protocol_cannot_measure_is_refused_before_training(shapes, tmp_path):
    def refused(**wanted) -> None:
        refuse_unmeasurable_beside(shapes, config(shapes, tmp_path, evaluate_beside=wanted))

    with pytest.raises(ValueError, match=r"evaluate_beside \(.*40 generated images are too few"):
        refused(**BESIDE | {"few_images": False})
    with pytest.raises(ValueError, match=r"evaluate_beside \(.*inception-2015 needs its weights"):
        refused(protocol="clean")
    with pytest.raises(ValueError, match=r"count: no effect without a protocol to measure by"):
        config(shapes, tmp_path, evaluate_beside={"count": 40})
    refused(**BESIDE)
    names = {f"evaluate_beside.{name}" for name in EvaluateBesideConfig.model_fields}
    assert len(names) >= 6
    assert names <= RESUMABLE_CHANGES
    assert TrainConfig(total_steps=1).evaluate_beside.protocol is None


def test_the_best_is_of_the_distance_or_of_the_agreement_and_of_one_protocol():
    quality = Quality("eval/fid_clean", 30.0, 4, "clean-1", lower_is_better=True)
    kinds = {"d": "distance", "a": "agreement_size", "b": "agreement_shape"}
    kinds["c"] = "agreement_real_shape"
    report = {"numbers": {"d": 30.0, "a": 0.5, "b": 0.7, "c": 0.9}, "kinds": kinds}

    distance = _score(report, quality, "fd_builtin")
    agreement = _score(report, quality, "agreement")

    assert distance == Score("eval/fid_clean clean-1", 30.0, higher_is_better=False)
    assert agreement == Score("eval/agreement clean-1", pytest.approx(0.6))
    other = _score(report, replace(quality, protocol="clean-2", value=40.0), "fd_builtin")
    assert other.beats(distance), "of another protocol: not compared, the newer one counts"
    assert _score(report | {"kinds": {}}, quality, "agreement") is None
    assert _score(report, quality, None) is None
