"""Which images are held out where a dataset has no split of its own."""

import hashlib
from fnmatch import fnmatchcase


def held_out(key: str, share: float) -> bool:
    """Decide by a hash, so that images added later move none from one split to the other.

    Args:
        key: Of the image; all images that share captions have the same.
        share: Of the images, in [0, 1].
    """
    digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_of(key: str, share: float, file: str = "", files: str | None = None) -> str:
    """Name the split of an image.

    Args:
        key: As for `held_out`.
        share: As for `held_out`.
        file: That lists or holds the image.
        files: Pattern of the files that are held out, in place of a share.
    """
    held = held_out(key, share) if files is None else fnmatchcase(file, files)
    return "validation" if held else "train"
