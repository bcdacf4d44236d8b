"""A run that was moved finds the dataset that was moved with it, and no other one."""

import shutil

import pytest

from pipeline.data.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Encoder,
    Manifest,
    TransformRecord,
    read_manifest,
)
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.networks import ModelRef, find_model
from pipeline.evaluation.task import check
from pipeline.storage.folder import Folder
from ratgan.weights.saved_model import MODEL_JSON


def lay_dataset(folder: Folder, seen: int = 0) -> str:
    """Lay out the manifest of a dataset, and return its digest."""
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        source={"name": "shapes"},
        fingerprint="0" * 64,
        options={"image_size": 32},
        cache_size=32,
        mirrors=True,
        encoder=Encoder(name="minilm", sha256="0" * 64, dim=384),
        transform=TransformRecord(kind="whiten", dim=96, sha256="0" * 64),
        overlapping_splits=False,
        splits={},
        seen=seen,
        written=0,
        rejected=seen,
        captions=0,
    )
    folder.write_json(MANIFEST, manifest.model_dump(mode="json"))
    return read_manifest(folder)[1]


@pytest.fixture(params=["in the run's folder", "beside the outputs"])
def project(request, tmp_path):
    """A project with a run and the dataset of it, and where in it the dataset is."""
    project = tmp_path / "project"
    run = Folder(f"{project}/outputs/run")
    inside = "outputs/run/data" if "run's" in request.param else "data/shapes"
    digest = lay_dataset(Folder(f"{project}/{inside}"))
    checkpoint = run / "checkpoints" / "step-00000001"
    config = {"data": {"path": f"{project}/{inside}"}, "output": f"{project}/outputs"}
    checkpoint.write_json("state.json", {"config": config, "dataset": digest})
    checkpoint.write_json(f"model/{MODEL_JSON}", {"tensors_sha256": "0", "origin": {"step": 1}})
    run.write_json("run.json", {})
    return project, inside


def found(project) -> ModelRef:
    place = f"{project}/outputs/run/checkpoints/step-00000001"
    return find_model(place, checkpoint="newest", weights="average")


@pytest.mark.parametrize("how", ["rename", "copytree"])
def test_a_run_and_its_dataset_are_moved_together(how, project, tmp_path):
    project, inside = project
    assert found(project).data == f"{project}/{inside}"

    {"rename": shutil.move, "copytree": shutil.copytree}[how](project, tmp_path / "my%20new [v2]")

    assert found(tmp_path / "my%20new [v2]").data == f"{tmp_path}/my%20new [v2]/{inside}"


def test_another_dataset_at_that_place_is_not_taken_for_it(project, tmp_path):
    project, inside = project
    new = tmp_path / "new"
    shutil.copytree(project, new)
    lay_dataset(Folder(f"{new}/{inside}"), seen=1)

    assert found(new).data == f"{project}/{inside}"


def test_a_dataset_that_stayed_behind_is_asked_for(project, tmp_path):
    project, inside = project
    shutil.move(project, tmp_path / "new")
    shutil.rmtree(tmp_path / "new" / inside)
    place = f"{tmp_path}/new/outputs/run/checkpoints/step-00000001"

    with pytest.raises(ValueError, match=f"was trained on {project}/{inside}, where no .*--data"):
        check(EvaluateConfig(model=place, protocol="builtin"))
