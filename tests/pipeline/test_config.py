"""Options of a run: what a checkpoint from before an option existed is taken for."""

import pytest

from pipeline.config import ModelConfig, TrainConfig, refuse_changes


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


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"augment": ("blur",)}, "'translation', 'cutout' or 'colour'"),
        ({"augment_adaptive": True}, "augment_adaptive has no effect.*--augment, for example"),
    ],
)
def test_augmentation_that_cannot_be_meant_is_refused(options, refusal):
    with pytest.raises(ValueError, match=refusal):
        TrainConfig(total_steps=1, **options)
