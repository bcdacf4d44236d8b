"""A copy on this machine of what is in a bucket, for libraries that open paths only."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.folder import Folder


@contextmanager
def local_copy(location: str, endings: tuple[str, ...] = ("",)) -> Iterator[str]:
    """Give a path on this machine for a file or folder that may be in a bucket.

    Args:
        location: Path or address.
        endings: Of the names in a folder that are needed.

    Raises:
        FileNotFoundError: If nothing of it is in the bucket.
    """
    folder = Folder(location)
    if folder.local_path:
        yield folder.local_path
        return
    place, _, name = folder.location.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / name
        if folder.is_file():
            copy.write_bytes(Folder(place).read(name))
        elif names := [each for each in folder.names() if each.endswith(endings)]:
            copy.mkdir()
            for each in names:
                (copy / each).write_bytes(folder.read(each))
        else:
            raise FileNotFoundError(f"{location} does not exist.")
        yield str(copy)
