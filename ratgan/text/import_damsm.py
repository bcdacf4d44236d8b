"""AttnGAN's text encoder files to ours: ``text_encoder*.pth`` with ``captions.pickle``.

Both are pickles from elsewhere. The weights go through torch's restricted reader,
the vocabulary through ours.
"""

from pathlib import Path

from torch import Tensor

from ratgan.text.damsm import build, pack
from ratgan.text.vocabulary import MAX_WORDS, Vocabulary
from ratgan.weights.restricted_pickle import load_foreign_pickle
from ratgan.weights.weight_file import read_state_dict

RENAMED = {"encoder.weight": "embedding.weight"}  # and rnn.* to lstm.*


def read_captions_pickle(path: str | Path) -> tuple[str, ...]:
    """Read the words of an AttnGAN ``captions.pickle`` in the order of their numbers.

    Args:
        path: Of a pickled list: training captions, test captions, words by number, numbers
            by word.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not such a list, or asks for anything but plain values.
    """
    value = load_foreign_pickle(_read(path), str(path))
    words = value[2] if isinstance(value, list) and len(value) == 4 else None
    if (
        not isinstance(words, dict)
        or not all(type(number) is int for number in words)
        or sorted(words) != list(range(len(words)))
        or not all(isinstance(word, str) for word in words.values())
    ):
        raise ValueError(
            f"{path} is not a captions.pickle: it must hold a list of four, whose third is a "
            "dictionary from the numbers 0, 1, 2 … to words."
        )
    return tuple(words[number] for number in range(len(words)))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read an AttnGAN ``text_encoder*.pth`` and give its tensors our names.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is anything but a dictionary of tensors.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in read_state_dict(_read(path), str(path)).items():
        if name.startswith("rnn."):
            name = "lstm." + name.removeprefix("rnn.")
        tensors[RENAMED.get(name, name)] = tensor
    return tensors


def import_damsm(
    weights: str | Path, captions: str | Path, max_words: int = MAX_WORDS
) -> tuple[bytes, Vocabulary]:
    """Make an encoder file of AttnGAN's two.

    Args:
        weights: ``text_encoder*.pth``.
        captions: The ``captions.pickle`` of the same training.
        max_words: Words of a caption that are read.

    Returns:
        Content of the encoder file, and its vocabulary.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is refused, or the two do not fit together.
    """
    vocabulary = Vocabulary(read_captions_pickle(captions), max_words)
    network = build(read_weights(weights), vocabulary, f"{weights} with {captions}")
    return pack(network, vocabulary), vocabulary


def _read(path: str | Path) -> bytes:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    return Path(path).read_bytes()
