"""Real runs whose generator dies, and the images that a run draws again and again."""

import json

import pytest
from mlflow import MlflowClient

from pipeline.checkpoint.async_saver import Saver
from pipeline.common.errors import root_cause
from pipeline.config import ModelConfig
from pipeline.training import reporter
from pipeline.training.diagnostics import DEAD_STEPS
from pipeline.training.train import train
from tests.pipeline.training.test_train import config, weights

pytestmark = [pytest.mark.slow, pytest.mark.rest]

TANH = {"output": "tanh"} if "output" in ModelConfig.model_fields else {}


def deadly(shapes, output, **changes):
    """A run whose generator saturates at once, at a learning rate far too high."""
    plain = config(shapes, output).record()
    optim, model = plain["optim"] | {"generator_lr": 0.5}, plain["model"] | TANH
    return config(shapes, output, **({"optim": optim, "model": model} | changes))


def tags(output) -> dict[str, str]:
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    run_id = json.loads((output / "run" / "run.json").read_text())["mlflow_run_id"]
    return client.get_run(run_id).data.tags


def state(output, step: int) -> dict:
    return json.loads((output / f"run/checkpoints/step-{step:08d}/state.json").read_text())


@pytest.fixture
def soon(monkeypatch):
    """A generator is dead after 5 steps without a gradient."""
    monkeypatch.setattr("pipeline.training.diagnostics.DEAD_STEPS", 5)


def test_a_run_whose_generator_dies_ends_with_what_helps(soon, shapes, tmp_path, capsys):
    run = deadly(shapes, tmp_path, total_steps=30, checkpoint_every=100)

    with pytest.raises(Exception, match="the generator has died") as ended:
        train(run)

    assert isinstance(root_cause(ended.value), ValueError)  # of the user: exit status 1
    said = str(root_cause(ended.value))
    assert "100% of its output values were at the end of their range" in said
    assert "--model.output linear or a lower --optim.generator-lr" in said
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("step-"))
    assert step < 20
    assert (tmp_path / "run" / "samples" / f"samples-{step:08d}.png").exists()
    assert tags(tmp_path)["health.dead_generator"] == f"step {step}"

    # The same command ends at once, and with the option the run trains on.
    with pytest.raises(Exception, match=rf"step {step + 2}: the generator has died"):
        train(run)
    train(deadly(shapes, tmp_path, total_steps=30, health={"on_dead_generator": "warn"}))
    assert state(tmp_path, 30)["watch"]["dead_steps"] > 10
    assert capsys.readouterr().out.count("warning: ") == 1


def test_a_run_that_only_warns_ends_as_any_other(soon, shapes, tmp_path, capsys):
    warn = {"health": {"on_dead_generator": "warn"}}
    train(deadly(shapes, tmp_path / "whole", **warn, total_steps=14))
    for steps in (4, 9, 14):
        train(deadly(shapes, tmp_path / "cut", **warn, total_steps=steps))

    assert weights(tmp_path / "cut" / "run", 14) == weights(tmp_path / "whole" / "run", 14)
    assert state(tmp_path / "cut", 14)["watch"] == state(tmp_path / "whole", 14)["watch"]
    assert "warning: step " in capsys.readouterr().out


def test_all_workers_of_a_dead_run_end_and_leave_a_checkpoint(shapes, tmp_path):
    every = dict.fromkeys(("sample_every", "checkpoint_every"), 500) | {"log_every": 10}
    run = deadly(shapes, tmp_path, workers=2, total_steps=400, **every)

    with pytest.raises(Exception, match="the generator has died"):
        train(run)

    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("step-"))
    assert state(tmp_path, step)["watch"]["dead_steps"] == DEAD_STEPS


@pytest.fixture
def drawn(monkeypatch):
    """Captions of each grid that is drawn."""
    seen = []

    def noted(draw):
        def grid(images, captions, **more):
            seen.append(captions)
            return draw(images, captions, **more)

        return grid

    for name in ("grid", "grid_with_boxes"):  # of attention, of samples
        monkeypatch.setattr(reporter, name, noted(getattr(reporter, name)))
    return seen


def test_samples_are_from_all_over_the_dataset_and_stay_the_same(drawn, shapes, tmp_path):
    for steps in (4, 8):
        train(config(shapes, tmp_path, total_steps=steps))

    chosen = [each.caption for each in shapes.spread("validation", 3, seed=100)]
    assert chosen != [each.caption for each in shapes.examples("validation", 3)]
    assert drawn == [chosen] * 6  # samples and attention at steps 0, 4 and 8


def test_a_run_with_an_adaptive_augmentation_resumes_bit_for_bit(shapes, tmp_path, monkeypatch):
    # It rises in a few steps, though D has not learnt anything yet.
    monkeypatch.setattr("ratgan.augmentation.TARGET", -2)
    monkeypatch.setattr("ratgan.augmentation.RISE", 60)
    adaptive = {"augment": ("translation", "cutout"), "augment_adaptive": True}
    train(config(shapes, tmp_path / "whole", **adaptive, total_steps=12))
    for steps in (5, 12):
        train(config(shapes, tmp_path / "cut", **adaptive, total_steps=steps, keep_checkpoints=9))
    train(config(shapes, tmp_path / "none", total_steps=12))

    whole, cut = (state(tmp_path / name, 12)["augment_strength"] for name in ("whole", "cut"))
    assert 0 < state(tmp_path / "cut", 4)["augment_strength"] < whole == cut
    assert weights(tmp_path / "cut" / "run", 12) == weights(tmp_path / "whole" / "run", 12)
    assert weights(tmp_path / "none" / "run", 12) != weights(tmp_path / "whole" / "run", 12)
    assert "augment_strength" not in state(tmp_path / "none", 12)


def test_a_run_of_an_earlier_version_keeps_its_captions(drawn, shapes, tmp_path, monkeypatch):
    save = Saver.save

    def save_as_before(self, step, tensors, pack, state, *more, **named):
        older = {key: state[key] for key in state.keys() - {"watch", "spread_samples"}}
        save(self, step, tensors, pack, older, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", save_as_before)
        train(config(shapes, tmp_path, total_steps=4))
    drawn.clear()
    for steps in (8, 12):
        train(config(shapes, tmp_path, total_steps=steps))

    assert drawn == [[each.caption for each in shapes.examples("validation", 3)]] * 4
