"""Real runs that meet bad batches, no memory, parts and bfloat16."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from pipeline.distributed.graceful_stop import StoppedError, StopWatch
from pipeline.training import gan_step, loop
from pipeline.training.train import train
from ratgan.step import train_step
from tests.pipeline.training.test_train import config, use_step, weights
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]


@pytest.fixture
def ask_to_stop(monkeypatch):
    """Asks this process to stop, and returns when the worker in it has heard of it."""
    watches: list[StopWatch] = []

    class Remembered(StopWatch):
        def __enter__(self):
            watches.append(self)
            return super().__enter__()

    def ask() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: watches[-1].asked, "a worker that heard of the request to stop")

    monkeypatch.setattr(loop, "StopWatch", Remembered)
    return ask


@pytest.fixture
def bad(monkeypatch):
    """Numbers of batches whose noise is not finite."""
    numbers: set[int] = set()
    draw = gan_step.step_noise

    def step_noise(seed, number, *sizes):
        noise = draw(seed, number, *sizes)
        return noise * float("nan") if number in numbers else noise

    monkeypatch.setattr(gan_step, "step_noise", step_noise)
    return numbers


def curve(output: Path, key: str) -> dict[int, float]:
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    run_id = json.loads((output / "run" / "run.json").read_text())["mlflow_run_id"]
    return {point.step: point.value for point in client.get_metric_history(run_id, key)}


def state(output: Path, step: int) -> dict:
    return json.loads((output / f"run/checkpoints/step-{step:08d}/state.json").read_text())


def test_a_bad_batch_is_left_out_and_counted(bad, shapes, tmp_path):
    bad.add(2)

    train(config(shapes, tmp_path))

    assert curve(tmp_path, "health/skipped_steps") == {2: 0, 4: 1, 6: 1, 8: 1}
    assert all(math.isfinite(value) for value in curve(tmp_path, "loss/generator").values())
    assert state(tmp_path, 8)["skipped_steps"] == 1
    assert state(tmp_path, 8)["rollbacks"] == 0


def test_bad_batches_in_a_row_send_a_run_back_and_past_them(bad, shapes, tmp_path, capsys):
    bad.update((5, 6, 7))
    health = {"skipped_in_a_row": 2}

    train(config(shapes, tmp_path, total_steps=10, health=health))

    said = capsys.readouterr().out
    assert "step 8: the last 3 steps had losses or gradients that are not finite." in said
    assert "Rolling back to step 4" in said
    assert (state(tmp_path, 8)["passed_over"], state(tmp_path, 8)["rollbacks"]) == (4, 1)
    # A run that is stopped after the way back takes the same batches when it goes on.
    train(config(shapes, tmp_path / "cut", total_steps=8, health=health))
    train(config(shapes, tmp_path / "cut", total_steps=10, health=health))
    assert weights(tmp_path / "cut" / "run", 10) == weights(tmp_path / "run", 10)


def test_a_run_that_was_stopped_goes_back_to_where_one_that_was_not_does(bad, shapes, tmp_path):
    bad.update((6, 7))
    health = {"skipped_in_a_row": 2}

    train(config(shapes, tmp_path / "cut", total_steps=5, health=health))
    train(config(shapes, tmp_path / "cut", total_steps=10, health=health))
    train(config(shapes, tmp_path / "whole", total_steps=10, health=health))

    assert state(tmp_path / "whole", 10)["passed_over"] == 4
    assert weights(tmp_path / "cut" / "run", 10) == weights(tmp_path / "whole" / "run", 10)


def test_a_run_goes_on_from_the_way_back_and_not_from_the_stop_before_it(
    bad, ask_to_stop, shapes, tmp_path, monkeypatch
):
    bad.update((7, 8, 9))
    health = {"skipped_in_a_row": 2}
    train(config(shapes, tmp_path / "cut", total_steps=7, health=health))
    run = config(shapes, tmp_path / "cut", total_steps=12, health=health)
    step, started = train_step, []

    def asked_after_the_way_back(*arguments, **keywords):
        started.append(1)
        if len(started) == 4:  # steps 8, 9, 10, and after going back to 4 step 5
            ask_to_stop()
        return step(*arguments, **keywords)

    with monkeypatch.context() as patch:
        use_step(patch, asked_after_the_way_back)
        with pytest.raises(StoppedError):
            train(run)

    assert state(tmp_path / "cut", 5)["passed_over"] == 6
    assert not (tmp_path / "cut/run/checkpoints/step-00000007").exists()
    train(run)
    train(config(shapes, tmp_path / "whole", total_steps=12, health=health))
    assert weights(tmp_path / "cut" / "run", 12) == weights(tmp_path / "whole" / "run", 12)


def test_a_run_that_stays_bad_stops_with_its_last_good_checkpoint(bad, shapes, tmp_path):
    bad.update(range(5, 1000))
    health = {"skipped_in_a_row": 2, "rollbacks": 1}

    with pytest.raises(Exception, match="has rolled back 1 times already") as stopped:
        train(config(shapes, tmp_path, total_steps=12, health=health))

    assert "Its last checkpoint is of step 4" in str(stopped.value)
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    for file in kept.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())


def test_a_run_asked_to_stop_among_bad_batches_stops_at_the_next_good_one(
    bad, ask_to_stop, shapes, tmp_path, monkeypatch
):
    bad.update((5, 6))
    run = config(shapes, tmp_path / "cut", total_steps=10)
    step, started = train_step, []

    def asked_at_step_6(*arguments, **keywords):
        started.append(1)
        if len(started) == 6:
            ask_to_stop()
        return step(*arguments, **keywords)

    with monkeypatch.context() as patch:
        use_step(patch, asked_at_step_6)
        with pytest.raises(StoppedError):
            train(run)

    assert state(tmp_path / "cut", 8)["skipped_steps"] == 2
    train(run)
    train(config(shapes, tmp_path / "whole", total_steps=10))
    assert weights(tmp_path / "cut" / "run", 10) == weights(tmp_path / "whole" / "run", 10)


def test_a_run_without_memory_says_how_to_train_the_same_batch(monkeypatch, shapes, tmp_path):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    use_step(monkeypatch, no_memory)

    with pytest.raises(Exception, match=r"Use --optim\.accumulate 2: the same batch"):
        train(config(shapes, tmp_path))


def test_a_run_in_parts_trains_what_the_whole_trains_and_resumes_as_either(shapes, tmp_path):
    optim = {"batch_size": 12, "mismatched": "published"}
    train(config(shapes, tmp_path / "whole", optim=optim))
    train(config(shapes, tmp_path / "parts", optim=optim | {"accumulate": 3}, total_steps=4))

    train(config(shapes, tmp_path / "parts", optim=optim | {"accumulate": 2}))

    # In float32, Adam makes full steps of gradients that are only rounding; the equality in
    # float64 is in test_collective.py.
    for loss in ("loss/discriminator", "loss/generator"):
        whole, parts = (curve(tmp_path / way, loss) for way in ("whole", "parts"))
        assert parts == pytest.approx(whole, rel=1e-3, abs=1e-4)


def test_a_run_in_bfloat16_resumes_bit_for_bit_and_in_no_other_precision(shapes, tmp_path, capsys):
    train(config(shapes, tmp_path / "through", precision="bfloat16"))
    assert "layers in bfloat16" in capsys.readouterr().out
    train(config(shapes, tmp_path / "cut", precision="bfloat16", total_steps=4))
    train(config(shapes, tmp_path / "cut", precision="bfloat16"))

    assert weights(tmp_path / "cut" / "run", 8) == weights(tmp_path / "through" / "run", 8)
    with pytest.raises(ValueError, match="precision: bfloat16 → float32"):
        train(config(shapes, tmp_path / "cut", total_steps=9))
