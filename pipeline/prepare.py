"""Originals to a prepared dataset, with Ray Data: decode, crop, resize, encode captions, write.

The unit of work is a shard: a run of records that becomes one parquet file. So
each file is a function of its records and the options alone, and what fails or
is cut short costs no more than its shard.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from pydantic import Field, model_validator

from pipeline.encoders import EncoderPlace, find_encoder
from pipeline.manifest import (
    MANIFEST,
    REJECT_SCHEMA,
    REJECTS,
    SCHEMA_VERSION,
    TRANSFORM,
    Encoder,
    Manifest,
    Shard,
    read_manifest,
    write_transform,
)
from pipeline.progress import Progress, say
from pipeline.session import connect
from pipeline.settings import Settings
from pipeline.shards import DecodeShard, Row, WriteShard
from pipeline.sources import AnySource
from pipeline.sources.source import SPLITS, Record
from pipeline.storage import Folder
from ratgan.checkpoint import TEXT_ENCODER
from ratgan.text.transform import SentenceTransform, VectorSums

SHARD_NAME = re.compile(r"part-\d{5,}\.parquet(\..*\.tmp)?")


class PrepareConfig(Settings):
    """Options of the preparation."""

    source: AnySource
    """Where the originals are and how they are laid out."""
    output: str
    """Folder or bucket address for the prepared dataset."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 256
    """Size in pixels that you will train at."""
    margin: Annotated[float, Field(ge=1, le=2)] = 76 / 64
    """Store images this much larger, so that training can crop at random; 76/64 in AttnGAN."""
    quality: Annotated[int, Field(ge=50, le=100)] = 95
    """JPEG quality of the stored images."""
    encoder: Literal["minilm", "damsm", "clip"] = "minilm"
    """Frozen text encoder for the sentence vectors."""
    encoder_path: str | None = None
    """damsm: the file that jobs/pretrain_damsm.py or jobs/import_damsm.py wrote; the dataset keeps
    a copy. clip: a local folder or hub id, which training and the model will need again."""
    transform: Literal["whiten", "standardize", "identity"] | None = None
    """What the generator sees of a sentence vector. Default: whiten, which vectors of a general
    encoder need; identity for damsm, as in the paper."""
    sentence_dim: Annotated[int, Field(ge=1)] = 96
    """Numbers kept of a whitened sentence vector."""
    rows_per_shard: Annotated[int, Field(ge=1)] = 1024
    """Images in a parquet file."""
    row_group_rows: Annotated[int, Field(ge=1, le=4096)] = 128
    """Images read at once in training."""
    overwrite: bool = False
    """Delete a dataset that is in the output folder already."""

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if (self.encoder_path is None) != (self.encoder == "minilm"):
            raise ValueError(
                "encoder=minilm takes no encoder_path: its weights are installed."
                if self.encoder == "minilm"
                else f"encoder={self.encoder} needs encoder_path: where its weights are."
            )
        return self

    @property
    def cache_size(self) -> int:
        """Height and width of the stored images in pixels."""
        return int(self.image_size * self.margin)

    @property
    def chosen_transform(self) -> str:
        """The transform given, or the one the encoder needs."""
        return self.transform or ("identity" if self.encoder == "damsm" else "whiten")

    def recorded_options(self) -> dict[str, Any]:
        """Return the options that decide what is in the dataset; the encoder has its own record."""
        apart = {"source", "output", "overwrite", "encoder_path"}
        return self.model_dump(mode="json", exclude=apart) | {"transform": self.chosen_transform}


def prepare(config: PrepareConfig) -> Manifest:
    """Prepare a dataset, or find that it is there already.

    Returns:
        The manifest.

    Raises:
        ValueError: If the originals or the output folder are not what they should be,
            or if no training image is left.
    """
    folder = Folder(config.output)
    records = list(config.source.records())
    source = {"name": config.source.name, **config.source.model_dump(mode="json")}
    fingerprint = _fingerprint(records)
    place, encoder_file = find_encoder(config.encoder, config.encoder_path)
    if found := _already_there(folder, config, source, fingerprint, place):
        say(
            f"{folder} is prepared already: {found.written:,} images. --overwrite prepares it anew."
        )
        return found

    encoder = place.loaded()  # before anything is written: what is wrong with it shows at once
    folder.check_writable("output")
    if encoder_file is not None:
        folder.write(TEXT_ENCODER, encoder_file)
        place = replace(place, location=f"{folder}/{TEXT_ENCODER}")
    say(f"preparing {len(records):,} records of {config.source.name} into {folder}")
    shards = _plan(records, config.rows_per_shard)
    connect(cpus=1)
    work = ray.data.from_items(
        [
            {"index": i, "split": split, "records": json.dumps([asdict(r) for r in part])}
            for i, (split, part) in enumerate(shards)
        ],
        override_num_blocks=len(shards),
    )
    results = work.map(
        DecodeShard(config.source, config.cache_size, config.quality, place.vocabulary())
    ).map(WriteShard(place, folder, config.row_group_rows))
    progress = Progress("prepared", len(records), "images")
    done: dict[int, Row] = {}
    rejected = 0
    for row in results.iter_rows():
        done[row["index"]] = row
        rejected += row["seen"] - row["rows"]
        progress.add(row["seen"], f"rejected {rejected:,}")
    ordered = [done[i] for i in sorted(done)]
    record = Encoder(
        name=encoder.name,
        sha256=encoder.sha256,
        dim=encoder.dim,
        file=TEXT_ENCODER if encoder_file is not None else None,
        location=place.location if encoder_file is None else None,
    )
    return _finish(folder, config, source, fingerprint, record, shards, ordered)


def _fingerprint(records: Iterable[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(asdict(record), sort_keys=True).encode())
    return digest.hexdigest()


def _plan(records: Sequence[Record], rows: int) -> list[tuple[str, Sequence[Record]]]:
    """Cut the records of each split into shards."""
    plan: list[tuple[str, Sequence[Record]]] = []
    for split in SPLITS:
        part = [record for record in records if record.split == split]
        plan += [(split, part[i : i + rows]) for i in range(0, len(part), rows)]
    return plan


def _already_there(
    folder: Folder,
    config: PrepareConfig,
    source: Row,
    fingerprint: str,
    place: EncoderPlace,
) -> Manifest | None:
    """Return the manifest of an equal dataset; refuse a folder that holds anything else."""
    ours = {MANIFEST, TRANSFORM, TEXT_ENCODER, REJECTS, *SPLITS}
    strange = sorted(set(folder.names()) - ours)
    for split in SPLITS:
        strange += [name for name in (folder / split).names() if not SHARD_NAME.fullmatch(name)]
    if strange:
        raise ValueError(
            f"{folder} holds files that are not of a prepared dataset ({', '.join(strange[:3])}). "
            "Name a new or empty folder with --output."
        )
    if config.overwrite:
        folder.remove()
        return None
    if not folder.exists(MANIFEST):
        return None
    found, _ = read_manifest(folder)
    unlike = [
        f"{group}.{name}: {old} → {new}"
        for group, now in (("source", source), ("options", config.recorded_options()))
        for name, (old, new) in _pairs(getattr(found, group), now).items()
        if old != new
    ]
    if not unlike and found.fingerprint != fingerprint:
        unlike = ["the originals themselves have changed"]
    if place.sha256 is None:
        same_encoder = found.encoder.location == place.location
    else:
        same_encoder = found.encoder.sha256 == place.sha256
    unlike += [] if same_encoder else ["with another text encoder"]
    if unlike:
        raise ValueError(
            f"{folder} holds a dataset prepared otherwise ({'; '.join(unlike)}). "
            "Name another folder with --output, or delete that dataset with --overwrite."
        )
    return found


def _pairs(old: Row, new: Row) -> dict[str, tuple[Any, Any]]:
    return {name: (old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())}


def _finish(
    folder: Folder,
    config: PrepareConfig,
    source: Row,
    fingerprint: str,
    encoder: Encoder,
    plan: list[tuple[str, Sequence[Record]]],
    results: list[Row],
) -> Manifest:
    """Fit the transform, write rejects and manifest, and say what was done."""
    rejects = [reject for row in results for reject in json.loads(row["rejects"])]
    reasons = Counter(reject["reason"] for reject in rejects)
    seen, written = sum(len(part) for _, part in plan), sum(row["rows"] for row in results)
    if seen != written + len(rejects):
        raise RuntimeError(f"{seen} rows seen, {written} written and {len(rejects)} rejected.")
    top = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(5))
    sums = _training_sums(results)
    if sums is None:
        raise ValueError(
            f"no training image is left of {seen:,} records. Rejected: {top or 'none'}."
        )

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA), sink)
    folder.write(REJECTS, sink.getvalue())
    transform = SentenceTransform.fit(config.chosen_transform, sums, config.sentence_dim)
    dropped: Counter[str] = Counter()
    for row in results:
        dropped.update(json.loads(row["dropped"]))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        source=source,
        fingerprint=fingerprint,
        options=config.recorded_options(),
        cache_size=config.cache_size,
        mirrors=config.source.mirrors,
        encoder=encoder,
        transform=write_transform(folder, transform),
        splits={
            split: tuple(
                Shard.model_validate_json(row["shard"])
                for row in results
                if row["shard"] and row["split"] == split
            )
            for split in SPLITS
        },
        seen=seen,
        written=written,
        rejected=len(rejects),
        reasons=dict(sorted(reasons.items())),
        captions=sum(row["captions"] for row in results),
        dropped_captions=dict(sorted(dropped.items())),
    )
    folder.write_json(MANIFEST, manifest.model_dump(mode="json"))
    size = sum(shard.bytes for shards in manifest.splits.values() for shard in shards) / 2**20
    say(
        f"seen {seen:,} = written {written:,} + rejected {len(rejects):,}"
        f"{f' ({top})' if top else ''}\n"
        f"train {manifest.rows('train'):,}, validation {manifest.rows('validation'):,}, "
        f"captions {manifest.captions:,} (left out {dropped.total():,}), "
        f"sentence vectors {transform.kind} to {transform.dim}\n"
        f"{size:,.1f} MiB at {folder}"
    )
    return manifest


def _training_sums(results: list[Row]) -> VectorSums | None:
    """Add up the sentence vectors of the training split, in the order of the shards."""
    parts = [
        VectorSums(
            row["captions"],
            torch.frombuffer(bytearray(row["total"]), dtype=torch.float64),
            torch.frombuffer(bytearray(row["products"]), dtype=torch.float64).view(
                len(row["total"]) // 8, -1
            ),
        )
        for row in results
        if row["split"] == "train" and row["rows"]
    ]
    return sum(parts[1:], parts[0]) if parts else None
