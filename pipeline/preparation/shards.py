"""Make one shard of a prepared dataset, from the list of its originals to its parquet file.

A shard depends only on its records and the recipe. So a complete shard is never made again, and a
killed process loses only its current shard.
"""

import hashlib
import io
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.common.console import printable
from pipeline.data.dataset import MEND
from pipeline.data.manifest import PROGRESS, REJECT_SCHEMA, SHARD_SCHEMA, Shard
from pipeline.preparation.decoding.captions import clean_caption
from pipeline.preparation.decoding.images import MAX_BYTES, RejectedError
from pipeline.preparation.decoding.isolated_decoder import Decoder
from pipeline.preparation.listing import Part, read_part
from pipeline.preparation.sources.join_on_disk import composed
from pipeline.preparation.sources.source import Record, Source
from pipeline.preparation.text_encoders import EncoderRef
from pipeline.storage.folder import Folder
from ratgan.text.vocabulary import Vocabulary

Row = dict[str, Any]

READERS = 8  # files read at once: a bucket has a long latency, but serves many requests at a time
READ_AHEAD = 16  # files held before they are decoded

DUPLICATE = "IMG_DUPLICATE"
# Reasons that depend on the text encoder or on other images, and those without an image.
REVISED = ("CAP_", "ORPHAN_", DUPLICATE)


@dataclass(frozen=True)
class Recipe:
    """Everything except the records that decides the bytes of a shard; can be pickled.

    Attributes:
        source: Reads the originals.
        encoder: Name and place of the text encoder.
        cache_size: Height and width of the stored images in pixels.
        row_group_rows: Rows of a row group.
        digest: Digest of these options, and of the versions of the libraries.
        fingerprint: Digest of all originals, which decide the duplicates.
        images_of: A dataset of the same originals and image options, whose images are copied.
    """

    source: Source
    folder: Folder
    encoder: EncoderRef
    cache_size: int
    quality: int
    row_group_rows: int
    digest: str
    fingerprint: str
    images_of: Folder | None = None


class MakeShard:
    """Makes shards, in any process; a complete shard is kept."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._decoder = Decoder(recipe.cache_size, recipe.quality)  # starts in its first process

    def __call__(self, item: Row) -> Row:
        """Make the shard of a part; `item` has the fields of `Part`."""
        part = Part(**item)
        shard = finished(self.recipe.folder, part, self.recipe.digest, self.recipe.fingerprint)
        kept = shard is not None
        if shard is None:
            shard = self._make(part)
        return {"shard": shard.model_dump_json(), "kept": kept}

    def _make(self, part: Part) -> Shard:
        rows: list[Row] = []
        rejects: list[Row] = []
        vocabulary = self.recipe.encoder.vocabulary()
        stored = _Stored(self.recipe.images_of, part)
        for record, original in self._originals(part, stored):
            content = b""
            try:
                content, found = original.result()
                captions, problems = _usable(found, vocabulary)
                image = stored.image(record.id)
                if image is None:
                    jpeg, width, height = self._decoder(content, record.box)
                    image = _image_columns(jpeg, width, height)
            except RejectedError as problem:
                sha256 = stored.sha256(record.id) or (
                    hashlib.sha256(content).hexdigest() if content else None
                )
                rejects.append(self._reject("image", record, problem, sha256))
                continue
            meaning = record.meaning
            rows.append(
                {
                    "id": record.id,
                    "label": None if record.label is None else composed(record.label),
                    "meaning": None if meaning is None else json.dumps(meaning, sort_keys=True),
                    "captions": captions,
                    **image,
                }
            )
            rejects += [self._reject("caption", record, problem, None) for problem in problems]
        columns = [field for field in SHARD_SCHEMA if field.name != "sentences"]
        table = self._encoded(pa.Table.from_pylist(rows, schema=pa.schema(columns)))
        shard = write_shard(
            self.recipe.folder,
            part,
            table,
            rejects,
            row_group_rows=self.recipe.row_group_rows,
            seen=part.rows,
        )
        commit(self.recipe.folder, part, self.recipe.digest, self.recipe.fingerprint, shard)
        return shard

    def _originals(
        self, part: Part, stored: "_Stored"
    ) -> Iterator[tuple[Record, "Future[tuple[bytes, Sequence[str | bytes]]]"]]:
        """Read the originals of a part a little ahead, in order."""
        waiting: deque[tuple[Record, Future[tuple[bytes, Sequence[str | bytes]]]]] = deque()
        pool = ThreadPoolExecutor(READERS)
        try:
            for record in read_part(self.recipe.folder, part):
                waiting.append((record, pool.submit(self._read, record, stored)))
                if len(waiting) == READ_AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, record: Record, stored: "_Stored") -> tuple[bytes, Sequence[str | bytes]]:
        """Read image and captions of a record; no image if it is stored already.

        Only a missing file rejects a record. Other errors (no permission, a busy server) may be
        temporary, so they end the preparation instead of dropping images silently.
        """
        if not record.location:
            raise RejectedError("ORPHAN_CAPTION", "no image goes with these captions")
        stored.refuse(record.id)
        try:
            captions = self.recipe.source.read_captions(record)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise RejectedError("CAP_MISSING", printable(str(error))) from error
        if not captions and record.texts:
            raise RejectedError("CAP_EMPTY", f"no caption in {printable(', '.join(record.texts))}")
        if not captions:
            raise RejectedError("ORPHAN_IMAGE", "no caption goes with this image")
        if stored.image(record.id) is not None:
            return b"", captions
        if record.size is not None and record.size > MAX_BYTES:  # too large for memory
            detail = f"{record.size} bytes, at most {MAX_BYTES} are taken"
            raise RejectedError("IMG_TOO_LARGE", detail)
        try:
            return self.recipe.source.read_image(record), captions
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise RejectedError("IMG_MISSING", printable(str(error))) from error

    def _encoded(self, table: pa.Table) -> pa.Table:
        """Add the sentence vectors."""
        captions = table["captions"].to_pylist()
        # Equal captions are encoded once, but only within a shard: across shards the last bits of
        # a vector would depend on the order of the shards.
        distinct = sorted({text for texts in captions for text in texts})
        row_of = {text: i for i, text in enumerate(distinct)}
        each: list[Any] = []
        if distinct:
            vectors = self.recipe.encoder.loaded().encode(distinct).numpy()
            each = [vectors[[row_of[text] for text in texts]].ravel() for texts in captions]
        position = SHARD_SCHEMA.get_field_index("sentences")
        sentences = pa.array(each, pa.list_(pa.float32()))
        return table.add_column(position, SHARD_SCHEMA.field("sentences"), sentences)

    def _reject(self, kind: str, record: Record, problem: RejectedError, sha256: str | None) -> Row:
        return {
            "kind": kind,
            "source": self.recipe.source.name,
            "id": record.id,
            "split": record.split,
            "location": record.location,
            "reason": problem.reason,
            "detail": problem.detail,
            "sha256": sha256,
        }


class _Stored:
    """Images of a part in another dataset, by id."""

    def __init__(self, folder: Folder | None, part: Part) -> None:
        self._rows: dict[str, Row] = {}
        self._rejects: dict[str, Row] = {}
        if folder is None:
            return
        columns = ["id", "image", "digest", "original_width", "original_height"]
        shard = io.BytesIO(folder.read(part.shard))
        try:
            table = pq.read_table(shard, columns=columns, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"images_of: {folder}/{part.shard} is damaged: {error}. {MEND}"
            ) from error
        for row in table.to_pylist():
            self._rows[row.pop("id")] = row
        for row in read_rejects(folder, part):
            if row["kind"] == "image" and not row["reason"].startswith(REVISED):
                self._rejects[row["id"]] = row

    def image(self, name: str) -> Row | None:
        return self._rows.get(name)

    def sha256(self, name: str) -> str | None:
        return self._rejects[name]["sha256"] if name in self._rejects else None

    def refuse(self, name: str) -> None:
        if row := self._rejects.get(name):
            raise RejectedError(row["reason"], row["detail"])


def _image_columns(jpeg: bytes, width: int, height: int) -> Row:
    return {
        "image": jpeg,
        "digest": hashlib.blake2b(jpeg, digest_size=16).digest(),
        "original_width": width,
        "original_height": height,
    }


def _usable(
    captions: Iterable[str | bytes], vocabulary: Vocabulary | None
) -> tuple[list[str], list[RejectedError]]:
    """Clean captions; return the usable ones, and a problem for each of the others.

    Raises:
        RejectedError: If none is usable, with the reason of the first.
    """
    usable: list[str] = []
    problems: list[RejectedError] = []
    for text in captions:
        try:
            cleaned = clean_caption(text)
            if vocabulary is not None and not vocabulary.read(cleaned):
                raise ValueError("CAP_UNKNOWN: the text encoder knows none of its words")
            usable.append(cleaned)
        except ValueError as problem:
            reason, _, detail = str(problem).partition(": ")
            shown = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
            problems.append(RejectedError(reason, f"{detail}; it is {printable(shown)!r}"))
    if not usable:
        raise problems[0]
    return usable, problems


def write_shard(
    folder: Folder,
    part: Part,
    table: pa.Table,
    rejects: Sequence[Row],
    *,
    row_group_rows: int,
    seen: int,
) -> Shard:
    """Write a shard and its rejects; it is complete only after `commit`.

    Args:
        rejects: Rejected images and captions, as in `REJECT_SCHEMA`.
        row_group_rows: Rows of a row group.
        seen: Number of listed originals.
    """
    table = table.cast(SHARD_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=row_group_rows,
        # Compression does not make JPEGs smaller, and dictionaries only cost time.
        compression={**dict.fromkeys(_leaves(table), "ZSTD"), "image": "NONE", "digest": "NONE"},
        use_dictionary=["label"],
        # Nothing reads minimum and maximum of a page, and no checksum covers them.
        write_statistics=False,
        write_page_checksum=True,
    )
    full, rest = divmod(len(table), row_group_rows)
    rejects_sha256 = None
    if rejects:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rejects), schema=REJECT_SCHEMA), sink)
        rejects_sha256 = folder.write(part.rejects, sink.getvalue())
    else:
        folder.delete(part.rejects)  # of an earlier preparation, from other originals
    content = buffer.getvalue()
    return Shard(
        file=part.shard,
        rows=len(table),
        row_groups=(row_group_rows,) * full + ((rest,) if rest else ()),
        bytes=len(content),
        sha256=folder.write(part.shard, content),
        rejects_file=part.rejects if rejects else None,
        rejects_sha256=rejects_sha256,
        seen=seen,
        captions=pc.sum(pc.list_value_length(table["captions"])).as_py() or 0,
        reasons=_reasons(rejects, "image"),
        dropped=_reasons(rejects, "caption"),
    )


def _leaves(table: pa.Table) -> list[str]:
    """Return the column names of parquet, in which the items of a list have their own name."""
    return [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in table.schema]


def _reasons(rejects: Sequence[Row], kind: str) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in rejects if row["kind"] == kind).items()))


def commit(folder: Folder, part: Part, recipe: str, fingerprint: str, shard: Shard) -> None:
    """Record that a shard is complete, with its inputs."""
    record = {
        "recipe": recipe,
        "records": part.digest,
        "all_records": fingerprint,
        "shard": shard.model_dump(mode="json"),
    }
    folder.write_json(f"{PROGRESS}/{part.name}.json", record)


def finished(folder: Folder, part: Part, recipe: str, fingerprint: str) -> Shard | None:
    """Return the entry of a shard if it was made from the same inputs and is complete."""
    try:
        record = folder.read_json(f"{PROGRESS}/{part.name}.json")
        shard = Shard.model_validate(record["shard"])
        if (record["recipe"], record["records"]) != (recipe, part.digest):
            return None
        # With other originals, an image that was rejected as a duplicate may be unique now.
        if DUPLICATE in shard.reasons and record["all_records"] != fingerprint:
            return None
        files = {part.shard: shard.sha256, part.rejects: shard.rejects_sha256}
        for file, sha256 in files.items():
            if sha256 and hashlib.sha256(folder.read(file)).hexdigest() != sha256:
                return None
    except (FileNotFoundError, ValueError, KeyError, TypeError, ValidationError):
        return None
    return shard


def read_rejects(folder: Folder, part: Part) -> list[Row]:
    """Read the rejects of a shard; empty if there are none."""
    if not folder.exists(part.rejects):
        return []
    rows: list[Row] = pq.read_table(io.BytesIO(folder.read(part.rejects))).to_pylist()
    return rows
