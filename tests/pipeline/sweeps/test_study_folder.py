"""What a sweep keeps of itself, and of its trials' curves."""

import json
from types import SimpleNamespace

import pytest

from pipeline.config import TrainConfig
from pipeline.storage.folder import Folder
from pipeline.sweeps.monitor import SweepMonitor
from pipeline.sweeps.study_folder import StudyFolder
from pipeline.sweeps.trial import Curve
from pipeline.tracking.spool import RECORDS, SPOOL, Spool
from pipeline.tracking.tracker import Tracker

OPTIONS = {"metric": "eval/x", "trials": 4, "train": {"seed": 1, "optim": {"generator_lr": 1e-4}}}


def test_trials_are_found_again_as_they_were(tmp_path):
    study = StudyFolder(Folder(str(tmp_path)), "lr")
    study.open(OPTIONS, frozenset())
    record = study.add(2, {"optim.betas": [0.0, 0.9]})
    record.status, record.curve, record.latest = "stopped", [(10, 0.5), (20, 0.75)], {"a": 1.0}
    study.write(record)

    again = StudyFolder(Folder(str(tmp_path)), "lr")
    again.open(OPTIONS, frozenset())

    assert again.trials == {2: record}
    assert again.trials[2].is_done
    assert again.trials[2].start() == {"number": 2, "values": record.values}
    assert again.run(2).location == f"{tmp_path}/lr-002"


def test_a_trial_that_was_to_take_over_weights_is_told_so_again_by_its_next_start(tmp_path):
    study = StudyFolder(Folder(str(tmp_path)), "lr")
    study.open(OPTIONS, frozenset())
    record = study.add(0, {"optim.generator_lr": 1e-4})
    given = {"number": 0, "values": {"optim.generator_lr": 2e-4}, "weights": {"of": 1, "as": "x"}}
    watch = SweepMonitor(study, None, SimpleNamespace(metric="eval/x", mode="max"), 2, None, None)
    trial = SimpleNamespace(config={"trial": given})

    for _ in range(2):
        watch.on_trial_start(1, [], trial)

    assert [(each["of"], each["as"]) for each in record.adopted] == [(1, "x")]
    again = StudyFolder(Folder(str(tmp_path)), "lr")
    again.open(OPTIONS, frozenset())
    start = again.trials[0].start()
    assert (start["values"], start["weights"]["as"]) == (given["values"], "x")


def test_a_study_of_before_an_option_resumes_with_its_default(tmp_path):
    whole = {"metric": "eval/x", "train": TrainConfig(total_steps=9).record()}
    older = json.loads(json.dumps(whole))
    del older["train"]["model"]["architecture"]
    StudyFolder(Folder(str(tmp_path)), "lr").open(older, frozenset())

    StudyFolder(Folder(str(tmp_path)), "lr").open(whole, frozenset())

    other = json.loads(json.dumps(whole))
    other["train"]["model"]["architecture"] = "another"
    StudyFolder(Folder(str(tmp_path / "b")), "lr").open(older, frozenset())
    with pytest.raises(ValueError, match="architecture: rat-gan → another"):
        StudyFolder(Folder(str(tmp_path / "b")), "lr").open(other, frozenset())


def test_a_study_is_not_gone_on_with_under_other_options(tmp_path):
    StudyFolder(Folder(str(tmp_path)), "lr").open(OPTIONS, frozenset())
    other = OPTIONS | {"trials": 8, "train": {"seed": 2, "optim": {"generator_lr": 1e-3}}}

    with pytest.raises(ValueError, match="lr was started with other options") as refused:
        StudyFolder(Folder(str(tmp_path)), "lr").open(other, frozenset({"trials"}))

    assert "train.optim.generator_lr: 0.0001 → 0.001" in str(refused.value)
    assert "train.seed: 1 → 2" in str(refused.value)
    assert "trials" not in str(refused.value)
    StudyFolder(Folder(str(tmp_path)), "lr").open(OPTIONS | {"trials": 8}, frozenset({"trials"}))


def test_trials_are_ranked_by_their_best_point_in_the_direction_asked_for(tmp_path):
    study = StudyFolder(Folder(str(tmp_path)), "lr")
    for number, curve in enumerate([[(1, 0.5), (2, 0.1)], [(1, 0.3), (2, 0.3)], []]):
        study.add(number, {}).curve = curve

    assert [trial.number for trial in study.ranked("max")] == [0, 1]
    assert [trial.number for trial in study.ranked("min")] == [0, 1]
    assert study.trials[0].best("min") == (2, 0.1)
    assert study.trials[1].best("max") == (1, 0.3), "of equal points the first"
    assert study.trials[2].best("max") is None
    study.trials[0].status = "stopped"
    assert [trial.number for trial in study.ranked("max")] == [1, 0], "what was ended comes last"


def points(spool: Spool, step: int, **values: float) -> None:
    named = {name.replace("__", "/"): value for name, value in values.items()}
    spool.append({"kind": "points", "time": 0, "step": step, "values": named})


def test_a_curve_is_followed_over_starts_with_each_step_once(tmp_path):
    run = Folder(str(tmp_path))
    curve = Curve(run, "eval/x")
    assert curve.new() == [], "a run that has not begun has no points"
    first = Spool(run / SPOOL / RECORDS)
    points(first, 0, eval__x=9.0)
    points(first, 10, images_seen=100, speed__images_per_s=50, loss=1.0)
    points(first, 10, eval__x=1.0)
    points(first, 20, images_seen=200, speed__images_per_s=25, loss=0.5)

    seen = curve.new()
    second = Spool(run / SPOOL / RECORDS)
    points(second, 10, eval__x=7.0, images_seen=100, speed__images_per_s=1)
    points(second, 30, eval__x=3.0, images_seen=300, speed__images_per_s=100)
    points(second, 40, eval__x=float("nan"))

    assert [(p.step, p.score, p.seconds) for p in seen] == [(10, 1.0, 2.0)]
    assert seen[0].latest == {
        "eval/x": 1.0,
        "images_seen": 100,
        "speed/images_per_s": 50,
        "loss": 1.0,
    }
    assert [(p.step, p.score, p.seconds) for p in curve.new()] == [(30, 3.0, 7.0)]
    assert [p.step for p in Curve(run, "eval/x").new()] == [10, 30], "read again from the start"


def test_a_curve_that_is_measured_beside_the_training_is_followed_in_the_order_of_steps(tmp_path):
    run = Folder(str(tmp_path))
    driver, worker = Tracker(run), Spool(run / SPOOL / RECORDS)
    curve = Curve(run, "eval/x")

    points(worker, 10, images_seen=100, speed__images_per_s=50)
    driver.measured(10, {"eval/x": 3.0})
    driver.measured(10, {"eval/x": 3.0})
    first = curve.new()
    points(worker, 20, images_seen=200, speed__images_per_s=50)
    driver.measured(20, {"eval/x": 2.0})
    points(worker, 30, images_seen=300, speed__images_per_s=50)
    driver.measured(30, {"eval/x": 1.0})

    assert [(p.step, p.score) for p in first] == [(10, 3.0)]
    assert [(p.step, p.score) for p in curve.new()] == [(20, 2.0), (30, 1.0)]


def test_a_trial_that_is_a_link_elsewhere_is_no_trial(tmp_path):
    kept = tmp_path / "home" / "checkpoints" / "step-00000004"
    kept.mkdir(parents=True)
    (tmp_path / "lr").mkdir()
    (tmp_path / "lr" / "lr-000").symlink_to(tmp_path / "home")
    study = StudyFolder(Folder(str(tmp_path / "lr")), "lr")

    with pytest.raises(ValueError, match="PATH_UNSAFE: 'lr-000' leads out of the folder by a link"):
        (study.run(0) / "checkpoints").remove()

    assert kept.exists()
