"""The images of an evaluation by number: generated, prepared, or originals in a folder.

Dimensions in this file:
    n images, H W height and width, R raw and S transformed sentence size, Z noise size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.dataset import PreparedDataset
from pipeline.data.rows import class_key, image_key
from pipeline.data.rows import decode as decode_stored
from pipeline.data.sample_order import RowGroup
from pipeline.evaluation.caption_sampling import CaptionPlan
from pipeline.evaluation.networks import ModelRef
from pipeline.preparation.decoding.images import RejectedError, decode
from pipeline.storage.folder import Folder
from ratgan.text_to_image import TextToImage
from ratgan.visualize import from_pil

Rounding = Literal["nearest", "truncate", "none"]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ImageBatch:
    """Some images of one size.

    Attributes:
        images: Float, in [0, 255], [n, 3, H, W].
        captions: What each shows or should show, n of them; empty where that is not known.
        classes: A number for the class of each image (or the image), int64, [n]; with captions.
    """

    images: Tensor
    captions: tuple[str, ...] = ()
    classes: Tensor | None = None


class OpenImages(Protocol):
    """Images that can be had in this process."""

    def batches(self, numbers: Numbers) -> Iterator[ImageBatch]:
        """Give images by their numbers, in this order."""
        ...


class Images(Protocol):
    """A numbered set of images; crosses processes freely."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def opened(self, device: torch.device) -> OpenImages:
        """Load what is needed to give them."""
        ...


class StoredRows:
    """Rows of splits of a prepared dataset, read a row group at a time.

    Args:
        dataset: It.
        splits: Whose rows are numbered, one split after another.
        columns: To read.
    """

    def __init__(
        self, dataset: PreparedDataset, splits: Sequence[str], columns: Sequence[str]
    ) -> None:
        self.dataset, self.columns = dataset, list(columns)
        self.units = [unit for split in splits for unit in dataset.units(split)]
        self.ends = np.cumsum([unit.rows for unit in self.units])
        self._held: tuple[RowGroup, list[dict[str, Any]]] | None = None

    def row(self, number: int) -> dict[str, Any]:
        """Return a row; cheap for those of the row group of the last one."""
        place = int(np.searchsorted(self.ends, number, side="right"))
        unit = self.units[place]
        if self._held is None or self._held[0] != unit:
            self._held = (unit, self.dataset.read(unit, self.columns).to_pylist())
        return self._held[1][number - int(self.ends[place]) + unit.rows]


@dataclass(frozen=True)
class DrawnImages:
    """Images that a generator draws for captions of a prepared dataset.

    Attributes:
        model: Draws them.
        data: Location of the dataset.
        split: Whose captions are drawn.
        plan: Which of them.
        rounding: How numbers become pixels.
        truncation: Of the noise.
        batch_size: Images drawn at once.
    """

    model: ModelRef
    data: str
    split: str
    plan: CaptionPlan
    rounding: Rounding
    truncation: float | None
    batch_size: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.plan.count

    def opened(self, device: torch.device) -> "OpenDrawnImages":
        """Load model and dataset."""
        return OpenDrawnImages(self, self.model.loaded(), device)


class OpenDrawnImages:
    """A generator at work."""

    def __init__(self, drawn: DrawnImages, model: TextToImage, device: torch.device) -> None:
        self.drawn, self.model, self.device = drawn, model, device
        model.generator.to(device)
        dataset = PreparedDataset(drawn.data)
        # Vectors that the dataset holds need not be made again, if they are of the same encoder.
        self.stored = dataset.manifest.encoder.sha256 == model.encoder_record["sha256"]
        columns = ["id", "label", "captions", *(["sentences"] if self.stored else [])]
        self.rows = StoredRows(dataset, [drawn.split], columns)

    @torch.inference_mode()
    def batches(self, numbers: Numbers) -> Iterator[ImageBatch]:
        """Draw images by their numbers."""
        drawn, size = self.drawn, self.drawn.batch_size
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            rows = [self.rows.row(row) for row in drawn.plan.row_of(some).tolist()]
            chosen = [
                drawn.plan.caption_of(number, len(row["captions"]))
                for number, row in zip(some.tolist(), rows, strict=True)
            ]
            captions = tuple(row["captions"][n] for row, n in zip(rows, chosen, strict=True))
            noise = drawn.plan.noise(some, self.model.generator.noise_dim, drawn.truncation)
            sentences = self._sentences(rows, chosen, captions)
            images = self.model.generator.draw(noise.to(self.device), sentences.to(self.device))
            classes = [class_key(row["label"], image_key(row["id"])) for row in rows]
            yield ImageBatch(as_pixels(images, drawn.rounding), captions, torch.tensor(classes))

    def _sentences(
        self, rows: list[dict[str, Any]], chosen: list[int], captions: tuple[str, ...]
    ) -> Tensor:
        """Return what the generator reads, [n, S]."""
        if not self.stored:
            return self.model.encode(captions)
        vectors = [
            torch.tensor(row["sentences"]).view(len(row["captions"]), -1)[n]
            for row, n in zip(rows, chosen, strict=True)
        ]
        sentences: Tensor = self.model.transform(torch.stack(vectors))
        return sentences


def as_pixels(images: Tensor, rounding: Rounding) -> Tensor:
    """Turn images in [-1, 1] into float pixels in [0, 255]."""
    pixels = (images.float() + 1) * 127.5
    if rounding == "nearest":
        return pixels.round().clamp(0, 255)
    return pixels.clamp(0, 255).floor() if rounding == "truncate" else pixels


@dataclass(frozen=True)
class PreparedImages:
    """Real images of a prepared dataset.

    Attributes:
        data: Location of the dataset.
        splits: Theirs.
        rows: How many are given: all, or fewer, which are chosen evenly.
        crop: Take this many pixels from the middle; None to take them whole.
        batch_size: Images given at once.
    """

    data: str
    splits: tuple[str, ...]
    rows: int
    crop: int | None
    batch_size: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.rows

    def opened(self, device: torch.device) -> OpenImages:
        """Open the dataset."""
        return OpenPreparedImages(self, device)


class OpenPreparedImages:
    """Real images of an open dataset."""

    def __init__(self, prepared: PreparedImages, device: torch.device) -> None:
        self.prepared, self.device = prepared, device
        self.rows = StoredRows(PreparedDataset(prepared.data), prepared.splits, ["image"])

    def batches(self, numbers: Numbers) -> Iterator[ImageBatch]:
        """Read images by their numbers."""
        size, side = self.prepared.batch_size, self.rows.dataset.manifest.cache_size
        rows = self.row_of(numbers)
        for start in range(0, len(rows), size):
            some = rows[start : start + size].tolist()
            images = torch.stack([decode_stored(self.rows.row(n)["image"], side) for n in some])
            yield ImageBatch(centre(images, self.prepared.crop).to(self.device).float())

    def row_of(self, numbers: Numbers) -> Numbers:
        """Return the rows that images are of, [n]."""
        return numbers * int(self.rows.ends[-1]) // self.prepared.rows


def centre(images: Tensor, size: int | None) -> Tensor:
    """Cut a square of so many pixels out of the middle of images; None leaves them whole."""
    if size is None or images.shape[-1] <= size:
        return images
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]


@dataclass(frozen=True)
class FolderImages:
    """Original images below a folder, whole, whatever their sizes.

    Attributes:
        folder: Theirs.
        names: Their files, in this order.
    """

    folder: Folder
    names: tuple[str, ...] = field(repr=False)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    def opened(self, device: torch.device) -> OpenImages:
        """Nothing is loaded."""
        return OpenFolderImages(self, device)


class OpenFolderImages:
    """Originals, decoded one by one."""

    def __init__(self, images: FolderImages, device: torch.device) -> None:
        self.images, self.device = images, device

    def batches(self, numbers: Numbers) -> Iterator[ImageBatch]:
        """Read images by their numbers, each a batch of its own.

        Raises:
            ValueError: If one cannot be decoded: a reference must be the whole folder.
        """
        for number in numbers.tolist():
            name = self.images.names[number]
            try:
                image = from_pil(decode(self.images.folder.read(name)))
            except RejectedError as error:
                raise ValueError(
                    f"{self.images.folder}/{name} cannot be read: {error.reason}, {error.detail}. "
                    "A reference is all images of its folder: mend it or take it out."
                ) from error
            yield ImageBatch(image[None].to(self.device).float())
