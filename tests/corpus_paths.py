"""Names of images that foreign data can hold, and what must become of each."""

import os
from pathlib import Path

OUTSIDE = "PATH_UNSAFE"
MISSING = "IMG_MISSING"  # such a file could be, and is not there

# Name → reason of the reject where a file or table names it.
BAD_PATHS = {
    "../../etc/passwd": OUTSIDE,
    "/etc/passwd": OUTSIDE,
    "a/../../b.jpg": OUTSIDE,
    "..\\..\\x.jpg": OUTSIDE,
    "C:\\x.jpg": OUTSIDE,
    "CON": MISSING,
    "x" * 300 + ".jpg": OUTSIDE,
    "a\0.jpg": OUTSIDE,
    ".": OUTSIDE,
    "%2e%2e/%2e%2e/etc/passwd": OUTSIDE,
    "http://169.254.169.254/latest/meta-data": OUTSIDE,
    "file:///etc/passwd": OUTSIDE,
    "https://user:pw@h/x.jpg": OUTSIDE,
    "link-out.jpg": None,  # a link, laid out by `lay_traps`, is the user's own
    # and beyond the list of reliability tests
    "//host/x.jpg": OUTSIDE,
    "s3://other/x.jpg": OUTSIDE,
    "link-in.jpg": None,
    "good.jpg/x.jpg": MISSING,
    "pipe.jpg": OUTSIDE,
    "loop.jpg": OUTSIDE,
}

# Of these, what a file in a folder can be called.
FILES = tuple(n for n in BAD_PATHS if "\\" in n or n.startswith(("link", "pipe", "loop")))


def lay_traps(folder: Path, good: bytes) -> None:
    """Lay links, a pipe and a loop beside an image."""
    outside = folder.parent.parent / "outside.jpg"
    outside.write_bytes(good)
    (folder / "good.jpg").write_bytes(good)
    (folder / "link-in.jpg").symlink_to("good.jpg")
    (folder / "link-out.jpg").symlink_to(outside)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
