"""Find the format of a table by its first bytes, then by its ending; nothing is guessed."""

import codecs
import gzip
import io
import re
import zlib
from typing import IO, Any, Literal

from pipeline.preparation.decoding.images import format_of
from pipeline.storage.folder import Folder
from ratgan.file_kind import HEAD, file_kind

Format = Literal["csv", "tsv", "jsonl", "json", "parquet", "arrow"]
BY_ENDING: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
GZIP = b"\x1f\x8b"
# What a file is, and what to do to have a table.
TO_DO = {
    "an empty file": "Copy it again, or remove it",
    "compressed with zstd": "Unpack it with zstd -d",
    "compressed with bzip2": "Unpack it with bunzip2",
    "compressed with xz": "Unpack it with unxz",
    "a zip archive": "Unpack it; if it is a spreadsheet, save the sheet as CSV",
    "UTF-16": "Save it as UTF-8",
    "an SQLite database": "Export the rows as CSV",
    "HDF5": "Save the rows as parquet",
    "a pointer of git-lfs, not the file": "Run git lfs pull",
    "a PDF": "Save the rows as CSV",
    "a pickle": "It can run code: save the rows as parquet where they come from",
    "a web page": "Open the link in a browser, and download the file itself",
    "a tar archive": "Prepare images in tars with jobs/prepare.py webdataset",
}


def table_format(folder: Folder, file: str, given: Format | None) -> tuple[Format, bool]:
    """Find the format of a table.

    Args:
        file: Name of the table.
        given: The user's choice for text of an unknown ending.

    Returns:
        The format, and whether it is compressed with gzip.

    Raises:
        ValueError: If it is none of them; says what the file is and what to do.
    """
    with folder.open(file) as stream:
        head = stream.read(HEAD)
    zipped = head.startswith(GZIP)
    if zipped:
        try:
            head = zlib.decompressobj(31).decompress(head, HEAD)
        except zlib.error as error:
            raise ValueError(f"{folder}/{file} is gzip that is damaged: {error}.") from error
    if foreign := _foreign(head):
        what, advice = foreign
        raise ValueError(f"{folder}/{file} is {what}. {advice}.")
    name = file.lower().removesuffix(".gz") if zipped else file.lower()
    ending = name[name.rfind(".") :] if "." in name else ""
    named = given or BY_ENDING.get(ending)
    if head.startswith(b"PAR1") or head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
        if zipped:
            raise ValueError(f"{folder}/{file} is a table compressed with gzip. Unpack it.")
        return ("parquet" if head.startswith(b"PAR1") else "arrow"), False
    if named in ("parquet", "arrow"):
        raise ValueError(f"{folder}/{file} is not {named} that can be read: it starts as no such.")
    if named is None:
        raise ValueError(
            f"{folder}/{file} is text in an unknown format. If it is a table, choose its format "
            "with --format, for example --format csv."
        )
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if named == "json" and start[:1] == b"{" and re.match(rb"\{[^\n]*\}\s*\n\s*\{", start):
        return "jsonl", zipped
    return ("json" if named == "jsonl" and re.match(rb"\[\s*\{", start) else named), zipped


def open_text(folder: Folder, file: str, zipped: bool) -> IO[bytes]:
    """Open a table of text for reading from its start."""
    # Buffered again: files of a bucket do not support a limit in `readline`.
    content: Any = folder.open(file)
    return without_mark(gzip.GzipFile(fileobj=content) if zipped else content)


def without_mark(content: Any) -> io.BufferedReader:
    """Buffer a stream of UTF-8, and pass over the mark that Windows writes at its start."""
    stream = io.BufferedReader(content, 2**20)
    if stream.peek(3)[:3] == codecs.BOM_UTF8:
        stream.read(3)
    return stream


def _foreign(head: bytes) -> tuple[str, str] | None:
    if kind := file_kind(head):
        return kind, TO_DO.get(kind, "Unpack it")
    if kind := format_of(head):
        return f"an image ({kind})", "Name a table with --root"
    return None
