"""Layouts of other tools that a prepared dataset can be written in; images are copied, not encoded.

    huggingface   data/train-00000-of-00003.parquet …   the column `image` is an Image of `datasets`
    webdataset    train-000000.tar …                    members KEY.jpg, KEY.json, perhaps KEY.txt

KEY is a split and a number, as in `train-00000012`: ids are of strangers, and go into a column or
the JSON.
"""

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Captions = Literal["all", "first"]
LayoutName = Literal["huggingface", "webdataset"]
COLUMNS = ["id", "label", "meaning", "captions", "image"]


def key(split: str, number: int) -> str:
    """Return the name of an image without its ending."""
    return f"{split}-{number:08d}"


class Layout(ABC):
    """A layout.

    Args:
        captions: Whether a list of all is kept, or the first as a text.
    """

    name: LayoutName
    files: str
    """Pattern of the files of a split."""
    content: str
    """What is in them, for people."""
    extra_bytes: int
    """Most bytes that an image takes beyond its row in the prepared dataset."""

    def __init__(self, captions: Captions) -> None:
        self.captions = captions

    @abstractmethod
    def file(self, split: str, index: int, count: int) -> str:
        """Return the name of one of the `count` files of a split."""

    @abstractmethod
    def pack(self, tables: Iterable[pa.Table], split: str, start: int) -> bytes:
        """Make a file.

        Args:
            tables: With the columns `COLUMNS`.
            start: Number of its first image in the split.
        """

    @abstractmethod
    def usage(self, folder: str, split: str, count: int) -> str:
        """Return the code that reads the `count` files of a split."""

    def features(self) -> list[dict[str, Any]]:
        """List the columns as the card of a dataset does; empty if the files say it."""
        return []


class HuggingFace(Layout):
    """Parquet with the columns and the metadata of `datasets`."""

    name = "huggingface"
    files = "data/{split}-*.parquet"
    content = (
        "Columns: `image` (JPEG); the captions, `captions` (a list) or `text` (the first alone); "
        "`id`; `label` (the class, if known); `meaning` (JSON, if known)."
    )
    extra_bytes = 256

    def file(self, split: str, index: int, count: int) -> str:
        """Return the name, which says how many there are."""
        return f"data/{split}-{index:05d}-of-{count:05d}.parquet"

    def usage(self, folder: str, split: str, count: int) -> str:
        """Return the code that reads a split."""
        return f"datasets.load_dataset({folder!r}, split={split!r})"

    def features(self) -> list[dict[str, Any]]:
        """List the columns."""
        texts = {"captions": {"sequence": "string"}, "text": {"dtype": "string"}}
        name = self._column
        return [
            {"name": "image", "dtype": "image"},
            {"name": name, **texts[name]},
            *({"name": each, "dtype": "string"} for each in ("id", "label", "meaning")),
        ]

    @property
    def _column(self) -> str:
        return "captions" if self.captions == "all" else "text"

    def pack(self, tables: Iterable[pa.Table], split: str, start: int) -> bytes:
        """Make a parquet file, a row group for each table."""
        schema, buffer = self._schema(), io.BytesIO()
        with pq.ParquetWriter(
            buffer,
            schema,
            compression="ZSTD",
            use_dictionary=["label"],
            write_statistics=False,
            write_page_checksum=True,
        ) as writer:
            for table in tables:
                writer.write_table(self._converted(table, split, start).cast(schema))
                start += len(table)
        return buffer.getvalue()

    def _converted(self, table: pa.Table, split: str, start: int) -> pa.Table:
        paths = pa.array(f"{key(split, start + row)}.jpg" for row in range(len(table)))
        content = table["image"].combine_chunks()
        captions = table["captions"]
        columns = {
            "image": pa.StructArray.from_arrays([content, paths], ["bytes", "path"]),
            self._column: captions if self.captions == "all" else pc.list_element(captions, 0),
        }
        return pa.table(columns | {name: table[name] for name in ("id", "label", "meaning")})

    def _schema(self) -> pa.Schema:
        # `Sequence` is known to versions before 4 and after; what is named `List` only to these.
        text = {"dtype": "string", "_type": "Value"}
        features = {
            "image": {"_type": "Image"},
            self._column: {"feature": text, "_type": "Sequence"}
            if self.captions == "all"
            else text,
            **dict.fromkeys(("id", "label", "meaning"), text),
        }
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        captions = pa.list_(pa.string()) if self.captions == "all" else pa.string()
        types = [image, captions, pa.string(), pa.string(), pa.string()]
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        return pa.schema(list(zip(features, types, strict=True)), metadata=metadata)


class WebDataset(Layout):
    """Tar files; the JSON of an image has its captions, id, label and meaning."""

    name = "webdataset"
    files = "{split}-*.tar"
    content = (
        "Members: `KEY.jpg`; `KEY.json` with `id`, `label` and `meaning` (if known) and the list "
        "`captions`, or `KEY.txt` with the first caption alone."
    )
    extra_bytes = 4096  # a header and zeros up to a full block, for each member

    def file(self, split: str, index: int, count: int) -> str:
        """Return the name."""
        return f"{split}-{index:06d}.tar"

    def usage(self, folder: str, split: str, count: int) -> str:
        """Return the code that reads a split."""
        files = f"{folder}/{split}-{{000000..{count - 1:06d}}}.tar"
        return f'webdataset.WebDataset({files!r}, shardshuffle=False).decode("pil")'

    def pack(self, tables: Iterable[pa.Table], split: str, start: int) -> bytes:
        """Make a tar; the same bytes each time."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for table in tables:
                for row in table.to_pylist():
                    for ending, content in self._members(row):
                        header = tarfile.TarInfo(f"{key(split, start)}.{ending}")
                        header.size = len(content)
                        tar.addfile(header, io.BytesIO(content))
                    start += 1
        return buffer.getvalue()

    def _members(self, row: dict[str, Any]) -> Iterable[tuple[str, bytes]]:
        yield "jpg", row["image"]
        record = {"id": row["id"], "label": row["label"]}
        record["meaning"] = json.loads(row["meaning"]) if row["meaning"] else None
        known = {name: value for name, value in record.items() if value is not None}
        if self.captions == "first":
            yield "txt", row["captions"][0].encode()
        else:
            known["captions"] = row["captions"]
        yield "json", json.dumps(known, ensure_ascii=False).encode()


LAYOUTS = {layout.name: layout for layout in (HuggingFace, WebDataset)}
