"""`--dry-run`: says what a job would do, refuses what the job would refuse, and leaves nothing."""

import re
import socket
from pathlib import Path

import pytest
import torch

from pipeline.cli.generate import GenerateConfig, plan_generation
from pipeline.cli.inspect_data import InspectConfig, plan_inspection
from pipeline.cli.quickstart import plan_quickstart
from pipeline.cli.quickstart_config import QuickstartConfig
from pipeline.cli.sync import SyncConfig, plan_sync
from pipeline.common.console import DryRunReport
from pipeline.distributed.worker_count import WorkerRange
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.dry_run import plan_preparation
from pipeline.preparation.sources.coco import CocoSource
from pipeline.preparation.sources.shapes import ShapesSource
from pipeline.ray_cluster import parallel_map
from pipeline.ray_cluster.connection import Resources
from pipeline.training.damsm.config import PretrainConfig
from pipeline.training.dry_run import WorkerResources, plan_pretraining, plan_training, say_cost
from pipeline.training.step_cost import Trial, gan_trial
from pipeline.training.train import train
from ratgan.ops.op_counter import Counter
from tests.conftest import write_coco
from tests.pipeline.training.test_train import config

pytestmark = [pytest.mark.slow, pytest.mark.rest]

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """Folder of runs with one that did 4 steps."""
    output = tmp_path_factory.mktemp("runs")
    train(config(shapes, output, total_steps=4))
    return output


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def lines(said: str) -> dict[str, str]:
    """Return the lines of a report by their labels."""
    return {line.split()[0]: line for line in said.splitlines() if line and line[0] != " "}


def test_a_new_training_is_described_and_nothing_of_it_is_left(shapes, tmp_path, capsys):
    output = tmp_path / "not" / "there"

    plan_training(config(shapes, output, total_steps=8))

    said = lines(capsys.readouterr().out)
    assert "new; 8 steps of 12 images, 0.8 epochs" in said["run"]
    assert "120 images to train on, 30 held out" in said["data"]
    assert f"sqlite:///{output}/mlflow.db is made with the first run" in said["tracker"]
    assert re.search(r"in this process \(\d+ CPUs and 0 GPUs here\)", said["workers"])
    assert re.search(
        r"generator 0\.\d M, discriminator 0\.\d M, matcher 0\.\d M parameters", said["model"]
    )
    assert "MiB in a step of 12 images" in said["memory"]
    assert re.search(r"a step of 12 images took \d+\.\d\d s on this machine's CPU", said["speed"])
    assert "checkpoints take up to" in said["storage"]
    assert re.search(r"ETA +\d+:\d\d for 96 images", said["ETA"])
    assert "nothing was started, and nothing was kept" in said["dry"]
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_goes_on_is_checked_against_its_checkpoint(
    trained, shapes, capsys, monkeypatch
):
    before = files(trained)

    plan_training(config(shapes, trained, total_steps=8))
    said = lines(capsys.readouterr().out)
    assert "resumes from step 4 of 8 steps" in said["run"]
    assert "answers; experiment ratgan is there" in said["tracker"]
    assert "for 48 images" in said["ETA"]

    plan_training(config(shapes, trained, total_steps=4))
    said = lines(capsys.readouterr().out)
    assert "finished with 4 steps; nothing is left to do" in said["run"]
    assert "ETA" not in said

    with pytest.raises(ValueError, match="seed: 100 → 7"):
        plan_training(config(shapes, trained, seed=7))
    assert files(trained) == before


def test_what_training_refuses_a_dry_run_refuses(shapes, tmp_path):
    refused = {
        "each of the 5 workers": {"workers": 5},
        "each worker needs one": {"workers": 60, "optim": {"batch_size": 60}},
        "larger than the images": {"model": {"image_size": 64}},
        "no manifest.json": {"data": {"path": str(tmp_path / "nowhere")}},
        "say left and right": {"data": {"path": str(shapes.folder), "flip": True}},
    }
    for message, changes in refused.items():
        with pytest.raises(ValueError, match=message):
            plan_training(config(shapes, tmp_path / "out", **changes))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="nothing can be kept"):
        plan_training(config(shapes, tmp_path / "file" / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_tracker_that_does_not_answer_is_noted_and_stops_nothing(shapes, tmp_path, capsys):
    with socket.socket() as taken:  # and nobody listens: whoever comes is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        uri = f"http://user:hush@127.0.0.1:{port}"

        plan_training(config(shapes, tmp_path, tracking={"uri": uri}))

    said = capsys.readouterr().out
    assert f"http://127.0.0.1:{port} does not answer" in said
    assert "note: MLflow does not answer. A run continues without it" in said
    assert "hush" not in said


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_computed_memory_of_a_step_is_what_a_real_one_has_alive(shapes, tmp_path, precision):
    options = config(shapes, tmp_path, precision=precision)
    trial = gan_trial(options, shapes.manifest.encoder.dim, shapes.transform, CPU)
    trial.step(12)  # Adam's moments are made in the first

    with Counter() as counter:
        trial.step(12)

    # Some CPU kernels keep a little more for their backward than their shapes tell.
    assert trial.step_bytes(12) == pytest.approx(counter.peak_bytes, rel=0.1)
    assert trial.step_bytes(24) > 1.5 * trial.step_bytes(12)


def test_what_this_machine_has_no_memory_for_is_refused_with_what_to_do(shapes, tmp_path):
    huge = Trial({"generator": 1}, 10**15, lambda images: 0, lambda images: None)
    place = WorkerResources(Resources(2, 0, cluster=False), WorkerRange((0,)), CPU)

    with pytest.raises(ValueError, match=r"this machine has .*Use --optim\.accumulate 4 or more"):
        say_cost(DryRunReport(), config(shapes, tmp_path), huge, 12, place, accumulate=2)


def test_a_preparation_is_tried_on_a_few_originals(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parallel_map, "START_S", float("inf"))
    bad = {7, 9}
    write_coco(tmp_path / "coco", "train2017", {n: [f"caption {n}"] for n in range(1, 30)}, bad)
    write_coco(tmp_path / "coco", "val2017", {n: [f"other {n}"] for n in range(50, 55)})
    before = files(tmp_path)
    options = PrepareConfig(
        source=CocoSource(root=str(tmp_path / "coco")),
        output=str(tmp_path / "out" / "data"),
        image_size=32,
        rows_per_shard=16,
        sentence_dim=8,
    )

    plan_preparation(options)

    said = capsys.readouterr().out
    assert "34 of coco, for 3 files" in lines(said)["originals"]
    assert re.search(r"the first 34 took .* 32 can be used, rejected: IMG_TRUNCATED 2", said)
    assert "note: 2 of the first 34 originals would be rejected" in said
    assert " with 1 of " in lines(said)["ETA"], "no Ray is started for it"
    assert files(tmp_path) == before
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="files that do not belong to a prepared dataset"):
        plan_preparation(options.model_copy(update={"output": str(tmp_path / "coco")}))


def test_a_complete_dataset_needs_no_preparation(shapes, capsys):
    made = shapes.manifest
    values = made.options | {"source": ShapesSource(**_without_name(made.source))}
    options = PrepareConfig.model_validate(values | {"output": str(shapes.folder)})

    plan_preparation(options)

    assert "is complete, 150 images; nothing is left to do" in capsys.readouterr().out


def _without_name(source: dict) -> dict:
    return {key: value for key, value in source.items() if key != "name"}


def test_other_jobs_say_what_they_would_do(trained, shapes, tmp_path, capsys):
    pair = {"branch": "small", "image_size": 32, "embedding_dim": 8, "dim": 16}
    data = {"path": str(shapes.folder), "flip": False}
    values = {"total_steps": 4, "workers": 0, "output": str(tmp_path / "out"), "data": data}
    plan_pretraining(PretrainConfig.model_validate(values | {"pair": pair}))
    assert "image branch" in lines(capsys.readouterr().out)["model"]

    small = config(shapes, tmp_path / "out", total_steps=4)
    plan_quickstart(QuickstartConfig(source=ShapesSource(count=100, size=32, pairs=0), train=small))
    assert "90 of them to train on" in lines(capsys.readouterr().out)["data"]

    model, out = f"{trained}/run/model", str(tmp_path / "out")
    plan_generation(GenerateConfig(captions=("a red circle",), model=model, output=out))
    assert "1 images of 1 captions" in capsys.readouterr().out

    plan_sync(SyncConfig(run=f"{trained}/run"))
    assert "nothing to send to sqlite" in lines(capsys.readouterr().out)["run"]

    plan_inspection(InspectConfig(data=str(shapes.folder), output=out))
    assert "150 images in 4 files" in lines(capsys.readouterr().out)["data"]
    assert list(tmp_path.iterdir()) == []
