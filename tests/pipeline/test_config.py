"""Options of a run: what a checkpoint from before an option existed is taken for."""

import dataclasses

import pytest

from pipeline.config import ModelConfig, TrainConfig, refuse_changes
from ratgan.architectures import ARCHITECTURES


def test_a_checkpoint_from_before_the_choice_of_the_output_goes_on_with_tanh():
    now = TrainConfig(total_steps=1)
    before = now.record()
    del (
        before["model"]["output"],
        before["model"]["residual_start"],
        before["optim"]["warmup_steps"],
    )

    assert refuse_changes(before, now) == []
    other = ModelConfig(output="linear", residual_start=1.0)
    changes = r"model.output: tanh → linear\nmodel.residual_start: 0.0 → 1.0"
    with pytest.raises(ValueError, match=changes):
        refuse_changes(before, now.model_copy(update={"model": other}))


def test_augmentation_is_off_for_older_checkpoints_and_changes_a_run():
    now = TrainConfig(total_steps=1)
    before = now.record()
    del before["augment"], before["augment_adaptive"]

    assert refuse_changes(before, now) == []
    with pytest.raises(ValueError, match=r"augment: \[\] → \['cutout'\]"):
        refuse_changes(before, TrainConfig(total_steps=1, augment=("cutout",)))
    two = TrainConfig(total_steps=1, augment=("translation", "cutout"))
    turned = TrainConfig(total_steps=1, augment=("cutout", "translation"))
    assert refuse_changes(two.record(), turned) == []


def test_augmentation_is_refused_for_a_step_that_takes_no_views(monkeypatch):
    def step(gan, *, images, sentences, mismatched, noise): ...

    alone = dataclasses.replace(ARCHITECTURES["rat-gan"], step=step)
    monkeypatch.setitem(ARCHITECTURES, "alone", alone)

    with pytest.raises(ValueError, match="the step of alone has no argument `views`"):
        TrainConfig(total_steps=1, augment=("cutout",), model=ModelConfig(architecture="alone"))


def test_what_a_run_started_from_may_have_moved_since():
    now = TrainConfig(total_steps=1, start_from="/new/place")

    assert refuse_changes(now.record() | {"start_from": "/old/place"}, now) == []
    with pytest.raises(ValueError, match="start_from: None → /new/place"):
        refuse_changes(now.record() | {"start_from": None}, now)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"augment": ("blur",)}, "'translation', 'cutout' or 'colour'"),
        ({"augment_adaptive": True}, "augment_adaptive has no effect.*--augment, for example"),
        (
            {"optim": {"matching_lr": 1e-3}},
            "matching_lr=0.001 has no effect without a matching loss",
        ),
    ],
)
def test_augmentation_that_cannot_be_meant_is_refused(options, refusal):
    with pytest.raises(ValueError, match=refusal):
        TrainConfig(total_steps=1, **options)


@pytest.mark.parametrize(
    ("steps", "accumulate", "remedy"),
    [
        *[
            (steps, 1, "1 to 10 steps; 100:105 is.")
            for steps in (
                "5",
                "5:",
                "9:3",
                "5:5",
                "0:11",
                "-1:3",
                "1:2:3",
                "a:b",
                "1:²",
                "0: 5",
                "",
            )
        ],
        ("0:4", 3, "1 to 3 steps in 3 parts each; 100:103 is."),
        ("0:2", 12, "1 to 1 steps in 12 parts each; 100:101 is."),
    ],
)
def test_steps_to_profile_that_cannot_be_meant_are_refused(steps, accumulate, remedy):
    optim = {"batch_size": 24, "accumulate": accumulate}

    with pytest.raises(ValueError, match="FIRST:END") as refused:
        TrainConfig(total_steps=1, profile_steps=steps, optim=optim)

    assert str(refused.value) == f"profile_steps={steps} must be FIRST:END, for {remedy}"


def test_steps_to_profile_change_no_run():
    now = TrainConfig(total_steps=200, profile_steps="100:105")
    before = TrainConfig(total_steps=200).record()
    del before["profile_steps"]

    assert list(now.profiled()) == [100, 101, 102, 103, 104]
    assert refuse_changes(before, now) == []
