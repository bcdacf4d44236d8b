"""Every option of a preparation."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.common.settings import Settings
from pipeline.preparation.reject_budget import Budget
from pipeline.preparation.sources import AnySource

MAX_ROWS_PER_SHARD = 1024
BYTES_PER_PIXEL = 0.5  # of a JPEG at quality 95 with full colour resolution; photographs, measured


class PrepareConfig(Settings):
    """Options of the preparation."""

    source: AnySource
    """Place and layout of the originals."""
    output: str
    """Folder or bucket address for the prepared dataset."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 256
    """Image size of the training in pixels."""
    margin: Annotated[float, Field(ge=1, le=2)] = 76 / 64
    """Factor by which stored images are larger, for random crops in training; 76/64 in AttnGAN."""
    quality: Annotated[int, Field(ge=50, le=100)] = 95
    """JPEG quality of the stored images."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first images of each split."""
    encoder: Literal["minilm", "damsm", "clip"] = "minilm"
    """Frozen text encoder for the sentence vectors."""
    encoder_path: str | None = None
    """damsm: the file that jobs/pretrain_damsm.py or jobs/import_damsm.py wrote; the dataset keeps
    a copy. clip: a local folder or hub id, which training and the model will also need."""
    transform: Literal["whiten", "standardize", "identity"] | None = None
    """Transform of sentence vectors for the generator. Default: whiten, which vectors of a general
    encoder need; identity for damsm, as in the paper."""
    sentence_dim: Annotated[int, Field(ge=1)] = 96
    """Numbers kept of a whitened sentence vector."""
    max_rejects: str = "5%"
    """Stop if more images than this cannot be used: a share as in 5%, or a count as in 100."""
    duplicates: Literal["reject", "keep"] = "reject"
    """Reject or keep an image that occurs again, in its split or in the other one."""
    images_of: str | None = None
    """A prepared dataset of the same originals and image options: its images are copied, and only
    the captions are encoded again."""
    shard_mib: Annotated[int, Field(ge=1)] = 64
    """Approximate size of a parquet file in MiB."""
    rows_per_shard: Annotated[int, Field(ge=1)] | None = None
    """Images in a parquet file, instead of a size; at most 1024 by default."""
    row_group_rows: Annotated[int, Field(ge=1, le=4096)] = 128
    """Images read at once in training."""
    repair: bool = False
    """Check the hash of every shard of a complete dataset, and make damaged ones again."""
    overwrite: bool = False
    """Delete an existing dataset in the output folder, after the originals are listed. Do not use
    it to resume: it starts from the beginning."""

    @field_validator("max_rejects")
    @classmethod
    def _check_budget(cls, value: str) -> str:
        Budget.parse(value)
        return value

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if (self.encoder_path is None) != (self.encoder == "minilm"):
            raise ValueError(
                "encoder=minilm takes no encoder_path: its weights are installed."
                if self.encoder == "minilm"
                else f"encoder={self.encoder} needs encoder_path: the place of its weights."
            )
        if self.repair and self.overwrite:
            raise ValueError("repair keeps the files that overwrite deletes: use only one of them.")
        return self

    @property
    def cache_size(self) -> int:
        """Height and width of the stored images in pixels."""
        return int(self.image_size * self.margin)

    @property
    def shard_rows(self) -> int:
        """Images in a parquet file: as given, or computed from the size."""
        if self.rows_per_shard is not None:
            return self.rows_per_shard
        rows = int(self.shard_mib * 2**20 / (BYTES_PER_PIXEL * self.cache_size**2))
        groups = max(1, min(rows, MAX_ROWS_PER_SHARD) // self.row_group_rows)
        return groups * self.row_group_rows

    @property
    def chosen_transform(self) -> str:
        """The transform given, or the one the encoder needs."""
        return self.transform or ("identity" if self.encoder == "damsm" else "whiten")

    def image_options(self) -> dict[str, Any]:
        """Return the options that decide which images are stored, and how."""
        names = {"image_size", "margin", "quality", "limit", "row_group_rows"}
        return self.model_dump(mode="json", include=names) | {"rows_per_shard": self.shard_rows}

    def recorded_options(self) -> dict[str, Any]:
        """Return the options that decide the dataset's content; the encoder has its own record."""
        names = {"encoder", "sentence_dim", "duplicates"}
        rest = self.model_dump(mode="json", include=names)
        return self.image_options() | rest | {"transform": self.chosen_transform}

    def recorded_source(self) -> dict[str, Any]:
        """Return the source's name and options."""
        options = self.source.model_dump(mode="json")
        unset = {name for name in self.source.later if options[name] is None}
        return {"name": self.source.name, **{n: v for n, v in options.items() if n not in unset}}
