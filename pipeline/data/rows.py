"""Decoded rows of a prepared dataset, from which batches are assembled.

Dimensions in this file:
    n rows, M captions of all of them, R raw sentence size, H W stored height and width.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.jpeg import decode_jpeg

# Markers of the segment that holds the size: all of C0 to CF but those of tables (DHT, JPG, DAC).
FRAMES = frozenset(bytes([n]) for n in range(0xC0, 0xD0) if n not in (0xC4, 0xC8, 0xCC))
PIXELS = pa.types.is_fixed_size_binary  # whether the images of a column are decoded


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows, without a Python object for each of them.

    Attributes:
        images: JPEGs, n of them; or decoded, uint8, [n, 3, H, W].
        image_keys: A number for each image, [n].
        class_keys: A number for each image's class (or image), [n].
        sentences: Raw vectors of all captions, [M, R].
        starts: Index of the first caption of each row, [n + 1].
        side: H and W, which every JPEG must have.
        captions: The texts, M of them, if they were read.
    """

    images: pa.Array | NDArray[np.uint8]
    image_keys: NDArray[np.int64]
    class_keys: NDArray[np.int64]
    sentences: NDArray[np.float32]
    starts: NDArray[np.int64]
    side: int
    captions: pa.Array | None

    @classmethod
    def of(cls, table: pa.Table, dim: int, side: int) -> "Rows":
        """Convert a table.

        Args:
            table: Has the columns id, label, image, sentences, and perhaps captions.
            dim: Size R of the vectors.
            side: H and W of the images in pixels.

        Raises:
            ValueError: If the vectors of a row have another size.
        """
        images, sentences = _whole(table, "image"), _whole(table, "sentences")
        offsets = np.asarray(sentences.offsets, dtype=np.int64)
        counts, rest = np.divmod(np.diff(offsets), dim)
        if rest.any() or not counts.all():
            raise ValueError(f"a shard holds sentence vectors that are not of size {dim}.")
        names = table["id"].to_pylist()
        keys = [image_key(name) for name in names]
        classes = [
            class_key(label, key)
            for label, key in zip(table["label"].to_pylist(), keys, strict=True)
        ]
        return cls(
            images=_pixels(images) if PIXELS(images.type) else images,
            image_keys=np.array(keys, dtype=np.int64),
            class_keys=np.array(classes, dtype=np.int64),
            sentences=np.asarray(sentences.flatten()).reshape(-1, dim),
            starts=np.concatenate([[0], np.cumsum(counts)]),
            side=side,
            captions=_whole(table, "captions").flatten()
            if "captions" in table.schema.names
            else None,
        )

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return an image, [3, H, W]; do not write to it."""
        if isinstance(self.images, np.ndarray):
            return self.images[row]
        return decode(self.images[row].as_py(), self.side).numpy()


def decode(content: bytes, side: int) -> Tensor:
    """Decode a JPEG that preparation wrote, uint8, [3, H, W].

    Raises:
        ValueError: If it has not H = W = side pixels, before memory is taken for those it has.
    """
    if (found := _jpeg_size(content)) != (side, side):
        raise ValueError(
            f"a shard holds an image of {' × '.join(map(str, found or ['no']))} pixels, and its "
            f"manifest says {side} × {side}: it is damaged, or not of this dataset."
        )
    return decode_jpeg(content)


def decoded(table: pa.Table, side: int) -> pa.Table:
    """Replace the JPEGs of a table by their pixels."""
    images = torch.stack([decode(content, side) for content in table["image"].to_pylist()])
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(images[0].numel()), len(images), [None, pa.py_buffer(images.numpy())]
    )
    return table.set_column(table.schema.get_field_index("image"), "image", pixels)


def image_key(name: str) -> int:
    """Return the number for an image's id."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def class_key(label: str | None, key: int) -> int:
    """Return the number for a class, or `key` (that of the image) if there are no classes."""
    return image_key("class " + label) if label else key


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Read width and height in the header of a JPEG; None if there is none without fill bytes.

    Segment by segment, as the decoder does: what stands in a comment or a thumbnail is no header.
    """
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while content[place : place + 1] == b"\xff":
        marker = content[place + 1 : place + 2]
        if marker in FRAMES:
            height, width = content[place + 5 : place + 7], content[place + 7 : place + 9]
            return int.from_bytes(width), int.from_bytes(height)
        place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def _whole(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _pixels(images: pa.Array) -> NDArray[np.uint8]:
    """View pixels as images, [n, 3, H, W]."""
    size = images.type.byte_width
    flat = np.frombuffer(images.buffers()[1], np.uint8)[images.offset * size :]
    side = round((size // 3) ** 0.5)
    return flat[: len(images) * size].reshape(len(images), 3, side, side)
