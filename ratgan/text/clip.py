"""CLIP's text tower by transformers, from a local folder or a hub id; safetensors only."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ratgan.text.encoder import Words
from ratgan.weights.weight_file import clear_errors

BATCH_SIZE = 64


class Clip:
    """The projected state at the end of a caption, as CLIP compares it with images.

    Args:
        location: Folder with `config.json`, `model.safetensors` and the tokenizer's files, or a
            hub id.

    Raises:
        OSError: If there is no such model, or its weights are not safetensors.
        ValueError: If a file in its folder is damaged, or something else than its name says.
    """

    name = "clip"

    def __init__(self, location: str) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        with clear_errors(location):
            self._tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
            model = CLIPTextModelWithProjection.from_pretrained(
                location, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
        self._model = model.eval().requires_grad_(False)
        self.location = location
        self.dim: int = model.config.projection_dim
        self.word_dim: int = model.config.hidden_size
        self._max_tokens: int = model.config.max_position_embeddings
        self.sha256 = self._hash()

    def _hash(self) -> str:
        """Hash the tensors and the tokenizer's words: the same for a hub id and its local copy."""
        digest = hashlib.sha256()
        digest.update(json.dumps(self._tokenizer.get_vocab(), sort_keys=True).encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode N captions to sentence vectors as the model projects them, [N, dim]."""
        vectors = torch.empty(len(captions), self.dim)
        for rows, _, _, sentences in self._states(captions):
            vectors[rows] = sentences
        return vectors

    @torch.inference_mode()
    def encode_words(self, captions: Sequence[str]) -> Words:
        """Return the token states of N captions, the marks at both ends included."""
        batches = ((rows, states, mask) for rows, states, mask, _ in self._states(captions))
        return Words.of(len(captions), self.word_dim, batches)

    def _states(
        self, captions: Sequence[str]
    ) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
        """Run the model: rows of `captions`, token states, mask and sentence vectors."""
        order = sorted(range(len(captions)), key=lambda i: (len(captions[i]), captions[i]))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            tokens = self._tokenizer(
                [captions[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            mask = tokens["attention_mask"]
            output = self._model(input_ids=tokens["input_ids"], attention_mask=mask)
            yield rows, output.last_hidden_state, mask.bool(), output.text_embeds
