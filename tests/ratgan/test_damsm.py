"""The paper's text encoder: the published numbers, and one file that cannot be mismatched."""

import hashlib
import json
import math
import struct
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from ratgan.text.damsm import CaptionNetwork, Damsm, build, pack, pad, unpack
from ratgan.text.loading import load_encoder
from ratgan.text.vocabulary import END, Vocabulary

GOLDEN = json.loads((Path(__file__).parent / "golden" / "damsm.json").read_text())
CAPTIONS = (
    "a small red bird",
    "bird",
    "a bird that is red and a bird that is small and red and a small red bird",
)


@pytest.fixture
def vocabulary():
    return Vocabulary.of(CAPTIONS, max_words=9)


@pytest.fixture
def file(tmp_path, vocabulary):
    torch.manual_seed(0)
    network = CaptionNetwork(len(vocabulary.words), embedding_dim=6, dim=8)
    path = tmp_path / "text_encoder.safetensors"
    path.write_bytes(pack(network, vocabulary))
    return path


def golden_tensors() -> dict[str, torch.Tensor]:
    """The weights by rule, under the published names."""
    shapes = {"encoder.weight": (GOLDEN["vocabulary"], 300)}
    for direction in ("", "_reverse"):
        shapes[f"rnn.weight_ih_l0{direction}"] = (512, 300)
        shapes[f"rnn.weight_hh_l0{direction}"] = (512, 128)
        shapes[f"rnn.bias_ih_l0{direction}"] = shapes[f"rnn.bias_hh_l0{direction}"] = (512,)
    tensors = {}
    for name, shape in shapes.items():
        phase = zlib.crc32(name.encode()) % 1000 / 100 + GOLDEN["seed"]
        wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + phase)
        scale = 2.2 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
        tensors[name] = (wave * scale).view(shape)
    return tensors


def relative_error(ours: torch.Tensor, published: dict) -> float:
    assert list(ours.shape) == published["shape"]
    found = [ours.mean(), ours.std(), *ours.flatten()[published["index"]]]
    wanted = [published["mean"], published["std"], *published["value"]]
    scale = max(abs(value) for value in wanted)
    return max(abs(float(a) - b) for a, b in zip(found, wanted, strict=True)) / scale


def test_vectors_are_those_of_the_published_encoder():
    words = Vocabulary((END, *(f"w{n}" for n in range(1, GOLDEN["vocabulary"]))))
    renamed = {
        n.replace("encoder.", "embedding.").replace("rnn.", "lstm."): t
        for n, t in golden_tensors().items()
    }
    network = build(renamed, words, "golden")

    with torch.no_grad():
        states, sentences = network(torch.tensor(GOLDEN["tokens"]), torch.tensor(GOLDEN["lengths"]))

    assert relative_error(sentences, GOLDEN["sentence"]) <= 1e-9
    assert relative_error(states.transpose(1, 2).contiguous(), GOLDEN["words"]) <= 1e-9


def test_captions_are_split_into_lower_case_ascii_words():
    vocabulary = Vocabulary.of(["The bird's café is red-ish, 2 ﷺ eyes!"])

    assert vocabulary.words == (END, "2", "bird", "caf", "eyes", "is", "ish", "red", "s", "the")


def test_unknown_words_are_left_out_and_long_captions_keep_their_start(vocabulary):
    read = [vocabulary.words[n] for n in vocabulary.read("A zebra and a RED bird")]
    long = [vocabulary.words[n] for n in vocabulary.read("bird zebra " * 8 + "red " * 9)]

    assert read == ["a", "and", "a", "red", "bird"]
    assert long == ["bird"] * 8 + ["red"]
    assert vocabulary.read("<end> zebras") == []


def test_a_caption_alone_is_encoded_as_in_a_padded_batch(file):
    encoder = load_encoder("damsm", file)

    together, words = encoder.encode(CAPTIONS), encoder.encode_words(CAPTIONS)

    assert (encoder.name, encoder.dim, encoder.word_dim) == ("damsm", 8, 8)
    assert words.vectors.shape == (3, 9, 8)
    assert words.mask.sum(1).tolist() == [4, 1, 9]
    assert not words.vectors[~words.mask].any()
    for i, caption in enumerate(CAPTIONS):
        alone, own = encoder.encode([caption]), encoder.encode_words([caption])
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(
            words.vectors[i][words.mask[i]], own.vectors[0], atol=1e-6, rtol=0
        )


def test_a_sentence_is_the_last_state_of_both_directions(file):
    encoder = load_encoder("damsm", file)

    words = encoder.encode_words(CAPTIONS)

    last = words.mask.sum(1) - 1
    ends = torch.cat([words.vectors[torch.arange(3), last, :4], words.vectors[:, 0, 4:]], dim=1)
    torch.testing.assert_close(encoder.encode(CAPTIONS), ends, rtol=0, atol=1e-6)


def test_dropout_is_a_factor_of_the_embedding(vocabulary):
    network = CaptionNetwork(len(vocabulary.words), embedding_dim=6, dim=8)
    tokens, lengths = pad([vocabulary.read(caption) for caption in CAPTIONS])

    kept = network(tokens, lengths, torch.ones(3, 9, 6))
    dropped = network(tokens, lengths, torch.zeros(3, 9, 6))

    assert torch.equal(kept[1], network(tokens, lengths)[1])
    torch.testing.assert_close(dropped[1][0], network.lstm(torch.zeros(1, 4, 6))[1][0].flatten())


def test_a_file_holds_weights_vocabulary_and_rule_and_is_named_by_its_hash(file, vocabulary):
    encoder = Damsm.load(file)

    again, words = unpack(file.read_bytes(), "file")

    assert encoder.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert encoder.vocabulary == words == vocabulary
    assert pack(again, words) == file.read_bytes()


def test_a_vocabulary_of_another_training_is_refused_with_both_sizes(vocabulary):
    network = CaptionNetwork(5450, embedding_dim=6, dim=8)

    with pytest.raises(ValueError, match=r"embedding has 5,450 rows and the vocabulary 8 words"):
        pack(network, vocabulary)
    with pytest.raises(ValueError, match=r"x\.pth: the embedding has 5,450 rows and .* 8 words"):
        build(network.state_dict(), vocabulary, "x.pth")


def changed(content: bytes, **changes) -> bytes:
    """Rewrite the record of an encoder file."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    record = json.loads(header["__metadata__"]["ratgan_damsm"]) | changes
    header["__metadata__"]["ratgan_damsm"] = json.dumps(record)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + content[8 + size :]


def test_what_is_not_an_encoder_file_is_refused(file, tmp_path):
    content = file.read_bytes()
    damaged = {
        "no record": save(load(content)),
        "not safetensors": b"PK\x03\x04 a zip",
        "cut short": content[:-3],
        "repeated words": changed(content, vocabulary=[END, "a", "a"]),
        "no words": changed(content, vocabulary=[]),
        "another list": changed(content, vocabulary=None),
    }

    for case, bad in damaged.items():
        with pytest.raises(ValueError, match=r"bad is (a zip archive, )?not a text encoder file"):
            pytest.fail(case) if unpack(bad, "bad") else None
    with pytest.raises(ValueError, match="has format 9"):
        unpack(changed(content, format_version=9), "bad")
    with pytest.raises(ValueError, match="with the rule 'blanks'"):
        unpack(changed(content, tokenizer="blanks"), "bad")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors does not exist"):
        Damsm.load(tmp_path / "nowhere.safetensors")


def test_a_caption_without_a_known_word_is_refused(file):
    with pytest.raises(ValueError, match=r"no word of 'zebras!': .* 7 words, for example a, and"):
        load_encoder("damsm", file).encode(["a bird", "zebras!"])


def test_a_location_is_asked_for_where_it_is_needed_and_only_there():
    with pytest.raises(ValueError, match=r"damsm needs .* jobs/pretrain_damsm\.py"):
        load_encoder("damsm")
    with pytest.raises(ValueError, match=r"clip needs .* hub id"):
        load_encoder("clip")
    with pytest.raises(ValueError, match="minilm brings its weights along; 'x' has no use"):
        load_encoder("minilm", "x")
