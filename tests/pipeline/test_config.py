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
