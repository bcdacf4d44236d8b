"""Evaluations with a real Ray and a real MLflow: by any number of actors, stopped, recorded."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import save_file

from pipeline.evaluation.config import CompareConfig, EvaluateConfig
from pipeline.evaluation.evaluate import evaluate, plan_evaluation
from pipeline.evaluation.protocols import Protocol
from pipeline.evaluation.report import compare
from pipeline.training.train import train
from ratgan.text.damsm import CaptionNetwork, pack
from ratgan.text.image_branch import SmallBranch
from ratgan.text.vocabulary import Vocabulary
from ratgan.weights.saved_model import pack_model
from tests.chaos.commands import Command
from tests.chaos.proxy import ChaosProxy
from tests.conftest import photo
from tests.pipeline.training.test_train import config as training
from tests.ratgan.extractor_weights import write_inception
from tests.ratgan.networks import small_generator

pytestmark = [pytest.mark.slow, pytest.mark.rest]


@pytest.fixture(scope="module")
def model(shapes, tmp_path_factory) -> str:
    """A saved model that reads the sentence vectors of the shapes."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    folder.mkdir()
    encoder = shapes.manifest.encoder.record()
    generator = small_generator(sentence_dim=shapes.transform.dim)
    files = pack_model(generator, shapes.transform, encoder, {"step": 3, "run": "r"})
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.fixture(scope="module")
def pair(shapes, tmp_path_factory) -> str:
    """A pair of encoders that knows the captions' words and has learnt nothing."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    vocabulary = Vocabulary.of(shapes.captions("train"))
    text = pack(CaptionNetwork(len(vocabulary.words), 5, 8), vocabulary)
    (folder / "text_encoder.safetensors").write_bytes(text)
    save_file(SmallBranch(8, channels=8).state_dict(), folder / "image_branch.safetensors")
    return str(folder)


def protocol_label(report: dict) -> str:
    return Protocol(**report["protocol"]).label()


def config(model: str, shapes, output: Path, **changes) -> EvaluateConfig:
    values = {
        "model": model,
        "data": str(shapes.folder),
        "output": str(output / "report"),
        "cache": str(output / "cache"),
        "count": 90,
        "chunk_images": 16,
        "batch_size": 8,
        "few_images": True,
        "diversity_captions": 3,
        "diversity_images": 4,
        "actors": 1,
    }
    return EvaluateConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def by_one(model, pair, shapes, tmp_path_factory):
    """An evaluation by one actor, and where it is."""
    output = tmp_path_factory.mktemp("one")
    return output, evaluate(config(model, shapes, output, pair=pair, keep_features=True))


def test_one_and_three_actors_measure_the_same(by_one, model, pair, shapes, tmp_path, capsys):
    three = evaluate(config(model, shapes, tmp_path, pair=pair, actors=3))

    _, one = by_one
    assert one["numbers"].keys() == three["numbers"].keys()
    assert three["numbers"] == pytest.approx(one["numbers"], rel=1e-9, abs=1e-12)
    assert "3 processes" in (screen := capsys.readouterr().out)
    assert "evaluated  " in screen
    assert "ETA 0:00" in screen


def test_this_process_alone_measures_the_same_without_ray(
    by_one, model, pair, shapes, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("pipeline.evaluation.evaluate.connect", pytest.fail)
    threads = torch.get_num_threads()

    alone = evaluate(config(model, shapes, tmp_path, pair=pair, actors=0))

    _, one = by_one
    assert alone["numbers"] == pytest.approx(one["numbers"], rel=1e-9, abs=1e-12)
    assert alone["identity"] == one["identity"]
    assert "\n  this process, report" in capsys.readouterr().out
    assert torch.get_num_threads() == threads


def test_a_report_has_numbers_protocol_and_pictures(by_one, shapes):
    output, report = by_one
    folder = output / "report"

    assert json.loads((folder / "report.json").read_text()) == report
    assert {
        "fd_builtin",
        "kd_builtin",
        "precision_builtin",
        "coverage_builtin",
        "diversity_builtin",
        "r_precision_builtin",
        "caption_recall_5_builtin",
        "image_recall_5_builtin",
        "nearness_builtin",
    } <= report["numbers"].keys()
    assert all(np.isfinite(value) for value in report["numbers"].values())
    assert report["protocol"]["count"] == 90
    assert report["protocol"]["reference_count"] == 30
    assert report["rank"] == {"features": 182, "generated": 89, "real": 29}
    assert "kinds of images" in report["missing"]["inception_score"]
    assert "images of two shapes" in report["missing"]["agreement"]
    sure = report["spread"]["fd_builtin"]
    assert sure["low"] < report["numbers"]["fd_builtin"] < sure["high"]
    assert (sure["level"], len(sure["left_out"])) == (0.9, 20)
    assert sure["bias"] > 0
    assert "20 images" in report["spread_missing"]["precision"]
    kinds = set(report["kinds"].values())
    intervals = {report["kinds"][name] for name in report["spread"]}
    assert intervals | report["spread_missing"].keys() == kinds
    copies = report["memorised"]
    assert (copies["train_images"], copies["held_out_images"], copies["compared"]) == (90, 30, 30)
    assert not copies["flagged"]
    assert 1 <= len(copies["pairs"]) <= 10
    assert all(pair["caption"] and pair["train_caption"] for pair in copies["pairs"])
    text = (folder / "report.md").read_text()
    assert f"[{sure['low']:.4g}, {sure['high']:.4g}]" in text
    assert "Warning" not in text
    assert "| fd[builtin] | " in text
    assert "its distance is no FID" in text
    assert "| seed | 0 |" in text
    for name in ("samples.png", "best.png", "worst.png", "nearest.png"):
        assert min(Image.open(folder / name).size) > 100, name
    best, worst = (np.asarray(Image.open(folder / f"{name}.png")) for name in ("best", "worst"))
    assert best.shape != worst.shape or (best != worst).any()


def test_a_dry_run_says_what_would_be_measured_and_keeps_nothing(model, shapes, tmp_path, capsys):
    plan_evaluation(config(model, shapes, tmp_path))

    screen = capsys.readouterr().out
    assert "builtin: 90 images of 32 px" in screen
    assert "for one process on a CPU" in screen
    assert "note: The extractor is small and fixed" in screen
    assert not list(tmp_path.iterdir())


def test_what_is_finished_is_not_made_again(by_one, model, pair, shapes, tmp_path, capsys):
    output, report = tmp_path / "copy", by_one[1]
    shutil.copytree(by_one[0], output)  # others look at it as it was
    features = output / "report" / "features" / "generated"
    before = {file.name: file.stat().st_mtime_ns for file in features.glob("chunk-*")}
    assert len(before) == 6
    for name in ("chunk-00001", "chunk-00004"):
        (features / f"{name}.safetensors").unlink()
    (output / "report" / "report.json").unlink()
    options = {"pair": pair, "keep_features": True, "actors": 2}

    again = evaluate(config(model, shapes, output, **options))

    # 30 real images in 2 pieces, 90 generated and 90 of training in 6 each, 12 for diversity in 1.
    assert "13 of 15 pieces are there already" in capsys.readouterr().out
    assert again["numbers"] == pytest.approx(report["numbers"], rel=1e-9, abs=1e-12)
    after = {file.name: file.stat().st_mtime_ns for file in features.glob("chunk-*")}
    assert sum(after[name] == before[name] for name in before) == 4

    assert evaluate(config(model, shapes, output, **options)) == again
    assert "is evaluated already" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"holds another evaluation:\nprotocol.seed: 0 → 7"):
        evaluate(config(model, shapes, output, **options, seed=7))


@pytest.mark.thorough
def test_an_evaluation_in_a_bucket_that_is_killed_ends_with_the_same_numbers(
    model, shapes, bucket, s3_server, tmp_path
):
    environment, lake = bucket
    lake.put(model, "lake/model", recursive=True)
    lake.put(str(shapes.folder), "lake/shapes", recursive=True)
    options = {"model": "s3://lake/model", "data": "s3://lake/shapes"}
    options |= {"output": "s3://lake/report", "cache": "s3://lake/cache"}
    asked = config(model, shapes, tmp_path)
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in (asked.model_dump(exclude_unset=True) | options).items()
        if value is not True
    ]
    generated = "lake/report/features/generated/chunk-0000"

    def made() -> int:
        lake.invalidate_cache()
        return len(lake.glob(f"{generated}*"))

    with ChaosProxy(*s3_server.address) as proxy:
        # The last pieces never come to be: it is killed before its end, however late that is.
        proxy.inject("hang", 10**6, when=lambda asked: re.search(rf"{generated}[3-5]", asked.path))
        through = environment | {"AWS_ENDPOINT_URL": proxy.url}
        with Command("evaluate", "--few-images", *flags, **through) as first:
            first.wait_for(made)
            first.kill()
    left = made()

    with Command("evaluate", "--few-images", *flags, **environment) as again:
        assert again.wait() == 0, again.said

    assert 1 <= left <= 3
    assert re.search(r"[1-8] of 9 pieces are there already", again.said), again.said
    report = json.loads(lake.cat("lake/report/report.json"))
    assert report["numbers"] == pytest.approx(evaluate(asked)["numbers"], rel=1e-9, abs=1e-12)


def test_a_run_is_evaluated_by_a_published_protocol_and_its_record_grows(shapes, tmp_path, capsys):
    run = train(training(shapes, tmp_path, total_steps=2, checkpoint_every=2))
    write_inception(tmp_path / "birds.pth", kinds=7)
    for index in range(3):
        (tmp_path / "originals" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        photo(40 + index, 30, index).save(tmp_path / f"originals/{index % 2}/{index}.jpg")

    report = evaluate(
        EvaluateConfig(
            model=str(run),
            protocol="paper-cub",
            count=6,
            weights=str(tmp_path / "birds.pth"),
            reference_images=str(tmp_path / "originals"),
            cache=str(tmp_path / "cache"),
            batch_size=6,
            few_images=True,
            diversity_captions=1,
            diversity_images=2,
            actors=1,
        )
    )

    assert report["model"]["weights"] == "training"
    assert report["model"]["step"] == 2
    assert report["protocol"]["name"] == "paper-cub-changed"
    assert report["protocol"]["reference_count"] == 3
    assert "need more than 5 images" in report["missing"]["precision and recall"]
    assert "the reference is folder" in report["missing"]["memorised"]
    assert not any("fid" in name for name in report["numbers"])
    assert 1 <= report["numbers"]["inception_score_paper-cub-changed"] <= 6
    (folder,) = (Path(str(run)) / "evaluation").iterdir()
    assert folder.name.startswith("paper-cub-changed-step-00000002-")
    assert not (folder / "features").exists()
    record = json.loads((Path(str(run)) / "run.json").read_text())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    logged = client.get_run(record["mlflow_run_id"])
    name = "fd_paper-cub-changed"
    assert logged.data.metrics[f"eval/{name}"] == report["numbers"][name]
    protocol = json.loads(logged.data.tags["eval.protocol.paper-cub-changed"])
    assert (protocol["count"], protocol["rounding"]) == (6, "truncate")
    quality = json.loads(logged.data.tags[f"quality.{protocol_label(report)}"])
    assert (quality["metric"], quality["step"]) == (f"eval/{name}", 2)
    images = [
        artifact.path for artifact in client.list_artifacts(record["mlflow_run_id"], "images")
    ]
    assert any("evaluation_paper-cub-changed_samples" in image for image in images)
    assert "mlflow run" in capsys.readouterr().out


def test_reports_compare_side_by_side_or_say_why_not(by_one, tmp_path, capsys):
    output, report = by_one
    for name, changes in {
        "same": {},
        "seed": {"protocol": report["protocol"] | {"seed": 3}},
        "pair": {"pair": {"name": "clip", "sha256": "0"}},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report | changes))
    first = str(output / "report")

    compare(CompareConfig(reports=(first, f"{tmp_path}/same/report.json")))
    same = capsys.readouterr().out
    compare(CompareConfig(reports=(first, str(tmp_path / "pair"))))
    other_pair = capsys.readouterr().out

    value = f"{report['numbers']['fd_builtin']:.4g}"
    assert "equal" in same
    line = next(line for line in same.splitlines() if line.startswith("fd[builtin]"))
    assert line.split() == ["fd[builtin]", value, value]
    assert "r_precision[builtin]" in same
    assert "r_precision" not in other_pair
    assert "retrieval is left out" in other_pair
    with pytest.raises(ValueError, match=r"do not compare.*\nseed: 0 → 3\n"):
        compare(CompareConfig(reports=(first, str(tmp_path / "seed"))))
    with pytest.raises(FileNotFoundError, match=r"holds no report\.json"):
        compare(CompareConfig(reports=(first, str(tmp_path))))
