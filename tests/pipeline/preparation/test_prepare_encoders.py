"""Preparation with the text encoders that have a place: DAMSM's file, CLIP's folder."""

import json

import pytest
import torch

from pipeline.data.dataset import PreparedDataset
from pipeline.preparation.config import PrepareConfig
from pipeline.preparation.prepare import prepare
from pipeline.preparation.sources.coco import CocoSource
from ratgan.text.damsm import CaptionNetwork, Damsm, pack
from ratgan.text.vocabulary import Vocabulary
from tests.conftest import write_coco
from tests.ratgan.test_clip import write_clip

pytestmark = [pytest.mark.slow, pytest.mark.rest]

CAPTIONS = {
    1: ["a small red bird", "zebras!"],
    2: ["a red bird"],
    3: ["zebras", "..."],
    4: ["bird"],
}


def write_encoder(path, seed: int = 0):
    vocabulary = Vocabulary.of(["a small red bird"])
    torch.manual_seed(seed)
    network = CaptionNetwork(len(vocabulary.words), embedding_dim=6, dim=8)
    path.write_bytes(pack(network, vocabulary))
    return str(path)


def options(root, output, **changes) -> PrepareConfig:
    return PrepareConfig(
        source=CocoSource(root=str(root / "originals")),
        output=str(output),
        image_size=32,
        max_rejects="50%",
        **changes,
    )


@pytest.fixture(scope="module")
def root(ray_session, tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    write_coco(root / "originals", "train2017", CAPTIONS)
    write_coco(root / "originals", "val2017", {9: ["a bird"]})
    write_encoder(root / "damsm.safetensors")
    return root


@pytest.fixture(scope="module")
def with_damsm(root):
    path = str(root / "damsm.safetensors")
    return options(root, root / "prepared", encoder="damsm", encoder_path=path)


@pytest.fixture(scope="module")
def prepared(with_damsm):
    prepare(with_damsm)
    return PreparedDataset(with_damsm.output)


def test_vectors_are_those_of_the_file_and_stay_as_they_are(prepared, root):
    rows = prepared.examples("train")

    expected = Damsm.load(root / "damsm.safetensors").encode([row.caption for row in rows])
    assert prepared.transform.kind == "identity"
    torch.testing.assert_close(torch.stack([r.sentence for r in rows]), expected, rtol=0, atol=1e-6)


def test_captions_without_a_known_word_are_counted_and_images_without_others_rejected(prepared):
    manifest = prepared.manifest

    assert manifest.dropped_captions == {"CAP_UNKNOWN": 1}
    assert (manifest.reasons, manifest.rows("train")) == ({"CAP_UNKNOWN": 1}, 3)


def test_the_dataset_keeps_a_copy_of_the_encoder(prepared, root):
    encoder = prepared.manifest.encoder

    assert prepared.encoder_file() == (root / "damsm.safetensors").read_bytes()
    assert encoder.record() == {"name": "damsm", "sha256": encoder.sha256}
    assert encoder.file == "text_encoder.safetensors"


def test_a_changed_copy_is_refused(prepared, root, tmp_path):
    for name in ("manifest.json", "sentence_transform.safetensors"):
        (tmp_path / name).write_bytes((root / "prepared" / name).read_bytes())
    write_encoder(tmp_path / "text_encoder.safetensors", seed=1)

    with pytest.raises(ValueError, match="was changed after preparation"):
        PreparedDataset(str(tmp_path)).encoder_file()


def test_the_same_encoder_from_elsewhere_is_the_same_and_another_is_not(
    prepared, with_damsm, root, tmp_path, capsys
):
    copy = write_encoder(tmp_path / "copy.safetensors")
    other = write_encoder(tmp_path / "other.safetensors", seed=1)

    assert prepare(with_damsm.model_copy(update={"encoder_path": copy})) == prepared.manifest
    assert "is prepared already" in capsys.readouterr().out
    with pytest.raises(ValueError, match="another text encoder"):
        prepare(with_damsm.model_copy(update={"encoder_path": other}))


def test_overwriting_with_another_encoder_uses_that_one(prepared, with_damsm, root, tmp_path):
    other = write_encoder(tmp_path / "other.safetensors", seed=1)
    again = with_damsm.model_copy(update={"output": str(tmp_path / "out"), "encoder_path": other})
    prepare(with_damsm.model_copy(update={"output": str(tmp_path / "out")}))

    prepare(again.model_copy(update={"overwrite": True}))

    row = PreparedDataset(again.output).examples("train", 1)[0]
    torch.testing.assert_close(row.sentence, Damsm.load(other).encode([row.caption])[0])


def test_clip_is_recorded_by_its_place_and_whitened(root, tmp_path):
    folder = write_clip(tmp_path / "clip")

    manifest = prepare(options(root, tmp_path / "out", encoder="clip", encoder_path=folder))

    assert manifest.encoder.record()["location"] == folder
    assert (manifest.encoder.dim, manifest.encoder.file) == (10, None)
    assert manifest.transform.kind == "whiten"
    assert not (tmp_path / "out" / "text_encoder.safetensors").exists()


def test_an_encoder_that_is_not_there_is_refused_before_anything_is_written(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors does not exist"):
        prepare(
            options(root, tmp_path / "out", encoder="damsm", encoder_path="/x/nowhere.safetensors")
        )
    (tmp_path / "bad.safetensors").write_text(json.dumps({}))
    bad = str(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="is not a text encoder file"):
        prepare(options(root, tmp_path / "out", encoder="damsm", encoder_path=bad))

    assert not (tmp_path / "out").exists()


def test_a_path_is_asked_for_where_it_is_needed_and_only_there(tmp_path):
    with pytest.raises(ValueError, match="encoder=damsm needs encoder_path"):
        options(tmp_path, tmp_path, encoder="damsm")
    with pytest.raises(ValueError, match="encoder=minilm takes no encoder_path"):
        options(tmp_path, tmp_path, encoder_path="x")
