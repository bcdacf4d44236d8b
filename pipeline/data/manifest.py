"""The data contract of a prepared dataset: schema of its shards, and its manifest.

manifest.json                    written last: a folder without it is not a dataset
sentence_transform.safetensors   raw sentence vectors → the generator's input
text_encoder.safetensors         the text encoder, if it is one file
train/part-00000.parquet …       validation/part-00000.parquet …
rejects/train-00000.parquet …    rejected images and captions of that shard, with reasons
progress/ …                      only while preparation is unfinished
"""

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Self

import pyarrow as pa
from pydantic import Field, ValidationError, model_validator

from pipeline.common.commands import job_command
from pipeline.common.settings import Settings
from pipeline.storage.folder import Folder
from pipeline.storage.safe_path import inside

if TYPE_CHECKING:
    from ratgan.text.transform import SentenceTransform

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
TRANSFORM = "sentence_transform.safetensors"
REJECTS = "rejects"
PROGRESS = "progress"

SHARD_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # class name, if classes are known
        pa.field("meaning", pa.string()),  # JSON, if the meaning of the captions is known
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        # Raw vectors of the text encoder, one after another in the order of the captions.
        pa.field("sentences", pa.list_(pa.float32()), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # JPEG, cache_size × cache_size
        pa.field("digest", pa.binary(16), nullable=False),  # of the JPEG: equal for equal pixels
        pa.field("original_width", pa.int32(), nullable=False),  # pixels
        pa.field("original_height", pa.int32(), nullable=False),
    ],
    metadata={"ratgan_schema_version": str(SCHEMA_VERSION)},
)
REJECT_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # "image", or "caption" of a kept image
        pa.field("source", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("location", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),  # of the original's bytes, if they could be read
    ]
)


class Shard(Settings):
    """One parquet file, with the counts of its originals."""

    file: str
    rows: int
    row_groups: tuple[Annotated[int, Field(ge=1, le=4096)], ...]
    """Rows of each row group."""
    bytes: int
    sha256: str
    rejects_file: str | None = None
    """File of its rejects, if there are any."""
    rejects_sha256: str | None = None
    seen: int
    """Originals listed for it; `seen = rows + rejected images`."""
    captions: int
    reasons: dict[str, int] = Field(default_factory=dict)
    """Rejected images by reason."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Dropped captions of kept images, by reason."""

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if self.rows != sum(self.row_groups):
            raise ValueError(f"{self.file}: rows={self.rows} is not the sum of its row_groups.")
        return self


class Encoder(Settings):
    """The text encoder that made the sentence vectors."""

    name: str
    sha256: str
    dim: int
    file: str | None = None
    """Its file in the dataset; `sha256` is then the hash of this file."""
    location: str | None = None
    """Its place, if the dataset has no copy."""

    def record(self) -> dict[str, str]:
        """Return the entry of a saved model for its text encoder."""
        place = {} if self.location is None else {"location": self.location}
        return {"name": self.name, "sha256": self.sha256, **place}


class TransformRecord(Settings):
    """The transform fitted to the training captions; its numbers are in `TRANSFORM`."""

    kind: str
    dim: int
    sha256: str


class Manifest(Settings):
    """The content of a prepared dataset; `seen = written + rejected`."""

    schema_version: int
    source: dict[str, Any]
    """Name and options of the source."""
    fingerprint: str
    """Hash of the list of originals and captions."""
    options: dict[str, Any]
    """Options of the preparation that decide the bytes of the shards."""
    cache_size: Annotated[int, Field(ge=1, le=2048)]
    """Height and width of the stored images in pixels."""
    mirrors: bool
    """Whether a mirrored image still fits its captions."""
    encoder: Encoder
    transform: TransformRecord
    overlapping_splits: bool
    """Whether validation images are training images too, as in a published protocol."""
    splits: dict[str, tuple[Shard, ...]]
    seen: int
    written: int
    rejected: int
    reasons: dict[str, int] = Field(default_factory=dict)
    """Rejected images by reason."""
    captions: int
    dropped_captions: dict[str, int] = Field(default_factory=dict)
    """Dropped captions of written images, by reason."""
    left_aside: dict[str, dict[str, int]] | None = None
    """What lies among the originals and is no record: unit (files, rows, …) → kind → count. None
    if this was not counted yet."""

    def rows(self, split: str) -> int:
        """Count the images of a split."""
        return sum(shard.rows for shard in self.splits.get(split, ()))

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards."""
        return tuple(shard for split in self.splits.values() for shard in split)


def read_manifest(folder: Folder) -> tuple[Manifest, str]:
    """Read the manifest of a prepared dataset and the digest that identifies it.

    Raises:
        ValueError: If the folder is not a complete prepared dataset of this version, or the
            manifest names files outside of it.
    """
    if not folder.exists(MANIFEST):
        state, output = "does not exist, so there is no", str(folder)
        if folder.exists():
            state, output = "holds no", "data/coco"  # it may hold something else
        raise ValueError(
            f"{folder} {state} {MANIFEST}: this is not a (completely) prepared dataset. "
            f"Prepare one first, for example: {job_command('prepare', 'coco', '--output', output)}"
        )
    content = folder.read(MANIFEST)
    try:
        version = json.loads(content)["schema_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        version = SCHEMA_VERSION  # the validation below reports the error
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{folder} has schema version {version}, and this version of ratgan reads "
            f"{SCHEMA_VERSION}. Prepare the dataset again; --overwrite replaces it."
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(
            f"{folder}/{MANIFEST} is not a manifest this version can read: {error}"
        ) from error
    for shard in manifest.shards:
        for name in filter(None, (shard.file, shard.rejects_file)):
            inside(folder, name, by_links=True)
    if manifest.encoder.file is not None:
        inside(folder, manifest.encoder.file, by_links=True)
    return manifest, hashlib.sha256(content).hexdigest()


def write_transform(folder: Folder, transform: "SentenceTransform") -> TransformRecord:
    """Store a sentence transform beside the shards."""
    from safetensors.torch import save  # needs torch; recognising a dataset does not

    content = save({name: t.contiguous() for name, t in transform.state_dict().items()})
    sha256 = folder.write(TRANSFORM, content)
    return TransformRecord(kind=transform.kind, dim=transform.dim, sha256=sha256)


def read_transform(folder: Folder, record: TransformRecord) -> "SentenceTransform":
    """Read the sentence transform of a prepared dataset.

    Raises:
        ValueError: If it is not the one the manifest names.
    """
    from safetensors.torch import load

    from ratgan.text.transform import SentenceTransform

    content = folder.read(TRANSFORM)
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise ValueError(f"{folder}/{TRANSFORM} was changed after preparation. Prepare it again.")
    tensors = load(content)
    return SentenceTransform(tensors["mean"], tensors["projection"], record.kind)
