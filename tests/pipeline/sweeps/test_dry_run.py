"""`--dry-run` of a study is about its own folder, and refuses what the study would refuse."""

import pytest

from pipeline.storage.folder import Folder
from pipeline.sweeps.check import check_study
from pipeline.sweeps.config import RESUMABLE, AblateConfig
from pipeline.sweeps.dry_run import plan_ablation
from pipeline.sweeps.study_folder import StudyFolder
from tests.pipeline.training.test_train import config

pytestmark = pytest.mark.slow


def study(shapes, output, **changes) -> AblateConfig:
    train = config(shapes, output, name="parts", total_steps=4, evaluate_every=4)
    space = ("model.attention=choice(soft_threshold,none)",)
    return AblateConfig.model_validate(
        {"train": train, "space": space, "seeds": 1, "name": "study"} | changes
    )


def test_it_is_about_the_folder_of_the_study_and_leaves_nothing(shapes, tmp_path, capsys):
    plan_ablation(study(shapes, tmp_path / "new"))

    said = capsys.readouterr().out
    assert f"{tmp_path}/new/study: new" in said
    assert f"{tmp_path}/new/study/study-000: new; 4 steps" in said
    assert list(tmp_path.iterdir()) == []


def test_it_says_what_is_done_and_goes_on_with_the_rest(shapes, tmp_path, capsys):
    parts = study(shapes, tmp_path)
    folder = StudyFolder(Folder(str(tmp_path / "study")), "study")
    folder.open(parts.record(check_study(parts)), RESUMABLE)
    trials = [
        folder.add(number, {"seed": 0, "model.attention": attention})
        for number, attention in enumerate(("soft_threshold", "none"))
    ]
    trials[0].status = "finished"
    folder.write(trials[0])

    plan_ablation(parts)
    first = capsys.readouterr().out
    trials[1].status = "failed"
    folder.write(trials[1])
    plan_ablation(parts)
    second = capsys.readouterr().out

    assert "study: 1 of them done" in first
    assert "study-001: new" in first
    assert "study: 2 of them done" in second
    assert "study-001" not in second
    with pytest.raises(ValueError, match="study was started with other options"):
        plan_ablation(study(shapes, tmp_path, steps=8))


@pytest.mark.parametrize("metric", ["eval/agremeent", "eval/kd_efficientnet-lite0"])
def test_a_metric_that_no_trial_measures_is_refused_before_training(shapes, tmp_path, metric):
    options = {"metric": metric, "mode": "min" if "kd" in metric else "max"}

    with pytest.raises(ValueError, match=f"metric={metric} is not measured .* eval/fd_builtin"):
        check_study(study(shapes, tmp_path, **options))

    protocol = {"evaluate_beside": {"protocol": "builtin", "count": 100, "few_images": True}}
    train = config(shapes, tmp_path, total_steps=4, **protocol)
    check_study(study(shapes, tmp_path, **options, train=train))


def test_a_refusal_of_its_trainings_names_flags_of_the_study(shapes, tmp_path):
    train = config(shapes, tmp_path, total_steps=4)
    flipped = train.model_copy(update={"data": train.data.model_copy(update={"flip": True})})

    with pytest.raises(ValueError, match=r"would not fit them\. Use --train\.data\.no-flip\."):
        check_study(study(shapes, tmp_path, train=flipped))
