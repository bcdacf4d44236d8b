"""A model is loaded from the folder of a run, of one of its checkpoints, or its own."""

import shutil

import pytest

from pipeline.checkpoint.load_model import load_from, saved_in
from pipeline.checkpoint.store import FILES, MARKER
from pipeline.evaluation.networks import find_model
from pipeline.storage.folder import Folder
from tests.pipeline.checkpoint.checkpoints import save, trained


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_run_is_as_good_as_its_newest_checkpoint_and_that_as_its_model(place, tmp_path):
    run = Folder(str(tmp_path / "run") if place == "disk" else f"memory://{tmp_path.name}/run")
    for step in (4, 8):
        checkpoint = save(run / "checkpoints", trained(1), step, keep=2)

    digests = {
        load_from(f"{run}{part}").digest: part
        for part in ("", "/checkpoints/step-00000008", "/checkpoints/step-00000008/model")
    }

    assert len(digests) == 1
    assert load_from(str(run)).origin["step"] == 8
    checkpoint.write("model/model.safetensors", b"damaged")
    assert load_from(str(run)).origin["step"] == 4


def test_of_a_run_that_has_ended_its_model_is_taken(tmp_path):
    checkpoint = save(Folder(str(tmp_path / "run" / "checkpoints")), trained(1), 4, keep=2)
    shutil.copytree(f"{checkpoint}/model", tmp_path / "run" / "model")
    checkpoint.write("generator.safetensors", b"damaged")

    assert saved_in(str(tmp_path / "run")).location == f"{tmp_path}/run/model"
    assert load_from(str(tmp_path / "run")).origin["step"] == 4


@pytest.mark.parametrize("place", ["run", "run/checkpoints/step-00000004"])
@pytest.mark.parametrize("file", ["model", "model/model.safetensors"])
def test_no_link_leads_out_of_a_run_or_a_checkpoint(place, file, tmp_path):
    checkpoint = save(Folder(str(tmp_path / "run" / "checkpoints")), trained(1), 4, keep=2)
    inner = tmp_path / "run" / "checkpoints" / "step-00000004" / file
    hashes = checkpoint.read_json(FILES)
    listed = {name: each for name, each in hashes.items() if not name.startswith("model/")}
    checkpoint.write(MARKER, checkpoint.write_json(FILES, listed).encode())  # says nothing of it
    inner.rename(tmp_path / "elsewhere")
    inner.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ValueError, match="leads out of the folder by a link"):
        load_from(str(tmp_path / place))
    with pytest.raises(ValueError, match="leads out of the folder by a link"):
        find_model(str(tmp_path / place), checkpoint="newest", weights="average").loaded()


def test_a_run_without_a_complete_checkpoint_has_no_model(tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000004").mkdir(parents=True)

    with pytest.raises(FileNotFoundError, match=r"neither a run \(outputs/NAME\) with a complete"):
        load_from(str(tmp_path / "run"))
