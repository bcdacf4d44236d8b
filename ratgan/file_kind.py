"""Say what a file of somebody else is by its first bytes, where it is not what was asked for."""

import re

HEAD = 4096  # bytes that are looked at
STARTS = {
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\0": "compressed with xz",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "HDF5",
    b"version https://git-lfs": "a pointer of git-lfs, not the file",
    b"%PDF-": "a PDF",
}
TO_DO = {
    "an empty file": "Copy or download it again",
    "a web page": "Open the link in a browser, and download the file itself",
    "a pointer of git-lfs, not the file": "Run git lfs pull, or download the file itself",
}
WEB_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype html|html|head|\?xml)",
    re.IGNORECASE | re.DOTALL,
)
PICKLE = re.compile(rb"\x80[\x02-\x05]")


def file_kind(head: bytes) -> str | None:
    """Return what a file is, to follow "is"; None for text and whatever else is not known.

    Args:
        head: Its first bytes, `HEAD` or all of them.
    """
    if not head:
        return "an empty file"
    if found := next((kind for start, kind in STARTS.items() if head.startswith(start)), None):
        return found
    if len(head) > 8 and not any(head[1:40:2]):
        return "UTF-16"
    if PICKLE.match(head):
        return "a pickle"
    if WEB_PAGE.match(head):
        return "a web page"
    return "a tar archive" if head[257:262] == b"ustar" else None


def refusal(head: bytes, where: str, what: str) -> str | None:
    """Return what to say of a file that is something else; None if nothing is known of it.

    Args:
        head: As for `file_kind`.
        where: Its name.
        what: It should be: "weights".
    """
    kind = file_kind(head)
    if kind is None:
        return None
    todo = TO_DO.get(kind, "Name another file")
    if kind.startswith("compressed") or kind.endswith("archive"):
        todo = "Unpack it, and name the file in it"
    return f"{where} is {kind}{'' if kind.endswith('file') else f', not {what}'}. {todo}."
