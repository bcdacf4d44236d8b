"""Originals to a prepared dataset, with Ray Data: decode, crop, resize, encode captions, write.

The unit of work is a shard: a run of records that becomes one parquet file. So
each file is a function of its records and the options alone, and what fails or
is cut short costs no more than its shard.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from pydantic import Field

from pipeline.captions import clean_caption
from pipeline.images import RejectedError, decode, encode_jpeg, square
from pipeline.manifest import (
    MANIFEST,
    REJECT_SCHEMA,
    REJECTS,
    SCHEMA_VERSION,
    SHARD_SCHEMA,
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
from pipeline.sources import AnySource
from pipeline.sources.source import SPLITS, Record, Source
from pipeline.storage import Folder
from ratgan.text.encoder import TextEncoder, load_encoder
from ratgan.text.transform import SentenceTransform, VectorSums

Row = dict[str, Any]


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
    encoder: Literal["minilm"] = "minilm"
    """Frozen text encoder for the sentence vectors."""
    transform: Literal["whiten", "standardize", "identity"] = "whiten"
    """What the generator sees of a sentence vector; whiten is what MiniLM needs."""
    sentence_dim: Annotated[int, Field(ge=1)] = 96
    """Numbers kept of a whitened sentence vector."""
    rows_per_shard: Annotated[int, Field(ge=1)] = 1024
    """Images in a parquet file."""
    row_group_rows: Annotated[int, Field(ge=1, le=4096)] = 128
    """Images read at once in training."""
    overwrite: bool = False
    """Delete a dataset that is in the output folder already."""

    @property
    def cache_size(self) -> int:
        """Height and width of the stored images in pixels."""
        return int(self.image_size * self.margin)

    def recorded_options(self) -> dict[str, Any]:
        """Return the options that decide what is in the dataset."""
        return self.model_dump(mode="json", exclude={"source", "output", "overwrite"})


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
    if found := _already_there(folder, config, source, fingerprint):
        say(
            f"{folder} is prepared already: {found.written:,} images. --overwrite prepares it anew."
        )
        return found

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
    results = work.map(DecodeShard(config.source, config.cache_size, config.quality)).map(
        WriteShard(config.encoder, folder, config.row_group_rows)
    )
    progress = Progress("prepared", len(records), "images")
    done: dict[int, Row] = {}
    rejected = 0
    for row in results.iter_rows():
        done[row["index"]] = row
        rejected += row["seen"] - row["rows"]
        progress.add(row["seen"], f"rejected {rejected:,}")
    ordered = [done[i] for i in sorted(done)]
    return _finish(folder, config, source, fingerprint, shards, ordered)


class DecodeShard:
    """First stage: the records of a shard become rows with a JPEG each, or rejects.

    Args:
        source: Reads the originals.
        cache_size: Height and width of the stored images in pixels.
        quality: Of the JPEGs.
    """

    def __init__(self, source: Source, cache_size: int, quality: int) -> None:
        self.source, self.cache_size, self.quality = source, cache_size, quality

    def __call__(self, item: Row) -> Row:
        """Decode one shard."""
        rows: list[Row] = []
        rejects: list[Row] = []
        dropped: Counter[str] = Counter()
        records = [Record(**fields) for fields in json.loads(item["records"])]
        for record in records:
            try:
                rows.append(self._row(record, dropped))
            except RejectedError as problem:
                rejects.append(
                    {
                        "id": record.id,
                        "split": record.split,
                        "location": record.location,
                        "reason": problem.reason,
                        "detail": problem.detail,
                    }
                )
        columns = [field for field in SHARD_SCHEMA if field.name != "sentences"]
        return {
            "index": item["index"],
            "split": item["split"],
            "seen": len(records),
            "table": _to_bytes(pa.Table.from_pylist(rows, schema=pa.schema(columns))),
            "rejects": json.dumps(rejects),
            "dropped": json.dumps(dropped),
        }

    def _row(self, record: Record, dropped: Counter[str]) -> Row:
        captions = _usable(record.captions, dropped)
        try:
            content = self.source.read_image(record)
        except OSError as error:
            raise RejectedError("IMG_MISSING", str(error)) from error
        image = decode(content)
        return {
            "id": record.id,
            "label": record.label,
            "meaning": None
            if record.meaning is None
            else json.dumps(record.meaning, sort_keys=True),
            "captions": captions,
            "image": encode_jpeg(square(image, self.cache_size), self.quality),
            "original_width": image.width,
            "original_height": image.height,
        }


def _usable(captions: Iterable[str], dropped: Counter[str]) -> list[str]:
    """Clean captions, leave out what cannot be used, and count what was left out."""
    usable: list[str] = []
    problems: list[str] = []
    for text in captions:
        try:
            usable.append(clean_caption(text))
        except ValueError as problem:
            problems.append(str(problem))
    if not usable:
        raise RejectedError("CAP_NONE", problems[0] if problems else "the image has no caption")
    dropped.update(problem.split(":")[0] for problem in problems)
    return usable


class WriteShard:
    """Second stage: encode the captions of a shard and write its parquet file.

    Args:
        encoder: Name of the text encoder.
        folder: The dataset's.
        row_group_rows: Rows of a row group.
    """

    def __init__(self, encoder: str, folder: Folder, row_group_rows: int) -> None:
        self.encoder, self.folder, self.row_group_rows = encoder, folder, row_group_rows

    def __call__(self, item: Row) -> Row:
        """Encode and write one shard."""
        table = _from_bytes(item["table"])
        result = {key: item[key] for key in ("index", "split", "seen", "rejects", "dropped")}
        result |= {"rows": len(table), "shard": "", "captions": 0, "total": b"", "products": b""}
        if not len(table):
            return result
        captions = table["captions"].to_pylist()
        # A wording that repeats is encoded once. Within a shard only: across shards the
        # last bits of a vector would depend on which shard came first.
        distinct = sorted({text for texts in captions for text in texts})
        row_of = {text: i for i, text in enumerate(distinct)}
        vectors = _loaded(self.encoder).encode(distinct)
        each = [vectors[[row_of[text] for text in texts]] for texts in captions]  # [n, R] each
        sentences = pa.array([v.flatten().numpy() for v in each], pa.list_(pa.float32()))
        position = SHARD_SCHEMA.get_field_index("sentences")
        table = table.add_column(position, SHARD_SCHEMA.field("sentences"), sentences)
        sums = VectorSums.of(torch.cat(each))
        shard = self._write(f"{item['split']}/part-{item['index']:05d}.parquet", table)
        return result | {
            "shard": shard.model_dump_json(),
            "captions": sums.count,
            "total": sums.total.numpy().tobytes(),
            "products": sums.products.numpy().tobytes(),
        }

    def _write(self, file: str, table: pa.Table) -> Shard:
        buffer = io.BytesIO()
        pq.write_table(
            table.cast(SHARD_SCHEMA),
            buffer,
            row_group_size=self.row_group_rows,
            # JPEGs and vectors do not get smaller, and dictionaries of them only cost.
            compression={**dict.fromkeys(_leaves(table), "ZSTD"), "image": "NONE"},
            use_dictionary=["label"],
            write_page_checksum=True,
        )
        content = buffer.getvalue()
        full, rest = divmod(len(table), self.row_group_rows)
        return Shard(
            file=file,
            rows=len(table),
            row_groups=(self.row_group_rows,) * full + ((rest,) if rest else ()),
            bytes=len(content),
            sha256=self.folder.write(file, content),
        )


@lru_cache(maxsize=1)
def _loaded(encoder: str) -> TextEncoder:
    """Load the text encoder once in each process; Ray gives a process many shards."""
    return load_encoder(encoder)


def _leaves(table: pa.Table) -> list[str]:
    """Name the columns as parquet does: the items of a list have a name of their own."""
    return [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in table.schema]


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _from_bytes(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(content).read_all()


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
    folder: Folder, config: PrepareConfig, source: Row, fingerprint: str
) -> Manifest | None:
    """Return the manifest of an equal dataset; refuse a folder that holds anything else."""
    ours = {MANIFEST, TRANSFORM, REJECTS, *SPLITS}
    if strange := sorted(set(folder.names()) - ours):
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
    wanted = {"source": source, "fingerprint": fingerprint, "options": config.recorded_options()}
    unlike = [name for name, value in wanted.items() if getattr(found, name) != value]
    if unlike:
        raise ValueError(
            f"{folder} holds a dataset prepared otherwise (another {' and '.join(unlike)}). "
            "Name another folder with --output, or delete that dataset with --overwrite."
        )
    return found


def _finish(
    folder: Folder,
    config: PrepareConfig,
    source: Row,
    fingerprint: str,
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
    encoder = _loaded(config.encoder)
    transform = SentenceTransform.fit(config.transform, sums, config.sentence_dim)
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
        encoder=Encoder(name=encoder.name, sha256=encoder.sha256, dim=encoder.dim),
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
