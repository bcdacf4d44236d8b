"""Grids of samples in MLflow: a picture for each caption, under a name that it has in every run."""

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.cli.config import SyncConfig
from pipeline.cli.sync import sync
from pipeline.storage.folder import Folder
from pipeline.tracking.mlflow_run import MAX_CAPTIONS
from pipeline.tracking.sample_grid import MAX_NAME, names_of
from pipeline.tracking.spool import read
from pipeline.tracking.tracker import Tracker
from tests import corpus
from tests.files import files
from tests.pipeline.reports.runs import CAPTIONS, make_run

# What MLflow's own `log_image` takes as a key.
KEY = re.compile(r"[a-zA-Z0-9_\-./ ]+")
HOSTILE = [
    text.decode(errors="replace") if isinstance(text, bytes) else text
    for text, _ in corpus.captions().values()
] + ["..", "../../x", "a~b", "a#b", "a+step+3", "a%2fb", "\ud800", "x" * 5000, ".", "/", "C:\\x"]


def test_no_caption_makes_a_key_that_mlflow_refuses_and_no_two_make_one():
    captions = [*dict.fromkeys(HOSTILE), "a red circle", "a red circle", "a red circle!"]
    captions += [names_of([caption])[0] for caption in captions]  # written to be mistaken

    names = names_of(captions)

    assert all(KEY.fullmatch(f"samples/{name}") for name in names)
    assert all(len(name) <= MAX_NAME + 9 for name in names)
    assert len(set(names)) == len(captions)
    assert not [name for name in names if "IOSFODNN" in name]


def test_a_caption_has_one_name_in_all_runs_and_a_plain_one_is_its_own():
    assert names_of(["a red circle", "ein roter Würfel"])[0] == "a red circle"
    assert re.fullmatch("ein roter Wurfel [0-9a-f]{8}", names_of(["ein roter Würfel"])[0])
    assert names_of(["b", "ein roter Würfel"])[1:] == names_of(["ein roter Würfel"])


def opened(place: Path) -> dict[str, tuple[int, int]]:
    """Sizes of the pictures in MLflow, by key and step."""
    paths = (place / "mlflow-artifacts").rglob("*.png")
    return {path.name.partition("+timestamp+")[0]: Image.open(path).size for path in paths}


@pytest.fixture
def outputs(tmp_path, made_store, monkeypatch):
    """A folder of runs with their store."""
    (tmp_path / "mlflow.db").write_bytes(made_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.mark.slow
def test_each_caption_of_each_grid_is_sent_once_however_often_it_is(outputs):
    make_run(outputs / "a", steps=(0, 10))
    again = names_of(CAPTIONS)[2]  # the words of the first once more
    keys = ["samples", "samples~a red circle", "samples~a blue square", f"samples~{again}"]

    sync(SyncConfig(run=str(outputs)))
    before = files(outputs / "mlflow-artifacts")
    resumed = Tracker(Folder(str(outputs / "a")))
    resumed.image("samples", 10, "samples/samples-00000010.png")  # drawn again after a kill
    resumed.flush()
    sync(SyncConfig(run=str(outputs)))
    (outputs / "a" / "spool" / "sent.json").unlink()
    sync(SyncConfig(run=str(outputs)))

    assert files(outputs / "mlflow-artifacts") == before
    found = opened(outputs)
    assert sorted(found) == sorted(f"{key}+step+{step}" for key in keys for step in (0, 10))
    assert found["samples~a red circle+step+0"] == (128, 128), "as large as the grid shows it"
    assert len([name for name in before if name.endswith("+compressed.webp")]) == len(found)


@pytest.mark.slow
def test_a_grid_of_many_captions_has_pictures_of_the_first(outputs):
    make_run(outputs / "a", steps=(0,), captions=[f"a bird {n}" for n in range(20)])

    sync(SyncConfig(run=str(outputs)))

    expected = {f"samples~a bird {n}+step+0" for n in range(MAX_CAPTIONS)} | {"samples+step+0"}
    assert set(opened(outputs)) == expected


@pytest.mark.slow
def test_hostile_captions_write_nothing_outside_and_a_layout_of_another_grid_is_left(outputs):
    captions = HOSTILE[-11:-3]
    run = make_run(outputs / "a", steps=(0, 1, 2, 3), captions=["a"] * len(captions))
    layout = run / "samples" / "samples-00000000.json"
    layout.write_text(json.dumps(json.loads(layout.read_text()) | {"captions": captions}))
    wide = {"captions": captions, "boxes": [[0, 0, 10**9, 1]] * len(captions)}
    (run / "samples" / "samples-00000001.json").write_text(json.dumps(wide))
    (run / "samples" / "samples-00000002.json").write_text("[" * 100_000)
    (run / "samples" / "samples-00000003.json").unlink()
    (run / "samples" / "samples-00000003.json").symlink_to(layout.rename(outputs / "layout.json"))
    layout.write_bytes((outputs / "layout.json").read_bytes())

    sync(SyncConfig(run=str(outputs)))

    assert list(read(Folder(str(run / "spool" / "refused")), {})) == []
    names = [f"samples~{name}+step+0" for name in names_of(captions)]
    assert set(opened(outputs)) == {*names, *(f"samples+step+{step}" for step in range(4))}
    run_id = json.loads((run / "run.json").read_text())["mlflow_run_id"]
    listed = MlflowClient(f"sqlite:///{outputs}/mlflow.db").list_artifacts(run_id, "images")
    assert len(listed) == 2 * len(opened(outputs))
