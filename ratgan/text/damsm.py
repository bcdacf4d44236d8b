"""The paper's text encoder: a bidirectional LSTM over words, and the one file it is kept in.

It is trained beside an image branch (`matching.py`), so that captions lie near
their images (DAMSM, AttnGAN, https://arxiv.org/abs/1711.10485).

The file is safetensors: the tensors, and in its metadata the vocabulary, the rule
that splits captions and the number of words that are read. Weights can therefore
never meet the vocabulary of another training.

Dimensions in this file:
    N captions, L words of the longest, V words known, E size of a word's embedding,
    D size of word and sentence vectors.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ratgan.file_kind import HEAD, refusal
from ratgan.text.encoder import Words
from ratgan.text.vocabulary import RULE, Vocabulary
from ratgan.weights.strict import build_strictly

FORMAT_VERSION = 1
METADATA_KEY = "ratgan_damsm"  # one key: the order of several would not be fixed
BATCH_SIZE = 256


class CaptionNetwork(nn.Module):
    """Embeds the words of captions and reads them forwards and backwards.

    Args:
        vocabulary_size: Words known V, the end mark included.
        embedding_dim: Size E of a word's embedding; 300 in AttnGAN.
        dim: Size D of word and sentence vectors, half of it from each direction; 256 in AttnGAN.
    """

    def __init__(self, vocabulary_size: int, embedding_dim: int = 300, dim: int = 256) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim={dim} must be even: each direction gives half; {dim + 1} works.")
        self.embedding_dim, self.dim = embedding_dim, dim
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, dim // 2, batch_first=True, bidirectional=True)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(
        self, tokens: Tensor, lengths: Tensor, dropout: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read captions.

        Args:
            tokens: Numbers of the words, filled up at the end with any, int64, [N, L].
            lengths: Words of each caption, at least 1, int64, [N].
            dropout: Factor of each embedded number, in training, [N, L, E].

        Returns:
            Word vectors, zero behind the end of a caption, [N, L, D]; and sentence vectors, the
            last state of each direction side by side, [N, D].
        """
        embedded = self.embedding(tokens)  # [N, L, E]
        if dropout is not None:
            embedded = embedded * dropout
        packed = pack_padded_sequence(
            embedded, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.lstm(packed)
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        return words, last.transpose(0, 1).flatten(1)  # [N, L, D], [N, D]


def pad(captions: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Lay the word numbers of N captions side by side.

    Args:
        captions: Numbers of each, at least one.
        length: L; the longest caption's, if not given.

    Returns:
        Tokens, filled up with 0, int64, [N, L], and lengths, int64, [N].
    """
    lengths = torch.tensor([len(numbers) for numbers in captions])
    tokens = torch.zeros(len(captions), length or int(lengths.max()), dtype=torch.int64)
    for row, numbers in zip(tokens, captions, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens, lengths


class Damsm:
    """A trained `CaptionNetwork` with its vocabulary, frozen.

    Args:
        network: On the CPU.
        vocabulary: The one it was trained with.
        sha256: Of the encoder file.
    """

    name = "damsm"

    def __init__(self, network: CaptionNetwork, vocabulary: Vocabulary, sha256: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.vocabulary = vocabulary
        self.sha256 = sha256
        self.dim = self.word_dim = network.dim

    @classmethod
    def load(cls, location: str | Path) -> "Damsm":
        """Load an encoder file.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is not an encoder file, or its parts do not fit together.
        """
        path = Path(location)
        if not path.is_file():
            raise FileNotFoundError(f"the text encoder file {path} does not exist.")
        content = path.read_bytes()
        network, vocabulary = unpack(content, str(path))
        return cls(network, vocabulary, hashlib.sha256(content).hexdigest())

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode N captions to sentence vectors, [N, D].

        Raises:
            ValueError: If a caption holds no known word.
        """
        sentences = torch.empty(len(captions), self.dim)
        for rows, _, _, vectors in self._states(captions):
            sentences[rows] = vectors.float()
        return sentences

    @torch.inference_mode()
    def encode_words(self, captions: Sequence[str]) -> Words:
        """Encode the known words of N captions.

        Raises:
            ValueError: If a caption holds no known word.
        """
        batches = ((rows, words, mask) for rows, words, mask, _ in self._states(captions))
        return Words.of(len(captions), self.dim, batches)

    def _states(
        self, captions: Sequence[str]
    ) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
        """Run the network: rows of `captions`, word vectors, mask and sentence vectors."""
        numbers = [self.vocabulary.read(caption) for caption in captions]
        for caption, found in zip(captions, numbers, strict=True):
            if not found:
                raise ValueError(
                    f"the text encoder knows no word of {caption!r}: it was trained on "
                    f"{len(self.vocabulary.words) - 1:,} words, for example "
                    f"{', '.join(self.vocabulary.words[1:4])}."
                )
        order = sorted(range(len(captions)), key=lambda i: len(numbers[i]))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            tokens, lengths = pad([numbers[i] for i in rows])
            words, sentences = self.network(tokens, lengths)
            yield rows, words, torch.arange(tokens.shape[1]) < lengths[:, None], sentences


def pack(network: CaptionNetwork, vocabulary: Vocabulary) -> bytes:
    """Make an encoder file.

    Raises:
        ValueError: If network and vocabulary do not fit together.
    """
    check_sizes(len(network.embedding.weight), vocabulary, "the encoder")
    record = {
        "format_version": FORMAT_VERSION,
        "tokenizer": RULE,
        "max_words": vocabulary.max_words,
        "vocabulary": vocabulary.words,
    }
    tensors = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    content: bytes = save_tensors(tensors, metadata={METADATA_KEY: json.dumps(record)})
    return content


def unpack(content: bytes, where: str) -> tuple[CaptionNetwork, Vocabulary]:
    """Read an encoder file.

    Args:
        content: Of the file.
        where: Its name, for messages.

    Raises:
        ValueError: If it is not an encoder file, or its parts do not fit together.
    """
    try:
        tensors = load_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"][METADATA_KEY])
        version, rule = record["format_version"], record["tokenizer"]
        vocabulary = Vocabulary(tuple(record["vocabulary"]), record["max_words"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        what = "a text encoder file of jobs/pretrain_damsm.py or jobs/import_damsm.py"
        raise ValueError(
            refusal(content[:HEAD], where, what) or f"{where} is not {what}: {error!r}"
        ) from error
    if (version, rule) != (FORMAT_VERSION, RULE):
        raise ValueError(
            f"{where} has format {version} with the rule {rule!r}, and this version reads "
            f"{FORMAT_VERSION} with {RULE!r}."
        )
    return build(tensors, vocabulary, where), vocabulary


def build(tensors: dict[str, Tensor], vocabulary: Vocabulary, where: str) -> CaptionNetwork:
    """Build the network that tensors are of, in their precision.

    Args:
        tensors: By the names of `CaptionNetwork`.
        vocabulary: Theirs.
        where: What they come from, for messages.

    Raises:
        ValueError: If tensors are missing, unknown or of sizes that do not fit together.
    """
    table, recurrent = tensors.get("embedding.weight"), tensors.get("lstm.weight_hh_l0")
    if table is None or recurrent is None or table.dim() != 2 or recurrent.dim() != 2:
        raise ValueError(f"{where} holds no word embedding with a bidirectional LSTM.")
    check_sizes(len(table), vocabulary, where)
    sizes = len(table), table.shape[1], 2 * recurrent.shape[1]
    return build_strictly(lambda: CaptionNetwork(*sizes).to(table.dtype), tensors, where)


def check_sizes(rows: int, vocabulary: Vocabulary, where: str) -> None:
    """Refuse an embedding and a vocabulary of different trainings.

    Raises:
        ValueError: With both sizes.
    """
    if rows != len(vocabulary.words):
        raise ValueError(
            f"{where}: the embedding has {rows:,} rows and the vocabulary {len(vocabulary.words):,}"
            " words. They must come from one training: take the captions.pickle that the weights "
            "were trained with."
        )
