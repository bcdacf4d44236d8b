"""Features of a numbered set of images, kept chunk by chunk in a folder.

    set.json                       what the set is of: images, extractor, pair, sizes
    chunk-00000.safetensors …      features of images 0 … C − 1, and so on

A chunk has the same images whoever makes it, and is there whole or not at all. So what is finished
is never made again, and any number of processes make the same set.

Dimensions in this file:
    n images of a chunk, D features, K kinds of the extractor, P size of the pair's vectors.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.evaluation.images import Images
from pipeline.storage import Folder

SET = "set.json"
VECTORS, LOGITS, CLASSES = "vectors", "logits", "classes"
PAIR_IMAGES, PAIR_CAPTIONS = "pair_images", "pair_captions"
SECONDS = "seconds"  # that drawing or reading took, and that features took, float64, [2]


@dataclass(frozen=True)
class FeatureSet:
    """A numbered set of images and where its features are kept; crosses processes freely.

    Attributes:
        folder: Where.
        images: Which.
        identity: What decides the features, as JSON types.
        chunk_images: Images C of a chunk.
        logits: Keep the extractor's logits too.
        pair: Keep the vectors of a pair of encoders too.
    """

    folder: Folder
    images: Images
    identity: dict[str, Any]
    chunk_images: int
    logits: bool = False
    pair: bool = False

    @property
    def count(self) -> int:
        """Images in it."""
        return self.images.count

    @property
    def chunks(self) -> int:
        """Chunks it is made of."""
        return -(-self.count // self.chunk_images)

    def numbers(self, chunk: int) -> NDArray[np.int64]:
        """Return the numbers of the images of a chunk, [n]."""
        start = chunk * self.chunk_images
        return np.arange(start, min(start + self.chunk_images, self.count), dtype=np.int64)

    def begin(self) -> list[int]:
        """Find what is finished already, and return the chunks that are not.

        Raises:
            ValueError: If the folder holds another set.
        """
        if self.folder.exists(SET):
            found, wanted = self.folder.read_json(SET), json.loads(json.dumps(self.identity))
            if unlike := unequal(found, wanted):
                raise ValueError(
                    f"{self.folder} holds the features of other images, or by another extractor "
                    f"({'; '.join(unlike)}). Name another folder, or delete it with --overwrite."
                )
        else:
            self.folder.write_json(SET, self.identity)
        there = set(self.folder.names())
        return [chunk for chunk in range(self.chunks) if _name(chunk) not in there]

    def write(self, chunk: int, tensors: dict[str, Tensor]) -> None:
        """Keep the features of a chunk."""
        content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        self.folder.write(_name(chunk), content)

    def each(self) -> Iterator[dict[str, Tensor]]:
        """Read the features of all chunks, in their order.

        Raises:
            ValueError: If one is damaged.
        """
        for chunk in range(self.chunks):
            where = f"{self.folder}/{_name(chunk)}"
            try:
                tensors: dict[str, Tensor] = load(self.folder.read(_name(chunk)))
                whole = len(tensors[VECTORS]) == len(self.numbers(chunk))
            except (SafetensorError, KeyError) as error:
                raise ValueError(
                    f"{where} is damaged ({error}): delete it and start again."
                ) from error
            if not whole:
                raise ValueError(f"{where} holds other images: delete it and start again.")
            yield tensors


def digest(identity: dict[str, Any]) -> str:
    """Return the name under which a set is found again."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def unequal(found: Any, wanted: Any, place: str = "") -> list[str]:
    """Name what differs between two records of JSON types."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted(found.keys() | wanted.keys()):
            lines += unequal(found.get(key), wanted.get(key), f"{place}.{key}".lstrip("."))
        return lines
    return [] if found == wanted else [f"{place}: {found} → {wanted}"]


def _name(chunk: int) -> str:
    return f"chunk-{chunk:05d}.safetensors"
