"""What preparation does to a shard, in whichever process: decode its images, encode its captions.

What comes back is small: the shard's entry in the manifest, its rejects, and the sums of its
sentence vectors, from which the driver fits the transform.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.captions import clean_caption
from pipeline.encoders import EncoderPlace
from pipeline.images import RejectedError, decode, encode_jpeg, square
from pipeline.manifest import SHARD_SCHEMA, Shard
from pipeline.sources.source import Record, Source
from pipeline.storage import Folder
from ratgan.text.transform import VectorSums
from ratgan.text.vocabulary import Vocabulary

Row = dict[str, Any]


class DecodeShard:
    """First stage: the records of a shard become rows with a JPEG each, or rejects.

    Args:
        source: Reads the originals.
        cache_size: Height and width of the stored images in pixels.
        quality: Of the JPEGs.
        vocabulary: Words the text encoder knows, where it does not take every text.
    """

    def __init__(
        self, source: Source, cache_size: int, quality: int, vocabulary: Vocabulary | None = None
    ) -> None:
        self.source, self.cache_size, self.quality = source, cache_size, quality
        self.vocabulary = vocabulary

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
        captions = _usable(record.captions, dropped, self.vocabulary)
        try:
            content = self.source.read_image(record)
        except (FileNotFoundError, IsADirectoryError) as error:
            # Whatever else keeps a file from being read (no permission, a busy server) may pass,
            # and must not leave images out without a word.
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


def _usable(
    captions: Iterable[str], dropped: Counter[str], vocabulary: Vocabulary | None
) -> list[str]:
    """Clean captions, leave out what cannot be used, and count what was left out."""
    usable: list[str] = []
    problems: list[str] = []
    for text in captions:
        try:
            cleaned = clean_caption(text)
            if vocabulary is not None and not vocabulary.read(cleaned):
                raise ValueError("CAP_UNKNOWN: the text encoder knows none of its words")
            usable.append(cleaned)
        except ValueError as problem:
            problems.append(str(problem))
    if not usable:
        raise RejectedError("CAP_NONE", problems[0] if problems else "the image has no caption")
    dropped.update(problem.split(":")[0] for problem in problems)
    return usable


class WriteShard:
    """Second stage: encode the captions of a shard and write its parquet file.

    Args:
        encoder: The text encoder's name and place.
        folder: The dataset's.
        row_group_rows: Rows of a row group.
    """

    def __init__(self, encoder: EncoderPlace, folder: Folder, row_group_rows: int) -> None:
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
        vectors = self.encoder.loaded().encode(distinct)
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
