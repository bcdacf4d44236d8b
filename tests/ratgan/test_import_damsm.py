"""AttnGAN's files become ours; what a pickle could do, it does not."""

import collections
import os
import pickle

import pytest
import torch

from ratgan.text.damsm import CaptionNetwork, Damsm
from ratgan.text.import_damsm import import_damsm, read_captions_pickle, read_weights
from tests.conftest import REAL_DATA
from tests.ratgan.test_damsm import golden_tensors

WORDS = {0: "<end>", 1: "the", 2: "purple", 3: "tint"}


def write_captions(path, words=WORDS, protocol: int = 2):
    value = [[[1, 2]], [[3]], words, {word: number for number, word in words.items()}]
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def write_weights(path, rows: int = 4, prefix: str = ""):
    torch.manual_seed(0)
    network = CaptionNetwork(rows)
    names = {"embedding": "encoder", "lstm": "rnn"}
    state = {
        prefix + name.replace(first := name.split(".")[0], names[first], 1): tensor
        for name, tensor in network.state_dict().items()
    }
    torch.save(collections.OrderedDict(state), path)
    return path, network


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_an_imported_encoder_computes_with_the_imported_weights(tmp_path, prefix, protocol):
    captions = write_captions(tmp_path / "captions.pickle", protocol=protocol)
    weights, network = write_weights(tmp_path / "text_encoder.pth", prefix=prefix)

    content, vocabulary = import_damsm(weights, captions, max_words=2)

    (tmp_path / "ours").write_bytes(content)
    encoder = Damsm.load(tmp_path / "ours")
    _, expected = network(torch.tensor([[2, 1]]), torch.tensor([2]))
    assert vocabulary.words == tuple(WORDS.values())
    torch.testing.assert_close(encoder.encode(["Purple, the tint"]), expected.detach())


def test_published_names_are_read(tmp_path):
    torch.save(golden_tensors(), tmp_path / "text_encoder.pth")

    read = read_weights(tmp_path / "text_encoder.pth")

    assert set(read) == set(CaptionNetwork(2).state_dict())


def test_weights_and_words_of_two_trainings_are_refused_with_both_sizes(tmp_path):
    captions = write_captions(tmp_path / "captions.pickle")
    weights, _ = write_weights(tmp_path / "text_encoder.pth", rows=5450)

    with pytest.raises(ValueError, match=r"embedding has 5,450 rows and the vocabulary 4 words"):
        import_damsm(weights, captions)


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_malicious_vocabulary_is_refused_by_name_and_does_not_run(tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps([[], [], WORDS, Attack(marker)]))

    with pytest.raises(ValueError, match=r"captions\.pickle is refused: it asks for posix\.mkdir"):
        read_captions_pickle(tmp_path / "captions.pickle")

    assert not marker.exists()
    pickle.loads((tmp_path / "captions.pickle").read_bytes())
    assert marker.exists(), "the attack of this test is none"


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", r"builtins\.eval"),
        (b"c__builtin__\ngetattr\n(S'1'\nS'real'\ntR.", r"__builtin__\.getattr"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0adict.clear\x93.", r"builtins\.dict\.clear"),
        (b"\x80\x02ccopyreg\n_reconstructor\n.", r"copyreg\._reconstructor"),
        (b"Pid\n.", "persistent"),
        (b"not a pickle", "refused"),
        (b"", "refused"),
    ],
)
def test_other_ways_to_a_global_are_refused_too(tmp_path, attack, named):
    (tmp_path / "captions.pickle").write_bytes(attack)

    with pytest.raises(ValueError, match=named):
        read_captions_pickle(tmp_path / "captions.pickle")


def test_malicious_weights_are_refused_and_do_not_run(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"encoder.weight": Attack(marker)}, tmp_path / "text_encoder.pth")

    with pytest.raises(
        ValueError,
        match=r"text_encoder\.pth is not a file of tensors: it asks for posix\.mkdir, and code is",
    ):
        read_weights(tmp_path / "text_encoder.pth")

    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        [[], [], WORDS],
        {"words": WORDS},
        [[], [], {0: "<end>", 2: "gap"}, {}],
        [[], [], {0: "<end>", 1: 5}, {}],
        [[], [], ["<end>", "the"], {}],
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, value):
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(value))

    with pytest.raises(ValueError, match=r"is not a captions\.pickle"):
        read_captions_pickle(tmp_path / "captions.pickle")


def test_a_web_page_in_place_of_either_file_is_said_to_be_one(tmp_path):
    captions = write_captions(tmp_path / "captions.pickle")
    weights, _ = write_weights(tmp_path / "text_encoder.pth")
    (tmp_path / "page").write_bytes(b"<!doctype html><html><body>Quota exceeded</body></html>")

    for pair in ((tmp_path / "page", captions), (weights, tmp_path / "page")):
        with pytest.raises(ValueError, match=r"page .*is a web page, not .* Open the link"):
            import_damsm(*pair)


def test_weights_of_something_else_are_refused(tmp_path):
    captions = write_captions(tmp_path / "captions.pickle")
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")

    with pytest.raises(ValueError, match="holds no word embedding"):
        import_damsm(tmp_path / "other.pth", captions)
    with pytest.raises(ValueError, match="is not a state dict"):
        import_damsm(tmp_path / "list.pth", captions)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        import_damsm(tmp_path / "nowhere.pth", captions)


@pytest.mark.skipif(not (REAL_DATA / "flowers").is_dir(), reason="the real data are not here")
def test_the_real_vocabulary_of_flowers_is_read():
    words = read_captions_pickle(REAL_DATA / "flowers" / "captions.pickle")

    assert len(words) == 4043
    assert words[:5] == ("<end>", "the", "purple", "tint", "from")
