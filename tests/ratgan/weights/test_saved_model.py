"""A saved model: what goes in comes out, and what is damaged is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

import ratgan
from ratgan.randomness import sample_noise
from ratgan.sampling import sample
from ratgan.text.damsm import CaptionNetwork, pack
from ratgan.text.loading import load_encoder
from ratgan.text.minilm import WEIGHTS_SHA256
from ratgan.text.transform import SentenceTransform
from ratgan.text.vocabulary import Vocabulary
from ratgan.weights.saved_model import (
    MODEL_JSON,
    MODEL_TENSORS,
    TEXT_ENCODER,
    pack_model,
)
from ratgan.weights.strict import load_strictly
from tests.ratgan.networks import small_generator
from tests.ratgan.test_clip import write_clip

ENCODER = {"name": "minilm", "sha256": WEIGHTS_SHA256}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    transform = SentenceTransform(torch.randn(384), torch.randn(384, 9), "whiten")
    files = pack_model(small_generator(), transform, ENCODER, {"run": "test", "step": 3})
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_loaded_model_draws_what_the_saved_generator_draws(saved):
    model = ratgan.load(saved)

    images = model.draw(["a bird", "a tree"], seed=4)

    expected = sample(small_generator(), model.encode(["a bird", "a tree"]), sample_noise(4, 2, 7))
    assert torch.equal(images, expected)
    assert model.origin == {"run": "test", "step": 3}
    assert model.transform.kind == "whiten"


def test_a_model_with_a_linear_output_is_loaded_as_one_and_an_older_record_with_tanh(tmp_path):
    transform = SentenceTransform.identity(384)
    for name, changes in {"old": {}, "linear": {"output": "linear"}}.items():
        generator = small_generator(sentence_dim=384, **changes)
        for file, content in pack_model(generator, transform, ENCODER, {}).items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
    record = json.loads((tmp_path / "old/model.json").read_text())
    del record["generator"]["output"]  # as written before there was a choice
    (tmp_path / "old/model.json").write_text(json.dumps(record))

    assert ratgan.load(tmp_path / "old").generator.output == "tanh"
    assert ratgan.load(tmp_path / "linear").generator.output == "linear"


def test_calling_a_model_gives_pillow_images_that_depend_on_the_seed(saved):
    model = ratgan.load(saved)

    (first,) = model("a small red bird", seed=1)
    (again,) = model("a small red bird", seed=1)
    (other,) = model("a small red bird", seed=2)

    assert first.size == (32, 32)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_a_training_checkpoint_can_be_loaded_by_its_own_folder(saved, tmp_path):
    checkpoint = tmp_path / "step-1"
    checkpoint.mkdir()
    (checkpoint / "model").symlink_to(saved)

    assert ratgan.load(checkpoint).origin["step"] == 3


def test_one_flipped_byte_is_noticed(saved):
    content = bytearray((saved / MODEL_TENSORS).read_bytes())
    content[-5] ^= 1
    (saved / MODEL_TENSORS).write_bytes(content)

    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        ratgan.load(saved)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"'])
def test_a_damaged_record_is_refused(saved, content):
    (saved / MODEL_JSON).write_text(content)

    with pytest.raises(ValueError, match=r"model\.json is damaged"):
        ratgan.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": None},
        {"generator": {"image_size": 32, "wings": 2}},
        {"encoder": "minilm"},
        {"generator": {"image_size": 32, "noise_dim": -1}},
        {"tensors_sha256": None},
    ],
)
def test_a_record_without_what_a_model_needs_is_refused(saved, changes):
    record = json.loads((saved / MODEL_JSON).read_text()) | changes
    (saved / MODEL_JSON).write_text(json.dumps(record))

    with pytest.raises(ValueError, match=r"is damaged|no network can have|does not fit"):
        ratgan.load(saved)


@pytest.mark.parametrize("encoder", [{}, "minilm"])
def test_a_record_that_names_no_text_encoder_is_refused_where_one_lies_beside(saved, encoder):
    record = json.loads((saved / MODEL_JSON).read_text()) | {"encoder": encoder}
    (saved / MODEL_JSON).write_text(json.dumps(record))
    (saved / "text_encoder.safetensors").write_bytes(b"")

    with pytest.raises(ValueError, match="is damaged"):
        ratgan.load(saved)


@pytest.mark.parametrize("shape", [(384,), (384, 8), (383, 9)])
def test_a_transform_that_does_not_fit_the_generator_is_refused(saved, shape):
    tensors = load_file(saved / MODEL_TENSORS) | {"transform.projection": torch.zeros(shape)}
    content = save(tensors)
    (saved / MODEL_TENSORS).write_bytes(content)
    record = json.loads((saved / MODEL_JSON).read_text())
    record["tensors_sha256"] = hashlib.sha256(content).hexdigest()
    (saved / MODEL_JSON).write_text(json.dumps(record))

    with pytest.raises(ValueError, match=r"transform\.projection is .* should be \[384, 9\]"):
        ratgan.load(saved)


def test_another_format_version_is_refused(saved):
    record = json.loads((saved / MODEL_JSON).read_text()) | {"format_version": 99}
    (saved / MODEL_JSON).write_text(json.dumps(record))

    with pytest.raises(ValueError, match="has format 99, and this version reads 1"):
        ratgan.load(saved)


def test_a_folder_without_a_model_says_where_models_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="Runs keep theirs in OUTPUT/NAME/model"):
        ratgan.load(tmp_path)


def test_another_text_encoder_than_in_training_is_refused(saved):
    record = json.loads((saved / MODEL_JSON).read_text())
    record["encoder"]["sha256"] = "0" * 64
    (saved / MODEL_JSON).write_text(json.dumps(record))

    with pytest.raises(ValueError, match="trained with minilm of sha256 0000"):
        ratgan.load(saved)("a bird")


def pack_with_own_encoder(folder):
    """Save a model that brings its text encoder along."""
    vocabulary = Vocabulary.of(["a small red bird"])
    network = CaptionNetwork(len(vocabulary.words), embedding_dim=6, dim=10)
    encoder_file = pack(network, vocabulary)
    record = {"name": "damsm", "sha256": hashlib.sha256(encoder_file).hexdigest()}
    transform = SentenceTransform(torch.randn(10), torch.randn(10, 9), "whiten")
    folder.mkdir()
    for name, content in pack_model(small_generator(), transform, record, {}, encoder_file).items():
        (folder / name).write_bytes(content)
    return folder


def test_a_model_brings_its_text_encoder_along(tmp_path):
    model = ratgan.load(pack_with_own_encoder(tmp_path / "model"))
    for file in (tmp_path / "model").iterdir():
        file.unlink()  # a copy from a bucket is gone after loading

    assert model("a red bird, unknowingly")[0].size == (32, 32)
    with pytest.raises(ValueError, match="knows no word of 'zebras'"):
        model("zebras")


def test_another_text_encoder_in_the_folder_is_refused(tmp_path):
    folder = pack_with_own_encoder(tmp_path / "model")
    other = pack_with_own_encoder(tmp_path / "other")
    (folder / TEXT_ENCODER).write_bytes((other / TEXT_ENCODER).read_bytes())

    with pytest.raises(ValueError, match="trained with damsm of sha256"):
        ratgan.load(folder)


def test_a_text_encoder_elsewhere_is_found_where_the_caller_says_and_not_the_model(tmp_path):
    folder = pack_with_own_encoder(tmp_path / "model")
    elsewhere = (folder / TEXT_ENCODER).rename(tmp_path / "elsewhere.safetensors")

    with pytest.raises(ValueError, match="damsm needs its weights named"):
        ratgan.load(folder)("a bird")
    by_caller = ratgan.load(folder, encoder_path=elsewhere).draw("a bird")
    record = json.loads((folder / MODEL_JSON).read_text())
    record["encoder"]["location"] = str(elsewhere)
    (folder / MODEL_JSON).write_text(json.dumps(record))

    with pytest.raises(ValueError, match=rf"names {elsewhere} for it.*--encoder-path {elsewhere}"):
        ratgan.load(folder).draw("a bird")
    assert torch.equal(ratgan.load(folder, encoder_path=elsewhere).draw("a bird"), by_caller)


@pytest.mark.parametrize("place", ["attacker/evil", "../theirs", "{tmp}/theirs", ".", "linked", 1])
def test_no_text_encoder_is_loaded_because_a_model_names_it(place, tmp_path, monkeypatch):
    folder = pack_with_own_encoder(tmp_path / "model")
    (folder / TEXT_ENCODER).unlink()
    theirs = write_clip(tmp_path / "theirs")
    (folder / "linked").symlink_to(theirs)
    name_encoder(folder, str(place).format(tmp=tmp_path) if place != 1 else 1)
    loaded: list[str] = []
    monkeypatch.setattr("ratgan.text.clip.Clip.__init__", lambda _, at: loaded.append(at))

    model = ratgan.load(folder)
    with pytest.raises(ValueError, match="No place is opened because a model names it"):
        model("a bird")

    assert loaded == []


def test_a_text_encoder_in_a_folder_of_the_model_is_loaded(tmp_path):
    folder = pack_with_own_encoder(tmp_path / "model")
    (folder / TEXT_ENCODER).unlink()
    write_clip(folder / "clip")
    name_encoder(folder, "clip", sha256=load_encoder("clip", folder / "clip").sha256)

    assert ratgan.load(folder)("a red bird")[0].size == (32, 32)


def name_encoder(folder: Path, location: object, sha256: str = "") -> None:
    """Let a model say that its text encoder is a CLIP elsewhere."""
    record = json.loads((folder / MODEL_JSON).read_text())
    record["encoder"] = {"name": "clip", "sha256": sha256, "location": location}
    (folder / MODEL_JSON).write_text(json.dumps(record))


def test_an_empty_caption_is_refused(saved):
    with pytest.raises(ValueError, match="a caption is empty"):
        ratgan.load(saved)(["a bird", "  "])


def test_tensors_that_do_not_fit_are_named():
    module = torch.nn.Linear(2, 3)
    tensors = {"weight": torch.zeros(3, 5), "extra": torch.zeros(1)}

    with pytest.raises(ValueError, match=r"missing bias; unknown extra; weight is \[3, 5\]"):
        load_strictly(module, tensors, "file")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("base_channels", 10**6), ("controller_dim", 10**8), ("image_size", 2**40)],
)
def test_sizes_in_the_record_take_no_memory_before_the_tensors_have_them(saved, argument, value):
    record = json.loads((saved / MODEL_JSON).read_text())
    record["generator"][argument] = value
    (saved / MODEL_JSON).write_text(json.dumps(record))

    with pytest.raises(ValueError, match=r"does not fit the network|image_size"):
        ratgan.load(saved)


@pytest.mark.parametrize("file", [MODEL_JSON, MODEL_TENSORS, TEXT_ENCODER])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs.*git lfs pull"),
        (b"<html></html>", "is a web page, not .*Open the link in a browser"),
        (b"", "is an empty file. Copy or download it again"),
    ],
)
def test_a_file_that_is_something_else_is_named_with_what_to_do(tmp_path, file, content, message):
    vocabulary = Vocabulary.of(["a red bird"])
    encoder = pack(CaptionNetwork(len(vocabulary.words), 3, 4), vocabulary)
    record = {"name": "damsm", "sha256": hashlib.sha256(encoder).hexdigest()}
    files = pack_model(small_generator(), SentenceTransform.identity(9), record, {}, encoder)
    for name, whole in files.items():
        (tmp_path / name).write_bytes(content if name == file else whole)

    with pytest.raises(ValueError, match=f"{file} {message}"):
        ratgan.load(tmp_path)
