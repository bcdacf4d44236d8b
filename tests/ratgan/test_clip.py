"""CLIP from a local folder: a tiny one with random weights, made here."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from ratgan.text.loading import load_encoder

MERGES = ("b i", "bi r", "bir d</w>", "r e", "re d</w>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_clip(folder, seed: int = 0, safe: bool = True):
    """Save a tiny text tower with a tokenizer that knows letters and two words."""
    folder.mkdir()
    merged = ["".join(merge.split()) for merge in MERGES]
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *merged]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **marks})
    )
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=12,
        intermediate_size=16,
        projection_dim=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(pieces) - 2,
        eos_token_id=len(pieces) - 1,
        pad_token_id=len(pieces) - 1,
    )
    model = CLIPTextModelWithProjection(config).eval()
    if safe:
        model.save_pretrained(folder)
    else:
        config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_sentence_vectors_are_the_projected_states_of_the_model(folder):
    encoder = load_encoder("clip", folder)

    vectors = encoder.encode(["red bird"])

    model = CLIPTextModelWithProjection.from_pretrained(folder).eval()
    pieces = ["<|startoftext|>", "red</w>", "bird</w>", "<|endoftext|>"]
    with open(f"{folder}/vocab.json") as file:
        numbers = json.load(file)
    with torch.no_grad():
        expected = model(torch.tensor([[numbers[piece] for piece in pieces]])).text_embeds
    assert (encoder.name, encoder.dim, encoder.word_dim) == ("clip", 10, 12)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-6)


def test_a_caption_alone_is_encoded_as_in_a_padded_batch(folder):
    encoder = load_encoder("clip", folder)
    texts = ["red", "a red bird", "bird " * 40]

    together, words = encoder.encode(texts), encoder.encode_words(texts)

    assert words.mask.sum(1).tolist() == [3, 5, 16]
    assert words.vectors.shape == (3, 16, 12)
    assert not words.vectors[~words.mask].any()
    for i, text in enumerate(texts):
        alone = encoder.encode([text])[0]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-5)


def test_the_hash_follows_the_weights_and_not_the_folder(folder, tmp_path):
    same = load_encoder("clip", write_clip(tmp_path / "same"))
    other = load_encoder("clip", write_clip(tmp_path / "other", seed=1))

    assert same.sha256 == load_encoder("clip", folder).sha256 != other.sha256


def test_pickled_weights_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(OSError, match="safetensors"):
        load_encoder("clip", write_clip(tmp_path / "pickled", safe=False))
    with pytest.raises(OSError, match="nowhere"):
        load_encoder("clip", str(tmp_path / "nowhere"))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "vocab.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "is a pointer of git-lfs, not the file. Run git lfs pull"),
        (b"<!doctype html><html></html>", "is a web page, not a part of a saved model. Open the"),
        (b"", "is an empty file"),
    ],
)
def test_a_file_that_is_something_else_is_named_with_what_to_do(tmp_path, file, content, message):
    folder = Path(write_clip(tmp_path / "clip"))
    (folder / file).write_bytes(content)

    with pytest.raises(ValueError, match=f"{file} {message}"):
        load_encoder("clip", str(folder))


def test_weights_that_are_cut_short_are_said_to_be(tmp_path):
    folder = Path(write_clip(tmp_path / "clip"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(ValueError, match=r"clip are cut short or damaged .*Download them again"):
        load_encoder("clip", str(folder))


def test_code_beside_the_weights_is_not_run_whatever_is_answered(tmp_path, monkeypatch):
    folder = Path(write_clip(tmp_path / "theirs"))
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(
        "from pathlib import Path\nfrom transformers import CLIPTokenizer\n"
        f"Path({str(marker)!r}).touch()\nclass Evil(CLIPTokenizer): pass\n"
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    with contextlib.suppress(ValueError):  # it may also be read as the CLIP that it is
        load_encoder("clip", str(folder))

    assert not marker.exists()
