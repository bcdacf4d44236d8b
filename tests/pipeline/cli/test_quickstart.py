"""The quickstart, very short: everything it promises is there, at whatever quality."""

import json

import pytest

from pipeline.cli.main import load_preset
from pipeline.cli.quickstart import quickstart
from pipeline.cli.quickstart_config import QuickstartConfig
from pipeline.evaluation.shapes_classifier import ATTRIBUTES

pytestmark = pytest.mark.slow


@pytest.mark.rest
def test_quickstart_leaves_what_it_promises(tmp_path, capsys):
    config = QuickstartConfig.model_validate(
        {
            "source": {"count": 400, "size": 32, "pairs": 0, "validation": 0.2},
            "sentence_dim": 16,
            "train": {
                "name": "quickstart",
                "output": str(tmp_path),
                "workers": 0,
                "total_steps": 4,
                "log_every": 2,
                "sample_every": 4,
                "checkpoint_every": 4,
                "evaluate_every": 4,
                "evaluate_images": 80,
                "best_by": "agreement",
                "data": {"flip": False},
                "model": {"image_size": 32, "base_channels": 2},
                "optim": {"batch_size": 8},
            },
        }
    )

    summary = quickstart(config)

    folder = tmp_path / "quickstart"
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["steps"] == 4
    assert summary["grid"] == str(folder / "grid.png")
    assert (folder / "grid.png").exists()
    assert list((tmp_path / "evaluation-cache").glob("classifier-*.safetensors"))
    assert set(summary["seconds"]) == {"prepare", "train", "generate", "measure"}
    for shares in (summary["agreement"], summary["classifier_accuracy"]):
        assert list(shares) == list(ATTRIBUTES)
        assert all(0 <= share <= 1 for share in shares.values())
    # Real shapes are read far above chance; images of an untrained generator are not.
    assert summary["classifier_accuracy"]["place"] > 0.6
    assert summary["agreement"]["place"] < 0.6
    screen = capsys.readouterr().out
    assert "jobs/generate.py" in screen
    # Measured while it trained, with the same captions and noise as at the end.
    state = json.loads((folder / "checkpoints/step-00000004/state.json").read_text())
    assert state["score"]["metric"] == "eval/agreement"
    mean = sum(summary["agreement"].values()) / len(ATTRIBUTES)
    assert state["score"]["value"] == pytest.approx(mean, abs=1e-4)
    assert summary["mlflow_run_id"] in screen

    again = quickstart(config)

    assert again == summary  # the cost included: a repeated command finds the work done
    assert "is prepared already" in (screen := capsys.readouterr().out)
    assert "is finished" in screen


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"pairs": 0.5}, r"source\.pairs must be 0"),
        ({"size": 64}, r"source\.size=64 must be train\.model\.image_size=32"),
        ({"validation": 0}, "4400 images to train on and 0 to measure with"),
        ({"count": 60}, "54 images to train on and 6 to measure with"),
    ],
)
def test_what_could_not_be_measured_is_refused_at_once(source, message):
    preset = load_preset(QuickstartConfig, "quickstart")
    config = preset.model_copy(update={"source": preset.source.model_copy(update=source)})

    with pytest.raises(ValueError, match=message):
        quickstart(config)
