"""The list of originals, cut into shards: written by one process, read by many.

Neither the originals nor the list pass through the driver. The list is in small parquet files in
the dataset's folder, one for each planned shard, until the dataset is complete.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.manifest import PROGRESS, REJECTS
from pipeline.preparation.sources.left_aside import Counts, counting, leave_aside
from pipeline.preparation.sources.source import SPLITS, Record, Source
from pipeline.storage.folder import Folder

LIST = "-records.parquet"  # suffix of the lists' names
# Captions as bytes: the originals need not be valid text.
SCHEMA = pa.schema([("record", pa.string()), ("captions", pa.list_(pa.binary()))])


@dataclass(frozen=True)
class Part:
    """The records of one planned shard.

    Attributes:
        split: As in `Record`.
        index: Index of the shard in its split.
        digest: Digest of the records: equal for the same originals, captions and order.
    """

    split: str
    index: int
    rows: int
    digest: str

    @property
    def name(self) -> str:
        """Common prefix of the names of this part's files."""
        return f"{self.split}-{self.index:05d}"

    @property
    def shard(self) -> str:
        """File of the shard in the dataset."""
        return f"{self.split}/part-{self.index:05d}.parquet"

    @property
    def rejects(self) -> str:
        """File of the shard's rejects."""
        return f"{REJECTS}/{self.name}.parquet"

    @property
    def file(self) -> str:
        """File of the list in the dataset."""
        return f"{PROGRESS}/{self.name}{LIST}"


@dataclass(frozen=True)
class Listing:
    """All parts, in the order of the splits.

    Attributes:
        parts: Parts of each split in order.
        fingerprint: Digest of all records.
        left_aside: Counts of what is no record, as in the manifest.
    """

    parts: tuple[Part, ...]
    fingerprint: str
    left_aside: Counts | None = None

    @property
    def rows(self) -> int:
        """Count the records."""
        return sum(part.rows for part in self.parts)


def list_originals(
    source: Source, rows_per_shard: int, limit: int | None, folder: Folder | None
) -> Listing:
    """List the records of a source, and write the list of each part.

    Args:
        source: Source of the originals.
        rows_per_shard: Records of a part.
        limit: Use only the first so many records of each split.
        folder: Where to write the lists; None writes nothing.

    Raises:
        ValueError: If the originals do not have the layout that the source expects.
    """
    open_parts = {split: _OpenPart(split, rows_per_shard, folder) for split in SPLITS}
    with counting() as aside:
        for record in source.records():
            part = open_parts[record.split]
            if limit is None or part.total < limit:
                part.add(record)
                continue
            leave_aside("records", f"beyond --limit in {record.split}")
            aside.enough = all(each.total >= limit for each in open_parts.values())
    parts = tuple(part for split in SPLITS for part in open_parts[split].finish())
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(open_parts[split].digest.digest())
    return Listing(parts, digest.hexdigest(), aside.as_plain())


@dataclass
class _OpenPart:
    """Collects the records of one split, and writes each full part."""

    split: str
    rows_per_shard: int
    folder: Folder | None
    total: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    _done: list[Part] = field(default_factory=list)
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: Record) -> None:
        fields = asdict(record)
        captions = [text.encode("utf-8", "surrogatepass") for text in fields.pop("captions")]
        # JSON escapes everything but ASCII, so it can store names that are not valid text.
        self._rows.append({"record": json.dumps(fields, sort_keys=True), "captions": captions})
        self.total += 1
        if len(self._rows) == self.rows_per_shard:
            self._flush()

    def finish(self) -> list[Part]:
        if self._rows:
            self._flush()
        return self._done

    def _flush(self) -> None:
        digest = hashlib.sha256()
        for row in self._rows:
            for content in (row["record"].encode(), *row["captions"]):
                digest.update(len(content).to_bytes(8))  # separates two captions from a joined one
                digest.update(content)
            digest.update(len(row["captions"]).to_bytes(8))
        self.digest.update(digest.digest())
        part = Part(self.split, len(self._done), len(self._rows), digest.hexdigest())
        if self.folder is not None:
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), sink)
            self.folder.write(part.file, sink.getvalue())
        self._done.append(part)
        self._rows = []


def read_part(folder: Folder, part: Part) -> Iterator[Record]:
    """Read the records of a part."""
    for row in pq.read_table(io.BytesIO(folder.read(part.file))).to_pylist():
        fields = json.loads(row["record"])
        fields["texts"] = tuple(fields["texts"])
        fields["box"] = None if fields["box"] is None else tuple(fields["box"])
        texts = tuple(text.decode("utf-8", "surrogatepass") for text in row["captions"])
        yield Record(captions=texts, **fields)
