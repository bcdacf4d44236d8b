"""Training in one process with a real MLflow store: through, resumed, killed, refused."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

import ratgan
from pipeline.config import TrainConfig
from pipeline.data.manifest import MANIFEST
from pipeline.storage.folder import Folder
from pipeline.tracking.mlflow_access import fluent_api
from pipeline.training.train import train
from ratgan.architectures import ARCHITECTURES
from ratgan.options import STANDARD
from tests.chaos.commands import Command, tell_losses

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def config(shapes, output: Path, name: str = "run", **changes) -> TrainConfig:
    values = {
        "name": name,
        "output": str(output),
        "workers": 0,
        "total_steps": 8,
        "log_every": 2,
        "sample_every": 4,
        "checkpoint_every": 4,
        "samples": 3,
        "data": {"path": str(shapes.folder), "flip": False},
        "model": {
            "image_size": 32,
            "base_channels": 2,
            "controller_dim": 8,
            "affine_dim": 8,
        },
        "optim": {"batch_size": 12, "matching_weight": 0.5},
    }
    return TrainConfig.model_validate(values | changes)


def weights(run: Path, step: int) -> dict[str, str]:
    """Hash every file of a checkpoint that holds tensors."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def use_step(patch: pytest.MonkeyPatch, step) -> None:
    """Let trainings do another step than that of the architecture."""
    patch.setitem(ARCHITECTURES, STANDARD, replace(ARCHITECTURES[STANDARD], step=step))


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    """A run of 8 steps, through."""
    output = tmp_path_factory.mktemp("whole")
    train(config(shapes, output))
    return output


def test_a_run_leaves_model_samples_checkpoints_and_record(whole):
    run = whole / "run"

    assert sorted(p.name for p in run.glob("[!.]*")) == [
        "checkpoints",
        "model",
        "run.json",
        "samples",
        "spool",
    ]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000008",
    ]
    assert sorted(p.name for p in (run / "samples").iterdir()) == sorted(
        f"{name}-{step:08d}.{ending}"
        for name, ending in (("attention", "png"), ("samples", "png"), ("samples", "json"))
        for step in (0, 4, 8)
    )
    model = ratgan.load(run / "model")
    assert model.origin["step"] == 8
    assert model("a small red circle in the centre")[0].size == (32, 32)
    card = (run / "model" / "README.md").read_text()
    assert "32 × 32 px" in card
    assert "The model was not evaluated during training." in card
    assert f"python jobs/evaluate.py --model {run}" in card


def test_a_training_in_one_process_starts_no_ray(shapes, tmp_path, monkeypatch):
    def refuse(**options):
        raise AssertionError("Ray is not needed")

    monkeypatch.setattr("pipeline.training.launch.connect", refuse)

    run = train(config(shapes, tmp_path, total_steps=1))

    assert ratgan.load(f"{run}/model").origin["step"] == 1
    with pytest.raises(AssertionError, match="not needed"):
        train(
            config(
                shapes,
                tmp_path,
                "read",
                data={"path": str(shapes.folder), "flip": False, "reader": "ray"},
            )
        )


def test_a_checkpoint_says_all_that_a_run_goes_on_from(whole, shapes):
    state = json.loads((whole / "run/checkpoints/step-00000008/state.json").read_text())

    # 8 steps of 12 images, of 120.
    assert (state["step"], state["images"], state["epoch"], state["cursor"]) == (8, 96, 0, 96)
    assert state["config"] == config(shapes, whole).record()
    assert state["dataset"] == shapes.digest
    assert state["encoder"] == {"name": "minilm", "sha256": shapes.manifest.encoder.sha256}
    assert {"python", "torch", "ratgan", "ray"} <= state["versions"].keys()
    assert (state["workers"], state["score"], state["best"]) == (1, None, None)
    assert state["threads"] >= 1


def test_mlflow_holds_options_curves_grids_lineage_and_a_usable_model(whole, shapes):
    client = MlflowClient(f"sqlite:///{whole}/mlflow.db")
    run_id = json.loads((whole / "run" / "run.json").read_text())["mlflow_run_id"]

    run = client.get_run(run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["optim.generator_lr"] == "0.0001"
    assert run.data.tags["dataset.digest"] == shapes.digest
    assert run.data.tags["text_encoder"] == "minilm"
    if (ROOT / ".git").exists():
        assert re.fullmatch("[0-9a-f]{40}", run.data.tags["git.commit"])
    (trained_on,) = [each.dataset for each in run.inputs.dataset_inputs]
    assert trained_on.name == "shapes"
    assert shapes.digest.startswith(trained_on.digest)
    assert json.loads(trained_on.profile) == {
        "num_rows": 120,
        "validation_rows": 30,
        "captions": shapes.manifest.captions,
        "image_size_px": 40,
        "text_encoder": "minilm",
    }
    for key in ("loss/discriminator", "loss/generator", "loss/penalty", "speed/images_per_s"):
        history = client.get_metric_history(run_id, key)
        assert [point.step for point in history] == [2, 4, 6, 8], key
    for key in ("logit/training", "logit/held_out"):
        history = client.get_metric_history(run_id, key)
        assert [point.step for point in history] == [0, 4, 8], key
    images = [artifact.path for artifact in client.list_artifacts(run_id, "images")]
    for kind in ("samples", "attention"):
        steps = {int(re.search(r"step\D(\d+)\D", i).group(1)) for i in images if kind in i}
        assert steps == {0, 4, 8}
    assert {"config.json", "dataset_manifest.json"} <= {
        a.path for a in client.list_artifacts(run_id)
    }

    with fluent_api(f"sqlite:///{whole}/mlflow.db"):
        (logged,) = mlflow.search_logged_models(
            experiment_ids=[run.info.experiment_id], output_format="list"
        )
        served = mlflow.pyfunc.load_model(logged.model_uri)
    captions = ["a large blue square at the top left", "a small red circle in the middle"]
    drawn = served.predict(pd.DataFrame({"caption": captions}))
    ours = ratgan.load(whole / "run" / "model").draw(captions)
    assert served.metadata.signature.inputs.input_names() == ["caption"]
    assert np.array_equal(drawn, ours.permute(0, 2, 3, 1).numpy())


def test_a_resumed_run_ends_bit_for_bit_as_one_that_went_through(whole, shapes, tmp_path, capsys):
    train(config(shapes, tmp_path, total_steps=4))

    train(config(shapes, tmp_path, total_steps=8))

    assert "resuming from step 4" in capsys.readouterr().out
    assert weights(tmp_path / "run", 8) == weights(whole / "run", 8)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = json.loads((tmp_path / "run" / "run.json").read_text())["mlflow_run_id"]
    history = client.get_metric_history(run_id, "loss/generator")
    assert [point.step for point in history] == [2, 4, 6, 8], "one MLflow run for both starts"


@pytest.mark.rest
def test_separate_updates_are_an_option_of_a_run(whole, shapes, tmp_path):
    optim = {"batch_size": 12, "update": "separate", "matching_weight": 0.5}
    train(config(shapes, tmp_path, optim=optim))

    separate, fused = (weights(folder / "run", 8) for folder in (tmp_path, whole))
    assert separate.keys() == fused.keys()
    # The matcher sees real images alone, and so the same in both.
    assert {name for name in separate if separate[name] == fused[name]} == {
        "matcher.safetensors",
        "matcher_optimizer.safetensors",
    }


@pytest.mark.rest
def test_a_matching_loss_can_be_added_to_a_run_and_taken_from_it(shapes, tmp_path):
    for steps, weight in ((2, 0.0), (4, 1.0), (6, 0.0)):
        optim = {"batch_size": 12, "matching_weight": weight}
        changes = {"allow_changes": ("optim.matching_weight",), "checkpoint_every": 2}
        train(config(shapes, tmp_path, total_steps=steps, optim=optim, **changes))

        assert ("matcher.safetensors" in weights(tmp_path / "run", steps)) == bool(weight)


def test_a_finished_run_says_so_and_does_nothing(whole, shapes, capsys):
    before = weights(whole / "run", 8)

    train(config(shapes, whole))

    assert "run run is finished: 8 of 8 steps" in capsys.readouterr().out
    assert weights(whole / "run", 8) == before


@pytest.mark.rest
def test_a_finished_run_is_extended_from_its_end_and_says_so(whole, shapes, tmp_path, capsys):
    output = tmp_path / "copy"
    shutil.copytree(whole, output)

    train(config(shapes, output, extend=4))

    said = capsys.readouterr().out
    assert "finished at step 8 before; extended to step 12" in said
    assert "resuming from step 8" in said
    record = json.loads((output / "run" / "run.json").read_text())
    assert (record["handed_over"], record["extended"]) == (12, [{"from": 8, "to": 12}])
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    assert client.get_run(record["mlflow_run_id"]).data.tags["extended"] == "step 8 to 12"
    assert ratgan.load(output / "run" / "model").origin["step"] == 12
    train(config(shapes, output, extend=4))  # the same command adds nothing
    train(config(shapes, output))
    assert capsys.readouterr().out.count("run run is finished: 12 of 12 steps") == 2


REFUSED = {
    "another width": ({"model": {"image_size": 32, "base_channels": 4}}, "base_channels: 2 → 4"),
    "another batch": ({"optim": {"batch_size": 6}}, "optim.batch_size: 12 → 6"),
    "another seed": ({"seed": 7}, "seed: 100 → 7"),
    "indivisible": ({"name": "new", "workers": 5}, "each of the 5 workers.*15 is the next"),
    "too many workers": (
        {"name": "new", "workers": 60, "optim": {"batch_size": 60}},
        "each worker needs one",
    ),
    "too large": ({"name": "new", "model": {"image_size": 64}}, "larger than the images"),
    "only a corner": (
        {"name": "new", "data": {"path": "large", "flip": False}},
        "would see but a corner of each.*--image-size 32",
    ),
    "mirrored words": (
        {"name": "new", "data": {"path": None, "flip": True}},
        "say left and right.*--data.no-flip",
    ),
    "no dataset": ({"name": "new", "data": {"path": "/nowhere"}}, "no manifest.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_starts(case, whole, shapes, tmp_path):
    changes, message = REFUSED[case]
    if "data" in changes and changes["data"]["path"] is None:
        changes = changes | {"data": {"path": str(shapes.folder), "flip": True}}
    if "data" in changes and changes["data"]["path"] == "large":
        manifest = shapes.manifest.model_copy(
            update={"cache_size": 80, "options": shapes.manifest.options | {"image_size": 64}}
        )
        shutil.copytree(shapes.folder.path, tmp_path / "large")
        Folder(str(tmp_path / "large")).write_json(MANIFEST, manifest.model_dump(mode="json"))
        changes = changes | {"data": {"path": str(tmp_path / "large"), "flip": False}}
    before = sorted(p for p in whole.rglob("*"))

    with pytest.raises(ValueError, match=message):
        train(config(shapes, whole, **changes))

    assert sorted(p for p in whole.rglob("*")) == before


@pytest.mark.rest
@pytest.mark.parametrize(
    "variant",
    [
        {"optim": {"mismatched": "published", "update": "separate", "matching_weight": 0.0}},
        {"model": {"attention": "none", "affines_per_block": 2}},
        {"model": {"attention": "softmax", "recurrent": False, "controller_dim": 256}},
    ],
    ids=["as published", "without attention", "without controller"],
)
def test_every_variant_trains_to_a_model_that_draws(variant, shapes, tmp_path):
    base = config(shapes, tmp_path, total_steps=2).model_dump()
    changed = {group: base[group] | fields for group, fields in variant.items()}

    run = train(TrainConfig.model_validate(base | changed))

    assert ratgan.load(f"{run}/model")("a small red circle in the centre")[0].size == (32, 32)


@pytest.mark.rest
def test_a_killed_job_goes_on_with_the_same_command(whole, shapes, tmp_path, record_property):
    flags = [
        "--name=run",
        f"--output={tmp_path}",
        "--workers=0",
        "--total-steps=8",
        "--log-every=2",
        "--sample-every=4",
        "--checkpoint-every=4",
        "--samples=3",
        f"--data.path={shapes.folder}",
        "--data.no-flip",
        "--model.image-size=32",
        "--model.base-channels=2",
        "--model.controller-dim=8",
        "--model.affine-dim=8",
        "--optim.batch-size=12",
        "--optim.matching-weight=0.5",
        "--precision=float32",
    ]
    marker = tmp_path / "run" / "checkpoints" / "step-00000004" / "COMMITTED"
    with Command("train_coco", *flags) as first:
        first.wait_for(marker.exists)
        first.kill()

    with Command("train_coco", *flags) as second:
        assert second.wait() == 0, second.said

    assert re.search("resuming from step [48]|is finished", second.said)
    assert weights(tmp_path / "run", 8) == weights(whole / "run", 8)
    assert ratgan.load(tmp_path / "run" / "model").origin["step"] == 8
    assert status(tmp_path) == "FINISHED"
    tell_losses(record_property, first, second)
    record_property("weights_equal", True)


def status(output: Path) -> str:
    record = json.loads((output / "run" / "run.json").read_text())
    return (
        MlflowClient(f"sqlite:///{output}/mlflow.db").get_run(record["mlflow_run_id"]).info.status
    )


def test_a_run_killed_while_it_hands_over_its_model_does_so_the_next_time(whole, shapes, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(whole, output)
    run = output / "run"
    (run / "model" / "model.json").unlink()
    record = json.loads((run / "run.json").read_text())
    del record["handed_over"]
    (run / "run.json").write_text(json.dumps(record))
    MlflowClient(f"sqlite:///{output}/mlflow.db").set_terminated(record["mlflow_run_id"], "FAILED")

    train(config(shapes, output))

    assert ratgan.load(run / "model").origin["step"] == 8
    assert status(output) == "FINISHED"
    assert weights(run, 8) == weights(whole / "run", 8)
