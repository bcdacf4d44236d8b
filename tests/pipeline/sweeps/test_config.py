"""Options of sweeps and ablations: from flags, presets of sweeps, and presets of trainings."""

import pytest

from pipeline.cli.main import parse
from pipeline.sweeps.config import AblateConfig, SweepConfig, with_values
from pipeline.sweeps.sweep import sweep


def test_the_preset_of_a_training_is_swept_over_with_flags_for_the_space():
    flags = ["--space", "optim.generator_lr=loguniform(5e-5,5e-4)"]
    flags += ["--space", "optim.betas=choice([0.0,0.9],[0.5,0.999])", "--train.optim.batch-size=8"]

    config = parse(SweepConfig, flags, "cub")

    assert config.train.name == "cub-256"
    assert config.train.optim.batch_size == 8
    assert list(config.domains()) == ["optim.generator_lr", "optim.betas"]


def test_the_preset_of_a_sweep_has_a_space_that_flags_add_to(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "space:\n  optim.generator_lr: loguniform(5e-5, 5e-4)\ntrials: 4\ntrain: {total_steps: 9}\n"
    )

    config = parse(SweepConfig, ["--space", "seed=choice(1,2)"], str(preset))

    assert (config.trials, config.train.total_steps) == (4, 9)
    assert list(config.domains()) == ["optim.generator_lr", "seed"]


def test_a_sweep_over_nothing_is_refused():
    with pytest.raises(ValueError, match="space is empty: name the options that vary, for exam"):
        sweep(parse(SweepConfig, [], "cub"))


REFUSED = {
    "a grid of ranges": (
        ["--search=grid", "--space=seed=randint(1,5)"],
        "seed must be choice(…) to train all combinations",
    ),
    "a population of one": (
        ["--scheduler=pbt", "--trials=1", "--space=optim.generator_lr=uniform(1e-5,1e-4)"],
        "trials=1 must be at least 2",
    ),
    "a population chosen by Optuna": (
        ["--scheduler=pbt", "--search=optuna", "--space=optim.generator_lr=uniform(1e-5,1e-4)"],
        "use --search random, not optuna",
    ),
    "a population of unlike networks": (
        ["--scheduler=pbt", "--space=model.base_channels=choice(8,16)"],
        "model.base_channels cannot change during a run",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_swept_is_refused_before_anything_starts(case, capsys):
    flags, message = REFUSED[case]

    with pytest.raises(SystemExit):
        parse(SweepConfig, flags, "cub")

    assert message in said(capsys)


def said(capsys) -> str:
    """What stands in the box of an error, on one line."""
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_an_ablation_is_of_controller_and_attention_unless_told_otherwise(capsys):
    assert list(parse(AblateConfig, [], "cub").domains()) == ["model.recurrent", "model.attention"]
    other = parse(AblateConfig, ["--space=optim.update=choice(fused,separate)"], "cub")
    assert list(other.domains()) == ["optim.update"]

    with pytest.raises(SystemExit):
        parse(AblateConfig, ["--space=seed=choice(1,2)"], "cub")
    assert "use --seeds" in said(capsys)


def test_a_metric_of_quality_is_measured_with_every_grid_or_as_said(tmp_path):
    values = {"name": "r", "total_steps": 900, "data": {"path": str(tmp_path)}}
    values |= {"sample_every": 70, "log_every": 50}

    asked = SweepConfig.model_validate({"train": values | {"evaluate_every": 250}})
    silent = SweepConfig.model_validate({"train": values, "steps": 300})
    other = SweepConfig.model_validate({"train": values, "metric": "loss/generator"})

    assert asked.run().evaluate_every == 250
    assert (silent.run().evaluate_every, silent.run().total_steps) == (100, 300)
    assert other.run() == other.train


@pytest.mark.parametrize(
    ("metric", "wrong", "right"),
    [("eval/fd_builtin", "max", "min"), ("eval/agreement", "min", "max")],
)
def test_the_wrong_direction_of_a_known_metric_is_refused(metric, wrong, right, tmp_path):
    train = {"name": "r", "total_steps": 9, "data": {"path": str(tmp_path)}}
    values = {"train": train, "metric": metric}

    with pytest.raises(ValueError, match=f"mode={wrong}: {metric} is better .*--mode {right}"):
        SweepConfig.model_validate(values | {"mode": wrong})
    assert SweepConfig.model_validate(values | {"mode": right}).mode == right


def test_a_part_that_is_tuned_can_be_compared_with_none():
    def swept(space: list[str], **train):
        values = {"train": {"name": "r", "total_steps": 9, "data": {"path": "x"}} | train}
        return AblateConfig.model_validate(values | {"space": space})

    parts = swept(["model.recurrent=choice(true,false)"], model={"controller_dim": 64})
    sizes = [with_values(parts.train, {"model.recurrent": on}).model for on in (True, False)]
    swept(["optim.matching_weight=choice(0,1)", "optim.matching_lr=choice(1e-3,2e-3)"])
    swept(["optim.matching_weight=choice(0,1)"], optim={"matching_weight": 1, "matching_lr": 2e-3})

    assert [each.controller_dim for each in sizes] == [64, 256]
    with pytest.raises(ValueError, match="no effect without a matching loss"):
        swept(["optim.matching_lr=choice(1e-3,2e-3)"])
